//! Bodies of images, volumes and snapshots. Owns their shapes.

use lucarne_model::{
    Bytes, InstanceId, SnapshotId, Tags, Vcpus, VolumeId,
    storage::{Digest, DiskFormat},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Makes an image of blobs uploaded before. The controller reads formats and sizes from the blobs themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateImage {
    pub name: String,
    pub source: ImageSource,
    /// The least memory that it boots with; 64 MiB if not given.
    #[serde(default)]
    pub minimum_memory: Option<Bytes>,
    /// Operators only.
    #[serde(default)]
    pub public: bool,
    #[serde(default)]
    pub tags: Tags,
}

/// Has hosts keep the image ready for machines of this size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmImage {
    /// 1 if not given.
    #[serde(default)]
    pub vcpus: Option<Vcpus>,
    /// What a launch has that gives none, if not given.
    #[serde(default)]
    pub memory: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ImageSource {
    Kernel {
        kernel: Digest,
        initramfs: Digest,
        command_line: String,
    },
    /// The format, if given, must be what the blob is.
    Disk {
        disk: Digest,
        format: Option<DiskFormat>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// At least the snapshot's, which is the default with one.
    #[serde(default)]
    pub size: Option<Bytes>,
    #[serde(default)]
    pub snapshot: Option<SnapshotId>,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachVolume {
    pub instance: InstanceId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    pub volume: VolumeId,
    #[serde(default)]
    pub tags: Tags,
}
