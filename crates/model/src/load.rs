//! Loads: requests that are made up, and asked of a duplicate by clients inside it.
//!
//! Owns the words for what is asked, of whom and how fast, a load and its states, what hosts are told of it and tell, and the shape of
//! the report. When requests are due, asking and counting are the business of the room `replica`.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, InstanceId, LoadId, Moment, ReplicaId, Tags, VpcId,
    instance::StateReason,
    replay::{Quantiles, ReplayPort},
};

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(into = "String", try_from = "String")]
#[schemars(with = "String")]
pub enum LoadTarget {
    /// An instance of the duplicate.
    Instance(InstanceId),
    /// The instance of the duplicate that has this address.
    Address(Ipv4Addr),
}

/// Where the clients stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(into = "String", try_from = "String")]
#[schemars(with = "String")]
pub enum LoadFrom {
    /// Outside the network, with addresses that are kept for measurements (RFC 2544).
    Internet,
    /// Beside this instance of the duplicate: in its subnet, with its groups.
    Instance(InstanceId),
}

/// Why a text says neither who is asked nor who asks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is neither the id of an instance nor {other}")]
pub struct NoLoadEnd {
    text: String,
    other: &'static str,
}

impl NoLoadEnd {
    fn new(text: &str, other: &'static str) -> Self {
        Self { text: text.chars().take(64).collect(), other }
    }
}

impl FromStr for LoadTarget {
    type Err = NoLoadEnd;
    fn from_str(text: &str) -> Result<Self, NoLoadEnd> {
        let address = || text.parse().map(Self::Address);
        text.parse().map(Self::Instance).or_else(|_| address()).map_err(|_| NoLoadEnd::new(text, "an address"))
    }
}
impl TryFrom<String> for LoadTarget {
    type Error = NoLoadEnd;
    fn try_from(text: String) -> Result<Self, NoLoadEnd> {
        text.parse()
    }
}
impl From<LoadTarget> for String {
    fn from(target: LoadTarget) -> Self {
        target.to_string()
    }
}
impl fmt::Display for LoadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(id) => id.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for LoadFrom {
    type Err = NoLoadEnd;
    fn from_str(text: &str) -> Result<Self, NoLoadEnd> {
        match text {
            "internet" => Ok(Self::Internet),
            id => id.parse().map(Self::Instance).map_err(|_| NoLoadEnd::new(text, "`internet`")),
        }
    }
}
impl TryFrom<String> for LoadFrom {
    type Error = NoLoadEnd;
    fn try_from(text: String) -> Result<Self, NoLoadEnd> {
        text.parse()
    }
}
impl From<LoadFrom> for String {
    fn from(from: LoadFrom) -> Self {
        from.to_string()
    }
}
impl fmt::Display for LoadFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internet => f.pad("internet"),
            Self::Instance(id) => id.fmt(f),
        }
    }
}

/// What one request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoadKind {
    /// A connection with one request of HTTP/1.1: GET, or POST of so many octets. It is answered with a status from 200 to 299.
    Http,
    /// A connection on which so many octets are sent. It is answered with the first that comes back; where nothing is sent, by being
    /// accepted.
    Tcp,
    /// A datagram of so many octets, which is answered with another.
    Udp,
}

impl fmt::Display for LoadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What is asked, of whom, and how fast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoadTerms {
    pub to: LoadTarget,
    pub port: u16,
    pub kind: LoadKind,
    /// Of HTTP alone.
    #[serde(default)]
    pub path: Option<String>,
    /// None: beside who is asked.
    #[serde(default)]
    pub from: Option<LoadFrom>,
    /// How many ask. Without a rate each asks again as soon as it is answered.
    pub clients: u32,
    /// How many requests are sent in a second, by all clients together, answered or not.
    #[serde(default)]
    pub rate: Option<u32>,
    /// For how long.
    pub seconds: u32,
    /// Octets that are sent with each request.
    pub size: u32,
}

impl LoadTerms {
    pub const MOST_CLIENTS: u32 = 1000;
    pub const MOST_RATE: u32 = 10_000;
    pub const MOST_SECONDS: u32 = 3600;
    pub const MOST_OCTETS: u32 = 1 << 20;
    /// What goes into one packet of a guest's network.
    pub const MOST_OCTETS_OF_A_DATAGRAM: u32 = 1372;
    pub const LONGEST_PATH: usize = 2048;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoadState {
    /// The host waits for the clients' ports.
    Preparing,
    Running,
    /// Its time is over, and nothing is waited for any more.
    Done,
    Stopped,
    Failed,
}

impl LoadState {
    pub const fn is_over(self) -> bool {
        match self {
            Self::Preparing | Self::Running => false,
            Self::Done | Self::Stopped | Self::Failed => true,
        }
    }
}

/// Requests asked of a duplicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Load {
    pub id: LoadId,
    pub account: AccountId,
    pub replica: ReplicaId,
    /// The duplicate.
    pub vpc: VpcId,
    pub terms: LoadTerms,
    /// Who is asked, and where.
    pub instance: InstanceId,
    pub address: Ipv4Addr,
    /// From which the clients ask, in turn.
    pub sources: Vec<Ipv4Addr>,
    pub state: LoadState,
    pub state_reason: Option<StateReason>,
    /// As it was told last; none before anything was sent.
    pub report: Option<LoadReport>,
    pub created: Moment,
    pub began: Option<Moment>,
    pub ended: Option<Moment>,
    #[serde(default)]
    pub tags: Tags,
}

