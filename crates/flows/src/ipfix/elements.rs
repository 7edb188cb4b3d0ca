//! The table of information elements: one row for each value that a flow record carries on the wire.
//!
//! Owns numbers, names, types and how each value is written and read. Everything else of IPFIX derives from [`FIELDS`]:
//! a new field of the record is one row here, and a new golden file in the tests.

use std::{fmt::Write as _, net::IpAddr};

use lucarne_model::{
    AccountId, EndReason, FlowRecord, HostId, InstanceId, InterfaceId, RuleId, SecurityGroupId, SubnetId, VpcId,
    flow::{Direction, Verdict},
};

use super::{
    encode::put_groups,
    wire::{
        BadValue, ENTERPRISE_BIT, ID_LENGTH, Reader, VARIABLE, id, moment, put_id, put_length, put_moment, unsigned,
    },
};

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
    pub(super) put: fn(&FlowRecord, &mut Vec<u8>),
    pub(super) take: fn(&[u8], &mut FlowRecord) -> Result<(), BadValue>,
}

const fn element(number: u16, enterprise: Option<u32>, name: &'static str, data_type: DataType) -> Element {
    let length = match data_type {
        DataType::OctetArray => ID_LENGTH,
        DataType::Unsigned8 => 1,
        DataType::Unsigned16 => 2,
        DataType::Unsigned32 | DataType::Ipv4Address => 4,
        DataType::Unsigned64 | DataType::DateTimeMicroseconds => 8,
        DataType::Ipv6Address => 16,
        DataType::String | DataType::BasicList => VARIABLE,
    };
    Element { number, enterprise, name, data_type, length }
}

const fn iana(number: u16, name: &'static str, data_type: DataType) -> Element {
    element(number, None, name, data_type)
}

const fn own(number: u16, name: &'static str, data_type: DataType) -> Element {
    element(number, Some(ENTERPRISE), name, data_type)
}

/// The element inside the list of groups.
pub(super) const SECURITY_GROUP_ID: Element = own(7, "securityGroupId", DataType::OctetArray);
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
    ($($of:literal $(($required:ident))? $when:ident $element:expr, $meaning:literal, $put:expr, $take:expr;)*) => {
        /// Every row, in the order of the wire.
        pub static FIELDS: &[Field] = &[$(Field {
            element: $element,
            of: $of,
            when: When::$when,
            required: fields!(@required $($required)?),
            meaning: $meaning,
            put: $put,
            take: $take,
        }),*];
    };
    (@required) => { false };
    (@required required) => { true };
}

/// For values that only repeat, for other collectors, what another element tells us in full.
const NOTHING: fn(&[u8], &mut FlowRecord) -> Result<(), BadValue> = |_, _| Ok(());

macro_rules! number {
    ($field:ident) => {
        |r, out| out.extend_from_slice(&r.$field.to_be_bytes())
    };
    (take $field:ident) => {
        |v, r| unsigned(v).map(|number| r.$field = number)
    };
}
macro_rules! identity {
    ($field:ident) => {
        |r, out| put_id(r.$field.bits(), out)
    };
    (take $field:ident $type:ident) => {
        |v, r| id(v).map(|bits| r.$field = $type::from_bits(bits))
    };
}

