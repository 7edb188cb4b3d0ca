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
    /// Of files: `default` or fields as in `${srcaddr} ${dstaddr} ${end-reason}` for AWS's text, or `parquet`.
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
    /// The format of files that are not text.
    pub const PARQUET: &str = "parquet";

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

/// What opens a tenant's own store: an access key of it. It is taken and never shown again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreCredentials {
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl fmt::Debug for StoreCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreCredentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// A flow log with what only its delivery needs to know: what the controller tells the collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryOrder {
    #[serde(flatten)]
    pub log: FlowLog,
    #[serde(default)]
    pub credentials: Option<StoreCredentials>,
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
    /// `s3://BUCKET/PREFIX?endpoint=URL&region=NAME` at a store that speaks as S3 does.
    S3(Bucket),
}

/// A place in a store that speaks as S3 does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    pub name: String,
    /// What all names in it begin with; empty, or without slashes at its ends.
    pub prefix: String,
    /// `http://` or `https://`, a host, and a port where it is another than the scheme's.
    pub endpoint: String,
    /// What requests are signed for.
    pub region: String,
}

impl Bucket {
    /// The region of stores that have none.
    pub const DEFAULT_REGION: &str = "us-east-1";
}

/// A text that says no place to deliver to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDestinationError {
    #[error("`{0}` is not `store` or a URL of ipfix, ipfix+tcp, s3 or file")]
    Scheme(String),
    #[error("`{0}` does not name a host and a port, as in ipfix://192.0.2.1:4739")]
    HostAndPort(String),
    #[error("`{0}` is not an absolute folder without `..`, as in file:///var/log/flows")]
    Folder(String),
    #[error("`{0}` does not name a bucket, as in s3://my-logs/lab?endpoint=https://s3.example.com&region=us-east-1")]
    Bucket(String),
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
            Some(("s3", rest)) => bucket(rest).ok_or_else(|| ParseDestinationError::Bucket(shown())).map(Self::S3),
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

/// `BUCKET/PREFIX?endpoint=URL&region=NAME`. Without an endpoint it is AWS's of the region.
fn bucket(rest: &str) -> Option<Bucket> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
    let (mut endpoint, mut region) = (None, Bucket::DEFAULT_REGION);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=')? {
            ("endpoint", url) => endpoint = Some(url.trim_end_matches('/').to_owned()),
            ("region", name) => region = name,
            _ => return None,
        }
    }
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    let is_label = (3..=63).contains(&name.len()) && name.chars().all(is_name) && !name.contains("..");
    let is_prefix = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '=');
    let prefix = prefix.trim_matches('/');
    let is_path = prefix.chars().all(is_prefix) && !prefix.split('/').any(|part| part == "." || part == "..");
    let is_region = !region.is_empty() && region.chars().all(is_name);
    let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    (is_label && is_path && is_region && endpoint_parts(&endpoint).is_some()).then(|| Bucket {
        name: name.into(),
        prefix: prefix.into(),
        endpoint,
        region: region.into(),
    })
}

/// Whether it is `https`, the host and the port.
fn endpoint_parts(url: &str) -> Option<(bool, String, u16)> {
    let (is_secure, rest, usual) = match url.split_once("://")? {
        ("https", rest) => (true, rest, 443),
        ("http", rest) => (false, rest, 80),
        _ => return None,
    };
    let is_whole = rest[rest.rfind(']').map_or(0, |at| at + 1)..].contains(':');
    let whole = if is_whole { rest.to_owned() } else { format!("{rest}:{usual}") };
    match ipfix(Transport::Tcp, &whole) {
        Ok(Destination::Ipfix { host, port, .. }) => Some((is_secure, host, port)),
        _ => None,
    }
}

impl Bucket {
    /// Whether the endpoint is spoken to over TLS, its host, and its port.
    pub fn endpoint_parts(&self) -> Option<(bool, String, u16)> {
        endpoint_parts(&self.endpoint)
    }
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
            Self::S3(Bucket { name, prefix, endpoint, region }) => {
                write!(f, "s3://{name}/{prefix}?endpoint={endpoint}&region={region}")
            }
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
            "description": "`store`, `ipfix://HOST:PORT` (UDP), `ipfix+tcp://HOST:PORT`, \
                `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`, or, for operators, `file:///FOLDER`.",
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
            "s3://my-logs/a/b?endpoint=https://store.example:9000&region=north-1",
            "s3://my-logs/?endpoint=http://[2001:db8::1]:9000&region=us-east-1",
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        let without_port = "ipfix://collector".parse::<Destination>().unwrap();
        assert_eq!(without_port.to_string(), "ipfix://collector:4739");
        let at_aws = "s3://my-logs/lab/?region=eu-west-1".parse::<Destination>().unwrap();
        assert_eq!(at_aws.to_string(), "s3://my-logs/lab?endpoint=https://s3.eu-west-1.amazonaws.com&region=eu-west-1");
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
            "s3://",
            "s3://No/",
            "s3://bucket/a/../b",
            "s3://bucket/a?endpoint=ftp://x",
            "s3://bucket/a?endpoint=http://x/path",
            "s3://bucket/a?endpoint=http://x&secret=1",
            "s3://bucket/a?region=",
            "file://relative",
            "file:///a/../b",
            "file:///a b",
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_stores_secret_is_not_in_what_is_printed_for_debugging() {
        let secret = StoreCredentials { access_key_id: "id".into(), secret_access_key: "geheim".into() };
        assert!(!format!("{secret:?}").contains("geheim"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_and_what_parses_is_stable(text in "(ipfix|file|s3)://[\\[\\]:/?&=a-z0-9.]{0,30}") {
            if let Ok(destination) = text.parse::<Destination>() {
                prop_assert_eq!(destination.to_string().parse::<Destination>(), Ok(destination));
            }
        }
    }
}
