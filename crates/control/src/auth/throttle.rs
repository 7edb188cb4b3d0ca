//! How often: token buckets, one for each account or other name.
//!
//! Owns [`Bucket`], the pure rule, and the bounded map of them. Which rate holds for whom is the caller's to say.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lucarne_model::{Moment, identity::Quota};

/// Requests a second in the long run, and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
}

impl Limit {
    pub(crate) fn requests(quota: &Quota) -> Self {
        Self { per_second: quota.requests_per_second, burst: quota.request_burst }
    }

    /// Microseconds that one request costs; a rate of zero counts as one.
    fn interval(self) -> u64 {
        1_000_000 / u64::from(self.per_second.max(1))
    }
}

/// A token bucket in the form of the generic cell rate algorithm (ITU-T I.371): instead of tokens it keeps the time at which
/// it will be full again, and so needs no filling.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    full_at: Moment,
}

impl Bucket {
    /// Takes one request at `now`, or says how long to wait for one.
    pub(crate) fn take(&mut self, limit: Limit, now: Moment) -> Result<(), Duration> {
        let slack = limit.interval().saturating_mul(u64::from(limit.burst.max(1)) - 1);
        let full_at = self.full_at.max(now);
        let ahead = full_at.as_micros() - now.as_micros();
        if ahead > slack {
            return Err(Duration::from_micros(ahead - slack));
        }
        self.full_at = Moment(full_at.as_micros() + limit.interval());
        Ok(())
    }
}

/// Names that are kept at most. Beyond them those who have not asked for longest are forgotten, their buckets being full.
const NAMES: usize = 10_000;

/// Buckets by name.
#[derive(Debug)]
pub(crate) struct Throttle<K> {
    buckets: Mutex<HashMap<K, Bucket>>,
}

impl<K> Default for Throttle<K> {
    fn default() -> Self {
        Self { buckets: Mutex::default() }
    }
}

impl<K: Hash + Eq> Throttle<K> {
    /// Whether [`Throttle::take`] would refuse now, and for how long.
    pub(crate) fn check(&self, name: &K, limit: Limit, now: Moment) -> Result<(), Duration> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.get(name).copied().unwrap_or_default().take(limit, now)
    }

    pub(crate) fn take(&self, name: K, limit: Limit, now: Moment) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= NAMES && !buckets.contains_key(&name) {
            buckets.retain(|_, bucket| bucket.full_at > now);
            if buckets.len() >= NAMES {
                // So many strangers at once are an attack; they share the fate of one.
                return Err(Duration::from_secs(1));
            }
        }
        buckets.entry(name).or_default().take(limit, now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The law of a token bucket, over every interval between two requests.
        #[test]
        fn no_interval_sees_more_than_burst_and_rate_allow(
            per_second in 1u32..1000,
            burst in 1u32..50,
            gaps in prop::collection::vec(0u64..50_000, 1..300),
        ) {
            let limit = Limit { per_second, burst };
            let (mut bucket, mut now, mut taken) = (Bucket::default(), Moment::from_secs(1), Vec::new());
            for gap in gaps {
                now = Moment(now.as_micros() + gap);
                if bucket.take(limit, now).is_ok() { taken.push(now); }
            }
            for (first, start) in taken.iter().enumerate() {
                for (last, end) in taken.iter().enumerate().skip(first) {
                    let allowed = u64::from(burst) + end.since(*start).as_micros() as u64 / limit.interval();
                    prop_assert!((last - first + 1) as u64 <= allowed);
                }
            }
        }

        #[test]
        fn who_waits_as_long_as_told_is_let_in_and_who_waits_less_is_not(per_second in 1u32..1000, burst in 1u32..50) {
            let (limit, now) = (Limit { per_second, burst }, Moment::from_secs(1));
            let mut bucket = Bucket::default();
            for _ in 0..burst { prop_assert!(bucket.take(limit, now).is_ok()); }
            let wait = bucket.take(limit, now).unwrap_err();
            prop_assert!(bucket.take(limit, now.plus(wait - Duration::from_micros(1))).is_err());
            prop_assert!(bucket.take(limit, now.plus(wait)).is_ok());
        }
    }

    #[test]
    fn names_do_not_share_a_bucket_and_are_bounded() {
        let (throttle, limit) = (Throttle::default(), Limit { per_second: 1, burst: 1 });
        for name in 0..NAMES {
            assert!(throttle.take(name, limit, Moment::from_secs(1)).is_ok());
        }
        assert!(throttle.take(0, limit, Moment::from_secs(1)).is_err());
        assert!(throttle.take(NAMES, limit, Moment::from_secs(1)).is_err(), "no room for one more");
        assert!(throttle.take(NAMES, limit, Moment::from_secs(3)).is_ok(), "the others are forgotten");
    }
}
