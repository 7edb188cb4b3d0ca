//! What the switch should be: the networks, the ports of this host's instances, and the other hosts.
//!
//! Owns the shape of the input to [`crate::switch::Switch::apply`]. The host agent makes it from its desired state.

use std::{path::PathBuf, time::Duration};

use lucarne_model::{
    AccountId, EndReason, ImageId, InstanceId, InterfaceId, Moment, VpcId,
    desired::{DesiredNetwork, TunnelPeer},
    mitigation::DesiredMitigation,
    replica::DuplicateOrigin,
};

/// The whole of what the switch should do; applying the same plan twice changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub networks: Vec<DesiredNetwork>,
    pub ports: Vec<PortPlan>,
    pub peers: Vec<TunnelPeer>,
    /// What the operator has ordered against abuse; the first that is meant for a flow holds.
    pub mitigations: Vec<DesiredMitigation>,
    /// Why ports go away that a plan does not have any more, where whoever makes the plan knows it; of the others the plan
    /// itself tells.
    pub removals: Vec<PortRemoval>,
}

/// An interface that has no port here any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRemoval {
    pub interface: InterfaceId,
    pub reason: RemovalReason,
}

/// Why an interface has no port any more: how its flows end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalReason {
    Stopped,
    /// To another host, where its flows go on.
    Migrated,
    Detached,
}

impl RemovalReason {
    /// What the last records of the port's flows say.
    pub const fn end_reason(self) -> EndReason {
        match self {
            Self::Stopped => EndReason::InstanceStopped,
            Self::Migrated => EndReason::InstanceMigrated,
            Self::Detached => EndReason::InterfaceDetached,
        }
    }
}

/// The port of one instance on this host. Its address, MAC, groups and name stand in the network's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    pub interface: InterfaceId,
    pub instance: InstanceId,
    pub account: AccountId,
    pub vpc: VpcId,
    /// Where the switch binds its unix datagram socket.
    pub socket: PathBuf,
    /// Where QEMU binds its own, to which frames for the VM are sent.
    pub guest_socket: PathBuf,
    /// None: nobody asks there.
    pub metadata: Option<InstanceMetadata>,
    /// How often a flow that goes on is reported; none leaves it to the flow table's settings.
    pub flow_interval: Option<Duration>,
}

/// What 169.254.169.254 tells the instance, beside what stands in its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceMetadata {
    pub image: ImageId,
    pub user_data: Option<String>,
    pub launched: Moment,
    /// What it is a duplicate of.
    pub origin: Option<DuplicateOrigin>,
}
