//! Baselines as a text that outlives the agent which learnt them.
//!
//! Owns that text, version 1: a line with a checksum, then one line for each class and measure. One that is damaged, of another
//! time or too long is as none: the baselines are learnt anew, in two minutes. When it is written, and where, is the host's.

use std::{collections::BTreeMap, time::Duration};

use lucarne_model::{Habit, Moment, storage::Digest};
use lucarne_statement::sha256;
use serde::{Deserialize, Serialize};

use super::{Baselines, Class, MOST_CLASSES, Measure};

/// How long what is usual is taken to be so while nobody measures.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);
/// More than the longest text has.
pub const MOST_OCTETS: usize = 1 << 20;
/// More than any name of a kind has: an image, and two numbers.
const MOST_NAME: usize = 256;

/// Why a text tells of no baselines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeptError {
    #[error("it is damaged, or of another version")]
    Damaged,
    #[error("line {0} says nothing that was learnt")]
    Line(usize),
    #[error("it is of {0:?}, which is not of the last day")]
    OtherTime(Moment),
}

/// The first line, without what follows its checksum.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    version: u32,
    time: Moment,
    /// SHA-256 of the time as it is written here and of all that follows this line.
    checksum: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Of which guests; none: of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    measure: Measure,
    mean: f64,
    variance: f64,
    count: u32,
}

impl Line {
    fn habit(self) -> Option<((Class, Measure), Habit)> {
        let class = match self.kind {
            None => Class::Host,
            Some(kind) => Class::Kind(Some(kind).filter(|kind| kind.len() <= MOST_NAME)?),
        };
        Some(((class, self.measure), Habit::of(self.mean, self.variance, self.count)?))
    }
}

impl Baselines {
    pub fn to_text(&self, time: Moment) -> Result<String, serde_json::Error> {
        let mut lines = String::new();
        for ((class, measure), habit) in self.0.iter().take(MOST_CLASSES * Measure::ALL.len()) {
            let kind = match class {
                Class::Host => None,
                Class::Kind(kind) => Some(kind.clone()),
            };
            let (mean, variance, count) = (habit.mean(), habit.variance(), habit.count());
            let line = Line { kind, measure: *measure, mean, variance, count };
            lines.push_str(&serde_json::to_string(&line)?);
            lines.push('\n');
        }
        let head = Head { version: 1, time, checksum: checksum(time, &lines)? };
        Ok(format!("{}\n{lines}", serde_json::to_string(&head)?))
    }

    pub fn from_text(text: &str, now: Moment) -> Result<Self, KeptError> {
        let (head, lines) = text.split_once('\n').filter(|_| text.len() <= MOST_OCTETS).ok_or(KeptError::Damaged)?;
        let head: Head = serde_json::from_str(head).map_err(|_| KeptError::Damaged)?;
        if head.version != 1 || checksum(head.time, lines).ok() != Some(head.checksum) {
            return Err(KeptError::Damaged);
        }
        if head.time > now || now.since(head.time) > KEPT {
            return Err(KeptError::OtherTime(head.time));
        }
        let habit = |(number, line): (usize, &str)| {
            let line: Option<Line> = serde_json::from_str(line).ok();
            line.and_then(Line::habit).ok_or(KeptError::Line(number + 2))
        };
        lines.lines().enumerate().map(habit).collect::<Result<BTreeMap<_, _>, _>>().map(Self)
    }
}

fn checksum(time: Moment, lines: &str) -> Result<Digest, serde_json::Error> {
    Ok(Digest::from_bytes(sha256(&[serde_json::to_string(&time)?.as_bytes(), lines.as_bytes()])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_secs(1_800_000_000);

    fn learnt() -> Baselines {
        let mut baselines = Baselines::default();
        for second in 0..200 {
            baselines.take(&Class::Host, Measure::Memory, 300 + second % 7);
            baselines.take(&Class::Kind("ami-1 2 268435456".to_owned()), Measure::Processors, second % 5);
        }
        baselines
    }

    #[test]
    fn what_was_learnt_is_known_after_a_restart_and_something_unusual_is_seen_at_once() {
        let before = learnt();
        let text = before.to_text(NOW).unwrap();
        let mut after = Baselines::from_text(&text, NOW.plus(Duration::from_secs(60))).unwrap();
        // The last bit of a number may be another when it is read.
        let is_near = |one: f64, other: f64| (one - other).abs() <= 1e-9 * one.abs();
        let is_same = |one: &Habit, other: &Habit| {
            is_near(one.mean(), other.mean())
                && is_near(one.variance(), other.variance())
                && one.count() == other.count()
        };
        assert!(
            after.0.keys().eq(before.0.keys()) && after.0.values().zip(before.0.values()).all(|(a, b)| is_same(a, b))
        );
        let figure = after.take(&Class::Host, Measure::Memory, 900);
        assert!(figure.usual.is_some() && figure.deviations > 10, "{figure}");
    }

    #[test]
    fn what_is_of_another_day_or_of_the_future_is_learnt_anew() {
        let text = learnt().to_text(NOW).unwrap();
        assert!(Baselines::from_text(&text, NOW.plus(KEPT)).is_ok());
        for then in [NOW.plus(KEPT).plus(Duration::from_secs(1)), NOW.minus(Duration::from_secs(1))] {
            assert_eq!(Baselines::from_text(&text, then), Err(KeptError::OtherTime(NOW)));
        }
    }

    /// A power cut may leave any of it; no bit of it may be another either.
    #[test]
    fn no_text_that_is_damaged_is_taken() {
        let text = learnt().to_text(NOW).unwrap();
        for length in 0..text.len() {
            assert!(Baselines::from_text(&text[..length], NOW).is_err(), "cut at {length}");
        }
        for at in 0..text.len() {
            let mut octets = text.clone().into_bytes();
            octets[at] ^= 1;
            let Ok(changed) = String::from_utf8(octets) else { continue };
            assert!(Baselines::from_text(&changed, NOW).is_err(), "changed at {at}");
        }
        let long = text.clone() + &" ".repeat(MOST_OCTETS);
        assert_eq!(Baselines::from_text(&long, NOW), Err(KeptError::Damaged));
    }

    /// Whole, and yet nothing that could have been learnt.
    #[test]
    fn a_text_that_says_what_nobody_learns_is_not_taken() {
        let forged = |lines: &str| {
            let head = Head { version: 1, time: NOW, checksum: checksum(NOW, lines).unwrap() };
            Baselines::from_text(&format!("{}\n{lines}", serde_json::to_string(&head).unwrap()), NOW)
        };
        let line = r#"{"measure":"memory","mean":1.0,"variance":-1.0,"count":3}"#;
        assert_eq!(forged(line), Err(KeptError::Line(2)));
        assert!(forged(&line.replace("-1.0", "1.0")).is_ok());
        assert_eq!(forged(&line.replace("memory", "mood")), Err(KeptError::Line(2)));
        let long = line.replace("-1.0", "1.0").replace('{', &format!("{{\"kind\":\"{}\",", "x".repeat(MOST_NAME + 1)));
        assert_eq!(forged(&long), Err(KeptError::Line(2)));
    }
}
