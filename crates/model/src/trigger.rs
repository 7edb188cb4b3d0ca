//! Triggers: standing orders that duplicate a network, and record it, when something happens to it.
//!
//! Owns their shapes, what they can wait for and how that is written, and what is told of each firing. When one fires is decided in
//! the room `replica`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, FindingId, Moment, RecordingId, ReplicaId, Tags, TriggerId, VpcId, finding::FindingKind,
    instance::StateReason, replication::ReplicaTerms,
};

macro_rules! metrics {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal;)*) => {
        /// A figure of a network that the controller has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum TriggerMetric { $($(#[doc = $doc])* $name,)* }

        impl TriggerMetric {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

metrics! {
    /// Flows that were refused at the network's instances, by their records of the last minute.
    RejectedFlows = "rejected-flows";
    /// Flows that were let through, by the same, each once for each instance that took part.
    Connections = "connections";
    /// How full the fullest bucket of an instance's memory is, in percent; one that is full gives memory back.
    MemoryPressure = "memory-pressure";
}

/// What a trigger waits for. Written `finding:KIND`, `schedule:SPAN`, `schedule:HH:MM` (of each day, UTC) or `metric:NAME>VALUE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum TriggerOn {
    /// A finding of this kind in the network.
    Finding(FindingKind),
    /// Each time that so many seconds are over.
    Every { seconds: u64 },
    /// The minute of each day, in UTC.
    Daily { minute: u16 },
    /// The figure rises above the value.
    Above { metric: TriggerMetric, value: u64 },
}

/// Why a text says nothing that a trigger can wait for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTriggerOn {
    #[error("`{0}` is none of finding:KIND, schedule:SPAN, schedule:HH:MM and metric:NAME>VALUE")]
    Form(String),
    #[error("`{0}` is no kind of finding in one network; those are {all}", all = names(&TriggerOn::findings()))]
    Finding(String),
    #[error("`{0}` is no figure that can be watched; those are {all}", all = names(TriggerMetric::ALL))]
    Metric(String),
    #[error("a schedule is a span from {least} s to {most} d, such as 30m, 6h or 1d, or a time of the day such as 03:30; it was `{0}`",
        least = TriggerOn::SHORTEST, most = TriggerOn::LONGEST / DAY)]
    Schedule(String),
}

trait Named: Copy {
    fn name_of(self) -> &'static str;
}
impl Named for FindingKind {
    fn name_of(self) -> &'static str {
        self.name()
    }
}
impl Named for TriggerMetric {
    fn name_of(self) -> &'static str {
        self.name()
    }
}

fn names(all: &[impl Named]) -> String {
    all.iter().map(|one| one.name_of()).collect::<Vec<_>>().join(", ")
}

const DAY: u64 = 24 * 3600;

impl TriggerOn {
    /// The shortest schedule, in seconds.
    pub const SHORTEST: u64 = 10;
    /// The longest.
    pub const LONGEST: u64 = 366 * DAY;

    /// The kinds of findings that are of one network: a scanner across accounts is of none.
    pub fn findings() -> Vec<FindingKind> {
        FindingKind::ALL.iter().copied().filter(|kind| *kind != FindingKind::ScannerAcrossAccounts).collect()
    }
}

fn schedule(text: &str) -> Option<TriggerOn> {
    let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?;
    if let Some((hour, minute)) = text.split_once(':') {
        let two = |digits: &str, limit: u64| number(digits).filter(|n| digits.len() == 2 && *n < limit);
        let minute = two(hour, 24)? * 60 + two(minute, 60)?;
        return u16::try_from(minute).ok().map(|minute| TriggerOn::Daily { minute });
    }
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => DAY,
        _ => return None,
    };
    let seconds = number(digits)?.checked_mul(unit)?;
    (TriggerOn::SHORTEST..=TriggerOn::LONGEST).contains(&seconds).then_some(TriggerOn::Every { seconds })
}

impl FromStr for TriggerOn {
    type Err = NoTriggerOn;

    fn from_str(text: &str) -> Result<Self, NoTriggerOn> {
        let short = |text: &str| text.chars().take(64).collect::<String>();
        match text.split_once(':') {
            Some(("finding", kind)) => {
                let known = Self::findings().into_iter().find(|known| known.name() == kind);
                known.map(Self::Finding).ok_or_else(|| NoTriggerOn::Finding(short(kind)))
            }
            Some(("schedule", when)) => schedule(when).ok_or_else(|| NoTriggerOn::Schedule(short(when))),
            Some(("metric", rule)) => {
                let (name, value) = rule.split_once('>').ok_or_else(|| NoTriggerOn::Form(short(text)))?;
                let metric = TriggerMetric::ALL.iter().copied().find(|metric| metric.name() == name);
                let metric = metric.ok_or_else(|| NoTriggerOn::Metric(short(name)))?;
                let value = value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok()).flatten();
                value.map(|value| Self::Above { metric, value }).ok_or_else(|| NoTriggerOn::Form(short(text)))
            }
            _ => Err(NoTriggerOn::Form(short(text))),
        }
    }
}

