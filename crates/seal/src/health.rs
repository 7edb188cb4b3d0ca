//! How hosts and guests do: what is measured of them, what each is used to, and when something is unusual.
//!
//! Owns the table of measures, the baselines and the comparison with them; as a text that outlives an agent they are [`kept`]. Measuring is the host's. What comes of something unusual is
//! for those who signed a standing request that watches for it: its operation is carried out at once, and its result is sealed.

pub mod kept;

use std::collections::{BTreeMap, BTreeSet};

use lucarne_model::Habit;
use serde::{Deserialize, Serialize};

use crate::bounded::Whole;

/// The most that a threshold says: more than any measure has.
pub const MOST_VALUE: u64 = 1 << 53;
const DAY: u64 = 86_400;
/// More kinds of guests than a host has.
const MOST_CLASSES: usize = 256;
/// Measurements that a baseline is learnt from before anything deviates from it: two minutes of them.
const LEARN: u32 = 120;
/// The weight of a new one: of what is measured each second, an hour ago counts about a third.
const WEIGHT: f64 = 1.0 / 3600.0;
/// Of a measure that hardly varies, a twentieth of its mean counts as a deviation.
const SPREAD: f64 = 0.05;

macro_rules! measures {
    ($($(#[doc = $about:literal])* $name:ident($text:literal, $least:literal),)*) => {
        /// What is measured, once a second.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Measure { $($(#[doc = $about])* #[serde(rename = $text)] $name,)* }

        impl Measure {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            pub const fn about(self) -> &'static str { match self { $(Self::$name => concat!($($about),*),)* } }
            /// The least that counts as one deviation: what is less than that is noise wherever it is.
            const fn least_deviation(self) -> f64 { match self { $(Self::$name => $least,)* } }
        }
    };
}

measures! {
    /// Of a host, how much of all its processors was used; of a guest, how much of one. Thousandths.
    Processors("processors", 20.0),
    /// How much of the host's memory is not available. Thousandths.
    Memory("memory", 10.0),
    /// Octets a second that were read from disks and written to them.
    Disks("disks", 1_048_576.0),
    /// Octets a second that the host's network interfaces received and sent.
    Network("network", 1_048_576.0),
    /// Errors of memory, processes that were ended for want of it, packets with errors: those that are new.
    Errors("errors", 1.0),
}

impl std::fmt::Display for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Measure {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.iter().map(|measure| measure.name()).collect::<Vec<_>>().join(", ");
        Self::ALL.iter().copied().find(|it| it.name() == text).ok_or_else(|| format!("it is one of {}", names()))
    }
}

/// What is held against the same baseline: a host against its own past, a guest against all of its kind on the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Host,
    /// Guests of one image and size.
    Kind(String),
}

/// One measurement, and how it stands to what is usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    pub measure: Measure,
    pub value: u64,
    /// What is usual, once that is known.
    pub usual: Option<u64>,
    /// How many deviations above that it is.
    pub deviations: u64,
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { measure, value, usual, deviations } = self;
        match usual {
            Some(usual) => write!(f, "{measure} {value}, {deviations} deviations above {usual}"),
            None => write!(f, "{measure} {value}"),
        }
    }
}

/// What hosts and guests are used to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Baselines(BTreeMap<(Class, Measure), Habit>);

impl Baselines {
    /// Compares a measurement with what is usual of its class, and then learns from it.
    pub fn take(&mut self, class: &Class, measure: Measure, value: u64) -> Figure {
        let habit = self.0.entry((class.clone(), measure)).or_default();
        let (mean, figure) = (habit.mean(), value as f64);
        let deviation = habit.deviation().max(mean * SPREAD).max(measure.least_deviation());
        let is_known = habit.count() >= LEARN;
        habit.learn(figure, WEIGHT);
        Figure {
            measure,
            value,
            usual: is_known.then_some(mean as u64),
            deviations: if is_known { ((figure - mean) / deviation).max(0.0) as u64 } else { 0 },
        }
    }

    /// Where there are more classes than a host has, forgets those that nothing is of any more. Else they stay: what is usual of
    /// a kind is so again when the next guest of it comes.
    pub fn bound(&mut self, is_there: impl Fn(&Class) -> bool) {
        let classes: BTreeSet<&Class> = self.0.keys().map(|(class, _)| class).collect();
        if classes.len() > MOST_CLASSES {
            self.0.retain(|(class, _), _| is_there(class));
        }
    }
}

