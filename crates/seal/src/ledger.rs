//! What was taken before: no request is carried out twice, whatever the clock does and however often the host restarts.
//!
//! Owns the decision and what must be remembered for it. The caller writes a [`Mark`] to disk and syncs it before it calls
//! [`Ledger::hold`], and before anything is carried out; it begins again from the marks that it finds there.

use std::{collections::BTreeMap, time::Duration};

use lucarne_model::{Moment, storage::Digest};
use serde::{Deserialize, Serialize};

use crate::{refusal::Refusal, request::RequestId};

/// For how long beyond its time a request is remembered: clocks are set back by less.
pub const KEPT_BEYOND: Duration = Duration::from_secs(3600);
/// By how much a clock that is kept right is set back at once.
const SET_RIGHT: Duration = Duration::from_secs(10);
/// How many are remembered at most: a day of more than one a second.
pub const MOST_HELD: usize = 100_000;

/// One request that was taken, as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    pub id: RequestId,
    pub not_after: Moment,
    pub taken: Moment,
    /// Authenticators that signed it, and how often they had by then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<(Digest, u32)>,
}

/// The requests that were taken, until nobody can ask for them again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    held: BTreeMap<RequestId, Moment>,
    /// Requests whose time was over by then were forgotten, so none of them is taken any more, even if the clock goes back.
    forgotten_until: Moment,
    /// The latest time at which one was taken: a clock that is much before it was set back.
    newest: Moment,
    counters: BTreeMap<Digest, u32>,
}

impl Ledger {
    /// Whether this request may be taken now; changes nothing.
    pub fn judge(&self, mark: &Mark) -> Result<(), Refusal> {
        if self.held.contains_key(&mark.id) {
            return Err(Refusal::Replayed(mark.id.digest().clone()));
        }
        if mark.not_after <= self.forgotten_until {
            return Err(Refusal::Expired { not_after: mark.not_after, now: self.forgotten_until });
        }
        if self.held.len() >= MOST_HELD {
            return Err(Refusal::LedgerFull(self.held.len()));
        }
        let seen = |key: &Digest| self.counters.get(key).copied().unwrap_or_default();
        match mark.counters.iter().find(|(key, counter)| *counter <= seen(key)) {
            Some((key, found)) => Err(Refusal::Cloned { key: key.clone(), found: *found, seen: seen(key) }),
            None => Ok(()),
        }
    }

    /// Remembers a request whose mark is on disk.
    pub fn hold(&mut self, mark: Mark) {
        self.newest = self.newest.max(mark.taken);
        self.counters.extend(mark.counters);
        self.held.insert(mark.id, mark.not_after);
    }

    /// Forgets those whose time is long over. The caller writes the ledger whole to disk after it.
    pub fn compact(&mut self, now: Moment) {
        let until = now.minus(KEPT_BEYOND);
        let over = self.held.values().filter(|not_after| **not_after <= until).max().copied();
        let Some(over) = over else { return };
        self.forgotten_until = self.forgotten_until.max(over);
        self.held.retain(|_, not_after| *not_after > until);
    }

    /// Whether it was taken, and is remembered.
    pub fn holds(&self, id: &RequestId) -> bool {
        self.held.contains_key(id)
    }
    pub fn len(&self) -> usize {
        self.held.len()
    }
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
    /// Whether the clock stands before what it said at an earlier request, by more than it takes to set it right.
    pub fn clock_went_back(&self, now: Moment) -> bool {
        now.plus(SET_RIGHT) < self.newest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(number: u8, not_after: u64) -> Mark {
        let id = RequestId::of_octets(&[number]);
        Mark { id, not_after: Moment::from_secs(not_after), taken: Moment::EPOCH, counters: Vec::new() }
    }

    #[test]
    fn what_was_taken_is_refused_also_after_a_restart_from_disk() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.judge(&mark(1, 10)), Ok(()));
        ledger.hold(mark(1, 10));
        assert!(matches!(ledger.judge(&mark(1, 10)), Err(Refusal::Replayed(_))));
        let text = serde_json::to_string(&ledger).expect("a text");
        let read: Ledger = serde_json::from_str(&text).expect("a ledger");
        assert!(matches!(read.judge(&mark(1, 10)), Err(Refusal::Replayed(_))));
        assert_eq!(read.judge(&mark(2, 10)), Ok(()));
    }

    #[test]
    fn an_authenticator_that_counts_backwards_has_a_copy() {
        let key = Digest::from_bytes([1; 32]);
        let with = |number, counter| Mark { counters: vec![(key.clone(), counter)], ..mark(number, 10) };
        let mut ledger = Ledger::default();
        ledger.hold(with(1, 7));
        assert_eq!(ledger.judge(&with(2, 8)), Ok(()));
        assert!(matches!(ledger.judge(&with(3, 7)), Err(Refusal::Cloned { found: 7, seen: 7, .. })));
    }

    #[test]
    fn a_full_ledger_takes_no_more_and_says_so() {
        let mut ledger = Ledger::default();
        for number in 0..MOST_HELD {
            ledger.held.insert(RequestId::of_octets(&number.to_be_bytes()), Moment::from_secs(10));
        }
        assert_eq!(ledger.judge(&mark(1, 10)), Err(Refusal::LedgerFull(MOST_HELD)));
        ledger.compact(Moment::from_secs(10).plus(KEPT_BEYOND));
        assert_eq!(ledger.judge(&mark(1, 20)), Ok(()));
    }

    proptest! {
        /// Whatever is asked, whenever it is forgotten, and however the clock jumps: nothing is taken twice.
        #[test]
        fn nothing_is_taken_twice(steps in prop::collection::vec((0..20u8, 0..40_000u64, any::<bool>()), 0..200)) {
            let mut ledger = Ledger::default();
            let mut taken = std::collections::BTreeSet::new();
            for (number, now, compact) in steps {
                let now = Moment::from_secs(now);
                if compact {
                    ledger.compact(now);
                }
                let mark = Mark { taken: now, ..mark(number, u64::from(number) * 1000 + 1) };
                let in_time = now <= mark.not_after;
                if in_time && ledger.judge(&mark).is_ok() {
                    prop_assert!(taken.insert(number), "request {} was taken twice", number);
                    ledger.hold(mark);
                }
            }
        }
    }
}
