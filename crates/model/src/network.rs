//! Networks: VPCs, subnets, route tables and network interfaces.
//!
//! Owns their shapes as the API shows them. What may be created where is decided by the services in `control`.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, Cidr, InstanceId, InterfaceId, MacAddress, Moment, NetworkAclId, RouteTableId, SecurityGroupId,
    SubnetId, Tags, VpcId, attestation::VpcAttestPolicy,
};

/// An address space of its own. Born with a main route table, a default network ACL and a default security group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vpc {
    pub id: VpcId,
    pub account: AccountId,
    pub cidr: Cidr,
    /// The Geneve network identifier, 24 bits, unique among live VPCs.
    pub vni: u32,
    pub main_route_table: RouteTableId,
    /// The ACL that new subnets get.
    pub default_network_acl: NetworkAclId,
    pub default_security_group: SecurityGroupId,
    /// What its instances' hosts must prove; none: nothing, but of those whose launches asked for it.
    #[serde(default)]
    pub attest_policy: Option<VpcAttestPolicy>,
    /// By how much the clock that its guests are told lies behind: more than nothing in a duplicate whose clock went on at the cut.
    #[serde(default)]
    pub clock_behind_micros: u64,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subnet {
    pub id: SubnetId,
    pub account: AccountId,
    pub vpc: VpcId,
    pub cidr: Cidr,
    /// The table that routes what leaves the subnet's interfaces; the VPC's main one unless associated.
    pub route_table: RouteTableId,
    /// The ACL that judges what enters and leaves; the VPC's default one unless associated.
    pub network_acl: NetworkAclId,
    pub available_addresses: u32,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RouteTarget {
    /// Anywhere in the VPC itself. Every table has this one, and it cannot be deleted.
    Local,
    /// The interface of an instance that forwards.
    Interface { interface: InterfaceId },
    /// Nowhere: packets are dropped as having no route.
    Blackhole,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    pub destination: Cidr,
    pub target: RouteTarget,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteTable {
    pub id: RouteTableId,
    pub account: AccountId,
    pub vpc: VpcId,
    /// The longest prefix that contains the destination wins.
    pub routes: Vec<Route>,
    pub main: bool,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

/// An instance's place in a subnet. Made and ended with its instance so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkInterface {
    pub id: InterfaceId,
    pub account: AccountId,
    pub vpc: VpcId,
    pub subnet: SubnetId,
    pub instance: InstanceId,
    pub address: Ipv4Addr,
    pub mac: MacAddress,
    pub groups: Vec<SecurityGroupId>,
    pub created: Moment,
    /// What went through it, as its host told last; none while it is at no host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<InterfaceCounters>,
    #[serde(default)]
    pub tags: Tags,
}

/// What a host's switch counted at an interface: every IPv4 packet between the guest and the network, carried or dropped. The flow
/// records of the interface add up to it, packet- and byte-exact; what flows have counted since their last records is in it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceCounters {
    /// When the host began to count: when the interface came there, or its agent was started.
    pub since: Moment,
    pub packets_sent: u64,
    pub bytes_sent: u64,
    pub packets_received: u64,
    pub bytes_received: u64,
}
