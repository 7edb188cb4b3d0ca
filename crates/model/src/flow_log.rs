//! Flow logs: which flow records an account has delivered, how often they are made, and to what place of its own; and
//! files of a network's flows on request.
//!
//! Owns their shapes and the text form of a [`Destination`]. What may be made is decided by the services in `control`,
//! the delivery itself is the collector's work.

use std::{fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, FlowFilter, FlowLogId, InstanceId, InterfaceId, Moment, SubnetId, Tags, VpcId, flow::Verdict};

/// A standing order for flow records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowLog {
    pub id: FlowLogId,
    pub account: AccountId,
    pub target: FlowLogTarget,
    /// The VPC of the target.
    pub vpc: VpcId,
    pub traffic: LoggedTraffic,
    /// How often a flow that goes on is reported, in milliseconds: 1000 to 600000. The shortest of the logs that concern an
    /// interface holds for it.
    pub interval_millis: u64,
    /// Of text files: `default`, or fields as in `${srcaddr} ${dstaddr} ${end-reason}`.
    pub format: String,
    pub to: Destination,
    /// How far its delivery is; none while the collector does not say.
    #[serde(default)]
    pub delivery: Option<Delivery>,
    pub created: Moment,
    /// When it was made or edited last.
    pub changed: Moment,
    #[serde(default)]
    pub tags: Tags,
}

impl FlowLog {
    pub const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
    pub const LONGEST_INTERVAL: Duration = Duration::from_secs(600);
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

    /// The records that it is about, of its account.
    pub fn filter(&self) -> FlowFilter {
        let verdict = match self.traffic {
            LoggedTraffic::All => None,
            LoggedTraffic::Accept => Some(Verdict::Accept),
            LoggedTraffic::Reject => Some(Verdict::Reject),
        };
        let mut filter = FlowFilter { verdict, ..FlowFilter::default() };
        match self.target {
            FlowLogTarget::Vpc { vpc } => filter.vpc = Some(vpc),
            FlowLogTarget::Subnet { subnet } => filter.subnet = Some(subnet),
            FlowLogTarget::Interface { interface } => filter.interface = Some(interface),
            FlowLogTarget::Instance { instance } => filter.instance = Some(instance),
        }
        filter
    }

    /// Whether it is about an interface of its VPC.
    pub fn concerns(&self, subnet: SubnetId, interface: InterfaceId, instance: InstanceId) -> bool {
        match self.target {
            FlowLogTarget::Vpc { .. } => true,
            FlowLogTarget::Subnet { subnet: of } => of == subnet,
            FlowLogTarget::Interface { interface: of } => of == interface,
            FlowLogTarget::Instance { instance: of } => of == instance,
        }
    }
}

/// Whose flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FlowLogTarget {
    /// All interfaces of the VPC, also those that are still to come.
    Vpc {
        vpc: VpcId,
    },
    /// All interfaces of the subnet.
    Subnet {
        subnet: SubnetId,
    },
    Interface {
        interface: InterfaceId,
    },
    Instance {
        instance: InstanceId,
    },
}

/// Which flows, by their verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoggedTraffic {
    Accept,
    Reject,
    #[default]
    All,
}

/// How far a flow log's delivery is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Delivery {
    /// Records that have reached the destination.
    pub delivered: u64,
    /// When the last of them did.
    pub last_delivered: Option<Moment>,
    /// Records that wait; where this is a multiple of 10000 there may be more.
    pub waiting: u64,
    /// Why the last try failed; none when it did not.
    pub last_error: Option<String>,
}

/// What a file of a network's flows is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExportFormat {
    /// An IPFIX file, RFC 5655.
    #[default]
    Ipfix,
    /// AWS's VPC flow log text.
    Aws,
    Csv,
    /// A JSON value a line.
    Jsonl,
    Parquet,
}

/// A question for all flows of a network, folded as one router would have seen them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportQuestion {
    pub account: AccountId,
    pub vpc: VpcId,
    /// Records that end at or after this...
    pub since: Moment,
    /// ...and before this.
    pub until: Moment,
    pub format: ExportFormat,
    /// Of AWS's text: which fields, as in [`FlowLog::format`].
    pub fields: Option<String>,
    /// Whether the router has a port for each instance, and not for each subnet.
    pub by_instance: bool,
}

/// How IPFIX messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Where a flow log's records go. Its text form is a URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Destination {
    /// `store`: they stay in the collector's store, where they are anyway.
    Store,
    /// `ipfix://HOST:PORT` over UDP, `ipfix+tcp://HOST:PORT` over TCP.
    Ipfix { transport: Transport, host: String, port: u16 },
    /// `file:///FOLDER` on the collector's machine.
    File { folder: String },
}

