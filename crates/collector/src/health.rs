//! What the collector says of itself: what it has taken, and what hinders it.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};

/// The answer to `GET /health`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Why records are not taken at present; none when all is well.
    pub not_taking: Option<String>,
    /// Why the log is not sealed at present.
    pub not_sealing: Option<String>,
    /// Why parts are not brought to their store at present.
    #[serde(default)]
    pub not_storing: Option<String>,
    /// Parts that are on the disk and not in the store yet; none without a store.
    #[serde(default)]
    pub unstored: u64,
    /// Records made durable since the start.
    pub taken: u64,
    /// Records that came again and were left out, since the start.
    pub repeated: u64,
    /// Records without our identity that were skipped, since the start.
    pub foreign: u64,
    /// Records of the future that were kept as of their arrival, since the start: some host's clock is wrong.
    pub misdated: u64,
    /// Connections of hosts.
    pub exporters: u64,
    /// Records that are in the log and not yet in a part.
    pub unsealed: u64,
}

/// The figures behind [`Health`], each written by whoever knows it.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) taking: Obstacle,
    pub(crate) sealing: Obstacle,
    pub(crate) storing: Obstacle,
    pub(crate) unstored: AtomicU64,
    pub(crate) taken: AtomicU64,
    pub(crate) repeated: AtomicU64,
    pub(crate) foreign: AtomicU64,
    pub(crate) misdated: AtomicU64,
    pub(crate) exporters: AtomicU64,
}

impl Gauges {
    pub(crate) fn health(&self, unsealed: usize) -> Health {
        Health {
            not_taking: self.taking.get(),
            not_sealing: self.sealing.get(),
            not_storing: self.storing.get(),
            unstored: self.unstored.load(Relaxed),
            taken: self.taken.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
            foreign: self.foreign.load(Relaxed),
            misdated: self.misdated.load(Relaxed),
            exporters: self.exporters.load(Relaxed),
            unsealed: unsealed as u64,
        }
    }
}

/// Why some work stands still, told to the log when it begins, changes and ends, and not at every try between.
#[derive(Debug, Default)]
pub(crate) struct Obstacle(Mutex<Option<String>>);

impl Obstacle {
    pub(crate) fn set(&self, work: &str, reason: String) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.as_deref() != Some(&reason) {
            tracing::error!("{work} stopped, will try again: {reason}");
            *now = Some(reason);
        }
    }

    pub(crate) fn clear(&self, work: &str) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!("{work} goes on");
        }
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
