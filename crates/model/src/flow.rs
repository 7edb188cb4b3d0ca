//! The flow record: what one interface saw of one direction of one flow in one interval.
//!
//! Owns the shape shared by the flow table, IPFIX, the collector and the API, and what of it a tenant may see. Encoding is
//! the room `flows`' work.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, ConnState, EndReason, History, HostId, InstanceId, InterfaceId, MitigationId, Moment, RuleId,
    SecurityGroupId, SubnetId, VpcId,
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

/// Who of a flow's two ends sent this direction's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Who sent the first packet.
    Initiator,
    Responder,
}

/// Between whom the virtual router carried the packets. A word whose [`Path::meaning`] says that it is reserved is in no record
/// yet, and keeps its code for those that will have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Path {
    /// Two interfaces of this host.
    SameHost = 1,
    /// An interface of another host of the same location.
    OtherHost = 2,
    OtherLocation = 3,
    Internet = 4,
    /// A site of the customer, behind an instance that forwards.
    Site = 5,
    /// Another VPC.
    Peer = 6,
    /// The virtual router itself: metadata, DHCP, DNS, its own answers.
    Service = 7,
    /// Dropped before a path was known.
    Nowhere = 8,
}

impl Path {
    pub const ALL: [Self; 8] = [
        Self::SameHost,
        Self::OtherHost,
        Self::OtherLocation,
        Self::Internet,
        Self::Site,
        Self::Peer,
        Self::Service,
        Self::Nowhere,
    ];

    /// The value of the IPFIX element `flowPath`.
    pub const fn code(self) -> u8 {
        self as u8
    }
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|path| path.code() == code)
    }

    /// What is given to no record, for want of the gateways that would lead there.
    pub const RESERVED: [Self; 2] = [Self::Internet, Self::Peer];

    /// As the book has it.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::SameHost => "Two interfaces of this host.",
            Self::OtherHost => "An interface of another host of the same location.",
            Self::OtherLocation => "An interface of a host of another location.",
            Self::Internet => "Reserved: behind an internet gateway; there are none.",
            Self::Site => "Behind an instance that forwards, where a route leads to its interface.",
            Self::Peer => "Reserved: another VPC; none is joined to another.",
            Self::Service => "The virtual router itself: DHCP, DNS, metadata, its own answers.",
            Self::Nowhere => {
                "Dropped before a path was known; with `no-route` also what leaves the VPC's block where no route leads."
            }
        }
    }
}

/// Where a host stands, such as a data centre: a name of at most 64 octets, chosen by the operator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Location(Arc<str>);

/// A text that cannot name a location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a location has 1 to {max} lower-case letters, digits, dots and dashes", max = Location::MAX)]
pub struct ParseLocationError;

impl Location {
    /// Octets of the longest name.
    pub const MAX: usize = 64;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Location {
    /// `local`: of those who have one place only.
    fn default() -> Self {
        Self("local".into())
    }
}
impl FromStr for Location {
    type Err = ParseLocationError;
    fn from_str(text: &str) -> Result<Self, ParseLocationError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let is_name = (1..=Self::MAX).contains(&text.len()) && text.bytes().all(allowed);
        is_name.then(|| Self(text.into())).ok_or(ParseLocationError)
    }
}
impl TryFrom<String> for Location {
    type Error = ParseLocationError;
    fn try_from(text: String) -> Result<Self, ParseLocationError> {
        text.parse()
    }
}
impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.0.as_ref().into()
    }
}
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl JsonSchema for Location {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Location".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "Where a host stands, as its operator named it.",
            "pattern": "^[a-z0-9.-]{1,64}$",
        })
    }
}

/// How long answers took in one interval, from the host's port to the receiver of this direction's packets and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct RoundTrip {
    /// How often it was measured; at least once.
    pub count: u32,
    /// These four in microseconds.
    pub min: u32,
    pub mean: u32,
    pub max: u32,
    /// Since the flow's first packet, as TCP smooths it (RFC 6298: 1/8 of the newest).
    pub smoothed: u32,
}

