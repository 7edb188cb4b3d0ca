//! How long things took, as a histogram that is small, can be added up and written down.
//!
//! Owns the buckets: four for each doubling of nanoseconds, so that a quantile is right to a fifth.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets of a doubling.
const STEPS: u64 = 4;

/// Counts by bucket: pairs of a bucket's number, see [`bucket`], and its count, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latencies {
    pub count: u64,
    pub buckets: Vec<(u16, u64)>,
}

impl Latencies {
    pub fn add(&mut self, took: Duration) {
        self.add_to(bucket(took), 1);
    }

    fn add_to(&mut self, bucket: u16, count: u64) {
        self.count += count;
        match self.buckets.binary_search_by_key(&bucket, |(number, _)| *number) {
            Ok(at) => self.buckets[at].1 += count,
            Err(at) => self.buckets.insert(at, (bucket, count)),
        }
    }

    pub fn merge(&mut self, other: &Self) {
        other.buckets.iter().for_each(|(bucket, count)| self.add_to(*bucket, *count));
    }

    /// The time that `share` of all (0.5: the median) did not exceed, rounded up to its bucket's end.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.buckets.iter().find_map(|(bucket, count)| {
            seen += count;
            (seen >= rank).then(|| end(*bucket))
        })
    }
}

/// The number of the bucket that holds `took`.
fn bucket(took: Duration) -> u16 {
    let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(STEPS);
    let doubling = u64::from(nanoseconds.ilog2());
    let step = (nanoseconds >> (doubling - STEPS.ilog2() as u64)) - STEPS;
    (doubling * STEPS + step) as u16
}

fn end(bucket: u16) -> Duration {
    let (doubling, step) = (u64::from(bucket) / STEPS, u64::from(bucket) % STEPS);
    let width = 1_u128 << doubling;
    let nanoseconds = width + width * u128::from(step + 1) / u128::from(STEPS);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quantile_is_at_most_a_quarter_too_long_and_never_too_short(mut times in prop::collection::vec(4_u64..1 << 40, 1..100)) {
            let mut all = Latencies::default();
            times.iter().for_each(|time| all.add(Duration::from_nanos(*time)));
            times.sort_unstable();
            for share in [0.01, 0.5, 0.99, 1.0] {
                let rank = ((times.len() as f64 * share).ceil() as usize).max(1);
                let (right, told) = (times[rank - 1], all.quantile(share).unwrap().as_nanos() as u64);
                prop_assert!(right <= told && told <= right + right / 4 + 1, "{right} told as {told}");
            }
        }

        #[test]
        fn two_halves_add_up_to_the_whole(times in prop::collection::vec(any::<u64>(), 0..50), cut in 0_usize..50) {
            let sum = |times: &[u64]| {
                let mut all = Latencies::default();
                times.iter().for_each(|time| all.add(Duration::from_nanos(*time)));
                all
            };
            let (first, second) = times.split_at(cut.min(times.len()));
            let mut merged = sum(first);
            merged.merge(&sum(second));
            prop_assert_eq!(merged, sum(&times));
        }
    }
}
