//! Replicas: a running network duplicated, with what its instances had in memory and on disk at one instant.
//!
//! Owns the words between controller and host. The instant is a *cut*: on each host of the network, instances are made ready for it
//! while they run, then stand still for a moment, together, and go on. What a host holds of a cut (devices, memory, disks, frames
//! that were on their way) is there as long as the cut is among [`crate::desired::Desired::cuts`]; duplicates begin from it.
//! What is copied, and in which order, is decided by the room `replica`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Bytes, HostId, InstanceId, Moment, ReplicaId, VolumeId, VpcId, instance::StateReason};

/// How a volume or an instance's memory comes to the duplicate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CopyType {
    /// What neither side has changed is there once. The source cannot go while the duplicate is so.
    #[default]
    Shallow,
    /// All of it, completed while both run; then the duplicate depends on nothing. Of memory that is so once none of its pages
    /// is in [`Place::Snapshot`](crate::memory::Place::Snapshot), of a volume from the first on.
    Deep,
}

/// How much alike a duplicate is at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fidelity {
    /// A similar thing.
    Low,
    /// Of the same size.
    Medium,
    /// At least these processors, this memory and storage, from this image.
    #[default]
    High,
    /// The same processor model and machine version too.
    Exact,
}

/// What becomes of an instance's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryCopy {
    /// The duplicate goes on where the source was at the cut.
    #[default]
    Live,
    /// The duplicate boots from its disks as they were at the cut.
    Cold,
}

/// What time a duplicate's guests are told, by NTP; a guest that has no client goes on with its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DuplicateClock {
    /// That of the cut, gone on: no guest sees that it stood still.
    #[default]
    Continue,
    /// What it is now.
    Correct,
}

/// A host's part in a cut. Left out: all that the host holds of it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredCut {
    pub replica: ReplicaId,
    /// The network that is duplicated.
    pub vpc: VpcId,
    /// Those on this host whose duplicates are wanted, and what of their memory.
    pub instances: BTreeMap<InstanceId, MemoryCopy>,
    /// Volumes on this host whose duplicates are wanted; those of `instances` among them.
    pub volumes: Vec<VolumeId>,
    /// The other hosts that take part: frames between them and this one are before the cut for both or after it for both.
    pub hosts: Vec<HostId>,
    /// Whether it is to be taken: all hosts are ready. A host that hears of it from another's switch first need not wait for this.
    pub take: bool,
}

/// How far a host is with a cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum CutProgress {
    /// Its instances run and are made ready.
    Preparing,
    /// It can be taken at once.
    Ready,
    /// It was taken: the instances run on, and duplicates can begin.
    Taken {
        /// When they stood still, by this host's clock.
        at: Moment,
        instances: BTreeMap<InstanceId, Stillness>,
        /// Frames that were on their way to this host's instances.
        frames: u32,
    },
    /// There is none, and the sources are as they were.
    Failed { reason: StateReason },
}

/// How a source stood still for a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stillness {
    /// From its last instruction before the cut to the first one after it.
    pub pause_micros: u64,
    /// The state of its devices.
    pub devices: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActualCut {
    pub replica: ReplicaId,
    pub progress: CutProgress,
}

/// What an instance is the duplicate of, for its guest to be told as long as it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DuplicateOrigin {
    /// The instance that was duplicated.
    pub source: InstanceId,
    pub replica: ReplicaId,
    /// When the source stood still.
    pub cut: Option<Moment>,
}

/// What an instance is the duplicate of, for the host that is to run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredDuplicate {
    /// Whose cut it begins from, at this host.
    pub replica: ReplicaId,
    /// The instance that was cut.
    pub source: InstanceId,
    pub copy: CopyType,
    pub memory: MemoryCopy,
    /// Whether it may go on: until then it stands where the source was, so that all of a network go on together.
    pub begin: bool,
}
