//! What the switch should be: the networks, the ports of this host's instances, and the other hosts.
//!
//! Owns the shape of the input to [`crate::switch::Switch::apply`]. The host agent makes it from its desired state.

use std::{path::PathBuf, time::Duration};

use lucarne_model::{
    AccountId, ImageId, InstanceId, InterfaceId, Moment, VpcId,
    desired::{DesiredNetwork, TunnelPeer},
    mitigation::DesiredMitigation,
};

/// The whole of what the switch should do; applying the same plan twice changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub networks: Vec<DesiredNetwork>,
    pub ports: Vec<PortPlan>,
    pub peers: Vec<TunnelPeer>,
    /// What the operator has ordered against abuse; the first that is meant for a flow holds.
    pub mitigations: Vec<DesiredMitigation>,
}

/// The port of one instance on this host. Its address, MAC and groups stand in the network's endpoints.
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
    pub metadata: InstanceMetadata,
    /// How often a flow that goes on is reported; none leaves it to the flow table's settings.
    pub flow_interval: Option<Duration>,
}

/// What 169.254.169.254 tells the instance, beside its address, MAC and groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceMetadata {
    pub image: ImageId,
    /// The host name that DHCP and the metadata service give: the `Name` tag made a label, or `ip-10-0-0-4`.
    pub host_name: String,
    pub user_data: Option<String>,
    pub launched: Moment,
}
