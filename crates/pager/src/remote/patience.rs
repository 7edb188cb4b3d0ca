//! When a lender that failed is tried again: soon after the first failure, ever later after more of them.
//!
//! Owns the times between. Pure: the caller says what time it is.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

/// Between tries, at first and at most.
const BETWEEN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Times are since any moment that stays the same.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    failures: u32,
    until: Duration,
}

impl Patience {
    pub(super) fn is_due(&self, now: Duration) -> bool {
        now >= self.until
    }

    pub(super) fn failed(&mut self, now: Duration) {
        let wait = BETWEEN.0.saturating_mul(1 << self.failures.min(16)).min(BETWEEN.1);
        self.failures = self.failures.saturating_add(1);
        self.until = now.saturating_add(wait);
    }

    pub(super) const fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lender_that_stays_away_is_asked_less_and_less_and_one_that_came_back_soon() {
        let (mut patience, mut now, mut waits) = (Patience::default(), Duration::ZERO, Vec::new());
        for _ in 0..40 {
            assert!(patience.is_due(now));
            patience.failed(now);
            assert!(!patience.is_due(now));
            waits.push(patience.until - now);
            now = patience.until;
        }
        assert_eq!((waits[0], waits[1], waits[39]), (BETWEEN.0, BETWEEN.0 * 2, BETWEEN.1));
        assert!(waits.is_sorted());
        patience.succeeded();
        patience.failed(now);
        assert_eq!(patience.until - now, BETWEEN.0);
    }
}
