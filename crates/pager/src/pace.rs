//! Whether the store's disk keeps pace: a full disk refuses, a slow one only lets everybody wait, and must be told by time.
//!
//! Owns the last transfers and what is called slow. What is done about it is the evictor's: it sends out little, so that the
//! disk is there for those who wait for their pages.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

/// A transfer that takes longer is late. An SSD takes a fiftieth of it, a busy disk with an arm a third.
const LATE: Duration = Duration::from_millis(50);
/// Of the last 32 transfers so many were late: the disk is slow, or is so no more. Apart, so that it is not both by turns.
const SLOW: u32 = 16;
const IN_TIME: u32 = 4;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// A bit for each of the last transfers, set for those that were late.
    late: u32,
    is_slow: bool,
}

impl Pace {
    pub(crate) const fn is_slow(self) -> bool {
        self.is_slow
    }

    /// A transfer took so long.
    pub(crate) fn saw(&mut self, took: Duration) {
        self.note(took > LATE);
    }

    /// A second has passed: who transfers nothing forgets in half a minute what the disk was like.
    pub(crate) const fn second(&mut self) {
        self.note(false);
    }

    const fn note(&mut self, late: bool) {
        self.late = self.late << 1 | late as u32;
        let limit = if self.is_slow { IN_TIME + 1 } else { SLOW };
        self.is_slow = self.late.count_ones() >= limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_micros(90);
    const SLUGGISH: Duration = Duration::from_millis(51);

    #[test]
    fn a_disk_is_slow_when_half_of_what_it_did_was_late_and_until_nearly_all_is_in_time() {
        let mut pace = Pace::default();
        let mut seen = Vec::new();
        for took in [[SLUGGISH; 16], [FAST; 16], [FAST; 16]].concat() {
            pace.saw(took);
            seen.push(pace.is_slow());
        }
        let changes: Vec<usize> = (1..seen.len()).filter(|at| seen[at - 1] != seen[*at]).collect();
        assert_eq!(changes, [15, 43], "slow with the 16th that is late, and no more when four of those are left");
    }

    #[test]
    fn a_few_that_are_late_make_no_slow_disk() {
        let mut pace = Pace::default();
        for round in 0..1000 {
            pace.saw(if round % 3 == 0 { SLUGGISH } else { FAST });
            assert!(!pace.is_slow());
        }
    }

    #[test]
    fn a_disk_that_nobody_asks_is_slow_no_more_after_half_a_minute() {
        let mut pace = Pace::default();
        (0..32).for_each(|_| pace.saw(SLUGGISH));
        (0..27).for_each(|_| pace.second());
        assert!(pace.is_slow());
        pace.second();
        assert!(!pace.is_slow());
    }
}
