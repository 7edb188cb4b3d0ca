//! The flow record: what one interface saw of one direction of one flow in one interval.
//!
//! Owns the shape shared by the flow table, IPFIX, the collector and the API. Encoding is the room `flows`' work.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, EndReason, HostId, InstanceId, InterfaceId, Moment, RuleId, SecurityGroupId, SubnetId, VpcId,
};

/// Which way the packets went, as the interface sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To the instance.
    Ingress,
    /// From the instance.
    Egress,
}

impl Direction {
    pub const fn reverse(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

/// Whether the virtualization layer carried the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Accept,
    Reject,
}

/// One direction of one flow at one interface, for one interval. Counters are of the interval, not since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowRecord {
    /// The same for both directions and both ends of a flow, so that their records can be joined.
    pub flow_id: u64,
    pub account: AccountId,
    pub instance: InstanceId,
    pub interface: InterfaceId,
    pub subnet: SubnetId,
    pub vpc: VpcId,
    pub host: HostId,
    /// The interface's security groups when the flow was judged.
    pub groups: Vec<SecurityGroupId>,
    /// The rule that allowed it; none where the default denied it or no rule was asked.
    pub rule: Option<RuleId>,
    pub verdict: Verdict,
    pub end_reason: EndReason,
    pub direction: Direction,
    /// The first packet of the interval.
    pub start: Moment,
    /// The last packet of the interval.
    pub end: Moment,
    pub packets: u64,
    /// Bytes of the IP packets, headers included.
    pub bytes: u64,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// 0 where the protocol has no ports.
    pub source_port: u16,
    pub destination_port: u16,
    /// The IANA protocol number.
    pub protocol: u8,
    /// The ICMP type and code of the first packet, for ICMP.
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
    /// The type-of-service byte of the first packet.
    pub tos: u8,
    /// The union of the TCP flags, 12 bits as in the header.
    pub tcp_flags: u16,
}
