//! The table of information elements: one row for each value that a flow record carries on the wire.
//!
//! Owns numbers, names, types and how each value is written and read. Everything else of IPFIX derives from [`FIELDS`]:
//! a new field of the record is one row here, and a new golden file in the tests.

use std::fmt::Write as _;

use lucarne_model::{
    FlowRecord, MitigationId, Moment, RuleId,
    flow::{Direction, Side, Verdict},
};

pub(super) use super::values::group_list;
pub use super::values::group_set_id;
use super::{
    encode::put_groups,
    loss::{LOSS_CAUSE, LOST_RECORDS},
    plan::Values,
    values::{
        CONN_STATES, DIRECTIONS, END_REASONS, NO_HOP, NO_HOP_V6, PATHS, SIDES, VERDICTS, hop, ipv4, ipv6, location,
        optional_id, put_destination_prefix, put_history, put_icmp_code, put_icmp_type, put_icmp_type_and_code,
        put_ipv4, put_ipv6, put_optional_id, put_source_prefix, put_text, put_uptime, text,
    },
    wire::{BadValue, ID_LENGTH, VARIABLE, put_id},
};
use crate::columns::FlowColumns;

/// The private enterprise number that our own elements stand under: the one for documentation (RFC 5612), until we have
/// been given one.
pub const ENTERPRISE: u32 = 32473;

/// The abstract data types that we use, with their numbers in RFC 5610 section 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DataType {
    OctetArray = 0,
    Unsigned8 = 1,
    Unsigned16 = 2,
    Unsigned32 = 3,
    Unsigned64 = 4,
    String = 13,
    DateTimeMilliseconds = 15,
    DateTimeMicroseconds = 16,
    Ipv4Address = 18,
    Ipv6Address = 19,
    BasicList = 20,
}

impl DataType {
    /// The registry's name of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OctetArray => "octetArray",
            Self::Unsigned8 => "unsigned8",
            Self::Unsigned16 => "unsigned16",
            Self::Unsigned32 => "unsigned32",
            Self::Unsigned64 => "unsigned64",
            Self::String => "string",
            Self::DateTimeMilliseconds => "dateTimeMilliseconds",
            Self::DateTimeMicroseconds => "dateTimeMicroseconds",
            Self::Ipv4Address => "ipv4Address",
            Self::Ipv6Address => "ipv6Address",
            Self::BasicList => "basicList",
        }
    }
}

/// An information element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    pub number: u16,
    /// None for those of IANA's registry.
    pub enterprise: Option<u32>,
    pub name: &'static str,
    pub data_type: DataType,
    /// Octets as we write it; 65535 where each value brings its own length.
    pub length: u16,
}

/// What kind of value it is and in which unit, as the type records of RFC 5610 number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Semantics {
    pub(super) kind: u8,
    pub(super) unit: u16,
}

impl Element {
    /// Of our own elements.
    pub(super) fn semantics(&self) -> Semantics {
        const DEFAULT: u8 = 0;
        const QUANTITY: u8 = 1;
        const DELTA_COUNTER: u8 = 3;
        const IDENTIFIER: u8 = 4;
        const NO_UNIT: u16 = 0;
        const PACKETS: u16 = 3;
        const FLOWS: u16 = 4;
        const MICROSECONDS: u16 = 7;
        let (kind, unit) = match self.name {
            _ if self.data_type == DataType::String => (DEFAULT, NO_UNIT),
            "roundTripCount" => (QUANTITY, NO_UNIT),
            name if name.starts_with("roundTrip") => (QUANTITY, MICROSECONDS),
            "lostRecordDeltaCount" => (DELTA_COUNTER, FLOWS),
            name if name.ends_with("DeltaCount") => (DELTA_COUNTER, PACKETS),
            _ => (IDENTIFIER, NO_UNIT),
        };
        Semantics { kind, unit }
    }
}

/// Which records have a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    Ipv4,
    Ipv6,
    /// ICMP over IPv4, and over IPv6.
    IcmpV4,
    IcmpV6,
}

