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
    topics: Mutex<HashMap<String, Topic>>,
}

/// A topic that somebody waits for.
#[derive(Debug)]
struct Topic {
    waiting: HashMap<u64, Arc<Notify>>,
    /// The sequence number of its last change, or that of when it was first waited for.
    changed: u64,
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
        let changed = self.sequence();
        for topic in &topics {
            let topic = all.entry(topic.clone()).or_insert_with(|| Topic { waiting: HashMap::new(), changed });
            topic.waiting.insert(subscriber, woken.clone());
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
        let mut all = self.lock();
        let sequence = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        for name in topics {
            let Some(topic) = all.get_mut(name) else { continue };
            topic.changed = sequence;
            // A permit is kept for who is not waiting at this instant, so that no change is missed between two waits.
            topic.waiting.values().for_each(|subscriber| subscriber.notify_one());
        }
    }

    /// Whether what was read of `topic` in a transaction as of `sequence` still holds. Known only of topics that somebody
    /// waits for; of others it is denied.
    pub(crate) fn is_unchanged_since(&self, topic: &str, sequence: u64) -> bool {
        self.lock().get(topic).is_some_and(|topic| topic.changed <= sequence)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Topic>> {
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
            if let Some(Topic { waiting, .. }) = all.get_mut(topic) {
                waiting.remove(&self.subscriber);
                if waiting.is_empty() {
                    all.remove(topic);
                }
            }
        }
    }
}