/// What a host should do for a load. Nothing is given up by being left out: an end is said with [`DesiredLoadState::Absent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredLoad {
    pub id: LoadId,
    pub state: DesiredLoadState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DesiredLoadState {
    /// Asked as soon as there are ports.
    Asked { account: AccountId, vpc: VpcId, terms: LoadTerms, address: Ipv4Addr, ports: Vec<ReplayPort> },
    /// Nothing of it is kept.
    Absent,
}

/// What a host tells of a load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActualLoad {
    pub id: LoadId,
    pub stage: LoadStage,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LoadStage {
    Preparing,
    Running { report: LoadReport },
    Done { report: LoadReport },
    Failed { reason: StateReason },
}

/// What came of a load so far. What was sent was answered, has failed, or is open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoadReport {
    /// Since the first request was due.
    pub elapsed_millis: u64,
    pub sent: u64,
    pub answered: u64,
    pub failed: LoadFailures,
    /// Still waiting for their answers.
    pub open: u64,
    /// Were due, and not sent, because as many as can be were open until the time was over.
    pub unsent: u64,
    pub octets_sent: u64,
    pub octets_answered: u64,
    /// The mean over all of the time.
    pub answers_per_second: u64,
    pub octets_per_second: u64,
    /// From when a request was due, and not from when it was sent, to the end of its answer.
    pub latency: LoadLatency,
    /// How much later than due requests were sent.
    pub timing_error: Quantiles,
    /// Answers of HTTP that were none from 200 to 299: the first statuses that came, in their order.
    pub statuses: Vec<LoadStatus>,
    /// What happened when, in spans of the same length.
    pub series: Vec<LoadSpan>,
}

/// Of requests, why they were not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoadFailures {
    /// Nobody listens.
    pub refused: u64,
    /// The connection was broken off.
    pub reset: u64,
    /// Nothing, or not all of it, came in 10 s.
    pub timed_out: u64,
    /// Of HTTP, another status than 200 to 299.
    pub status: u64,
    /// The connection was closed before the answer was whole, or the answer is none of HTTP.
    pub broken: u64,
}

impl LoadFailures {
    pub const fn all(&self) -> u64 {
        self.refused + self.reset + self.timed_out + self.status + self.broken
    }
}

/// Of answered requests, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoadLatency {
    pub count: u64,
    pub p50_micros: u64,
    pub p90_micros: u64,
    pub p99_micros: u64,
    pub most_micros: u64,
}

/// A status of HTTP, and how often it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoadStatus {
    pub status: u16,
    pub count: u64,
}

/// What happened in some seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoadSpan {
    /// From which second on.
    pub from: u32,
    pub seconds: u32,
    pub sent: u64,
    pub answered: u64,
    pub failed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_and_who_asks_are_read_as_they_are_written() {
        let instance = InstanceId::from_bits(7);
        for target in [LoadTarget::Instance(instance), LoadTarget::Address(Ipv4Addr::new(10, 0, 1, 20))] {
            assert_eq!(target.to_string().parse(), Ok(target));
        }
        for from in [LoadFrom::Internet, LoadFrom::Instance(instance)] {
            assert_eq!(from.to_string().parse(), Ok(from));
        }
        assert!("web".parse::<LoadTarget>().is_err() && "10.0.1.20".parse::<LoadFrom>().is_err());
    }

    /// A host whose report its controller cannot read is taken for one that does not answer.
    #[test]
    fn what_a_host_tells_is_read_as_it_is_written() {
        let report = LoadReport {
            statuses: vec![LoadStatus { status: 404, count: 3 }],
            series: vec![LoadSpan { from: 0, seconds: 1, sent: u64::MAX, answered: 1, failed: 3 }],
            ..LoadReport::default()
        };
        for stage in [LoadStage::Preparing, LoadStage::Running { report: report.clone() }, LoadStage::Done { report }] {
            let told = ActualLoad { id: LoadId::from_bits(1), stage };
            let json = serde_json::to_string(&told).unwrap();
            assert_eq!(serde_json::from_str::<ActualLoad>(&json).unwrap(), told);
        }
    }
}
