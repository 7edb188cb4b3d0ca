//! Replays: what was recorded of a network, played into a duplicate of it.
//!
//! Owns the words for what is played and how, a replay and its states, what hosts are told of it and tell, and the shape of the
//! report. Reading recordings, playing them and comparing the answers is the business of the room `replica`.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, Cidr, InstanceId, InterfaceId, MacAddress, Moment, RecordingId, ReplayId, ReplicaId, Tags, VpcId,
    instance::StateReason, recorded_change::ReappliedChange, replication::AddressMapping,
};

/// Whose side of the recorded sessions is played. The other side is the duplicate's to play.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(into = "String", try_from = "String")]
#[schemars(with = "String")]
pub enum ReplayFrom {
    /// Of clients outside the network.
    #[default]
    Internet,
    /// Of clients that were instances of it and served nobody: what others asked, they ask again by themselves.
    Instances,
    /// Of both.
    All,
    /// Of this instance of the recorded network, whatever it served.
    Instance(InstanceId),
}

/// Why a text does not say who is played.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither `internet`, `instances` nor `all`, nor the id of an instance")]
pub struct NoReplayFrom(String);

impl FromStr for ReplayFrom {
    type Err = NoReplayFrom;
    fn from_str(text: &str) -> Result<Self, NoReplayFrom> {
        match text {
            "internet" => Ok(Self::Internet),
            "instances" => Ok(Self::Instances),
            "all" => Ok(Self::All),
            id => id.parse().map(Self::Instance).map_err(|_| NoReplayFrom(text.chars().take(64).collect())),
        }
    }
}
impl TryFrom<String> for ReplayFrom {
    type Error = NoReplayFrom;
    fn try_from(text: String) -> Result<Self, NoReplayFrom> {
        text.parse()
    }
}
impl From<ReplayFrom> for String {
    fn from(from: ReplayFrom) -> Self {
        from.to_string()
    }
}
impl fmt::Display for ReplayFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internet => f.pad("internet"),
            Self::Instances => f.pad("instances"),
            Self::All => f.pad("all"),
            Self::Instance(id) => id.fmt(f),
        }
    }
}

/// How fast, beside the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(into = "String", try_from = "String")]
#[schemars(with = "String")]
pub enum ReplaySpeed {
    /// A thousandth of this as fast; from 100 to 10,000.
    Permille(u16),
    /// As fast as it is answered: what followed upon an answer or an end follows upon it at once.
    Max,
}

impl ReplaySpeed {
    pub const AS_RECORDED: Self = Self::Permille(1000);
    const PERMILLE: std::ops::RangeInclusive<u16> = 100..=10_000;
}

/// Why a text is no speed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a speed from 0.1 to 10, nor `max`")]
pub struct NoSpeed(String);

impl FromStr for ReplaySpeed {
    type Err = NoSpeed;

    fn from_str(text: &str) -> Result<Self, NoSpeed> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits =
            |text: &str| text.len() <= 3 && !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
        let number = || {
            let thousands: u32 = digits(whole).then(|| whole.parse().ok())??;
            let thousandths: u32 = digits(fraction).then(|| format!("{fraction:0<3}").parse().ok())??;
            u16::try_from(thousands * 1000 + thousandths).ok()
        };
        let permille = number().filter(|permille| Self::PERMILLE.contains(permille));
        permille.map(Self::Permille).ok_or_else(|| NoSpeed(text.chars().take(64).collect()))
    }
}
impl TryFrom<String> for ReplaySpeed {
    type Error = NoSpeed;
    fn try_from(text: String) -> Result<Self, NoSpeed> {
        text.parse()
    }
}
impl From<ReplaySpeed> for String {
    fn from(speed: ReplaySpeed) -> Self {
        speed.to_string()
    }
}
impl fmt::Display for ReplaySpeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.pad("max"),
            Self::Permille(permille) => {
                let text = format!("{}.{:03}", permille / 1000, permille % 1000);
                f.pad(text.trim_end_matches('0').trim_end_matches('.'))
            }
        }
    }
}

