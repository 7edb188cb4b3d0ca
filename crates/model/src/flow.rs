//! The flow record: what one interface saw of one direction of one flow in one interval.
//!
//! Owns the shape shared by the flow table, IPFIX, the collector and the API. Encoding is the room `flows`' work.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, EndReason, HostId, InstanceId, InterfaceId, Moment, RuleId, SecurityGroupId, SubnetId, VpcId};

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

/// Which records are meant: those that match every criterion that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FlowFilter {
    pub instance: Option<InstanceId>,
    pub interface: Option<InterfaceId>,
    pub vpc: Option<VpcId>,
    pub subnet: Option<SubnetId>,
    pub verdict: Option<Verdict>,
    pub end_reason: Option<EndReason>,
    pub direction: Option<Direction>,
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    /// The address at the other end, whichever way the packets went.
    pub peer: Option<IpAddr>,
    /// The port at either end.
    pub port: Option<u16>,
    /// The IANA protocol number.
    pub protocol: Option<u8>,
}

impl FlowFilter {
    pub fn matches(&self, record: &FlowRecord) -> bool {
        fn is<T: PartialEq>(wanted: &Option<T>, given: &T) -> bool {
            wanted.as_ref().is_none_or(|w| w == given)
        }
        is(&self.instance, &record.instance)
            && is(&self.interface, &record.interface)
            && is(&self.vpc, &record.vpc)
            && is(&self.subnet, &record.subnet)
            && is(&self.verdict, &record.verdict)
            && is(&self.end_reason, &record.end_reason)
            && is(&self.direction, &record.direction)
            && is(&self.source, &record.source)
            && is(&self.destination, &record.destination)
            && is(&self.peer, &record.peer())
            && self.port.is_none_or(|port| port == record.source_port || port == record.destination_port)
            && is(&self.protocol, &record.protocol)
    }
}

impl FlowRecord {
    /// The address at the other end from the instance.
    pub const fn peer(&self) -> IpAddr {
        match self.direction {
            Direction::Ingress => self.source,
            Direction::Egress => self.destination,
        }
    }
}

/// A question for kept records of one account. A record counts at the time of its last packet, [`FlowRecord::end`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowQuery {
    /// Whose records; there is no question without it, and none that spans accounts.
    pub account: AccountId,
    /// The earliest time, included.
    pub since: Moment,
    /// The latest time, left out; none asks for everything up to now.
    pub until: Option<Moment>,
    #[serde(flatten)]
    pub filter: FlowFilter,
    /// Records in a page: 1 to [`FlowQuery::MAX_LIMIT`]; larger numbers mean the largest.
    pub limit: u32,
    /// [`FlowPage::next`] of the page before.
    pub cursor: Option<String>,
}

impl FlowQuery {
    pub const DEFAULT_LIMIT: u32 = 100;
    pub const MAX_LIMIT: u32 = 1000;

    /// All records of `account` from `since` on.
    pub fn new(account: AccountId, since: Moment) -> Self {
        let filter = FlowFilter::default();
        Self { account, since, until: None, filter, limit: Self::DEFAULT_LIMIT, cursor: None }
    }

    /// Whether the record is one that is asked for, on whatever page.
    pub fn matches(&self, record: &FlowRecord) -> bool {
        record.account == self.account
            && record.end >= self.since
            && self.until.is_none_or(|until| record.end < until)
            && self.filter.matches(record)
    }
}

/// Records that answer a [`FlowQuery`], newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowPage {
    pub records: Vec<FlowRecord>,
    /// The cursor of the next page; none when this is the last.
    pub next: Option<String>,
    /// How many records were looked at to find these.
    pub scanned: u64,
    /// Files that should have been looked at and could not be read; records may be missing when this is not 0.
    pub unreadable: u32,
}

/// A question for the records of one account that arrive from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowWatch {
    pub account: AccountId,
    #[serde(flatten)]
    pub filter: FlowFilter,
}

impl FlowWatch {
    pub fn matches(&self, record: &FlowRecord) -> bool {
        record.account == self.account && self.filter.matches(record)
    }
}

/// What a watcher is told: one line of JSON each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FlowEvent {
    Record(Box<FlowRecord>),
    /// So many records were left out here because the watcher read too slowly.
    Missed(u64),
}
