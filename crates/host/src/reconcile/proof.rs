//! Held VMs and their proofs: when one is proved, when it may begin, and what is told of it.
//!
//! Owns those decisions. Measuring is the driver's, signing the TPM's. A VM that was held begins by the desired state's word
//! for its generation and by nothing else; nobody who forgets to say something lets it begin.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_model::{
    Evidence,
    desired::{DesiredInstance, Power},
};
use lucarne_vmm::driver::Stop;

use super::{Decision, Running, Step};

impl Decision<'_> {
    /// A VM that stands before its first instruction.
    pub(super) fn held(&mut self, wanted: &DesiredInstance, running: &Running, power: Power) {
        if power != Power::Running || running.generation < wanted.generation {
            // There is nobody yet who could shut anything down.
            return self.stop(wanted, running, Stop::Kill);
        }
        self.prove(wanted, running);
        let may_begin = wanted.attestation.as_ref().is_some_and(|attestation| attestation.begin);
        if may_begin && running.generation == wanted.generation && self.network_is_ready(wanted) {
            self.take(Step::Release(wanted.id));
        }
    }

    /// Proves it if the proof that is asked for was not made yet.
    pub(super) fn prove(&mut self, wanted: &DesiredInstance, running: &Running) {
        let Some(attestation) = wanted.attestation.as_ref().filter(|asked| !asked.heard) else { return };
        let Some(measured) = running.proof.measured.clone() else { return };
        if running.generation == wanted.generation && proof(wanted, running).is_none() {
            let nonce = attestation.nonce.clone();
            self.take(Step::Prove { instance: wanted.id, generation: running.generation, nonce, measured });
        }
    }
}

/// The proof that is asked for, if it was made and has not been heard.
pub(super) fn proof<'a>(wanted: &DesiredInstance, running: &'a Running) -> Option<&'a Evidence> {
    let asked = wanted.attestation.as_ref().filter(|asked| !asked.heard)?;
    let evidence = running.proof.evidence.as_deref()?;
    (evidence.nonce == asked.nonce && evidence.generation == wanted.generation).then_some(evidence)
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