macro_rules! flow_records {
    (
        $(#[$record_doc:meta])* struct $record:ident;
        $(#[$tenant_doc:meta])* struct $tenant:ident;
        shown { $($(#[$doc:meta])* $field:ident: $type:ty,)* }
        operator { $($(#[$own_doc:meta])* $own:ident: $own_type:ty,)* }
    ) => {
        $(#[$record_doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub struct $record {
            $($(#[$doc])* pub $field: $type,)*
            $($(#[$own_doc])* pub $own: $own_type,)*
        }

        $(#[$tenant_doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub struct $tenant { $($(#[$doc])* pub $field: $type,)* }

        impl $record {
            /// The record that a tenant's view is of, with the operator's own fields as given.
            pub fn of_view(view: &$tenant, $($own: $own_type),*) -> Self {
                Self { $($field: view.$field.clone(),)* $($own,)* }
            }
        }

        impl From<&$record> for $tenant {
            fn from(record: &$record) -> Self {
                Self { $($field: record.$field.clone(),)* }
            }
        }
    };
}

flow_records! {
    /// One direction of one flow at one interface, for one interval. Counters are of the interval, not since the start.
    /// This is what operators see; tenants see a [`TenantFlowRecord`].
    struct FlowRecord;
    /// A [`FlowRecord`] without what is the operator's own: what the tenant's views, files and streams consist of.
    struct TenantFlowRecord;
    shown {
        /// The same for both directions and both ends of a flow, so that their records can be joined.
        flow_id: u64,
        account: AccountId,
        instance: InstanceId,
        interface: InterfaceId,
        subnet: SubnetId,
        vpc: VpcId,
        /// Where the host stands.
        location: Location,
        /// The interface's security groups when the flow was judged.
        groups: Vec<SecurityGroupId>,
        /// The rule of a group that allowed it, or the entry of a network ACL that denied it; none where a default denied
        /// it or no rule was asked.
        rule: Option<RuleId>,
        verdict: Verdict,
        end_reason: EndReason,
        direction: Direction,
        path: Path,
        /// Who of the two ends sent these packets.
        side: Side,
        /// The first packet of the interval; records tell times to the millisecond.
        start: Moment,
        /// The last packet of the interval.
        end: Moment,
        packets: u64,
        /// Bytes of the IP packets, headers included.
        bytes: u64,
        source: IpAddr,
        destination: IpAddr,
        /// 0 where the protocol has no ports.
        source_port: u16,
        destination_port: u16,
        /// The IANA protocol number.
        protocol: u8,
        /// The ICMP type and code of the first packet, for ICMP.
        icmp_type: Option<u8>,
        icmp_code: Option<u8>,
        /// The type-of-service byte of the interval's first packet.
        tos: u8,
        /// The time to live of the interval's first packet, as it came to the port.
        ttl: u8,
        /// The union of the TCP flags, 12 bits as in the header.
        tcp_flags: u16,
        /// Of the subnet or route that the address falls under, 1 to 32; none where it is not known or is the default
        /// route.
        source_prefix_length: Option<u8>,
        destination_prefix_length: Option<u8>,
        /// The virtual router's next hop; none where the destination is its neighbour or nothing was forwarded.
        next_hop: Option<IpAddr>,
        /// What happened in the whole connection so far, both directions.
        history: History,
        /// What follows from it.
        conn_state: ConnState,
        /// None where no answer could be measured in the interval.
        round_trip: Option<RoundTrip>,
        /// TCP packets of the interval whose data had been sent before.
        retransmissions: u32,
        /// TCP packets of the interval that said that their sender can take no more.
        zero_windows: u32,
    }
    operator {
        host: HostId,
        /// The index of the port of the host's virtual router where the packets came in, as SNMP would know it; 0 where
        /// it is not known.
        ingress_interface: u32,
        /// Where they went out; 0 where they were dropped.
        egress_interface: u32,
        /// The operator's order that cut or capped it.
        mitigation: Option<MitigationId>,
    }
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

/// IANA 89 forwardingStatus of what was carried.
const FORWARDED: u8 = 0x40;
/// IANA 233 firewallEvent of a connection that is no more.
const DELETED: u8 = 2;

impl FlowRecord {
    /// IANA 89 forwardingStatus: what became of these packets. A flow that was cut while it was live has the reason of a
    /// drop, and still its packets were carried.
    pub const fn forwarding_status(&self) -> u8 {
        match self.verdict {
            Verdict::Accept => FORWARDED,
            Verdict::Reject => self.end_reason.forwarding_status(),
        }
    }

    /// IANA 233 firewallEvent: a flow that was cut while it was live was not denied but deleted.
    pub const fn firewall_event(&self) -> u8 {
        match self.verdict {
            Verdict::Accept if self.end_reason.is_drop() => DELETED,
            _ => self.end_reason.firewall_event(),
        }
    }

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
    Record(Box<TenantFlowRecord>),
    /// So many records were left out here because the watcher read too slowly.
    Missed(u64),
}
