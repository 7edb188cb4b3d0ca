//! How many different things were seen within a sliding window.
//!
//! Owns one count: exact up to [`Distinct::EXACT`], above it a sketch for each bucket of time (HyperLogLog with 2^12
//! registers: a standard error of 1.6 %). Time comes as the number of a bucket.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, DefaultHasher},
};

use cardinality_estimator::CardinalityEstimator;

/// Items are hashes already, drawn by the caller without a seed so that two processes agree.
type Sketch = CardinalityEstimator<u64>;

/// A count of different items, and whether it is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Count {
    pub(crate) items: u64,
    pub(crate) exact: bool,
}

/// Different items of one key.
#[derive(Debug)]
pub(crate) enum Distinct {
    /// Each item with the bucket in which it was seen last.
    Exact(HashMap<u64, u64, BuildHasherDefault<DefaultHasher>>),
    /// The buckets with anything in them, in order of time.
    Sketched(VecDeque<(u64, Sketch)>),
}

impl Default for Distinct {
    fn default() -> Self {
        Self::Exact(HashMap::default())
    }
}

impl Distinct {
    /// Items that are counted one by one.
    pub(crate) const EXACT: usize = 4096;

    /// An item was seen in `bucket`, which is not older than those before.
    pub(crate) fn see(&mut self, item: u64, bucket: u64) {
        match self {
            Self::Exact(items) => {
                items.insert(item, bucket);
                if items.len() > Self::EXACT {
                    *self = Self::sketch(items.drain());
                }
            }
            Self::Sketched(buckets) => insert(buckets, item, bucket),
        }
    }

    fn sketch(items: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut items: Vec<(u64, u64)> = items.collect();
        items.sort_unstable_by_key(|(_, bucket)| *bucket);
        let mut buckets = VecDeque::new();
        for (item, bucket) in items {
            insert(&mut buckets, item, bucket);
        }
        Self::Sketched(buckets)
    }

    /// How many were seen in `since` or later.
    pub(crate) fn count(&self, since: u64) -> Count {
        match self {
            Self::Exact(items) => {
                let recent = items.values().filter(|bucket| **bucket >= since).count();
                Count { items: recent as u64, exact: true }
            }
            Self::Sketched(buckets) => {
                let mut all = Sketch::new();
                buckets.iter().filter(|(bucket, _)| *bucket >= since).for_each(|(_, sketch)| all.merge(sketch));
                Count { items: all.estimate() as u64, exact: false }
            }
        }
    }

    /// Forgets what was seen last before `since`; true when nothing is left.
    pub(crate) fn forget_before(&mut self, since: u64) -> bool {
        match self {
            Self::Exact(items) => {
                items.retain(|_, bucket| *bucket >= since);
                items.is_empty()
            }
            Self::Sketched(buckets) => {
                buckets.retain(|(bucket, _)| *bucket >= since);
                buckets.is_empty()
            }
        }
    }

    /// How much it holds, in the memory of one item.
    pub(crate) fn weight(&self) -> usize {
        const SKETCH: usize = 256;
        match self {
            Self::Exact(items) => items.len(),
            Self::Sketched(buckets) => buckets.len() * SKETCH,
        }
    }
}

fn insert(buckets: &mut VecDeque<(u64, Sketch)>, item: u64, bucket: u64) {
    if buckets.back().is_none_or(|(last, _)| *last < bucket) {
        buckets.push_back((bucket, Sketch::new()));
    }
    if let Some((_, sketch)) = buckets.back_mut() {
        sketch.insert(&item);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_small_count_is_that_of_a_map(mut seen in prop::collection::vec((0u64..50, 0u64..10), 0..200), since in 0u64..10) {
            seen.sort_by_key(|(_, bucket)| *bucket);
            let (mut distinct, mut map) = (Distinct::default(), BTreeMap::new());
            for (item, bucket) in seen {
                distinct.see(item, bucket);
                map.insert(item, bucket);
            }
            let expected = map.values().filter(|bucket| **bucket >= since).count() as u64;
            prop_assert_eq!(distinct.count(since), Count { items: expected, exact: true });
            prop_assert_eq!(distinct.forget_before(since), expected == 0);
            prop_assert_eq!(distinct.count(0).items, expected);
        }
    }

    #[test]
    fn a_large_count_is_within_four_standard_errors_and_says_that_it_is_none() {
        for size in [5_000u64, 50_000, 500_000] {
            let mut distinct = Distinct::default();
            for item in 0..size {
                distinct.see(item.wrapping_mul(0x9e37_79b9_7f4a_7c15), item * 5 / size);
            }
            let count = distinct.count(0);
            assert!(!count.exact);
            let error = (count.items as f64 - size as f64).abs() / size as f64;
            assert!(error < 0.064, "{} for {size}", count.items);
            let recent = distinct.count(3).items as f64 / (size as f64 * 0.4);
            assert!((0.93..1.07).contains(&recent), "{recent} of what the last two buckets saw");
            assert!(distinct.weight() <= 5 * 256);
        }
    }
}
