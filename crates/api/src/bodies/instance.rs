//! Bodies of instances and jobs. Owns their shapes.

use std::net::Ipv4Addr;

use lucarne_model::{
    AccountId, Bytes, HostId, ImageId, InstanceId, JobId, Moment, ReplicaId, SecurityGroupId, SubnetId, Tags, Vcpus,
    VolumeId,
    instance::{Instance, Placement, StateReason},
    memory::MemorySettings,
    memory_move::{MoveCause, MoveProgress, Moved},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::attestation::AttestLaunch;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LaunchInstances {
    pub image: ImageId,
    pub subnet: SubnetId,
    /// 256 MiB if not given.
    #[serde(default)]
    pub memory: Option<Bytes>,
    #[serde(default)]
    pub memory_settings: MemorySettings,
    /// 1 if not given.
    #[serde(default)]
    pub vcpus: Option<Vcpus>,
    /// 1 to 100, all or none; 1 if not given.
    #[serde(default)]
    pub count: Option<u32>,
    /// The VPC's default group if empty.
    #[serde(default)]
    pub security_groups: Vec<SecurityGroupId>,
    /// A certain free address of the subnet, for a single instance.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// At most 64 KiB; a script when it starts with `#!`.
    #[serde(default)]
    pub user_data: Option<String>,
    /// Boot it, though its image may have a warm state.
    #[serde(default)]
    pub cold: bool,
    /// Give each a TPM of its own, which is kept as long as the instance.
    #[serde(default)]
    pub virtual_tpm: bool,
    /// What is to be proved before they may begin; none: nothing.
    #[serde(default)]
    pub attestation: Option<AttestLaunch>,
    /// Data volumes to attach from the start, for a single instance.
    #[serde(default)]
    pub volumes: Vec<VolumeId>,
    #[serde(default)]
    pub placement: Placement,
    #[serde(default)]
    pub tags: Tags,
}

/// Instances that are being launched, each by a job of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Launched {
    pub instances: Vec<Instance>,
    pub jobs: Vec<JobId>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopInstance {
    /// Without asking the guest.
    #[serde(default)]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateInstance {
    /// Exactly this host; the controller chooses if not given.
    #[serde(default)]
    pub host: Option<HostId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    Launch,
    /// A launch that is held, proved and answered before it begins.
    AttestedLaunch,
    Terminate,
    Migrate,
    /// A network is duplicated.
    Replicate,
    /// A duplicate and all in it is ended.
    EndReplica,
    /// What a duplicate draws on is copied, so that it draws on nothing.
    DeepenReplica,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    Running,
    /// A step failed; what was done is being undone, last first.
    Undoing,
    Done,
    /// Failed, and undone.
    Failed,
}

/// A workflow: what it does for which instance or replica, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    pub id: JobId,
    pub account: AccountId,
    pub kind: JobKind,
    #[serde(default)]
    pub instance: Option<InstanceId>,
    #[serde(default)]
    pub replica: Option<ReplicaId>,
    pub state: JobState,
    /// The step that is being done, or the last one.
    pub step: String,
    pub reason: Option<StateReason>,
    /// Why the instance moves; of migrations only.
    #[serde(default)]
    pub cause: Option<MoveCause>,
    /// How far a migration has come, while its host tells.
    #[serde(default)]
    pub progress: Option<MoveProgress>,
    /// What a migration came to, from the instant on at which the instance was the other host's.
    #[serde(default)]
    pub moved: Option<Moved>,
    pub created: Moment,
    pub changed: Moment,
    #[serde(default)]
    pub tags: Tags,
}
