//! Security groups: stateful allow rules for what may reach and leave an interface.
//!
//! Owns the shape of groups and rules, and whether a rule matches a packet's description: both the switch and whoever
//! explains a verdict must agree on that. Connection state is the flow table's.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, Cidr, Moment, RuleId, SecurityGroupId, Tags, VpcId, flow::Direction};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecurityGroup {
    pub id: SecurityGroupId,
    pub account: AccountId,
    pub vpc: VpcId,
    pub name: String,
    pub description: String,
    pub rules: Vec<Rule>,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

/// Allows what it describes; there are no denying rules. An interface's groups allow what any rule of any of them does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rule {
    pub id: RuleId,
    /// 1970 for rules that are older than this field: then it is not known.
    #[serde(default)]
    pub created: Moment,
    #[serde(flatten)]
    pub spec: RuleSpec,
}

/// A rule without its id: two rules of a group are duplicates when their specs are equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleSpec {
    pub direction: Direction,
    pub traffic: Traffic,
    pub peer: Peer,
}

/// Which packets, by protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "protocol", rename_all = "kebab-case")]
pub enum Traffic {
    All,
    /// Destination ports, both ends included.
    Tcp {
        from_port: u16,
        to_port: u16,
    },
    Udp {
        from_port: u16,
        to_port: u16,
    },
    /// None matches every type or code.
    Icmp {
        icmp_type: Option<u8>,
        icmp_code: Option<u8>,
    },
    /// Any other protocol, by its IANA number.
    Other {
        number: u8,
    },
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Peer {
    Cidr {
        cidr: Cidr,
    },
    /// Any interface of the VPC that has this group.
    Group {
        group: SecurityGroupId,
    },
}

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

impl Traffic {
    /// `port` is the destination port; for ICMP it carries the type in its high byte and the code in the low one.
    pub fn matches(&self, protocol: u8, port: u16) -> bool {
        match *self {
            Self::All => true,
            Self::Tcp { from_port, to_port } => protocol == TCP && (from_port..=to_port).contains(&port),
            Self::Udp { from_port, to_port } => protocol == UDP && (from_port..=to_port).contains(&port),
            Self::Icmp { icmp_type, icmp_code } => {
                let [kind, code] = port.to_be_bytes();
                protocol == ICMP && icmp_type.is_none_or(|t| t == kind) && icmp_code.is_none_or(|c| c == code)
            }
            Self::Other { number } => protocol == number,
        }
    }
}

impl RuleSpec {
    /// `in_group` answers whether the peer's interface has the group.
    pub fn matches(
        &self,
        direction: Direction,
        protocol: u8,
        port: u16,
        peer: Ipv4Addr,
        in_group: impl Fn(SecurityGroupId) -> bool,
    ) -> bool {
        self.direction == direction
            && self.traffic.matches(protocol, port)
            && match self.peer {
                Peer::Cidr { cidr } => cidr.contains(peer),
                Peer::Group { group } => in_group(group),
            }
    }

    /// What a new group allows out: everything. It can be revoked.
    pub const fn allow_all_outbound() -> Self {
        Self { direction: Direction::Egress, traffic: Traffic::All, peer: Peer::Cidr { cidr: Cidr::ANY } }
    }
}