/// A text that says no place to deliver to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDestinationError {
    #[error("`{0}` is not `store` or a URL of ipfix, ipfix+tcp or file")]
    Scheme(String),
    #[error("`{0}` does not name a host and a port, as in ipfix://192.0.2.1:4739")]
    HostAndPort(String),
    #[error("`{0}` is not an absolute folder without `..`, as in file:///var/log/flows")]
    Folder(String),
    #[error("a destination has at most {} characters, none of them blank", Destination::LONGEST)]
    Text,
}

impl Destination {
    /// Characters of the text form.
    pub const LONGEST: usize = 1024;
    /// The port that IANA has given to IPFIX.
    pub const IPFIX_PORT: u16 = 4739;
}

impl FromStr for Destination {
    type Err = ParseDestinationError;

    fn from_str(text: &str) -> Result<Self, ParseDestinationError> {
        if text.len() > Self::LONGEST || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(ParseDestinationError::Text);
        }
        if text == "store" {
            return Ok(Self::Store);
        }
        let shown = || text.chars().take(64).collect::<String>();
        match text.split_once("://") {
            Some(("ipfix", rest)) => ipfix(Transport::Udp, rest),
            Some(("ipfix+tcp", rest)) => ipfix(Transport::Tcp, rest),
            Some(("file", folder)) => file(folder),
            _ => Err(ParseDestinationError::Scheme(shown())),
        }
    }
}

/// `HOST`, `HOST:PORT` or `[IPV6]:PORT`.
fn ipfix(transport: Transport, rest: &str) -> Result<Destination, ParseDestinationError> {
    let refuse = || ParseDestinationError::HostAndPort(rest.chars().take(64).collect());
    let behind_bracket = rest.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match rest[behind_bracket..].rfind(':') {
        Some(colon) => {
            let (host, port) = rest.split_at(behind_bracket + colon);
            (host, port[1..].parse().map_err(|_| refuse())?)
        }
        None => (rest, Destination::IPFIX_PORT),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let may_be_in_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
    if host.is_empty() || port == 0 || !host.chars().all(may_be_in_host) {
        return Err(refuse());
    }
    Ok(Destination::Ipfix { transport, host: host.into(), port })
}

fn file(folder: &str) -> Result<Destination, ParseDestinationError> {
    if !folder.starts_with('/') || folder.split('/').any(|part| part == "..") {
        return Err(ParseDestinationError::Folder(folder.chars().take(64).collect()));
    }
    Ok(Destination::File { folder: folder.into() })
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => f.pad("store"),
            Self::Ipfix { transport, host, port } => {
                let scheme = if *transport == Transport::Udp { "ipfix" } else { "ipfix+tcp" };
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "{scheme}://{open}{host}{close}:{port}")
            }
            Self::File { folder } => write!(f, "file://{folder}"),
        }
    }
}
impl TryFrom<String> for Destination {
    type Error = ParseDestinationError;
    fn try_from(text: String) -> Result<Self, ParseDestinationError> {
        text.parse()
    }
}
impl From<Destination> for String {
    fn from(destination: Destination) -> String {
        destination.to_string()
    }
}
impl JsonSchema for Destination {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Destination".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "`store`, `ipfix://HOST:PORT` (UDP), `ipfix+tcp://HOST:PORT`, or, for operators, `file:///FOLDER`.",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_destination_reads_back_as_it_is_written() {
        for text in [
            "store",
            "ipfix://192.0.2.1:4739",
            "ipfix+tcp://collector.example:2055",
            "ipfix://[2001:db8::1]:4739",
            "file:///var/log/flows",
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        let without_port = "ipfix://collector".parse::<Destination>().unwrap();
        assert_eq!(without_port.to_string(), "ipfix://collector:4739");
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for text in [
            "",
            "stores",
            "ftp://x/",
            "ipfix://",
            "ipfix://:1",
            "ipfix://h:0",
            "ipfix://h:99999",
            "ipfix://a@b:1",
            "s3://bucket/",
            "file://relative",
            "file:///a/../b",
            "file:///a b",
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_and_what_parses_is_stable(text in "(ipfix|file)://[\\[\\]:/?&=a-z0-9.]{0,30}") {
            if let Ok(destination) = text.parse::<Destination>() {
                prop_assert_eq!(destination.to_string().parse::<Destination>(), Ok(destination));
            }
        }
    }
}
