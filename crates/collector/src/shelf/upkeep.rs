//! Brings parts to the store, takes away from it what was merged, and keeps the disk within its bound.
//!
//! Owns the order: first what is new is brought, then what it covers is removed there, then what is in both places is removed
//! here, the longest unused first. Any step can be the last of this process, and each can be done again.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{AGAIN, Cached, Shelf, StoreError};
use crate::{
    catalog::Catalog,
    durable,
    health::Gauges,
    part::{Half, Part, Place},
};

const WORK: &str = "bringing parts to the store";

/// Between rounds where all is well.
const ROUND: Duration = Duration::from_secs(1);

/// Why a round was not finished.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("a part cannot be read or removed on the disk: {0}")]
    Disk(#[from] io::Error),
}

#[derive(Debug)]
pub(crate) struct Upkeep {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) health: Arc<Gauges>,
    pub(crate) state_dir: PathBuf,
}

impl Upkeep {
    /// Works until `shutdown`.
    pub(crate) fn run(&self, shutdown: &CancellationToken) {
        let mut again = AGAIN[0];
        while !shutdown.is_cancelled() {
            let wait = match self.round(shutdown) {
                Ok(()) => {
                    self.health.storing.clear(WORK);
                    again = AGAIN[0];
                    ROUND
                }
                Err(error) => {
                    self.health.storing.set(WORK, error.to_string());
                    again = (again * 2).min(AGAIN[1]);
                    again
                }
            };
            let end = Instant::now() + wait;
            while Instant::now() < end && !shutdown.is_cancelled() {
                thread::sleep(Duration::from_millis(50).min(wait));
            }
        }
    }

    fn round(&self, shutdown: &CancellationToken) -> Result<(), RoundError> {
        // What does not count now is covered by parts that are among those listed below.
        let unwanted = self.shelf.lock().unwanted.clone();
        let parts = self.unstored();
        let mut waiting: u64 = parts.iter().map(|part| self.octets(&part.place.name())).sum();
        self.note(parts.len(), waiting);
        for (brought, part) in parts.iter().enumerate() {
            if shutdown.is_cancelled() {
                return Ok(());
            }
            waiting -= self.bring(part)?.min(waiting);
            self.note(parts.len() - brought - 1, waiting);
        }
        drop(parts);
        for name in unwanted {
            self.remove(&name)?;
        }
        Ok(self.make_room()?)
    }

    fn note(&self, parts: usize, octets: u64) {
        self.health.unstored.store(parts as u64, Relaxed);
        self.shelf.waiting.store(octets, Relaxed);
    }

    /// Parts that are not in the store yet, oldest first.
    fn unstored(&self) -> Vec<Arc<Part>> {
        let mut parts = self.catalog.everything(None).parts;
        let state = self.shelf.lock();
        parts.retain(|part| part.is_readable() && !state.stored.contains_key(&part.place.name()));
        parts
    }

    fn path(&self, half: Half, name: &str) -> PathBuf {
        self.state_dir.join(half.folder()).join(name)
    }

    /// Of a part's files on the disk.
    fn octets(&self, name: &str) -> u64 {
        let sizes = Half::BOTH.map(|half| self.path(half, name).metadata().map_or(0, |file| file.len()));
        sizes.iter().sum()
    }

    /// Gives its octets.
    fn bring(&self, part: &Part) -> Result<u64, RoundError> {
        let name = part.place.name();
        let mut octets = 0;
        for half in Half::BOTH {
            let file = match fs::read(self.path(half, &name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::error!(name, "a part is gone from the disk and was not in the store yet");
                    part.set_unreadable();
                    return Ok(0);
                }
                file => file?,
            };
            octets += file.len() as u64;
            self.shelf.put(half, &name, file.into())?;
        }
        let mut state = self.shelf.lock();
        // What was there under its name is overwritten.
        state.unwanted.remove(&name);
        state.stored.insert(name.clone(), part.size);
        state.cached.insert(name, Cached { octets, used: Instant::now() });
        Ok(octets)
    }

    /// Removes what does not count from the store, the account's file first.
    fn remove(&self, name: &str) -> Result<(), RoundError> {
        let counts = || {
            let place = Place::parse(name)?;
            self.catalog.part(place.account, name)
        };
        if self.shelf.lock().unwanted.contains(name) && counts().is_none() {
            for half in Half::BOTH.into_iter().rev() {
                self.shelf.delete(half, name)?;
            }
        }
        self.shelf.lock().unwanted.remove(name);
        Ok(())
    }

    /// Removes from the disk what is in the store too, until the rest is within the bound.
    fn make_room(&self) -> io::Result<()> {
        let mut cached: Vec<(String, Cached)> =
            self.shelf.lock().cached.iter().map(|(name, cached)| (name.clone(), *cached)).collect();
        cached.sort_unstable_by_key(|(_, cached)| cached.used);
        let mut here: u64 = cached.iter().map(|(_, cached)| cached.octets).sum();
        for (name, Cached { octets, .. }) in cached {
            if here <= self.shelf.cache {
                break;
            }
            for half in Half::BOTH.into_iter().rev() {
                durable::remove(&self.path(half, &name))?;
            }
            self.shelf.lock().cached.remove(&name);
            here -= octets;
        }
        Ok(())
    }
}