/// What somebody signed to be watched for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// At most once in each span of so many seconds, however often something is unusual.
    pub seconds: Whole<10, DAY>,
    /// Beyond these values something is unusual, whatever it is used to.
    pub thresholds: BTreeMap<Measure, Whole<0, MOST_VALUE>>,
    /// From so many deviations above its baseline on, anything is; none: it is not compared with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviations: Option<Whole<2, 100>>,
}

impl Watch {
    /// The first of these measurements of one target that is unusual.
    pub fn unusual<'a>(&self, figures: &'a [Figure]) -> Option<&'a Figure> {
        figures.iter().find(|figure| {
            let beyond = self.thresholds.get(&figure.measure).is_some_and(|most| figure.value > most.get());
            beyond || self.deviations.is_some_and(|from| figure.usual.is_some() && figure.deviations >= from.get())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn watch(most: Option<u64>, deviations: Option<u64>) -> Watch {
        let threshold = |most: u64| (Measure::Processors, most.try_into().expect("a value"));
        Watch {
            seconds: 60.try_into().expect("a span"),
            thresholds: most.map(threshold).into_iter().collect(),
            deviations: deviations.map(|from| from.try_into().expect("deviations")),
        }
    }

    /// So many measurements of which each is within five of a hundred.
    fn learnt(count: u32) -> Baselines {
        let mut baselines = Baselines::default();
        for second in 0..count {
            baselines.take(&Class::Host, Measure::Processors, 95 + u64::from(second * 7 % 11));
        }
        baselines
    }

    #[test]
    fn what_was_not_watched_for_long_deviates_from_nothing_and_thresholds_hold_at_once() {
        let spike = learnt(LEARN - 1).take(&Class::Host, Measure::Processors, 1000);
        assert_eq!((spike.usual, watch(None, Some(2)).unusual(&[spike])), (None, None));
        assert!(watch(Some(999), None).unusual(&[spike]).is_some());
        assert!(watch(Some(1000), None).unusual(&[spike]).is_none());
    }

    #[test]
    fn a_spike_stands_out_of_what_is_usual_and_of_its_own_class_alone() {
        let mut baselines = learnt(600);
        let spike = baselines.take(&Class::Host, Measure::Processors, 900);
        assert!(spike.usual.is_some_and(|usual| (95..=105).contains(&usual)) && spike.deviations > 30, "{spike}");
        assert!(watch(None, Some(6)).unusual(&[spike]).is_some());
        assert!(watch(None, None).unusual(&[spike]).is_none());
        let kind = baselines.take(&Class::Kind("another".to_owned()), Measure::Processors, 900);
        assert!(watch(None, Some(2)).unusual(&[kind]).is_none());
        baselines.bound(|class| *class != Class::Host);
        assert!(baselines.take(&Class::Host, Measure::Processors, 900).usual.is_some(), "there are not many");
        for number in 0..MOST_CLASSES {
            baselines.take(&Class::Kind(number.to_string()), Measure::Processors, 1);
        }
        baselines.bound(|class| *class != Class::Host);
        assert_eq!(baselines.take(&Class::Host, Measure::Processors, 900).usual, None);
    }

    proptest! {
        /// A measure that stays within its spread is never unusual by deviation; more of it is never less unusual.
        #[test]
        fn deviations_follow_the_value(mean in 0..1_000_000_u64, noise in prop::collection::vec(0..5_u64, 200), more in 0..1_000_000_u64) {
            let mut baselines = Baselines::default();
            for part in &noise {
                let figure = baselines.take(&Class::Host, Measure::Processors, mean + part);
                prop_assert!(watch(None, Some(2)).unusual(&[figure]).is_none(), "{}", figure);
            }
            let low = baselines.clone().take(&Class::Host, Measure::Processors, mean + more);
            let high = baselines.take(&Class::Host, Measure::Processors, mean + 2 * more);
            prop_assert!(high.deviations >= low.deviations);
            prop_assert!(watch(Some(mean + more), None).unusual(&[low]).is_none());
        }
    }
}
