//! AWS's VPC flow log text: a header of field names, then a line of values for each record, parted by blanks.
//!
//! Owns the table of fields: all of AWS's versions 2 to 10, and ours behind them. What we have nothing for is `-`, as there.

use std::{fmt::Write as _, net::IpAddr, str::FromStr};

use lucarne_model::{
    TenantFlowRecord,
    flow::{Direction, Path, Side, Verdict},
};

use super::Line;

/// A field of the format.
struct AwsField {
    name: &'static str,
    /// AWS's version that brought it; 10 for ours, which count as behind all of theirs.
    version: u8,
    /// Appends the value; nothing where there is none.
    put: fn(Line<'_>, &mut String),
}

macro_rules! aws_fields {
    ($($name:literal $version:literal $put:expr;)*) => {
        static FIELDS: &[AwsField] = &[$(AwsField { name: $name, version: $version, put: $put }),*];
    };
}

macro_rules! shown {
    ($field:ident) => {
        |line, out| put(out, &line.record.$field)
    };
}
macro_rules! shown_if_any {
    ($field:ident) => {
        |line, out| line.record.$field.iter().for_each(|value| put(out, value))
    };
}

/// For what AWS has and we do not: their services, their containers.
const NOTHING: fn(Line<'_>, &mut String) = |_, _| {};

aws_fields! {
    // The number is the format's, written by [`AwsFormat::line`].
    "version" 2 NOTHING;
    "account-id" 2 shown!(account);
    "interface-id" 2 shown!(interface);
    "srcaddr" 2 shown!(source);
    "dstaddr" 2 shown!(destination);
    "srcport" 2 shown!(source_port);
    "dstport" 2 shown!(destination_port);
    "protocol" 2 shown!(protocol);
    "packets" 2 shown!(packets);
    "bytes" 2 shown!(bytes);
    "start" 2 |line, out| put(out, line.record.start.as_secs());
    "end" 2 |line, out| put(out, line.record.end.as_secs());
    "action" 2 |line, out| out.push_str(if line.record.verdict == Verdict::Accept { "ACCEPT" } else { "REJECT" });
    "log-status" 2 |_, out| out.push_str("OK");
    "vpc-id" 3 shown!(vpc);
    "subnet-id" 3 shown!(subnet);
    "instance-id" 3 shown!(instance);
    "tcp-flags" 3 |line, out| put(out, tcp_flags(line.record));
    "type" 3 |line, out| out.push_str(if is_ipv4(line.record) { "IPv4" } else { "IPv6" });
    "pkt-srcaddr" 3 shown!(source);
    "pkt-dstaddr" 3 shown!(destination);
    "region" 4 shown!(location);
    "az-id" 4 shown!(location);
    "sublocation-type" 4 NOTHING;
    "sublocation-id" 4 NOTHING;
    "pkt-src-aws-service" 5 NOTHING;
    "pkt-dst-aws-service" 5 NOTHING;
    "flow-direction" 5 |line, out| out.push_str(direction(line.record.direction));
    "traffic-path" 5 |line, out| traffic_path(line.record).into_iter().for_each(|path| put(out, path));
    "ecs-cluster-arn" 7 NOTHING;
    "ecs-cluster-name" 7 NOTHING;
    "ecs-container-instance-arn" 7 NOTHING;
    "ecs-container-instance-id" 7 NOTHING;
    "ecs-container-id" 7 NOTHING;
    "ecs-second-container-id" 7 NOTHING;
    "ecs-service-name" 7 NOTHING;
    "ecs-task-definition-arn" 7 NOTHING;
    "ecs-task-arn" 7 NOTHING;
    "ecs-task-id" 7 NOTHING;
    "reject-reason" 8 |line, out| if line.record.verdict == Verdict::Reject { put(out, line.record.end_reason) };
    "resource-id" 9 shown!(interface);
    "encryption-status" 10 |line, out| put(out, u8::from(is_encrypted(line.record.path)));
    // Ours.
    "flow-id" 10 |line, out| put(out, format_args!("{:016x}", line.record.flow_id));
    "end-reason" 10 shown!(end_reason);
    "rule-id" 10 shown_if_any!(rule);
    "conn-state" 10 shown!(conn_state);
    "history" 10 shown!(history);
    "side" 10 |line, out| out.push_str(if line.record.side == Side::Initiator { "initiator" } else { "responder" });
    "tos" 10 shown!(tos);
    "ttl" 10 shown!(ttl);
    "icmp-type" 10 shown_if_any!(icmp_type);
    "icmp-code" 10 shown_if_any!(icmp_code);
    "next-hop" 10 shown_if_any!(next_hop);
    "round-trip-micros" 10 |line, out| line.record.round_trip.iter().for_each(|trip| put(out, trip.mean));
    "retransmissions" 10 shown!(retransmissions);
    "in-interface" 10 |line, out| line.ports.iter().for_each(|(port, _)| put(out, port));
    "out-interface" 10 |line, out| line.ports.iter().for_each(|(_, port)| put(out, port));
}

fn put(out: &mut String, value: impl std::fmt::Display) {
    // Writing into a string cannot fail.
    let _ = write!(out, "{value}");
}

fn is_ipv4(record: &TenantFlowRecord) -> bool {
    matches!(record.source, IpAddr::V4(_))
}

const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// AWS tells FIN, SYN and RST, and ACK only where it came with the SYN, as the responder's does.
fn tcp_flags(record: &TenantFlowRecord) -> u16 {
    const FIN_SYN_RST: u16 = 0x07;
    const SYN: u16 = 0x02;
    const ACK: u16 = 0x10;
    let answers = record.side == Side::Responder && record.tcp_flags & SYN != 0;
    record.tcp_flags & FIN_SYN_RST | if answers { record.tcp_flags & ACK } else { 0 }
}

/// AWS's numbers for where packets went that left the instance.
fn traffic_path(record: &TenantFlowRecord) -> Option<u8> {
    if record.direction == Direction::Ingress {
        return None;
    }
    match record.path {
        Path::SameHost | Path::OtherHost | Path::OtherLocation => Some(1),
        Path::Internet => Some(8),
        Path::Site => Some(3),
        Path::Peer => Some(4),
        Path::Service | Path::Nowhere => None,
    }
}

/// Between hosts everything travels in WireGuard.
const fn is_encrypted(path: Path) -> bool {
    matches!(path, Path::OtherHost | Path::OtherLocation)
}

/// Which fields a file has, in which order.
#[derive(Clone)]
pub struct AwsFormat {
    fields: Vec<&'static AwsField>,
    version: u8,
}

/// A text that is no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseFormatError {
    #[error("a format is `default`, or fields as in `${{srcaddr}} ${{dstaddr}}`; `{0}` is neither")]
    Shape(String),
    #[error("there is no field `{0}`; the book lists all")]
    Unknown(String),
    #[error("a format has 1 to {most} fields", most = AwsFormat::MOST_FIELDS)]
    Count,
}

impl AwsFormat {
    const MOST_FIELDS: usize = 64;

