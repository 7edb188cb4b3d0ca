//! The queries of flow lists, watches and files. Owns their flat shape in the URL; the question itself is put to the collector.

use std::net::IpAddr;

use lucarne_model::{
    EndReason, InstanceId, InterfaceId, Moment, SubnetId, VpcId,
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
