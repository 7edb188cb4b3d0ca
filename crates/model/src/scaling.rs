//! Scaling groups: alike instances of one network, of which there are as many as what they are asked for needs.
//!
//! Owns their shapes, what can be aimed at and how that is written, and what is told of each decision. How many there should be is
//! decided by the controller, of what hosts tell of each instance: its [`InstanceFigures`].

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, Bytes, ImageId, InstanceId, Moment, ScalingGroupId, SecurityGroupId, SubnetId, Tags, Vcpus, VpcId,
    instance::StateReason, memory::MemorySettings, network::InterfaceCounters,
};

/// What a host measures of an instance that runs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceFigures {
    pub instance: InstanceId,
    /// The processor time that its VM took, of what its vCPUs could have had in the last ten seconds, in thousandths; none as long
    /// as it is not known.
    #[serde(default)]
    pub cpu_thousandths: Option<u32>,
    /// Connections at its interface that are open: both sides have spoken, and none has ended.
    #[serde(default)]
    pub live_connections: Option<u32>,
    /// What its interface counted.
    #[serde(default)]
    pub traffic: Option<InterfaceCounters>,
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal;)*) => {
        /// A figure of an instance that a group can be kept at, on the average of its instances.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ScalingMetric { $($(#[doc = $doc])* $name,)* }

        impl ScalingMetric {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

metrics! {
    /// Processor time, in per cent of what its vCPUs could have.
    Cpu = "cpu";
    /// Connections that are open.
    LiveConnections = "live-connections";
}

impl ScalingMetric {
    /// What the host told of it, in thousandths of the target's unit.
    pub fn of(self, figures: &InstanceFigures) -> Option<u64> {
        match self {
            Self::Cpu => figures.cpu_thousandths.map(|cpu| u64::from(cpu) * 100),
            Self::LiveConnections => figures.live_connections.map(|count| u64::from(count) * 1000),
        }
    }

    const fn most(self) -> u32 {
        match self {
            Self::Cpu => 100,
            Self::LiveConnections => 1_000_000,
        }
    }
}

/// What each instance is to have, on the average. Written `cpu=PER CENT` or `live-connections=NUMBER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ScalingTarget {
    pub metric: ScalingMetric,
    /// At least 1.
    pub value: u32,
}

/// Why a text says nothing that a group can be kept at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoScalingTarget {
    #[error("`{0}` is none of {all}", all = forms())]
    Form(String),
    #[error("{name} is 1 to {most}", name = .metric.name(), most = .metric.most())]
    Value { metric: ScalingMetric },
}

fn forms() -> String {
    let forms = ScalingMetric::ALL.iter().map(|metric| format!("{}=1..{}", metric.name(), metric.most()));
    forms.collect::<Vec<_>>().join(", ")
}

impl FromStr for ScalingTarget {
    type Err = NoScalingTarget;

    fn from_str(text: &str) -> Result<Self, NoScalingTarget> {
        let form = || NoScalingTarget::Form(text.chars().take(64).collect());
        let (name, value) = text.split_once('=').ok_or_else(form)?;
        let metric = ScalingMetric::ALL.iter().copied().find(|metric| metric.name() == name).ok_or_else(form)?;
        let value = value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok()).flatten().ok_or_else(form)?;
        if !(1..=metric.most()).contains(&value) {
            return Err(NoScalingTarget::Value { metric });
        }
        Ok(Self { metric, value })
    }
}

impl fmt::Display for ScalingTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.metric.name(), self.value)
    }
}
impl TryFrom<String> for ScalingTarget {
    type Error = NoScalingTarget;
    fn try_from(text: String) -> Result<Self, NoScalingTarget> {
        text.parse()
    }
}
impl From<ScalingTarget> for String {
    fn from(target: ScalingTarget) -> Self {
        target.to_string()
    }
}
impl JsonSchema for ScalingTarget {
    fn schema_name() -> Cow<'static, str> {
        "ScalingTarget".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let description = format!("What each instance is to have, on the average: one of {}.", forms());
        schemars::json_schema!({"type": "string", "description": description})
    }
}

