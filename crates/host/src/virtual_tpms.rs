//! The TPMs of guests: made before an instance first starts, kept as long as it is here, and deleted with it.
//!
//! Owns where they lie and who certifies them: an authority of this host's own, which nobody needs to believe, for the
//! certificate's digest is among what the host's TPM signs for the instance. Running one beside its VM is the driver's.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    sync::{Arc, Mutex, PoisonError},
};

use lucarne_model::{ErrorCode, InstanceId};
use lucarne_tpm::swtpm::{Authority, Place, manufacture};
use lucarne_vmm::driver::VirtualTpm;

use crate::{
    layout::Layout,
    reconcile::{Failure, Prospect},
};

#[derive(Clone, Debug)]
pub(crate) struct VirtualTpms {
    layout: Layout,
    /// It makes one at a time.
    authority: Arc<Mutex<Authority>>,
}

impl VirtualTpms {
    pub(crate) fn new(layout: Layout) -> Self {
        let authority = Authority::new(layout.tpm_authority(), "TPMs of instances on one host of Lucarne");
        Self { layout, authority: Arc::new(Mutex::new(authority)) }
    }

    /// Makes the TPM of `instance` and a certificate that names it, unless both are there.
    pub(crate) async fn make(&self, instance: InstanceId) -> Result<(), Failure> {
        let this = self.clone();
        blocking(move || {
            let authority = this.authority.lock().unwrap_or_else(PoisonError::into_inner);
            let place = Place::new(this.layout.tpm(instance));
            // The VMs' user must come through to the state, which will be its own.
            let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(place.folder());
            made.map_err(|error| crate::blobs::file_failure(&error, "make a guest's TPM"))?;
            manufacture(&place, &authority, &instance.to_string()).map_err(|error| {
                let code = match &error {
                    lucarne_tpm::Error::Run { .. } => ErrorCode::HypervisorMissing,
                    _ => ErrorCode::HypervisorFailed,
                };
                Failure::new(code, format!("the TPM of {instance} could not be made: {error}"), Prospect::Doubtful)
            })
        })
        .await
    }

    /// Deletes it, with all keys that it holds.
    pub(crate) async fn delete(&self, instance: InstanceId) -> Result<(), Failure> {
        let folder = self.layout.tpm(instance);
        blocking(move || match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(crate::blobs::file_failure(&error, "delete a guest's TPM"))
            }
            _ => Ok(()),
        })
        .await
    }
}

/// Where the driver finds the TPM of the VM.
pub(crate) fn place(layout: &Layout, instance: InstanceId) -> VirtualTpm {
    let place = Place::new(layout.tpm(instance));
    VirtualTpm { state: place.state(), certificate: place.certificate() }
}

async fn blocking(work: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Result<(), Failure> {
    let failed = |error| crate::blobs::file_failure(&io::Error::other(error), "make or delete a guest's TPM");
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
