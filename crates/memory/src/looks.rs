//! When are a guest's access bits worth a look?
//!
//! A look costs its pager's processor and, because pages must be mapped again, its guest; without looks a policy knows only
//! what came and what left. So there are regular looks, far enough apart to cost next to nothing, and one whenever the guest
//! has lost twice as much by refaults since the last look as a look costs. Whether it helps is not known beforehand; so it
//! costs a guest whom it does not help at most half of what refaults cost it anyway (the rule of those who rent skis).
//!
//! Owns the two clocks. Looking is the pager's, and what is made of it the [`Policy`](crate::policy::Policy)'s.

use std::time::Duration;

use crate::policy::Occasion;

/// Between two regular looks at least and at most; in between, so that they cost at most one part in [`SHARE`] of a
/// processor.
const REGULAR: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
const SHARE: u32 = 200;
/// A look at refaults costs at most one part in this many of what they cost.
const WORTH: u32 = 2;
/// At refaults at most one part of the time in this many goes into looks, however many of the guest's processors wait.
const HASTE: u32 = 3;

/// The looks at one guest. Times are from any one instant on.
#[derive(Clone, Copy, Debug)]
pub struct Looks {
    /// Of the last look.
    cost: Duration,
    looked: Duration,
    /// What the guest had lost then.
    lost: Duration,
    regular: Duration,
}

impl Looks {
    /// Looks from `now` on; the first is expected to cost this much.
    pub fn new(now: Duration, cost: Duration) -> Self {
        Self { cost, looked: now, lost: Duration::ZERO, regular: now + REGULAR.0 }
    }

    /// Whether it is time for one, if the guest has lost `lost` by refaults in all.
    pub fn due(&self, now: Duration, lost: Duration) -> Option<Occasion> {
        let pays = lost.saturating_sub(self.lost) >= self.cost * WORTH;
        let may = now.saturating_sub(self.looked) >= self.cost * (HASTE - 1);
        match () {
            () if self.regular <= now => Some(Occasion::Regular),
            () if pays && may => Some(Occasion::Refaults),
            () => None,
        }
    }

    /// There was one, which ended now and cost this much.
    pub fn done(&mut self, occasion: Occasion, now: Duration, lost: Duration, cost: Duration) {
        (self.looked, self.lost, self.cost) = (now, lost, cost);
        if occasion == Occasion::Regular {
            self.regular = now + (cost * SHARE).clamp(REGULAR.0, REGULAR.1);
        }
    }

    /// There could be none; the next is tried when it is long past.
    pub fn failed(&mut self, now: Duration, lost: Duration) {
        (self.looked, self.lost, self.cost, self.regular) = (now, lost, REGULAR.1, now + REGULAR.1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_guest_that_loses_nothing_is_looked_at_each_ten_seconds() {
        let mut looks = Looks::new(millis(0), millis(20));
        let mut seen = Vec::new();
        for now in (0..35_000).step_by(50).map(millis) {
            if let Some(occasion) = looks.due(now, millis(0)) {
                looks.done(occasion, now, millis(0), millis(20));
                seen.push((occasion, now));
            }
        }
        assert_eq!(seen, [10, 20, 30].map(|at| (Occasion::Regular, millis(at * 1000))));
    }

    #[test]
    fn a_look_that_costs_much_is_rare_and_one_that_cannot_be_had_is_not_asked_for_soon() {
        let mut looks = Looks::new(millis(0), millis(20));
        looks.done(Occasion::Regular, millis(0), millis(0), millis(500));
        assert_eq!(looks.due(millis(99_999), millis(0)), None);
        assert_eq!(looks.due(millis(100_000), millis(0)), Some(Occasion::Regular));
        looks.failed(millis(0), millis(0));
        assert_eq!(looks.due(millis(299_999), millis(200_000)), None);
    }

    proptest! {
        /// Whatever a guest loses and whatever looks cost, those at refaults cost together no more than half of what was lost
        /// before them, and no more than a third of the time.
        #[test]
        fn looks_at_refaults_cost_half_of_what_they_are_against_at_most(
            cost in 1_u64..200, losses in prop::collection::vec(0_u64..400, 1..400), apart in 1_u64..100,
        ) {
            let mut looks = Looks::new(millis(0), millis(cost));
            let (mut lost, mut paid, mut now) = (0, 0, 0);
            for loss in losses {
                now += apart;
                lost += loss;
                if let Some(occasion) = looks.due(millis(now), millis(lost)) {
                    if occasion == Occasion::Refaults {
                        paid += cost;
                        prop_assert!(paid * 2 <= lost, "{paid} for {lost}");
                        prop_assert!(paid * 3 <= now + cost, "{paid} of {now}");
                    }
                    now += cost;
                    looks.done(occasion, millis(now), millis(lost), millis(cost));
                }
            }
        }
    }
}
