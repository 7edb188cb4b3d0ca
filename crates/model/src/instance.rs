//! Instances: the VMs, as the API shows them, and their states.
//!
//! Owns the state vocabulary (EC2's) and which states a user may act in. Moving between states is the workflows' work.

use std::{fmt, net::Ipv4Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, Bytes, ErrorCode, HostId, ImageId, InstanceId, InterfaceId, MacAddress, Moment, SecurityGroupId,
    SubnetId, Tags, Vcpus, VolumeId, VpcId, attestation::InstanceAttestation, memory::MemorySettings, warm::Began,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    Pending,
    /// It stands before its first instruction, measured; its owner is asked whether it may begin.
    AwaitingApproval,
    Running,
    Stopping,
    Stopped,
    ShuttingDown,
    Terminated,
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::AwaitingApproval => "awaiting-approval",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
        })
    }
}

/// Why an instance is in its state, when that is not simply what its owner asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StateReason {
    pub code: ErrorCode,
    pub message: String,
}

/// How hosts are chosen for the instances of one placement group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PlacementStrategy {
    /// Different hosts as far as possible.
    #[default]
    Spread,
    /// The same host as far as possible.
    Pack,
}

/// A wish about the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Placement {
    /// Exactly this host, or nowhere.
    #[serde(default)]
    pub host: Option<HostId>,
    #[serde(default)]
    pub strategy: PlacementStrategy,
    /// Instances of the same account and group name are spread or packed together; without one, those of the subnet are.
    #[serde(default)]
    pub group: Option<String>,
}

/// A volume at an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attachment {
    pub volume: VolumeId,
    /// The slot on the instance's bus, from 0.
    pub slot: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    pub id: InstanceId,
    pub account: AccountId,
    pub image: ImageId,
    pub vcpus: Vcpus,
    pub memory: Bytes,
    #[serde(default)]
    pub memory_settings: MemorySettings,
    pub vpc: VpcId,
    pub subnet: SubnetId,
    pub interface: InterfaceId,
    pub address: Ipv4Addr,
    pub mac: MacAddress,
    pub security_groups: Vec<SecurityGroupId>,
    /// Boot volume of a disk image first, data volumes behind it.
    pub volumes: Vec<Attachment>,
    pub state: InstanceState,
    pub state_reason: Option<StateReason>,
    /// None until placed. Operators only: tenants are shown an opaque host id.
    pub host: Option<HostId>,
    pub placement: Placement,
    /// Counts the starts: a reboot or a start asks the host for the next one.
    pub generation: u64,
    pub user_data: Option<String>,
    /// Whether it boots though its image has a warm state.
    #[serde(default)]
    pub cold: bool,
    /// Whether it has a TPM of its own.
    #[serde(default)]
    pub virtual_tpm: bool,
    /// What is to be proved before it may begin, and how far that is; none: nothing.
    #[serde(default)]
    pub attestation: Option<InstanceAttestation>,
    /// How its VM began, while it runs. Computed when it is shown.
    #[serde(default)]
    pub began: Option<Began>,
    pub launched: Moment,
    /// When the state last changed.
    pub changed: Moment,
    #[serde(default)]
    pub tags: Tags,
}
