//! Where instances' pages were during the last hour.
//!
//! Owns the points, which are bounded and kept in memory only: a controller that starts anew begins anew, and says so by what
//! it shows. What an account pays for is not taken from here but from the ledger of usage.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lucarne_api::bodies::memory::MemoryPoint;
use lucarne_model::{InstanceId, Moment, memory_report::InstanceMemory};

/// Reports that come sooner after one that was kept are not.
const BETWEEN: Duration = Duration::from_secs(5);
/// An hour of points, which for one instance is some 90 KiB.
const POINTS: usize = 720;
/// After this long without a point an instance is forgotten.
const FORGET: Duration = Duration::from_secs(3600);

/// The past of all instances that hosts have told of.
#[derive(Debug, Default)]
pub(crate) struct MemoryHistories {
    points: Mutex<HashMap<InstanceId, VecDeque<MemoryPoint>>>,
}

impl MemoryHistories {
    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, VecDeque<MemoryPoint>>> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what a host told. Another state, mode or host is kept however soon it comes.
    pub(crate) fn note(&self, told: &[InstanceMemory]) {
        let mut all = self.lock();
        for memory in told {
            let points = all.entry(memory.instance).or_default();
            let point = MemoryPoint::from(memory);
            let is_soon = |last: &MemoryPoint| {
                point.at.since(last.at) < BETWEEN && (last.state, last.mode) == (point.state, point.mode)
            };
            if points.back().is_some_and(is_soon) {
                continue;
            }
            if points.len() == POINTS {
                points.pop_front();
            }
            points.push_back(point);
        }
    }

    /// Its points that are not older than `since`, oldest first.
    pub(crate) fn since(&self, instance: InstanceId, since: Moment) -> Vec<MemoryPoint> {
        let all = self.lock();
        let points = all.get(&instance).into_iter().flatten();
        points.filter(|point| point.at >= since).copied().collect()
    }

    /// Forgets instances of which nothing was heard for an hour.
    pub(crate) fn forget(&self, now: Moment) {
        self.lock().retain(|_, points| points.back().is_some_and(|last| now.since(last.at) < FORGET));
    }

    /// The instances that have a past.
    #[cfg(test)]
    fn known(&self) -> Vec<InstanceId> {
        self.lock().keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use lucarne_model::{Pages, memory::PagesByPlace, memory_report::MemoryState};

    use super::*;

    const INSTANCE: InstanceId = InstanceId::from_bits(1);

    fn at(secs: u64, state: MemoryState) -> InstanceMemory {
        InstanceMemory {
            instance: INSTANCE,
            at: Moment::from_secs(secs),
            mode: Default::default(),
            state,
            pages: PagesByPlace { resident: Pages(secs), ..PagesByPlace::default() },
            target: None,
            bucket: 0,
            faults: Vec::new(),
            evictions: 0,
            refaults: 0,
            pager_restarts: 0,
            trouble: None,
        }
    }

    fn seconds(histories: &MemoryHistories, since: u64) -> Vec<u64> {
        histories.since(INSTANCE, Moment::from_secs(since)).iter().map(|point| point.at.as_secs()).collect()
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let histories = MemoryHistories::default();
        (0..4000).for_each(|second| histories.note(&[at(second, MemoryState::Active)]));
        let kept = seconds(&histories, 0);
        assert_eq!((kept.len(), kept.first(), kept.last()), (POINTS, Some(&400), Some(&3995)));
        assert_eq!(seconds(&histories, 3990), [3990, 3995]);
    }

    #[test]
    fn a_change_of_state_is_kept_however_soon_it_comes() {
        let histories = MemoryHistories::default();
        let states = [MemoryState::Active, MemoryState::Active, MemoryState::Paused, MemoryState::Hibernated];
        states.into_iter().zip(0..).for_each(|(state, second)| histories.note(&[at(second, state)]));
        assert_eq!(seconds(&histories, 0), [0, 2, 3]);
    }

    #[test]
    fn who_is_not_heard_of_any_more_is_forgotten() {
        let histories = MemoryHistories::default();
        histories.note(&[at(10, MemoryState::Active)]);
        histories.forget(Moment::from_secs(100));
        assert_eq!(histories.known(), [INSTANCE]);
        histories.forget(Moment::from_secs(3611));
        assert!(histories.known().is_empty());
    }
}
