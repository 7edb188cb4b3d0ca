//! Warm states: which are to be made or deleted here, and whether a start goes on from one.
//!
//! Owns the decisions. Making one, and starting a VM from it, is the work of [`crate::memory`]. A warm state is used by
//! what it was made of and for alone; everything else boots, and says why.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_model::{
    InstanceId,
    desired::{Desired, DesiredInstance},
    storage::{BootSource, Digest},
    warm::{ActualWarmState, DesiredWarmState, WarmProgress, WarmSize},
};
use lucarne_vmm::driver::{Boot, MachineSpec, Origin};
use ring::digest::{SHA256, digest};

use super::{Decision, Known, Step, Subject};

/// What tells a guest that it is booted to be saved, as a word of its kernel's command line.
const TEMPLATE_WORD: &str = "lucarne.template";
/// Warm states of another shape of machine, or saved in another way, have other keys.
const VERSION: u32 = 1;
/// The generation that a launch starts; later ones are starts of what has run before.
pub(super) const LAUNCH: u64 = 1;

/// How a VM is to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It boots; with the reason, if its image has a warm state.
    Cold { because: Option<String> },
    /// It goes on from the warm state with this key.
    Warm(Digest),
}

/// A warm state that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmState {
    pub progress: WarmProgress,
    /// With what it was made; devices of another are not its devices.
    pub hypervisor: String,
}

/// A machine that is booted to be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pub key: Digest,
    pub spec: MachineSpec,
}

/// Names a warm state by all that it is made of; none of an image whose machines share a disk with nobody.
pub(super) fn warm_key(boot: &BootSource, size: WarmSize) -> Option<Digest> {
    let BootSource::Kernel { kernel, initramfs, command_line } = boot else { return None };
    let WarmSize { vcpus, memory } = size;
    let (kernel, initramfs) = (kernel.digest.as_str(), initramfs.digest.as_str());
    let all = format!("{VERSION}\n{kernel}\n{initramfs}\n{vcpus}\n{}\n{command_line}", memory.0);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, all.as_bytes()).as_ref());
    Some(Digest::from_bytes(bytes))
}

impl Decision<'_> {
    /// Makes what is missing, and deletes what is not wanted any more.
    pub(super) fn warm_states(&mut self) {
        let wanted = &self.desired.warm_states;
        for state in wanted {
            let Some(key) = warm_key(&state.boot, state.size) else { continue };
            if !self.known.warm_states.contains_key(&key) {
                self.make_warm_state(state, key);
            }
        }
        let is_wanted =
            |key: &Digest| wanted.iter().any(|state| warm_key(&state.boot, state.size).as_ref() == Some(key));
        let stale: Vec<_> = self.known.warm_states.keys().filter(|key| !is_wanted(key)).cloned().collect();
        stale.into_iter().for_each(|key| self.take(Step::DropWarmState(key)));
    }

    fn make_warm_state(&mut self, state: &DesiredWarmState, key: Digest) {
        let blobs = state.boot.blobs();
        let missing: Vec<_> = blobs.into_iter().filter(|blob| !self.known.blobs.contains_key(&blob.digest)).collect();
        if !missing.is_empty() {
            return missing.into_iter().for_each(|blob| self.take(Step::FetchBlob(blob.clone())));
        }
        let Boot::Kernel { kernel, initramfs, command_line } = self.boot(&state.boot) else { return };
        let spec = MachineSpec {
            instance: template_of(&key),
            generation: LAUNCH,
            vcpus: state.size.vcpus,
            memory: state.size.memory,
            boot: Boot::Kernel { kernel, initramfs, command_line: format!("{command_line} {TEMPLATE_WORD}") },
            nic: None,
            disks: Vec::new(),
            paging: None,
            origin: Origin::Template,
            tpm: None,
        };
        self.take(Step::MakeWarmState(Box::new(Template { key, spec })));
    }

    /// Whether the instance can go on from a warm state; if not, why, where its image is to have one.
    pub(super) fn beginning(&self, wanted: &DesiredInstance) -> Beginning {
        let mut of_image = self.desired.warm_states.iter().filter(|state| state.image == wanted.image).peekable();
        if of_image.peek().is_none() {
            return Beginning::Cold { because: None };
        }
        let size = WarmSize { vcpus: wanted.vcpus, memory: wanted.memory };
        let key = warm_key(&wanted.boot, size).filter(|_| of_image.any(|state| state.size == size));
        let because = match key {
            _ if wanted.cold && wanted.attestation.is_some() => {
                "that was asked for, or what it is held against knows no warm state".into()
            }
            _ if wanted.cold => "that was asked for".into(),
            _ if wanted.generation != LAUNCH => "it has run before, and only a launch begins warm".into(),
            _ if !wanted.volumes.is_empty() => "it has volumes, and the warm state has none".into(),
            _ if wanted.virtual_tpm => "it has a TPM of its own, and the warm state has none".into(),
            None => format!("its image has no warm state with {} vCPUs and {}", size.vcpus, size.memory),
            Some(key) if self.known.warm_states.contains_key(&key) => return Beginning::Warm(key),
            Some(key) => match self.known.faults.get(&Subject::WarmState(key)) {
                Some(fault) => format!("its host could not make the warm state: {}", fault.reason.message),
                None => "its host had not made the warm state yet".into(),
            },
        };
        Beginning::Cold { because: Some(because) }
    }
}

/// The machine's name. It is nobody's instance: ids of those are drawn.
fn template_of(key: &Digest) -> InstanceId {
    InstanceId::from_bits(u128::from_str_radix(&key.as_str()[..17], 16).unwrap_or_default())
}

/// How far each wanted one is.
pub(super) fn report(desired: &Desired, known: &Known) -> Vec<ActualWarmState> {
    let told = |state: &DesiredWarmState| {
        let key = warm_key(&state.boot, state.size)?;
        let fault = known.faults.get(&Subject::WarmState(key.clone()));
        let failed = fault.map(|fault| WarmProgress::Failed { reason: fault.reason.message.clone() });
        let here = known.warm_states.get(&key).map(|state| state.progress.clone());
        let progress = here.or(failed).unwrap_or(WarmProgress::Preparing);
        Some(ActualWarmState { image: state.image, size: state.size, progress })
    };
    desired.warm_states.iter().filter_map(told).collect()
}

#[cfg(test)]
#[path = "warm_tests.rs"]
mod tests;