impl fmt::Display for TriggerOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finding(kind) => write!(f, "finding:{}", kind.name()),
            Self::Every { seconds } => {
                let (count, unit) = [(DAY, "d"), (3600, "h"), (60, "m")]
                    .into_iter()
                    .find(|(size, _)| seconds.is_multiple_of(*size))
                    .map_or((*seconds, "s"), |(size, unit)| (seconds / size, unit));
                write!(f, "schedule:{count}{unit}")
            }
            Self::Daily { minute } => write!(f, "schedule:{:02}:{:02}", minute / 60, minute % 60),
            Self::Above { metric, value } => write!(f, "metric:{}>{value}", metric.name()),
        }
    }
}
impl TryFrom<String> for TriggerOn {
    type Error = NoTriggerOn;
    fn try_from(text: String) -> Result<Self, NoTriggerOn> {
        text.parse()
    }
}
impl From<TriggerOn> for String {
    fn from(on: TriggerOn) -> Self {
        on.to_string()
    }
}
impl JsonSchema for TriggerOn {
    fn schema_name() -> Cow<'static, str> {
        "TriggerOn".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let description = format!(
            "What a trigger waits for: `finding:KIND` ({}), `schedule:SPAN`, `schedule:HH:MM` in UTC, or \
             `metric:NAME>VALUE` ({}).",
            names(&Self::findings()),
            names(TriggerMetric::ALL)
        );
        schemars::json_schema!({"type": "string", "description": description})
    }
}

/// How often a trigger makes something: at most so many times in any span of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FiringLimit {
    pub most: u32,
    pub seconds: u64,
}

impl Default for FiringLimit {
    fn default() -> Self {
        Self { most: 1, seconds: 3600 }
    }
}

/// What is made when a trigger fires.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerOrder {
    /// What of the network is duplicated, and how.
    #[serde(default)]
    pub terms: ReplicaTerms,
    /// For how many seconds the network is recorded; not at all if not given.
    #[serde(default)]
    pub record_seconds: Option<u64>,
    /// After how many seconds what was made is deleted by itself; never if not given.
    #[serde(default)]
    pub lasts_seconds: Option<u64>,
}

/// A standing order to duplicate a network when something happens to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trigger {
    pub id: TriggerId,
    pub account: AccountId,
    /// Unlike those of the account's other triggers.
    pub name: String,
    /// The network that is watched, duplicated and recorded.
    pub vpc: VpcId,
    pub on: TriggerOn,
    pub order: TriggerOrder,
    pub limit: FiringLimit,
    /// How often something was made.
    pub made: u64,
    /// How often nothing was, because of the limit or because it was refused.
    pub not_made: u64,
    /// The newest firings of both kinds, newest first.
    pub firings: Vec<Firing>,
    /// When the schedule is due next.
    pub due: Option<Moment>,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

impl Trigger {
    /// On what a trigger made; its value is the trigger's id.
    pub const TAG: &'static str = "lucarne:trigger";
}

/// One time that something happened that a trigger waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Firing {
    pub at: Moment,
    pub cause: FiringCause,
    pub outcome: FiringOutcome,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FiringCause {
    Finding {
        finding: FindingId,
        first_seen: Moment,
    },
    /// The schedule was due at this time, or several times until now.
    Due {
        at: Moment,
    },
    /// The figure rose to this.
    Above {
        value: u64,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FiringOutcome {
    Made {
        replica: ReplicaId,
        recording: Option<RecordingId>,
    },
    /// Nothing: as many were made as may be.
    LimitReached,
    /// Nothing: it could not be.
    Refused {
        reason: StateReason,
    },
    /// The recording alone: the duplicate was admitted, and then could not be brought to run.
    Failed {
        replica: ReplicaId,
        recording: Option<RecordingId>,
        reason: Option<StateReason>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_trigger_waits_for_reads_back_as_it_was_written() {
        for text in [
            "finding:sweep",
            "finding:sudden-change",
            "schedule:10s",
            "schedule:90m",
            "schedule:6h",
            "schedule:366d",
            "schedule:00:00",
            "schedule:23:59",
            "metric:rejected-flows>0",
            "metric:memory-pressure>80",
        ] {
            assert_eq!(text.parse::<TriggerOn>().unwrap().to_string(), text);
        }
        assert_eq!("schedule:60m".parse(), Ok(TriggerOn::Every { seconds: 3600 }));
        assert_eq!("schedule:03:30".parse(), Ok(TriggerOn::Daily { minute: 210 }));
    }

    #[test]
    fn what_says_nothing_is_refused_in_words_that_help() {
        for text in
            ["", "sweep", "finding", "schedule:", "schedule:9s", "schedule:1w", "schedule:24:00", "schedule:3:30"]
        {
            assert!(text.parse::<TriggerOn>().is_err(), "{text}");
        }
        for text in ["schedule:+5m", "schedule:99999999999999999999d", "schedule:ä", "metric:connections>-1"] {
            assert!(text.parse::<TriggerOn>().is_err(), "{text}");
        }
        let refused = |text: &str| text.parse::<TriggerOn>().unwrap_err().to_string();
        assert!(refused("finding:scanner-across-accounts").contains("refused-by-many"));
        assert!(refused("metric:load>5").contains("rejected-flows"));
        assert!(refused("metric:connections").contains("NAME>VALUE"));
    }
}
