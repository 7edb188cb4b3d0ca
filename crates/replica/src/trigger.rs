//! Triggers: when does one fire, and may it make something then?
//!
//! Owns what a trigger remembers, a [`Watch`], from which follows that each finding counts once, that a schedule which was missed is
//! made good once, and that no more is made than its limit lets. A watch is kept in one transaction with what a firing made, so a
//! controller that is killed has done both or neither. What is made, and of what, is the caller's.

use std::{collections::BTreeMap, time::Duration};

use lucarne_model::{
    FindingId, Moment,
    finding::Finding,
    trigger::{FiringCause, FiringLimit, TriggerOn},
};
use serde::{Deserialize, Serialize};

/// How long ago something may have been found and still counts, for instance because nobody could ask for it meanwhile.
pub const FRESH: Duration = Duration::from_secs(3600);

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

/// What is known now of what a trigger may wait for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight<'a> {
    /// Findings of its kind in its network, in any order and as often as one likes.
    pub findings: &'a [Finding],
    /// Its figure; none: nobody knows.
    pub metric: Option<u64>,
}

/// What a trigger remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// What was found before is not waited for.
    begun: Moment,
    /// When it fired last: for it time never goes back behind this.
    latest: Moment,
    /// Findings that were decided on, with when they were first seen, as long as they are fresh.
    decided: BTreeMap<FindingId, Moment>,
    /// When the schedule is due.
    due: Option<Moment>,
    /// The figure was above its value when it was looked at last.
    above: bool,
    /// When something was made, as long as it counts for the limit.
    made: Vec<Moment>,
}

/// As much was made as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitReached;

impl Watch {
    pub fn new(on: TriggerOn, now: Moment) -> Self {
        let due = first_due(on, now);
        Self { begun: now, latest: now, decided: BTreeMap::new(), due, above: false, made: Vec::new() }
    }

    /// When the schedule is due next, if it is one.
    pub const fn due(&self) -> Option<Moment> {
        self.due
    }

    /// Takes note of a figure that fell, so that it can rise again.
    pub fn observe(&mut self, on: TriggerOn, sight: Sight<'_>) {
        if let (TriggerOn::Above { value, .. }, Some(figure)) = (on, sight.metric) {
            self.above &= figure > value;
        }
    }

    /// What there is to decide on: the oldest finding first. It stays so until [`Self::fire`] or [`Self::pass_over`].
    pub fn cause(&self, on: TriggerOn, sight: Sight<'_>, now: Moment) -> Option<FiringCause> {
        let now = now.max(self.latest);
        match on {
            TriggerOn::Finding(_) => {
                let new = sight.findings.iter().filter(|finding| self.is_new(finding, now));
                let oldest = new.min_by_key(|finding| finding.place())?;
                Some(FiringCause::Finding { finding: oldest.id, first_seen: oldest.first_seen })
            }
            TriggerOn::Every { .. } | TriggerOn::Daily { .. } => {
                self.due.filter(|due| *due <= now).map(|at| FiringCause::Due { at })
            }
            TriggerOn::Above { value: limit, .. } => {
                let figure = sight.metric.filter(|figure| *figure > limit && !self.above)?;
                Some(FiringCause::Above { value: figure })
            }
        }
    }

    fn is_new(&self, finding: &Finding, now: Moment) -> bool {
        finding.first_seen >= self.begun
            && finding.first_seen >= now.minus(FRESH)
            && !self.decided.contains_key(&finding.id)
    }

    /// Decides on the cause: it does not come up again, and counts for the limit if that lets something be made.
    pub fn fire(
        &mut self,
        on: TriggerOn,
        limit: FiringLimit,
        cause: FiringCause,
        now: Moment,
    ) -> Result<(), LimitReached> {
        self.pass_over(on, cause, now);
        let span = Duration::from_secs(limit.seconds);
        let now = self.latest;
        self.made.retain(|made| now.since(*made) < span);
        if self.made.len() >= limit.most as usize {
            return Err(LimitReached);
        }
        self.made.push(now);
        Ok(())
    }

    /// Decides on the cause without anything being made.
    pub fn pass_over(&mut self, on: TriggerOn, cause: FiringCause, now: Moment) {
        self.latest = self.latest.max(now);
        let now = self.latest;
        match cause {
            FiringCause::Finding { finding, first_seen } => {
                self.decided.insert(finding, first_seen);
            }
            FiringCause::Due { at } => self.due = next_due(on, at, now),
            FiringCause::Above { .. } => self.above = true,
        }
        // Whatever is older is not new to anybody.
        self.decided.retain(|_, first_seen| *first_seen >= now.minus(FRESH));
    }
}

fn first_due(on: TriggerOn, now: Moment) -> Option<Moment> {
    match on {
        TriggerOn::Every { seconds } => Some(now.plus(Duration::from_secs(seconds))),
        TriggerOn::Daily { minute } => {
            let today = Moment::from_secs(now.as_secs() / DAY * DAY + u64::from(minute) * MINUTE);
            Some(if today > now { today } else { today.plus(Duration::from_secs(DAY)) })
        }
        TriggerOn::Finding(_) | TriggerOn::Above { .. } => None,
    }
}

/// The first time behind `now` that the schedule names, in step with `due`.
fn next_due(on: TriggerOn, due: Moment, now: Moment) -> Option<Moment> {
    let seconds = match on {
        TriggerOn::Every { seconds } => seconds.max(1),
        TriggerOn::Daily { .. } => DAY,
        TriggerOn::Finding(_) | TriggerOn::Above { .. } => return None,
    };
    let step = Duration::from_secs(seconds);
    let missed = now.since(due).as_secs() / seconds;
    Some(due.plus(Duration::from_secs(missed.saturating_mul(seconds))).plus(step))
}

#[cfg(test)]
mod tests;
