//! Images, volumes and snapshots, as the API shows them.
//!
//! Owns their shapes and states. Files, formats and copies are the hands' work.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, Bytes, HostId, ImageId, InstanceId, Moment, SnapshotId, Tags, VolumeId, instance::StateReason,
    warm::WarmState,
};

/// A SHA-256 digest as 64 lower-case hexadecimal digits: the name of a blob in the controller's blob store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct Digest(String);

/// A text that is not a SHA-256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest has 64 lower-case hexadecimal digits")]
pub struct ParseDigestError;

impl Digest {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn to_bytes(&self) -> [u8; 32] {
        let nibble = |digit: u8| if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 };
        let digits = self.0.as_bytes();
        std::array::from_fn(|at| nibble(digits[2 * at]) << 4 | nibble(digits[2 * at + 1]))
    }
}
impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}
impl TryFrom<String> for Digest {
    type Error = ParseDigestError;
    fn try_from(text: String) -> Result<Self, ParseDigestError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 64 && text.bytes().all(hex) { Ok(Self(text)) } else { Err(ParseDigestError) }
    }
}
impl std::str::FromStr for Digest {
    type Err = ParseDigestError;
    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        text.to_owned().try_into()
    }
}

/// A file in the blob store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Blob {
    pub digest: Digest,
    pub size: Bytes,
}

/// How a disk's bytes are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    Qcow2,
    Raw,
}

impl DiskFormat {
    /// The name that QEMU knows it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// What an instance boots from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum BootSource {
    /// A kernel loaded directly; the root file system is the initramfs.
    Kernel { kernel: Blob, initramfs: Blob, command_line: String },
    /// A disk with a boot loader, behind a writable overlay of each instance.
    Disk { disk: Blob, format: DiskFormat, virtual_size: Bytes },
}

impl BootSource {
    pub fn blobs(&self) -> Vec<&Blob> {
        match self {
            Self::Kernel { kernel, initramfs, .. } => vec![kernel, initramfs],
            Self::Disk { disk, .. } => vec![disk],
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    pub id: ImageId,
    pub account: AccountId,
    pub name: String,
    /// Whether every account may launch it. Only operators can make an image public.
    pub public: bool,
    pub boot: BootSource,
    /// The least memory that it boots with.
    pub minimum_memory: Bytes,
    /// For which machines hosts keep it ready to go on from, instead of booting it.
    #[serde(default)]
    pub warm_states: Vec<WarmState>,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// Free to be attached.
    Available,
    /// The host is connecting it.
    Attaching,
    InUse,
    /// The host is disconnecting it.
    Detaching,
    Deleting,
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Volume {
    pub id: VolumeId,
    pub account: AccountId,
    pub size: Bytes,
    /// The snapshot that its first content came from.
    pub snapshot: Option<SnapshotId>,
    pub state: VolumeState,
    pub state_reason: Option<StateReason>,
    pub instance: Option<InstanceId>,
    /// The host that holds its bytes; none until it is first attached.
    pub host: Option<HostId>,
    /// Whether it ends with its instance.
    pub delete_on_termination: bool,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotState {
    Pending,
    Completed,
    Error,
}

/// The content of a volume at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub account: AccountId,
    pub volume: VolumeId,
    pub size: Bytes,
    pub state: SnapshotState,
    pub state_reason: Option<StateReason>,
    /// The qcow2 file that holds it, when completed.
    pub blob: Option<Blob>,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}