fields! {
    "flow_id" (required) Always iana(148, "flowId", DataType::Unsigned64),
        "The same for both directions and both ends of a flow.",
        number!(flow_id), number!(take flow_id);
    "account" (required) Always own(1, "accountId", DataType::Unsigned64),
        "The account, as the number that its 12 digits make.",
        |r, out| out.extend_from_slice(&r.account.number().to_be_bytes()),
        |v, r| unsigned(v).and_then(|n| AccountId::from_number(n).ok_or(BadValue)).map(|account| r.account = account);
    "vpc" (required) Always own(2, "vpcId", DataType::OctetArray),
        "The digits behind `vpc-` as octets: 4 zero bits, then 68.", identity!(vpc), identity!(take vpc VpcId);
    "subnet" (required) Always own(3, "subnetId", DataType::OctetArray),
        "The digits behind `subnet-`.", identity!(subnet), identity!(take subnet SubnetId);
    "interface" (required) Always own(4, "interfaceId", DataType::OctetArray),
        "The digits behind `eni-`.", identity!(interface), identity!(take interface InterfaceId);
    "instance" (required) Always own(5, "instanceId", DataType::OctetArray),
        "The digits behind `i-`.", identity!(instance), identity!(take instance InstanceId);
    "host" (required) Always own(6, "hostId", DataType::OctetArray),
        "The digits behind `host-`.", identity!(host), identity!(take host HostId);
    "groups" (required) Always iana(291, "basicList", DataType::BasicList),
        "All of the interface's groups: a list (RFC 6313, semantic allOf) of `securityGroupId`.",
        |r, out| put_groups(&r.groups, out), take_groups;
    "rule" Always Element { length: VARIABLE, ..own(8, "ruleId", DataType::OctetArray) },
        "The digits behind `sgr-` of the rule that allowed it; of length 0 when no rule did.",
        put_rule, take_rule;
    "verdict" (required) Always own(9, "verdict", DataType::Unsigned8),
        "0 accept, 1 reject.", |r, out| out.push(u8::from(r.verdict == Verdict::Reject)), take_verdict;
    "end_reason" (required) Always own(10, "sessionEndReason", DataType::Unsigned8),
        "Why the record ended: the code in the table of end reasons.",
        |r, out| out.push(r.end_reason.code()),
        |v, r| unsigned(v).and_then(|c| EndReason::from_code(c).ok_or(BadValue)).map(|reason| r.end_reason = reason);
    "end_reason" Always iana(136, "flowEndReason", DataType::Unsigned8),
        "The end reason as IANA's coarser list has it.", |r, out| out.push(r.end_reason.flow_end_reason()), NOTHING;
    "end_reason" Always iana(233, "firewallEvent", DataType::Unsigned8),
        "The end reason as a firewall tells it.", |r, out| out.push(r.end_reason.firewall_event()), NOTHING;
    "end_reason" Always iana(89, "forwardingStatus", DataType::Unsigned8),
        "0x40 forwarded; 0x80 and above dropped, and why.", |r, out| out.push(r.end_reason.forwarding_status()), NOTHING;
    "direction" (required) Always iana(61, "flowDirection", DataType::Unsigned8),
        "0 to the instance, 1 from it.", |r, out| out.push(u8::from(r.direction == Direction::Egress)), take_direction;
    "start" (required) Always iana(154, "flowStartMicroseconds", DataType::DateTimeMicroseconds),
        "The first packet of the interval.",
        |r, out| put_moment(r.start, out), |v, r| moment(v).map(|start| r.start = start);
    "end" (required) Always iana(155, "flowEndMicroseconds", DataType::DateTimeMicroseconds),
        "The last packet of the interval.",
        |r, out| put_moment(r.end, out), |v, r| moment(v).map(|end| r.end = end);
    "packets" (required) Always iana(2, "packetDeltaCount", DataType::Unsigned64),
        "Packets of the interval.", number!(packets), number!(take packets);
    "bytes" (required) Always iana(1, "octetDeltaCount", DataType::Unsigned64),
        "Bytes of the interval's IP packets, headers included.", number!(bytes), number!(take bytes);
    "source" (required) Ipv4 iana(8, "sourceIPv4Address", DataType::Ipv4Address),
        "The source address.", |r, out| put_ipv4(r.source, out), |v, r| ipv4(v).map(|ip| r.source = ip);
    "destination" (required) Ipv4 iana(12, "destinationIPv4Address", DataType::Ipv4Address),
        "The destination address.", |r, out| put_ipv4(r.destination, out), |v, r| ipv4(v).map(|ip| r.destination = ip);
    "source" (required) Ipv6 iana(27, "sourceIPv6Address", DataType::Ipv6Address),
        "The source address.", |r, out| put_ipv6(r.source, out), |v, r| ipv6(v).map(|ip| r.source = ip);
    "destination" (required) Ipv6 iana(28, "destinationIPv6Address", DataType::Ipv6Address),
        "The destination address.", |r, out| put_ipv6(r.destination, out), |v, r| ipv6(v).map(|ip| r.destination = ip);
    "source_port" (required) Always iana(7, "sourceTransportPort", DataType::Unsigned16),
        "0 where the protocol has no ports.", number!(source_port), number!(take source_port);
    "destination_port" (required) Always iana(11, "destinationTransportPort", DataType::Unsigned16),
        "0 where the protocol has no ports.", number!(destination_port), number!(take destination_port);
    "protocol" (required) Always iana(4, "protocolIdentifier", DataType::Unsigned8),
        "The IANA protocol number.", number!(protocol), number!(take protocol);
    "tos" (required) Always iana(5, "ipClassOfService", DataType::Unsigned8),
        "The type-of-service byte of the first packet.", number!(tos), number!(take tos);
    "tcp_flags" (required) Always iana(6, "tcpControlBits", DataType::Unsigned16),
        "The union of the TCP flags.", number!(tcp_flags), number!(take tcp_flags);
    "icmp_type" IcmpV4 iana(176, "icmpTypeIPv4", DataType::Unsigned8),
        "The type of the first packet.", put_icmp_type, take_icmp_type;
    "icmp_code" IcmpV4 iana(177, "icmpCodeIPv4", DataType::Unsigned8),
        "The code of the first packet.", put_icmp_code, take_icmp_code;
    "icmp_type" IcmpV6 iana(178, "icmpTypeIPv6", DataType::Unsigned8),
        "The type of the first packet.", put_icmp_type, take_icmp_type;
    "icmp_code" IcmpV6 iana(179, "icmpCodeIPv6", DataType::Unsigned8),
        "The code of the first packet.", put_icmp_code, take_icmp_code;
}