/// What the records of one sender have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// When its clock of uptimes was 0: of whole milliseconds.
    pub init: Moment,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub element: Element,
    /// The field of [`FlowRecord`] that it carries.
    pub of: &'static str,
    pub when: When,
    /// Whether a record without it is not one of ours.
    pub required: bool,
    pub meaning: &'static str,
    pub(super) put: fn(&FlowRecord, &Sender, &mut Vec<u8>),
    /// None where no column is made of it alone: another element says the same in full, and this one is for other
    /// collectors; or it is one of those that together say who saw a flow, which the plan reads as one.
    pub(super) take: Option<Take>,
}

/// Appends the values of all records of a set to their column.
pub(super) type Take = fn(&Values<'_>, &mut FlowColumns) -> Result<(), BadValue>;

const fn element(number: u16, enterprise: Option<u32>, name: &'static str, data_type: DataType) -> Element {
    let length = match data_type {
        DataType::OctetArray => ID_LENGTH,
        DataType::Unsigned8 => 1,
        DataType::Unsigned16 => 2,
        DataType::Unsigned32 | DataType::Ipv4Address => 4,
        DataType::Unsigned64 | DataType::DateTimeMilliseconds | DataType::DateTimeMicroseconds => 8,
        DataType::Ipv6Address => 16,
        DataType::String | DataType::BasicList => VARIABLE,
    };
    Element { number, enterprise, name, data_type, length }
}

pub(super) const fn iana(number: u16, name: &'static str, data_type: DataType) -> Element {
    element(number, None, name, data_type)
}

pub(super) const fn own(number: u16, name: &'static str, data_type: DataType) -> Element {
    element(number, Some(ENTERPRISE), name, data_type)
}

/// The element inside the list of groups.
pub(super) const SECURITY_GROUP_ID: Element = own(7, "securityGroupId", DataType::OctetArray);
/// Names a set of groups that an options record has listed (the pattern of RFC 5473): the dictionary beside the list.
pub(super) const COMMON_PROPERTIES: Element = iana(137, "commonPropertiesId", DataType::Unsigned64);
pub(super) const GROUPS: Element = iana(291, "basicList", DataType::BasicList);
/// Who sends, and when its clock of uptimes was 0.
pub(super) const DOMAIN: Element = iana(149, "observationDomainId", DataType::Unsigned32);
pub(super) const PROCESS: Element = iana(143, "meteringProcessId", DataType::Unsigned32);
pub(super) const INIT_TIME: Element = iana(160, "systemInitTimeMilliseconds", DataType::DateTimeMilliseconds);
/// The two values of a [`Mark`](super::Mark).
pub(super) const SENDER_SESSION: Element = own(32, "senderSession", DataType::Unsigned64);
pub(super) const SENDER_NEXT_RECORD: Element = own(33, "senderNextRecord", DataType::Unsigned64);

/// What the type records of RFC 5610 consist of; the first two are their scope.
pub(super) const TYPE_RECORD: [Element; 6] = [
    iana(346, "privateEnterpriseNumber", DataType::Unsigned32),
    iana(303, "informationElementId", DataType::Unsigned16),
    iana(339, "informationElementDataType", DataType::Unsigned8),
    iana(344, "informationElementSemantics", DataType::Unsigned8),
    iana(345, "informationElementUnits", DataType::Unsigned16),
    iana(341, "informationElementName", DataType::String),
];

macro_rules! fields {
    ($($of:literal $(($required:ident))? $when:ident $element:expr, $meaning:literal, $put:expr $(, $take:expr)?;)*) => {
        /// Every row, in the order of the wire.
        pub static FIELDS: &[Field] = &[$(Field {
            element: $element,
            of: $of,
            when: When::$when,
            required: fields!(@required $($required)?),
            meaning: $meaning,
            put: $put,
            take: fields!(@take $($take)?),
        }),*];
    };
    (@required) => { false };
    (@required required) => { true };
    (@take) => { None };
    (@take $take:expr) => { Some($take) };
}

macro_rules! number {
    ($field:ident) => {
        |r, _, out| out.extend_from_slice(&r.$field.to_be_bytes())
    };
    (take $field:ident) => {
        |v, c| v.numbers(&mut c.$field)
    };
}
macro_rules! identity {
    ($field:ident) => {
        |r, _, out| put_id(r.$field.bits(), out)
    };
}
macro_rules! round_trip {
    ($part:ident) => {
        |r, _, out| out.extend_from_slice(&r.round_trip.map_or(0, |r| r.$part).to_be_bytes())
    };
}

fields! {
    "flow_id" (required) Always iana(148, "flowId", DataType::Unsigned64),
        "The same for both directions and both ends of a flow.",
        number!(flow_id), number!(take flow_id);
    "account" (required) Always own(1, "accountId", DataType::Unsigned64),
        "The account, as the number that its 12 digits make.",
        |r, _, out| out.extend_from_slice(&r.account.number().to_be_bytes());
    "vpc" (required) Always own(2, "vpcId", DataType::OctetArray),
        "The digits behind `vpc-` as octets: 4 zero bits, then 68.", identity!(vpc);
    "subnet" (required) Always own(3, "subnetId", DataType::OctetArray),
        "The digits behind `subnet-`.", identity!(subnet);
    "interface" (required) Always own(4, "interfaceId", DataType::OctetArray),
        "The digits behind `eni-`.", identity!(interface);
    "instance" (required) Always own(5, "instanceId", DataType::OctetArray),
        "The digits behind `i-`.", identity!(instance);
    "host" (required) Always own(6, "hostId", DataType::OctetArray),
        "The digits behind `host-`.", identity!(host);
    "groups" (required) Always GROUPS,
        "All of the interface's groups: a list (RFC 6313, semantic allOf) of `securityGroupId`.",
        |r, _, out| put_groups(&r.groups, out),
        |v, c| v.coded(&mut c.groups, |octets| Ok(group_list(octets)?.unwrap_or_default()));
    "groups" Always COMMON_PROPERTIES,
        "The same set of groups by its number in the dictionary (options template 267); 0 is the empty set.",
        |r, _, out| out.extend_from_slice(&group_set_id(&r.groups).to_be_bytes());
    "rule" Always Element { length: VARIABLE, ..own(8, "ruleId", DataType::OctetArray) },
        "The digits behind `sgr-` of the rule that decided; of length 0 when none did.",
        |r, _, out| put_optional_id(r.rule.map(RuleId::bits), out),
        |v, c| v.coded(&mut c.rule, |octets| Ok(optional_id(octets)?.map(RuleId::from_bits)));
    "verdict" (required) Always own(9, "verdict", DataType::Unsigned8),
        "0 accept, 1 reject.", |r, _, out| out.push(u8::from(r.verdict == Verdict::Reject)),
        |v, c| v.words(&mut c.verdict, &VERDICTS);
    "end_reason" (required) Always own(10, "sessionEndReason", DataType::Unsigned8),
        "Why the record ended: the code in the table of end reasons.",
        |r, _, out| out.push(r.end_reason.code()),
        |v, c| v.words(&mut c.end_reason, &END_REASONS);
    "end_reason" Always iana(136, "flowEndReason", DataType::Unsigned8),
        "The end reason as IANA's coarser list has it.", |r, _, out| out.push(r.end_reason.flow_end_reason());
    "end_reason" Always iana(233, "firewallEvent", DataType::Unsigned8),
        "Verdict and end reason as a firewall tells them.", |r, _, out| out.push(r.firewall_event());
    "end_reason" Always iana(89, "forwardingStatus", DataType::Unsigned8),
        "0x40 forwarded; 0x80 and above dropped, and why.", |r, _, out| out.push(r.forwarding_status());
    "direction" (required) Always iana(61, "flowDirection", DataType::Unsigned8),
        "0 to the instance, 1 from it.", |r, _, out| out.push(u8::from(r.direction == Direction::Egress)),
        |v, c| v.words(&mut c.direction, &DIRECTIONS);
    "side" Always iana(239, "biflowDirection", DataType::Unsigned8),
        "Who sent these packets: 1 the flow's initiator, 2 the responder.",
        |r, _, out| out.push(if r.side == Side::Initiator { 1 } else { 2 }), |v, c| v.words(&mut c.side, &SIDES);
    "start" (required) Always iana(152, "flowStartMilliseconds", DataType::DateTimeMilliseconds),
        "The first packet of the interval, in milliseconds since 1970.",
        |r, _, out| out.extend_from_slice(&r.start.as_millis().to_be_bytes()),
        |v, c| v.millis(&mut c.start);
    "end" (required) Always iana(153, "flowEndMilliseconds", DataType::DateTimeMilliseconds),
        "The last packet of the interval, in milliseconds since 1970.",
        |r, _, out| out.extend_from_slice(&r.end.as_millis().to_be_bytes()),
        |v, c| v.millis(&mut c.end);
    "start" Always iana(22, "flowStartSysUpTime", DataType::Unsigned32),
        "The same in milliseconds since the sender's `systemInitTimeMilliseconds`, modulo 2^32.",
        |r, sender, out| put_uptime(r.start, sender, out);
    "end" Always iana(21, "flowEndSysUpTime", DataType::Unsigned32),
        "The same in milliseconds since the sender's `systemInitTimeMilliseconds`, modulo 2^32.",
        |r, sender, out| put_uptime(r.end, sender, out);
    "packets" (required) Always iana(2, "packetDeltaCount", DataType::Unsigned64),
        "Packets of the interval.", number!(packets), number!(take packets);
    "bytes" (required) Always iana(1, "octetDeltaCount", DataType::Unsigned64),
        "Bytes of the interval's IP packets, headers included.", number!(bytes), number!(take bytes);
    "source" (required) Ipv4 iana(8, "sourceIPv4Address", DataType::Ipv4Address),
        "The source address.", |r, _, out| put_ipv4(r.source, out), |v, c| v.addresses(&mut c.source, ipv4);
    "destination" (required) Ipv4 iana(12, "destinationIPv4Address", DataType::Ipv4Address),
        "The destination address.", |r, _, out| put_ipv4(r.destination, out), |v, c| v.addresses(&mut c.destination, ipv4);
    "source" (required) Ipv6 iana(27, "sourceIPv6Address", DataType::Ipv6Address),
        "The source address.", |r, _, out| put_ipv6(r.source, out), |v, c| v.addresses(&mut c.source, ipv6);
    "destination" (required) Ipv6 iana(28, "destinationIPv6Address", DataType::Ipv6Address),
        "The destination address.", |r, _, out| put_ipv6(r.destination, out), |v, c| v.addresses(&mut c.destination, ipv6);
    "source_prefix_length" Ipv4 iana(9, "sourceIPv4PrefixLength", DataType::Unsigned8),
        "Of the subnet or route that it falls under; 0 where it is not known.", put_source_prefix, number!(take source_prefix_length);
    "destination_prefix_length" Ipv4 iana(13, "destinationIPv4PrefixLength", DataType::Unsigned8),
        "Of the subnet or route that it falls under; 0 where it is not known.",
        put_destination_prefix, number!(take destination_prefix_length);
    "source_prefix_length" Ipv6 iana(29, "sourceIPv6PrefixLength", DataType::Unsigned8),
        "Of the subnet or route that it falls under; 0 where it is not known.", put_source_prefix, number!(take source_prefix_length);
    "destination_prefix_length" Ipv6 iana(30, "destinationIPv6PrefixLength", DataType::Unsigned8),
        "Of the subnet or route that it falls under; 0 where it is not known.",
        put_destination_prefix, number!(take destination_prefix_length);
    "next_hop" Ipv4 iana(15, "ipNextHopIPv4Address", DataType::Ipv4Address),
        "The virtual router's next hop; unspecified where there is none.",
        |r, _, out| put_ipv4(r.next_hop.unwrap_or(NO_HOP), out), |v, c| v.addresses(&mut c.next_hop, |octets| hop(ipv4(octets)));
    "next_hop" Ipv6 iana(62, "ipNextHopIPv6Address", DataType::Ipv6Address),
        "The virtual router's next hop; unspecified where there is none.",
        |r, _, out| put_ipv6(r.next_hop.unwrap_or(NO_HOP_V6), out), |v, c| v.addresses(&mut c.next_hop, |octets| hop(ipv6(octets)));
    "ingress_interface" Always iana(10, "ingressInterface", DataType::Unsigned32),
        "The index of the virtual router's port where the packets came in; 0 where it is not known.",
        number!(ingress_interface), number!(take ingress_interface);
    "egress_interface" Always iana(14, "egressInterface", DataType::Unsigned32),
        "The index of the virtual router's port where they went out; 0 where they were dropped.",
        number!(egress_interface), number!(take egress_interface);
    "source_port" (required) Always iana(7, "sourceTransportPort", DataType::Unsigned16),
        "0 where the protocol has no ports.", number!(source_port), number!(take source_port);
    "destination_port" (required) Always iana(11, "destinationTransportPort", DataType::Unsigned16),
        "0 where the protocol has no ports.", number!(destination_port), number!(take destination_port);
    "protocol" (required) Always iana(4, "protocolIdentifier", DataType::Unsigned8),
        "The IANA protocol number.", number!(protocol), number!(take protocol);
    "tos" (required) Always iana(5, "ipClassOfService", DataType::Unsigned8),
        "The type-of-service byte of the first packet.", number!(tos), number!(take tos);
    "ttl" Always iana(192, "ipTTL", DataType::Unsigned8),
        "The time to live of the first packet, or its hop limit.", number!(ttl), number!(take ttl);
    "tcp_flags" (required) Always iana(6, "tcpControlBits", DataType::Unsigned16),
        "The union of the TCP flags.", number!(tcp_flags), number!(take tcp_flags);
    "icmp_type" IcmpV4 iana(176, "icmpTypeIPv4", DataType::Unsigned8),
        "The type of the first packet.", put_icmp_type, |v, c| v.small_numbers(&mut c.icmp_type);
    "icmp_code" IcmpV4 iana(177, "icmpCodeIPv4", DataType::Unsigned8),
        "The code of the first packet.", put_icmp_code, |v, c| v.small_numbers(&mut c.icmp_code);
    "icmp_type" IcmpV6 iana(178, "icmpTypeIPv6", DataType::Unsigned8),
        "The type of the first packet.", put_icmp_type, |v, c| v.small_numbers(&mut c.icmp_type);
    "icmp_code" IcmpV6 iana(179, "icmpCodeIPv6", DataType::Unsigned8),
        "The code of the first packet.", put_icmp_code, |v, c| v.small_numbers(&mut c.icmp_code);
    "icmp_type" IcmpV4 iana(32, "icmpTypeCodeIPv4", DataType::Unsigned16),
        "Type and code in one number, as NetFlow has them.", put_icmp_type_and_code;
    "icmp_type" IcmpV6 iana(139, "icmpTypeCodeIPv6", DataType::Unsigned16),
        "Type and code in one number, as NetFlow has them.", put_icmp_type_and_code;
    "location" Always own(11, "location", DataType::String),
        "Where the host stands.", |r, _, out| put_text(r.location.as_str(), out),
        |v, c| v.coded(&mut c.location, location);
    "path" Always own(12, "flowPath", DataType::Unsigned8),
        "Between whom: 1 same host, 2 other host, 3 other location, 5 site, 7 the virtual router's own services, 8 dropped \
         before a path was known; 4 (internet) and 6 (peer VPC) are reserved.",
        |r, _, out| out.push(r.path.code()),
        |v, c| v.words(&mut c.path, &PATHS);
    "history" Always own(13, "history", DataType::String),
        "What happened in the connection so far, in Zeek's letters.",
        |r, _, out| put_history(r.history, out),
        |v, c| v.coded(&mut c.history, |octets| text(octets)?.parse().map_err(|_| BadValue));
    "conn_state" Always own(14, "connState", DataType::Unsigned8),
        "Zeek's conn_state: the code in the table of states.",
        |r, _, out| out.push(r.conn_state.code()),
        |v, c| v.words(&mut c.conn_state, &CONN_STATES);
    "round_trip" Always own(15, "roundTripCount", DataType::Unsigned32),
        "How often a round trip was measured in the interval; 0 makes the next four 0.",
        round_trip!(count), number!(take round_trip_count);
    "round_trip" Always own(16, "roundTripMinMicroseconds", DataType::Unsigned32),
        "The shortest, from the port to the receiver and back.", round_trip!(min), number!(take round_trip_min);
    "round_trip" Always own(17, "roundTripMeanMicroseconds", DataType::Unsigned32),
        "The mean.", round_trip!(mean), number!(take round_trip_mean);
    "round_trip" Always own(18, "roundTripMaxMicroseconds", DataType::Unsigned32),
        "The longest.", round_trip!(max), number!(take round_trip_max);
    "round_trip" Always own(19, "roundTripSmoothedMicroseconds", DataType::Unsigned32),
        "Smoothed as in RFC 6298, since the flow's first packet.", round_trip!(smoothed), number!(take round_trip_smoothed);
    "retransmissions" Always own(20, "retransmissionDeltaCount", DataType::Unsigned32),
        "TCP packets of the interval whose data had been sent before.",
        number!(retransmissions), number!(take retransmissions);
    "zero_windows" Always own(21, "zeroWindowDeltaCount", DataType::Unsigned32),
        "TCP packets of the interval that closed the window.", number!(zero_windows), number!(take zero_windows);
    "mitigation" Always Element { length: VARIABLE, ..own(22, "mitigationId", DataType::OctetArray) },
        "The digits behind `mit-` of the operator's order that cut or capped it; of length 0 when none did.",
        |r, _, out| put_optional_id(r.mitigation.map(MitigationId::bits), out),
        |v, c| v.coded(&mut c.mitigation, |octets| Ok(optional_id(octets)?.map(MitigationId::from_bits)));
}

/// The row that reads an element, if we have one.
pub(super) fn find(number: u16, enterprise: Option<u32>) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.element.number == number && field.element.enterprise == enterprise)
}

/// Our own elements, each once: what collectors elsewhere must be told of.
pub fn own_elements() -> impl Iterator<Item = Element> {
    let fields = FIELDS.iter().map(|field| field.element).filter(|element| element.enterprise.is_some());
    fields.chain([SECURITY_GROUP_ID, SENDER_SESSION, SENDER_NEXT_RECORD, LOST_RECORDS, LOSS_CAUSE])
}

/// The table as Markdown, for `docs/ipfix.md`.
pub fn markdown() -> String {
    let mut text = String::from("| element | number | type | octets | field | meaning |\n|---|---|---|---|---|---|\n");
    for Field { element, of, when, meaning, .. } in FIELDS {
        let number = match element.enterprise {
            Some(enterprise) => format!("{enterprise}/{}", element.number),
            None => element.number.to_string(),
        };
        let octets = if element.length == VARIABLE { "variable".into() } else { element.length.to_string() };
        let which = match when {
            When::Always | When::IcmpV4 | When::IcmpV6 => "",
            When::Ipv4 => " (IPv4)",
            When::Ipv6 => " (IPv6)",
        };
        let kind = element.data_type.name();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {} | {number} | {kind} | {octets} | `{of}`{which} | {meaning} |", element.name);
    }
    text
}
