//! Who waits for which change: topics are ids of resources, and each waiter hears only of its own.
//!
//! Owns the subscriptions and the sequence number of changes. What a change was is read from the store afterwards: a
//! wake-up says only that something about the topic may be different.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::FutureExt;
use tokio::sync::Notify;

/// The changes of one store. Waking costs in proportion to who is concerned, not to who waits.
#[derive(Debug)]
pub(crate) struct Changes {
    sequence: AtomicU64,
    next_subscriber: AtomicU64,
    topics: Mutex<HashMap<String, HashMap<u64, Arc<Notify>>>>,
}

impl Changes {
    pub(super) fn starting_at(sequence: u64) -> Self {
        Self { sequence: sequence.into(), next_subscriber: 0.into(), topics: Mutex::default() }
    }

    /// Rises with every committed write and every [`Changes::touch`], and never falls back, restarts included. Read it
    /// before the data that it shall stand for: then it is at most too old, and the next change is not missed.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::SeqCst)
    }

    /// Hears of changes of `topics` from now on.
    pub(crate) fn subscribe(self: &Arc<Self>, topics: impl IntoIterator<Item = String>) -> Subscription {
        let subscriber = self.next_subscriber.fetch_add(1, Ordering::Relaxed);
        let woken = Arc::new(Notify::new());
        let topics: Vec<String> = topics.into_iter().collect();
        let mut all = self.lock();
        for topic in &topics {
            all.entry(topic.clone()).or_default().insert(subscriber, woken.clone());
        }
        drop(all);
        Subscription { changes: self.clone(), subscriber, topics, woken }
    }

    /// Says that something that is not in the store has changed.
    pub(crate) fn touch(&self, topic: &str) {
        self.publish([topic]);
    }

    /// One step of the sequence, then everyone who waits for one of `topics` wakes.
    pub(super) fn publish<'t>(&self, topics: impl IntoIterator<Item = &'t str>) {
        self.sequence.fetch_add(1, Ordering::SeqCst);
        let all = self.lock();
        let waiting = topics.into_iter().filter_map(|topic| all.get(topic)).flat_map(HashMap::values);
        // A permit is kept for who is not waiting at this instant, so that no change is missed between two waits.
        waiting.for_each(|subscriber| subscriber.notify_one());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<u64, Arc<Notify>>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One waiter; it stops hearing when dropped.
#[derive(Debug)]
pub(crate) struct Subscription {
    changes: Arc<Changes>,
    subscriber: u64,
    topics: Vec<String>,
    woken: Arc<Notify>,
}

impl Subscription {
    /// Returns when a topic was touched since the subscription began or since this last returned.
    pub(crate) async fn changed(&mut self) {
        self.woken.notified().await;
    }

    /// Whether [`Subscription::changed`] would return at once.
    pub(crate) fn has_changed(&self) -> bool {
        self.woken.notified().now_or_never().is_some()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut all = self.changes.lock();
        for topic in &self.topics {
            if let Some(subscribers) = all.get_mut(topic) {
                subscribers.remove(&self.subscriber);
                if subscribers.is_empty() {
                    all.remove(topic);
                }
            }
        }
    }
}
