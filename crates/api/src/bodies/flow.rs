//! The queries of flow lists, watches, files and explanations. Owns their flat shape in the URL; the question itself is put to the collector.

use std::net::{IpAddr, Ipv4Addr};

use lucarne_model::{
    EndReason, InstanceId, InterfaceId, Moment, RuleId, SubnetId, VpcId,
    flow::{Direction, Verdict},
    flow_log::ExportFormat,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which flow records; all that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowsQuery {
    /// Records that end at or after this, in microseconds since 1970; an hour ago if not given.
    pub since: Option<Moment>,
    /// Records that start before this.
    pub until: Option<Moment>,
    pub instance: Option<InstanceId>,
    pub interface: Option<InterfaceId>,
    pub subnet: Option<SubnetId>,
    pub vpc: Option<VpcId>,
    pub verdict: Option<Verdict>,
    pub end_reason: Option<EndReason>,
    pub direction: Option<Direction>,
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    /// Either side's address.
    pub peer: Option<IpAddr>,
    /// Either side's port.
    pub port: Option<u16>,
    /// The IANA protocol number.
    pub protocol: Option<u8>,
    /// At most this many, 1 to 1000; 100 if not given.
    pub limit: Option<u32>,
    pub page_token: Option<String>,
}

/// Which network's flows, as a file of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    pub vpc: VpcId,
    /// Records that end at or after this, in microseconds since 1970; an hour ago if not given.
    pub since: Option<Moment>,
    /// Records that end before this; now if not given.
    pub until: Option<Moment>,
    /// An IPFIX file if not given.
    pub format: Option<ExportFormat>,
    /// Of `aws`: which fields, such as `${srcaddr} ${dstaddr}`; AWS's default ones if not given.
    pub fields: Option<String>,
    /// Names the router's ports by instance and not by subnet.
    pub by_instance: Option<bool>,
}

/// Whether something could reach something, and why or why not. Each end is an address or an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WhyQuery {
    pub source: Option<Ipv4Addr>,
    pub source_instance: Option<InstanceId>,
    pub destination: Option<Ipv4Addr>,
    pub destination_instance: Option<InstanceId>,
    /// The destination port; for ICMP the type in the high byte and the code in the low one.
    pub port: u16,
    /// The IANA protocol number; TCP if not given.
    pub protocol: Option<u8>,
    /// Where the account has the address in several VPCs.
    pub vpc: Option<VpcId>,
}

/// What the present configuration says of a flow, and what was seen of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    pub verdict: Verdict,
    /// As which its packets would be recorded; none where they pass.
    pub end_reason: Option<EndReason>,
    /// Everyone who is asked, in that order, up to the one who rejects.
    pub steps: Vec<WhyStep>,
    /// The latest records of it, of the last 24 hours; none where there are none.
    pub seen: Option<Seen>,
}

/// One who was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhyStep {
    pub asked: Asked,
    pub verdict: Verdict,
    /// The rule or entry that decided; none where none matched.
    pub rule: Option<RuleId>,
    /// Since when that rule, entry or order has existed; rules are never changed, only made and revoked.
    pub since: Option<Moment>,
    /// The rule in words.
    pub text: String,
}

/// Who decides on a packet on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// The operator's orders. Only operators are told of them.
    Mitigations,
    /// The network ACL of the sender's subnet.
    AclAtSource,
    GroupsAtSource,
    /// The route table of the sender's subnet.
    Routes,
    /// The network ACL of the receiver's subnet.
    AclAtDestination,
    GroupsAtDestination,
}

/// What the records of the flow say: those at its end that agree with the newest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Seen {
    pub verdict: Verdict,
    pub end_reason: EndReason,
    /// The rule that the newest names.
    pub rule: Option<RuleId>,
    /// When the oldest of them began, and when the newest ended.
    pub since: Moment,
    pub last: Moment,
    pub records: u32,
}
