//! What proves, to whoever asks with a nonce or a credential, what this host runs, what a VM on it was measured as, and which
//! TPM it has.
//!
//! Owns the trait and why there is no proof. The TPM behind it, and the measured start that its registers speak of, are the
//! business of whoever implements it.

use std::{error::Error, fmt};

use async_trait::async_trait;
use lucarne_model::{
    ErrorCode, Evidence, InstanceId, Measurement, Octets,
    tpm::{DesiredChallenge, PresentedTpm},
};

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
#[error("the TPM of this host gave no proof")]
pub struct ProverError {
    /// What the controller, and a tenant, are told of it.
    pub code: ErrorCode,
    #[source]
    pub cause: Box<dyn Error + Send + Sync>,
}

/// One host's means of proof. Calls may come at once; each is for one VM or one asker, and none sees another's.
#[async_trait]
pub trait Prover: fmt::Debug + Send + Sync {
    /// Evidence of this host and of the VM with these measurements, signed with the nonce.
    async fn prove(
        &self,
        instance: InstanceId,
        generation: u64,
        nonce: &Octets,
        measured: &[Measurement],
    ) -> Result<Evidence, ProverError>;

    /// Which TPM this host has, opened if it is not open.
    async fn identify(&self) -> Result<PresentedTpm, ProverError>;

    /// The answer to a credential that the TPM opened; its secret stays here.
    async fn open(&self, challenge: &DesiredChallenge) -> Result<Octets, ProverError>;
}