    /// The fields of a file in which nothing is said twice and nothing is left out.
    pub fn all() -> Self {
        Self::of(FIELDS.iter().collect())
    }

    fn of(fields: Vec<&'static AwsField>) -> Self {
        let version = fields.iter().map(|field| field.version).max().unwrap_or(2);
        Self { fields, version }
    }

    /// The first line of a file.
    pub fn header(&self) -> String {
        self.fields.iter().map(|field| field.name).collect::<Vec<_>>().join(" ") + "\n"
    }

    /// The line of a record, its end included.
    pub fn line(&self, line: Line<'_>, out: &mut String) {
        for (index, field) in self.fields.iter().enumerate() {
            if index > 0 {
                out.push(' ');
            }
            let before = out.len();
            match field.name {
                "version" => put(out, self.version),
                _ => (field.put)(line, out),
            }
            if out.len() == before {
                out.push('-');
            }
        }
        out.push('\n');
    }
}

impl std::fmt::Debug for AwsFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.fields.iter().map(|field| field.name)).finish()
    }
}

impl Default for AwsFormat {
    /// AWS's default: the fields of version 2.
    fn default() -> Self {
        Self::of(FIELDS.iter().filter(|field| field.version == 2).collect())
    }
}

impl FromStr for AwsFormat {
    type Err = ParseFormatError;