/// What is played, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayTerms {
    pub from: ReplayFrom,
    pub speed: ReplaySpeed,
    /// How often, one after the other.
    pub times: u32,
    /// By how many clients for each that was recorded.
    pub amplify: u32,
}

impl ReplayTerms {
    pub const MOST_TIMES: u32 = 100;
    pub const MOST_AMPLIFIED: u32 = 1000;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayState {
    /// A host fetches the recording and reads who is to be played.
    Preparing,
    Playing,
    /// All was played, and the reports are there.
    Done,
    Stopped,
    Failed,
}

impl ReplayState {
    pub const fn is_over(self) -> bool {
        match self {
            Self::Preparing | Self::Playing => false,
            Self::Done | Self::Stopped | Self::Failed => true,
        }
    }
}

/// Somebody who asked in the recording, and is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayClient {
    pub recorded: Ipv4Addr,
    /// From which it is played.
    pub address: Ipv4Addr,
    /// Whose network it has meanwhile: this instance of the duplicate is without one until the replay is over.
    #[serde(default)]
    pub instance: Option<InstanceId>,
}

/// An instance that asked in the recording, and is not played, because its duplicate serves others and asks by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayBystander {
    pub recorded: Ipv4Addr,
    pub sessions: u64,
}

/// A recording played into a duplicate of the network that it is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Replay {
    pub id: ReplayId,
    pub account: AccountId,
    pub recording: RecordingId,
    pub replica: ReplicaId,
    /// The duplicate.
    pub vpc: VpcId,
    pub terms: ReplayTerms,
    pub state: ReplayState,
    pub state_reason: Option<StateReason>,
    pub clients: Vec<ReplayClient>,
    pub bystanders: Vec<ReplayBystander>,
    /// The lowest of those of the reports.
    pub score: Option<u8>,
    /// One for each time.
    pub reports: Vec<ReplayReport>,
    /// What was asked of the duplicate because it was asked of its source, if that was wanted.
    #[serde(default)]
    pub changes: Option<Vec<ReappliedChange>>,
    pub created: Moment,
    pub began: Option<Moment>,
    pub ended: Option<Moment>,
    #[serde(default)]
    pub tags: Tags,
}

/// What a host should do for a replay. Nothing is given up by being left out: an end is said with
/// [`DesiredReplayState::Absent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredReplay {
    pub id: ReplayId,
    pub state: DesiredReplayState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DesiredReplayState {
    /// The recording is fetched and read, and played as soon as there are ports.
    Played {
        account: AccountId,
        vpc: VpcId,
        terms: ReplayTerms,
        /// The addresses of the recorded network.
        network: Cidr,
        /// The address that [`ReplayFrom::Instance`] had there.
        client: Option<Ipv4Addr>,
        /// What they are in the duplicate.
        map: Vec<AddressMapping>,
        /// One for each client that was told; none before.
        ports: Vec<ReplayPort>,
    },
    /// Nothing of it is kept.
    Absent,
}

/// The interface that a played client has in the duplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayPort {
    pub interface: InterfaceId,
    pub instance: InstanceId,
    pub address: Ipv4Addr,
    pub mac: MacAddress,
}

/// What a host tells of a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActualReplay {
    pub id: ReplayId,
    pub stage: ReplayStage,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ReplayStage {
    Fetching,
    /// It was read, and waits for its ports.
    Read {
        clients: Vec<Ipv4Addr>,
        bystanders: Vec<ReplayBystander>,
        /// When the first session that is played began in the recording: with it the play begins.
        #[serde(default)]
        first: Option<Moment>,
    },
    Playing,
    Played {
        reports: Vec<ReplayReport>,
    },
    Failed {
        reason: StateReason,
    },
}