/// The row that reads an element, if we have one.
pub(super) fn find(number: u16, enterprise: Option<u32>) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.element.number == number && field.element.enterprise == enterprise)
}

/// Our own elements, each once: what collectors elsewhere must be told of.
pub fn own_elements() -> impl Iterator<Item = Element> {
    let fields = FIELDS.iter().map(|field| field.element).filter(|element| element.enterprise.is_some());
    fields.chain([SECURITY_GROUP_ID, SENDER_SESSION, SENDER_NEXT_RECORD])
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

fn take_groups(value: &[u8], record: &mut FlowRecord) -> Result<(), BadValue> {
    let mut list = Reader(value);
    let mut head = || Some((list.u8().ok()?, list.u16().ok()?, list.u16().ok()?));
    let (_semantic, number, length) = head().ok_or(BadValue)?;
    let enterprise = if number & ENTERPRISE_BIT == 0 { None } else { Some(list.u32().map_err(|_| BadValue)?) };
    let inner = SECURITY_GROUP_ID;
    if (number & !ENTERPRISE_BIT, enterprise) != (inner.number, inner.enterprise) {
        return Ok(()); // a list of something else
    }
    record.groups.clear();
    while list.left() > 0 {
        let bits = list.value(length).map_err(|_| BadValue).and_then(id)?;
        record.groups.push(SecurityGroupId::from_bits(bits));
    }
    Ok(())
}

fn put_rule(record: &FlowRecord, out: &mut Vec<u8>) {
    match record.rule {
        Some(rule) => {
            put_length(usize::from(ID_LENGTH), out);
            put_id(rule.bits(), out);
        }
        None => put_length(0, out),
    }
}

fn take_rule(value: &[u8], record: &mut FlowRecord) -> Result<(), BadValue> {
    record.rule = if value.is_empty() { None } else { Some(RuleId::from_bits(id(value)?)) };
    Ok(())
}

fn take_verdict(value: &[u8], record: &mut FlowRecord) -> Result<(), BadValue> {
    record.verdict = match unsigned(value)? {
        0u8 => Verdict::Accept,
        1 => Verdict::Reject,
        _ => return Err(BadValue),
    };
    Ok(())
}

fn take_direction(value: &[u8], record: &mut FlowRecord) -> Result<(), BadValue> {
    record.direction = match unsigned(value)? {
        0u8 => Direction::Ingress,
        1 => Direction::Egress,
        _ => return Err(BadValue),
    };
    Ok(())
}

/// Only asked for records of two IPv4 addresses; see [`super::encode`].
fn put_ipv4(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(_) => out.extend_from_slice(&[0; 4]),
    }
}

fn put_ipv6(address: IpAddr, out: &mut Vec<u8>) {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    out.extend_from_slice(&v6.octets());
}

fn ipv4(value: &[u8]) -> Result<IpAddr, BadValue> {
    <[u8; 4]>::try_from(value).map(IpAddr::from).map_err(|_| BadValue)
}

fn ipv6(value: &[u8]) -> Result<IpAddr, BadValue> {
    <[u8; 16]>::try_from(value).map(IpAddr::from).map_err(|_| BadValue)
}

fn put_icmp_type(record: &FlowRecord, out: &mut Vec<u8>) {
    out.push(record.icmp_type.unwrap_or(0));
}
fn put_icmp_code(record: &FlowRecord, out: &mut Vec<u8>) {
    out.push(record.icmp_code.unwrap_or(0));
}

fn take_icmp_type(value: &[u8], record: &mut FlowRecord) -> Result<(), BadValue> {
    unsigned(value).map(|icmp_type| record.icmp_type = Some(icmp_type))
}

fn take_icmp_code(value: &[u8], record: &mut FlowRecord) -> Result<(), BadValue> {
    unsigned(value).map(|icmp_code| record.icmp_code = Some(icmp_code))
}