    fn from_str(text: &str) -> Result<Self, ParseFormatError> {
        match text {
            "default" => return Ok(Self::default()),
            "all" => return Ok(Self::all()),
            _ => {}
        }
        let fields = text.split_whitespace().map(field).collect::<Result<Vec<_>, _>>()?;
        if fields.is_empty() || fields.len() > Self::MOST_FIELDS {
            return Err(ParseFormatError::Count);
        }
        Ok(Self::of(fields))
    }
}

fn field(text: &str) -> Result<&'static AwsField, ParseFormatError> {
    let shown = || text.chars().take(64).collect::<String>();
    let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    let name = name.ok_or_else(|| ParseFormatError::Shape(shown()))?;
    FIELDS.iter().find(|field| field.name == name).ok_or_else(|| ParseFormatError::Unknown(shown()))
}

#[cfg(test)]
mod tests {
    use lucarne_model::EndReason;

    use super::*;
    use crate::router_view::tests::{packet, record};

    fn text(format: &str, record: &TenantFlowRecord) -> String {
        let mut out = String::new();
        format.parse::<AwsFormat>().unwrap().line(record.into(), &mut out);
        out
    }

    #[test]
    fn the_default_format_is_awss_own() {
        let format = AwsFormat::default();
        let expected = "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end \
                        action log-status\n";
        assert_eq!(format.header(), expected);
        let record = record(packet(1, 2), Direction::Egress, 3, 180);
        let line = text("default", &record);
        assert_eq!(line.split(' ').count(), 14);
        let (account, interface) = (record.account, record.interface);
        assert!(line.starts_with(&format!("2 {account} {interface} 10.0.0.1 10.0.0.2 ")), "{line}");
        assert!(line.ends_with(" ACCEPT OK\n") && line.contains(" 6 3 180 "), "{line}");
    }

    #[test]
    fn the_version_is_that_of_the_newest_field_and_what_is_not_there_is_a_dash() {
        let record = record(packet(1, 2), Direction::Egress, 3, 180);
        assert_eq!(text("${version} ${dstport} ${vpc-id}", &record), format!("3 80 {}\n", record.vpc));
        assert_eq!(text("${version} ${ecs-task-id} ${in-interface} ${reject-reason}", &record), "10 - - -\n");
    }

    #[test]
    fn a_reject_says_why() {
        let mut record = record(packet(1, 2), Direction::Ingress, 1, 60);
        (record.verdict, record.end_reason) = (Verdict::Reject, EndReason::DeniedByNetworkAcl);
        assert_eq!(text("${action} ${reject-reason}", &record), "REJECT denied-by-network-acl\n");
    }

    #[test]
    fn only_a_responders_syn_brings_its_ack() {
        let mut record = record(packet(1, 2), Direction::Egress, 3, 180);
        record.tcp_flags = 0x1b;
        assert_eq!(text("${tcp-flags}", &record), "3\n");
        record.side = Side::Responder;
        assert_eq!(text("${tcp-flags}", &record), "19\n");
    }

    #[test]
    fn what_is_no_format_is_refused_by_its_cause() {
        assert!(matches!("".parse::<AwsFormat>(), Err(ParseFormatError::Count)));
        assert!(matches!("srcaddr".parse::<AwsFormat>(), Err(ParseFormatError::Shape(_))));
        assert!(matches!("${source}".parse::<AwsFormat>(), Err(ParseFormatError::Unknown(_))));
    }

    #[test]
    fn no_value_can_break_a_line() {
        let record = record(packet(1, 2), Direction::Egress, 3, 180);
        let line = text("all", &record);
        assert_eq!(line.split(' ').count(), FIELDS.len());
        assert_eq!(line.matches('\n').count(), 1);
    }
}