/// What every instance of a group is launched as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LaunchTemplate {
    pub image: ImageId,
    /// 1 if not given.
    #[serde(default)]
    pub vcpus: Option<Vcpus>,
    /// 256 MiB if not given.
    #[serde(default)]
    pub memory: Option<Bytes>,
    #[serde(default)]
    pub memory_settings: MemorySettings,
    /// The VPC's default group if empty.
    #[serde(default)]
    pub security_groups: Vec<SecurityGroupId>,
    /// At most 64 KiB; a script when it starts with `#!`.
    #[serde(default)]
    pub user_data: Option<String>,
    /// Boot them, though their image may have a warm state.
    #[serde(default)]
    pub cold: bool,
    /// Of each instance.
    #[serde(default)]
    pub tags: Tags,
}

/// Alike instances of one network, as many as they need to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScalingGroup {
    pub id: ScalingGroupId,
    pub account: AccountId,
    /// Unlike those of the network's other groups.
    pub name: String,
    pub vpc: VpcId,
    /// A new instance comes into the one that has the fewest of them.
    pub subnets: Vec<SubnetId>,
    pub template: LaunchTemplate,
    pub min: u32,
    pub max: u32,
    pub target: ScalingTarget,
    /// For so long after a change the size follows no figure.
    pub cool_down_seconds: u64,
    /// How many there should be.
    pub desired: u32,
    /// Those that there are, oldest first; one that ends is none any more.
    pub instances: Vec<InstanceId>,
    /// When an instance was last launched or ended by it.
    pub changed: Moment,
    /// The newest decisions, newest first.
    pub decisions: Vec<ScalingDecision>,
    /// What each instance has on the average, by what hosts tell. Computed when it is shown, like what follows.
    #[serde(default)]
    pub value: Option<u32>,
    /// What keeps the size from following the figure now.
    #[serde(default)]
    pub waits: Option<ScalingWait>,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

impl ScalingGroup {
    /// On the instances of a group; its value is the group's id. It says so to people: which they are, the group knows.
    pub const TAG: &'static str = "lucarne:scaling-group";
}

/// One change of a group, or one that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScalingDecision {
    pub at: Moment,
    /// How many there should have been before, and from then on.
    pub from: u32,
    pub to: u32,
    pub cause: ScalingCause,
    pub launched: Vec<InstanceId>,
    pub ended: Vec<InstanceId>,
    /// Why nothing could be launched; it is tried again.
    pub refused: Option<StateReason>,
}

/// Why a group changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ScalingCause {
    /// It was made, or its least or greatest size was set.
    Bounds,
    /// The average of its instances.
    Figure { value: u32, target: ScalingTarget },
    /// Instances that are no more, or do not run, are replaced.
    Replacement { instances: Vec<InstanceId> },
    /// What was decided before, and could not be done then.
    Unfinished,
}

/// What a group waits for before its size follows its figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ScalingWait {
    /// Until instances run that are being launched.
    Launches,
    /// Until the cool-down is over.
    CoolDown { until: Moment },
    /// Until hosts tell of each instance: as long as one is unknown there are not fewer.
    Figures,
    /// Until another launch is tried, after one that failed.
    Retry { at: Moment },
    /// Until a replica does not draw any more on an instance that should end.
    Replica,
    /// Until the network is not being duplicated or ended any more.
    Network,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_reads_back_as_it_was_written() {
        for text in ["cpu=1", "cpu=60", "cpu=100", "live-connections=250"] {
            assert_eq!(text.parse::<ScalingTarget>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_target_is_refused_in_words_that_help() {
        for text in ["", "cpu", "cpu=", "cpu=x", "cpu=+5", "cpu>5", "load=5", "cpu=99999999999"] {
            assert!(text.parse::<ScalingTarget>().unwrap_err().to_string().contains("live-connections=1.."), "{text}");
        }
        for text in ["cpu=0", "cpu=101"] {
            assert_eq!(text.parse::<ScalingTarget>().unwrap_err().to_string(), "cpu is 1 to 100");
        }
    }

    #[test]
    fn a_figure_is_in_the_unit_of_its_target() {
        let figures = InstanceFigures {
            instance: InstanceId::from_bits(1),
            cpu_thousandths: Some(605),
            live_connections: Some(7),
            traffic: None,
        };
        assert_eq!(ScalingMetric::Cpu.of(&figures), Some(60_500));
        assert_eq!(ScalingMetric::LiveConnections.of(&figures), Some(7_000));
        assert_eq!(ScalingMetric::Cpu.of(&InstanceFigures { cpu_thousandths: None, ..figures }), None);
    }
}
