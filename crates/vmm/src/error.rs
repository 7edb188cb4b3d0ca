//! What can go wrong with one VM, its disks and its tools.
//!
//! Owns the sentences and which stable [`ErrorCode`] each has. Retrying and telling the tenant are the agent's work.

use std::{io, path::PathBuf, time::Duration};

use lucarne_model::{ErrorCode, InstanceId, VolumeId};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{program} is not installed: `apt-get install {package}` has it")]
    Missing { program: String, package: &'static str },
    #[error("the hypervisor of {instance} ended while {step}: {said}")]
    Ended { instance: InstanceId, step: &'static str, said: String },
    #[error(
        "the TPM of {instance}, swtpm, ended while the VM was being started: {how}, and {said}; start the instance again, and \
         if that does not help look why this host ends swtpm (memory, limits, an update)"
    )]
    TpmEnded { instance: InstanceId, how: String, said: String },
    #[error("the hypervisor of {instance} did not answer within {after:?} while {step}")]
    NoAnswer { instance: InstanceId, step: &'static str, after: Duration },
    #[error("the hypervisor of {instance} refused while {step}: {reason}")]
    Refused { instance: InstanceId, step: &'static str, reason: String },
    #[error("{instance} does not run")]
    NotRunning { instance: InstanceId },
    #[error("{instance} runs its start number {running}; end that first")]
    StillRunning { instance: InstanceId, running: u64 },
    #[error("the guest of {instance} has not let go of {volume} within {after:?}")]
    GuestHolds { instance: InstanceId, volume: VolumeId, after: Duration },
    #[error("{instance} has no slot {slot}: slots are 0 to {}", crate::driver::SLOTS - 1)]
    NoSlot { instance: InstanceId, slot: u8 },
    #[error("slot {slot} of {instance} has another disk")]
    SlotTaken { instance: InstanceId, slot: u8 },
    #[error("the machine asked for cannot be: {reason}")]
    Impossible { reason: String },
    #[error("{} is not a usable disk image: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("no space is left for {}", path.display())]
    DiskFull { path: PathBuf },
    #[error("{program} failed on {}: {said}", path.display())]
    Tool { program: String, path: PathBuf, said: String },
    #[error("{program} worked on {} for more than {after:?} and was ended", path.display())]
    ToolTooSlow { program: String, path: PathBuf, after: Duration },
    #[error("user {uid}, as whom VMs run, may not enter {}: `chmod o+x` it, or keep the state elsewhere", directory.display())]
    Closed { directory: PathBuf, uid: u32 },
    #[error("{} cannot be used as a path here: {reason}", path.display())]
    Path { path: PathBuf, reason: &'static str },
    #[error("could not {doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the memory of {instance} cannot be paged on this host: could not {what}")]
    NoPaging { instance: InstanceId, what: &'static str, source: io::Error },
    #[error("{} is not what was measured when {instance} was started: it was changed since", path.display())]
    Changed { instance: InstanceId, path: PathBuf },
    #[error("could not {doing} the process of {instance}")]
    Process { doing: &'static str, instance: InstanceId, source: io::Error },
}

impl Error {
    /// What the API says of it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Missing { .. } | Self::NoPaging { .. } => ErrorCode::HypervisorMissing,
            Self::Ended { .. } | Self::NoAnswer { .. } | Self::Refused { .. } => ErrorCode::HypervisorFailed,
            Self::TpmEnded { .. } => ErrorCode::TpmFailed,
            Self::Tool { .. } | Self::ToolTooSlow { .. } | Self::Process { .. } => ErrorCode::HypervisorFailed,
            Self::NotRunning { .. } | Self::StillRunning { .. } => ErrorCode::IncorrectState,
            Self::SlotTaken { .. } => ErrorCode::IncorrectState,
            Self::Changed { .. } => ErrorCode::MeasurementChanged,
            Self::GuestHolds { .. } => ErrorCode::VolumeInUse,
            Self::NoSlot { .. } => ErrorCode::AttachmentLimitExceeded,
            Self::Impossible { .. } => ErrorCode::InvalidParameterValue,
            Self::Unreadable { .. } => ErrorCode::ImageUnreadable,
            Self::DiskFull { .. } => ErrorCode::DiskFull,
            Self::Closed { .. } | Self::Path { .. } | Self::File { .. } => ErrorCode::Internal,
        }
    }

    /// An error of a file: a full disk (or a used-up quota) is told apart from all others.
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::File { doing, path, source },
        }
    }
}

/// Whether a tool's or QEMU's words say that a disk is full: both print `strerror(ENOSPC)` or `strerror(EDQUOT)`.
pub(crate) fn says_disk_full(said: &str) -> bool {
    said.contains("No space left on device") || said.contains("Disk quota exceeded")
}
