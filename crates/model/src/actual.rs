//! What one host is: the answer to [`crate::desired`].
//!
//! Owns the shape of the message from host to controller. It is whole each time, so that a lost one does no harm.

use std::{collections::BTreeMap, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, Bytes, Component, Evidence, HostId, InstanceId, Moment, OversubscriptionFactor, SnapshotId, Tags, Vcpus,
    VolumeId,
    flow::Location,
    instance::{Attachment, StateReason},
    load::ActualLoad,
    memory_report::{HostMemory, MemoryReport},
    recording::ActualRecording,
    replay::ActualReplay,
    replica::ActualCut,
    scaling::InstanceFigures,
    storage::Blob,
    tpm::HostTpm,
    warm::{ActualWarmState, Began},
};

/// What a host says of itself when it enrols.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostDescription {
    pub name: String,
    /// Where other hosts reach its tunnel.
    pub address: IpAddr,
    pub tunnel_port: u16,
    /// Where other hosts bring it instances, at the same address over TCP; 0: nowhere.
    #[serde(default)]
    pub peer_port: u16,
    /// Where it stands, such as a data centre.
    #[serde(default)]
    pub location: Location,
    /// The X25519 public key of its tunnel, in base64.
    pub public_key: String,
    /// The P-256 public key with which it proves to the collector who it is: the point, uncompressed, in base64.
    #[serde(default)]
    pub export_key: String,
    pub capacity: Capacity,
    /// How much more memory is promised than there is.
    #[serde(default)]
    pub oversubscription: OversubscriptionFactor,
    pub hypervisor: String,
    /// The host agent's version; empty from one that does not tell.
    #[serde(default)]
    pub agent: String,
    /// The release of the kernel that runs; empty from an agent that does not tell.
    #[serde(default)]
    pub kernel: String,
    /// When its agent started: what it runs may be another since.
    #[serde(default)]
    pub started: Moment,
}

impl HostDescription {
    /// What runs on the host, as it says, in one order.
    pub fn versions(&self) -> [(Component, &str); 3] {
        [
            (Component::Agent, self.agent.as_str()),
            (Component::Hypervisor, self.hypervisor.as_str()),
            (Component::Kernel, self.kernel.as_str()),
        ]
    }
}

/// A version that runs on a host, by the host's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeployedVersion {
    pub component: Component,
    pub version: String,
    /// When the host first told it, after another or none.
    pub since: Moment,
}

/// What instances can use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Capacity {
    /// Virtual processors that may be promised; more than the machine has, as the operator sets it.
    pub vcpus: Vcpus,
    /// What instances can have a claim to: of a host, its memory for guests' pages.
    pub memory: Bytes,
    pub disk: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    Up,
    /// Takes no new instances.
    Draining,
    /// Not heard of for longer than its heartbeats allow.
    Down,
}

/// A host, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    pub id: HostId,
    /// Always the operator's.
    pub account: AccountId,
    #[serde(flatten)]
    pub description: HostDescription,
    pub state: HostState,
    /// What is promised to instances.
    pub used: Capacity,
    pub instances: u32,
    /// Frames that its switch dropped before they became flows, by reason, since its agent started.
    #[serde(default)]
    pub dropped_frames: BTreeMap<String, u64>,
    /// What runs there, and since when.
    #[serde(default)]
    pub versions: Vec<DeployedVersion>,
    /// None until its agent has told.
    #[serde(default)]
    pub tpm: Option<HostTpm>,
    /// Where its memory is; none until its agent has told.
    #[serde(default)]
    pub memory: Option<HostMemory>,
    pub enrolled: Moment,
    pub last_heard: Moment,
    #[serde(default)]
    pub tags: Tags,
}

/// A heartbeat with all of a host's actual state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The newest desired version that the host has begun to carry out.
    pub version: u64,
    pub capacity: Capacity,
    pub instances: Vec<ActualInstance>,
    pub volumes: Vec<ActualVolume>,
    pub snapshots: Vec<ActualSnapshot>,
    /// Frames dropped before they became flows, by reason.
    pub dropped_frames: BTreeMap<String, u64>,
    /// Where memory is; none from a host whose agent does not look at it.
    #[serde(default)]
    pub memory: Option<MemoryReport>,
    #[serde(default)]
    pub warm_states: Vec<ActualWarmState>,
    #[serde(default)]
    pub cuts: Vec<ActualCut>,
    #[serde(default)]
    pub recordings: Vec<ActualRecording>,
    #[serde(default)]
    pub replays: Vec<ActualReplay>,
    #[serde(default)]
    pub loads: Vec<ActualLoad>,
    /// What was measured of instances that run.
    #[serde(default)]
    pub figures: Vec<InstanceFigures>,
    /// What this host was asked to start, by sealed requests that it judged; told until the controller wants it too.
    #[serde(default)]
    pub starts: Vec<AskedStart>,
}

/// An instance that is stopped, and the generation that another start is to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AskedStart {
    pub instance: InstanceId,
    pub generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ActualState {
    /// Being made: image, disks, port.
    Preparing,
    /// It is there and measured, and stands before its first instruction. With a `reason`, it cannot go on from there.
    Held,
    Running,
    /// All of it has come from another host. It stands still until that one has given it up.
    Arrived,
    Stopping,
    /// It stands where its source was at the cut, and goes on when it may.
    Ready,
    /// Not running; its disks are here.
    Stopped,
    /// Nothing of it is here any more.
    Absent,
    /// It could not be made or died; `reason` says why. It is not tried again until the generation rises.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActualInstance {
    pub id: InstanceId,
    pub generation: u64,
    pub state: ActualState,
    pub reason: Option<StateReason>,
    pub volumes: Vec<Attachment>,
    /// Of one that runs.
    #[serde(default)]
    pub began: Option<Began>,
    /// For how long it stood still on its way, of one that came from another host and went on: from the last instruction there
    /// to the first one here, but for the way of the last bytes. None if an agent was started anew meanwhile.
    #[serde(default)]
    pub stood_still_millis: Option<u64>,
    /// The proof that is asked for, until it was heard.
    #[serde(default)]
    pub evidence: Option<Box<Evidence>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActualVolume {
    pub id: VolumeId,
    pub present: bool,
    pub reason: Option<StateReason>,
    /// Of one that was made from another's frozen content since this agent was started: what was copied for it.
    #[serde(default)]
    pub copied: Option<Bytes>,
    /// Of one that was made from another's frozen content: whether it still is an overlay of that.
    #[serde(default)]
    pub draws: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActualSnapshot {
    pub id: SnapshotId,
    /// Set when it is uploaded.
    pub blob: Option<Blob>,
    pub reason: Option<StateReason>,
}
