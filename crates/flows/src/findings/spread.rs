//! For each of many keys, how many different things it met within a sliding window.
//!
//! Owns the bound: all keys together hold at most a given number of items. What is above it costs the keys with the
//! fewest, so that who stands out stays; [`Spread::complete_since`] tells from when on nothing was given up.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
    time::Duration,
};

use lucarne_model::Moment;

use super::distinct::{Count, Distinct};

#[derive(Debug)]
pub(crate) struct Spread<K> {
    keys: HashMap<K, Distinct, BuildHasherDefault<DefaultHasher>>,
    bucket: Duration,
    /// Buckets in the window.
    window: u64,
    /// Items that all keys may hold.
    bound: usize,
    held: usize,
    now: u64,
    complete_since: Moment,
}

impl<K: Copy + Eq + Ord + Hash> Spread<K> {
    /// Counts over `window`, in `buckets` steps.
    pub(crate) fn new(window: Duration, buckets: u32, bound: usize) -> Self {
        let bucket = (window / buckets.max(1)).max(Duration::from_micros(1));
        Self {
            keys: HashMap::default(),
            bucket,
            window: buckets.into(),
            bound,
            held: 0,
            now: 0,
            complete_since: Moment::EPOCH,
        }
    }

    /// `key` met `item` at `at`. Returns how much it holds now, which is how many it met while the count is exact.
    pub(crate) fn see(&mut self, key: K, item: impl Hash, at: Moment) -> usize {
        // A record that comes late counts as one of now: a clock that was set back must not hide anybody.
        self.advance(at);
        let mut hasher = DefaultHasher::new();
        item.hash(&mut hasher);
        let distinct = self.keys.entry(key).or_default();
        let before = distinct.weight();
        distinct.see(hasher.finish(), self.now);
        let weight = distinct.weight();
        self.held = self.held + weight - before;
        if self.held > self.bound {
            self.make_room(at);
        }
        weight
    }

    /// It is `at` now, whether or not anything is seen: what is older than the window is out.
    pub(crate) fn advance(&mut self, at: Moment) {
        self.now = self.now.max(self.bucket_of(at));
    }

    /// The keys that met at least `least` things within the window, in order.
    pub(crate) fn at_least(&self, least: u64) -> Vec<(K, Count)> {
        self.counted(least, self.since())
    }

    /// The keys that met at least `least` things from `from` on, which lies within the window. Returns them in order, and
    /// the beginning of the bucket in which `from` lies, from which on they were counted.
    pub(crate) fn at_least_from(&self, least: u64, from: Moment) -> (Moment, Vec<(K, Count)>) {
        let since = self.bucket_of(from).max(self.since());
        let bucket = self.bucket.as_micros() as u64;
        (Moment(since.saturating_mul(bucket)), self.counted(least, since))
    }

    fn bucket_of(&self, at: Moment) -> u64 {
        at.as_micros() / (self.bucket.as_micros() as u64)
    }

    fn counted(&self, least: u64, since: u64) -> Vec<(K, Count)> {
        let mut found: Vec<(K, Count)> = self
            .keys
            .iter()
            .filter(|(_, distinct)| distinct.weight() as u64 >= least || !matches!(distinct, Distinct::Exact(_)))
            .map(|(key, distinct)| (*key, distinct.count(since)))
            .filter(|(_, count)| count.items >= least)
            .collect();
        found.sort_unstable_by_key(|(key, _)| *key);
        found
    }

    /// From when on no key was given up for space.
    pub(crate) const fn complete_since(&self) -> Moment {
        self.complete_since
    }

    fn since(&self) -> u64 {
        (self.now + 1).saturating_sub(self.window)
    }

    /// First what is over, then the smaller half of the keys.
    fn make_room(&mut self, at: Moment) {
        let since = self.since();
        self.keys.retain(|_, distinct| !distinct.forget_before(since));
        self.held = self.keys.values().map(Distinct::weight).sum();
        if self.held <= self.bound / 2 {
            return;
        }
        let mut weights: Vec<usize> = self.keys.values().map(Distinct::weight).collect();
        let middle = weights.len() / 2;
        let (_, median, _) = weights.select_nth_unstable(middle);
        let median = *median;
        self.keys.retain(|_, distinct| distinct.weight() > median);
        self.held = self.keys.values().map(Distinct::weight).sum();
        self.complete_since = at;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    #[test]
    fn what_was_seen_is_out_when_its_time_is_over_even_if_nothing_else_is_seen() {
        let mut spread = Spread::new(WINDOW, 5, 1 << 20);
        spread.see(1u8, 1u8, Moment::from_secs(0));
        spread.advance(Moment::from_secs(299));
        assert_eq!(spread.at_least(1).len(), 1);
        spread.advance(Moment::from_secs(300));
        assert_eq!(spread.at_least(1), []);
    }

    #[test]
    fn a_shorter_window_begins_with_its_bucket_and_counts_what_came_since() {
        let mut spread = Spread::new(WINDOW, 5, 1 << 20);
        for minute in 0..5u64 {
            spread.see(1u8, minute, Moment::from_secs(60 * minute));
        }
        let (from, found) = spread.at_least_from(1, Moment::from_secs(150));
        assert_eq!((from, found[0].1.items), (Moment::from_secs(120), 3));
        let (from, _) = spread.at_least_from(1, Moment::EPOCH);
        assert_eq!(from, Moment::EPOCH, "no further back than the window");
    }

    proptest! {
        /// Buckets of a minute: what is older than the window is out, what is younger than it less a bucket is in.
        #[test]
        fn it_counts_what_sets_count(mut seen in prop::collection::vec((0u8..4, 0u8..30, 0u64..1200), 1..300)) {
            seen.sort_by_key(|(_, _, at)| *at);
            let mut spread = Spread::new(WINDOW, 5, 1 << 20);
            let mut last = 0;
            for (key, item, at) in &seen {
                spread.see(*key, *item, Moment::from_secs(*at));
                last = *at / 60;
            }
            let mut sets: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
            let recent = seen.iter().filter(|(_, _, at)| at / 60 + 5 > last);
            for (key, item, _) in recent {
                sets.entry(*key).or_default().insert(*item);
            }
            let expected: Vec<(u8, u64)> =
                sets.into_iter().map(|(key, set)| (key, set.len() as u64)).filter(|(_, count)| *count >= 3).collect();
            let found: Vec<(u8, u64)> = spread.at_least(3).into_iter().map(|(key, count)| (key, count.items)).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(spread.complete_since(), Moment::EPOCH);
        }
    }

    #[test]
    fn a_flood_of_small_keys_does_not_push_out_the_large_one_and_is_told() {
        let mut spread = Spread::new(WINDOW, 5, 10_000);
        for item in 0..2000u32 {
            spread.see(0u32, item, Moment::from_secs(1));
        }
        for key in 1..100_000u32 {
            spread.see(key, 1u8, Moment::from_secs(2));
        }
        assert!(spread.held <= 10_000);
        let (key, count) = spread.at_least(1000)[0];
        assert_eq!((key, count), (0, Count { items: 2000, exact: true }));
        assert!(spread.complete_since() > Moment::EPOCH);
    }
}
