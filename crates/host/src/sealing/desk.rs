//! Where requests wait to be judged: a short queue for each who brings them, and turns.
//!
//! Owns who comes next, and for whom nothing is done any more: whoever brings what is refused soon has used up what is judged
//! for them, before any of it was read. What is judged for others does not suffer from it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, VecDeque};

use lucarne_model::{AccountId, Moment};

/// Who brings a request; none: somebody on this host.
pub(crate) type Carrier = Option<AccountId>;

/// How many of one carrier wait.
const MOST_WAITING: usize = 32;
/// Of how many carriers requests wait.
const MOST_CARRIERS: usize = 256;
/// How many refusals a carrier has for the beginning, and one more each second.
const REFUSALS: u64 = 100;

/// More was brought than is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug)]
struct Row<T> {
    waiting: VecDeque<T>,
    /// Refusals that are left, and as of when.
    left: u64,
    at: Moment,
}

#[derive(Debug)]
pub(crate) struct Desk<T> {
    rows: BTreeMap<Carrier, Row<T>>,
    /// Those with something waiting, in turn.
    turns: VecDeque<Carrier>,
}

impl<T> Default for Desk<T> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), turns: VecDeque::new() }
    }
}

impl<T> Desk<T> {
    pub(crate) fn put(&mut self, carrier: Carrier, what: T, now: Moment) -> Result<(), Full> {
        if !self.rows.contains_key(&carrier) && self.rows.len() >= MOST_CARRIERS {
            self.forget_the_good(now);
        }
        if !self.rows.contains_key(&carrier) && self.rows.len() >= MOST_CARRIERS {
            return Err(Full);
        }
        let row = self.rows.entry(carrier).or_insert_with(|| Row { waiting: VecDeque::new(), left: REFUSALS, at: now });
        row.refill(now);
        // What waits may all be refused.
        if row.waiting.len() >= MOST_WAITING || row.left <= row.waiting.len() as u64 {
            return Err(Full);
        }
        if row.waiting.is_empty() {
            self.turns.push_back(carrier);
        }
        row.waiting.push_back(what);
        Ok(())
    }

    /// The next to be judged: one of each carrier in turn.
    pub(crate) fn next(&mut self) -> Option<(Carrier, T)> {
        let carrier = self.turns.pop_front()?;
        let row = self.rows.get_mut(&carrier)?;
        let what = row.waiting.pop_front()?;
        if !row.waiting.is_empty() {
            self.turns.push_back(carrier);
        }
        Some((carrier, what))
    }

    /// One of this carrier's was refused.
    pub(crate) fn refused(&mut self, carrier: Carrier) {
        if let Some(row) = self.rows.get_mut(&carrier) {
            row.left = row.left.saturating_sub(1);
        }
    }

    /// Carriers of whom nothing waits, and who have all their refusals left, need not be known.
    fn forget_the_good(&mut self, now: Moment) {
        self.rows.retain(|_, row| {
            row.refill(now);
            !row.waiting.is_empty() || row.left < REFUSALS
        });
    }
}

impl<T> Row<T> {
    fn refill(&mut self, now: Moment) {
        let seconds = now.since(self.at).as_secs();
        if seconds > 0 || now < self.at {
            self.left = self.left.saturating_add(seconds).min(REFUSALS);
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Moment = Moment::from_secs(1_000);
    const BAD: Carrier = Some(AccountId::from_bits(5));
    const GOOD: Carrier = Some(AccountId::from_bits(6));

    /// Attack: 10,000 bad requests a second. Few of them are read, and who brings a good one comes after one of them.
    #[test]
    fn a_flood_of_one_carrier_holds_no_other_up() {
        let mut desk = Desk::default();
        let mut judged = 0;
        for second in 0..10 {
            let now = NOW.plus(Duration::from_secs(second));
            for number in 0..10_000 {
                if number == 5_000 {
                    desk.put(GOOD, "good", now).unwrap();
                }
                let _ = desk.put(BAD, "bad", now);
                if number % 100 == 0
                    && let Some((BAD, _)) = desk.next()
                {
                    desk.refused(BAD);
                    judged += 1;
                }
            }
            let before_good = std::iter::from_fn(|| desk.next()).take_while(|(carrier, _)| *carrier == BAD).count();
            assert!(before_good <= 1, "{before_good}");
            while desk.next().is_some() {
                desk.refused(BAD);
            }
        }
        assert!(judged < 200, "{judged}");
    }

    #[test]
    fn refusals_come_back_with_time_and_good_requests_cost_none() {
        let mut desk = Desk::default();
        for _ in 0..10 * REFUSALS {
            desk.put(GOOD, (), NOW).unwrap();
            assert!(desk.next().is_some());
        }
        for _ in 0..REFUSALS {
            desk.put(BAD, (), NOW).unwrap();
            assert!(desk.next().is_some());
            desk.refused(BAD);
        }
        assert_eq!(desk.put(BAD, (), NOW), Err(Full));
        assert_eq!(desk.put(BAD, (), NOW.plus(Duration::from_secs(1))), Ok(()));
        assert_eq!(desk.put(BAD, (), NOW.plus(Duration::from_secs(1))), Err(Full));
    }

    #[test]
    fn queues_are_bounded_and_carriers_who_did_nothing_wrong_make_room() {
        let mut desk = Desk::default();
        for _ in 0..MOST_WAITING {
            desk.put(BAD, (), NOW).unwrap();
        }
        assert_eq!(desk.put(BAD, (), NOW), Err(Full));
        for number in 0..10 * MOST_CARRIERS as u128 {
            let carrier = Some(AccountId::from_bits(100 + u64::try_from(number).unwrap()));
            desk.put(carrier, (), NOW).unwrap();
            while let Some((one, ())) = desk.next() {
                if one == BAD {
                    desk.refused(BAD);
                }
            }
        }
        assert!(desk.rows.len() <= MOST_CARRIERS && desk.rows.contains_key(&BAD));
    }
}