/// How the duplicate's answers compare with the recorded ones. The same answers give the same report, but for times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayReport {
    /// From 0 to 100, which is: all answers are as recorded. The mean of what each exchange got, rounded down; none when there was
    /// nothing to compare.
    pub score: Option<u8>,
    pub sessions: ReplayedSessions,
    pub exchanges: ReplayedExchanges,
    pub octets: ReplayedOctets,
    /// From the last octet of what was asked to the first of the answer, as recorded.
    pub recorded_latency: Quantiles,
    /// The same as played.
    pub latency: Quantiles,
    /// How much later than it should something was sent, because the player was not asked in time.
    pub timing_error: Quantiles,
    /// What differs, in the order of the recording.
    pub differences: Vec<ReplayDifference>,
    /// Differences that are not among those.
    pub differences_left_out: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayedSessions {
    /// Each time and each client of an amplified replay counts.
    pub played: u64,
    pub as_recorded: u64,
    /// Were already open when the recording began, so that nobody knows how they were opened.
    pub already_open: u64,
    /// Went to others than the network's instances.
    pub to_outside: u64,
    /// Packets in fragments, and those of other protocols than IPv4.
    pub packets_left_out: u64,
}

/// A question and its answer: of HTTP a request and its response; of other sessions over TCP what is sent without hearing
/// anything in between, and what is heard then; of UDP each answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayedExchanges {
    pub compared: u64,
    pub as_recorded: u64,
    /// Answered otherwise.
    pub differing: u64,
    /// Answered in the recording, and not now.
    pub missing: u64,
    /// Answered now, and not in the recording.
    pub extra: u64,
}

/// Octets of answers, without headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayedOctets {
    pub recorded: u64,
    pub answered: u64,
}

/// Of a span of time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Quantiles {
    pub count: u64,
    pub p50_micros: u64,
    pub p99_micros: u64,
    pub most_micros: u64,
}

/// An answer that is not as recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct ReplayDifference {
    /// The number of the session in the recording, from 0.
    pub session: u32,
    /// Its ends, as recorded.
    pub client: SocketAddrV4,
    pub server: SocketAddrV4,
    /// Which time it was played, from 0.
    pub round: u32,
    /// By which of the amplified clients, from 0.
    pub copy: u32,
    /// The number of the exchange in the session, from 0.
    pub exchange: u32,
    pub what: AnswerDifference,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum AnswerDifference {
    /// The connection was opened otherwise.
    Opening {
        recorded: SessionOpening,
        answered: SessionOpening,
    },
    /// There is no answer.
    Missing,
    /// None was recorded.
    Extra {
        octets: u64,
    },
    /// Another status of HTTP; 0 where the answer is none of HTTP.
    Status {
        recorded: u16,
        answered: u16,
    },
    Octets {
        recorded: u64,
        answered: u64,
    },
    /// As many octets, and others.
    Content,
}

/// What came of the client's wish to connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SessionOpening {
    #[default]
    Unanswered,
    Accepted,
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_played_is_read_as_it_is_written() {
        let instance = ReplayFrom::Instance(InstanceId::from_bits(7));
        for from in [ReplayFrom::Internet, ReplayFrom::Instances, ReplayFrom::All, instance] {
            assert_eq!(from.to_string().parse(), Ok(from));
        }
        assert!("everybody".parse::<ReplayFrom>().is_err() && "i-7".parse::<ReplayFrom>().is_err());
    }

    #[test]
    fn a_speed_is_read_as_it_is_written() {
        for (text, permille) in [("0.1", 100), ("1", 1000), ("2.5", 2500), ("0.125", 125), ("10", 10_000)] {
            let speed: ReplaySpeed = text.parse().unwrap();
            assert_eq!((speed, speed.to_string().as_str()), (ReplaySpeed::Permille(permille), text));
        }
        assert_eq!("max".parse(), Ok(ReplaySpeed::Max));
        for text in ["", "0", "0.09", "10.001", "11", "-1", "1.", ".5", "1e1", "+1", "fast", "0.1234", "99999999999"] {
            assert!(text.parse::<ReplaySpeed>().is_err(), "{text}");
        }
    }
}
