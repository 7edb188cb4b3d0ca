//! Watchers: whoever wants records as they arrive.
//!
//! Owns a bounded queue for each. A watcher that reads too slowly misses records and is told how many; the keeper of
//! records never waits for it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lucarne_model::{FlowEvent, FlowRecord, FlowWatch, TenantFlowRecord};
use tokio::sync::mpsc;

use crate::{Kept, chunk::Chunk};

/// Lines that wait for one watcher, of about 700 octets each.
const QUEUE: usize = 1024;
/// Watchers at once: with all their queues full they hold 90 MB.
const MOST: usize = 128;

/// There are as many watchers as are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MOST} watchers are served already")]
pub(crate) struct TooMany;

#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<Vec<Watcher>>);

#[derive(Debug)]
struct Watcher {
    watch: FlowWatch,
    lines: mpsc::Sender<Bytes>,
    missed: u64,
}

impl Watchers {
    /// Lines of JSON, each a [`FlowEvent`], from now on. Ends when the receiver is dropped.
    pub(crate) fn add(&self, watch: FlowWatch) -> Result<mpsc::Receiver<Bytes>, TooMany> {
        let mut watchers = self.lock();
        watchers.retain(|watcher| !watcher.lines.is_closed());
        if watchers.len() >= MOST {
            return Err(TooMany);
        }
        let (lines, receiver) = mpsc::channel(QUEUE);
        watchers.push(Watcher { watch, lines, missed: 0 });
        Ok(receiver)
    }

    pub(crate) fn publish(&self, chunk: &Chunk) {
        let mut watchers = self.lock();
        watchers.retain(|watcher| !watcher.lines.is_closed());
        for watcher in watchers.iter_mut() {
            for Kept { record, .. } in chunk.records_of(Some(watcher.watch.account)) {
                if watcher.watch.matches(&record) && !(watcher.tell_missed() && watcher.tell(&event(&record))) {
                    watcher.missed += 1;
                }
            }
        }
    }

    /// Tells of what was missed where there is room again, so that a quiet time does not hide it.
    pub(crate) fn tell_missed(&self) {
        for watcher in self.lock().iter_mut() {
            watcher.tell_missed();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watcher>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a watcher is told of a record: what a tenant may see, whoever watches.
fn event(record: &FlowRecord) -> FlowEvent {
    FlowEvent::Record(Box::new(TenantFlowRecord::from(record)))
}

impl Watcher {
    /// Whether nothing is left to tell.
    fn tell_missed(&mut self) -> bool {
        if self.missed > 0 && self.tell(&FlowEvent::Missed(self.missed)) {
            self.missed = 0;
        }
        self.missed == 0
    }

    fn tell(&self, event: &FlowEvent) -> bool {
        let Ok(permit) = self.lines.try_reserve() else { return false };
        let Ok(mut line) = serde_json::to_vec(event) else { return false };
        line.push(b'\n');
        permit.send(Bytes::from(line));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_records::numbered;

    fn events(lines: &mut mpsc::Receiver<Bytes>) -> Vec<FlowEvent> {
        std::iter::from_fn(|| lines.try_recv().ok()).map(|line| serde_json::from_slice(&line).unwrap()).collect()
    }

    #[test]
    fn a_watcher_gets_its_accounts_records_and_no_others() {
        let watchers = Watchers::default();
        let records = numbered(0..10);
        let account = records[1].account;
        let mut lines = watchers.add(FlowWatch { account, filter: Default::default() }).unwrap();
        watchers.publish(&Chunk::of(0, &records));
        let expected: Vec<_> = records.iter().filter(|record| record.account == account).map(event).collect();
        assert_eq!(events(&mut lines), expected);
    }

    #[test]
    fn a_slow_watcher_is_told_how_many_it_missed_and_where() {
        let watchers = Watchers::default();
        let records = numbered(0..2 * QUEUE as u64 + 100);
        let account = records[0].account;
        let mut lines = watchers.add(FlowWatch { account, filter: Default::default() }).unwrap();
        watchers.publish(&Chunk::of(0, &records));
        watchers.tell_missed(); // no room yet
        assert_eq!(events(&mut lines).len(), QUEUE);
        watchers.tell_missed();
        watchers.publish(&Chunk::of(0, &records[..1]));
        let last = event(&records[0]);
        assert_eq!(events(&mut lines), [FlowEvent::Missed(50), last]);
    }

    #[test]
    fn a_watcher_that_left_makes_room_for_another() {
        let watchers = Watchers::default();
        let watch = FlowWatch { account: lucarne_model::AccountId::OPERATOR, filter: Default::default() };
        let all: Vec<_> = (0..MOST).map(|_| watchers.add(watch.clone()).unwrap()).collect();
        assert_eq!(watchers.add(watch.clone()).err(), Some(TooMany));
        drop(all);
        assert!(watchers.add(watch).is_ok());
    }
}
