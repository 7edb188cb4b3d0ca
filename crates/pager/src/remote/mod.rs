//! Copies of this VM's pages in another host's memory, nearer than a slow disk: asked first, and never relied upon.
//!
//! Owns the rule that makes a lender harmless: **each page that is there is on this host's disk too**, in the slot that the
//! index knows. A lender that is slow, silent, gone, or answers with anything but what was sealed costs the time until the
//! disk is read instead, and no page. The index says nothing of lenders; a new pager begins with none.
//!
//! Faults ask over one [`Line`], one at a time: who finds it busy reads the disk. A line that did not answer in [`SHORT`] is
//! dropped, so that no other fault waits for it; [`bringing`], a thread of its own, opens lines and brings copies.

pub(crate) mod bringing;
mod line;
mod patience;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lucarne_model::{HostId, Pages};
use serde::{Deserialize, Serialize};

use self::line::Line;
use crate::{
    disk::Disk,
    page::Page,
    pager::locked,
    peer::Identity,
    places::{Away, Copy},
    source::{FetchError, Source},
    store::Store,
};

/// How long a fault waits for a lender before it reads the disk: many times what a network takes, and what a guest bears.
const SHORT: Duration = Duration::from_millis(20);
/// Copies to be freed that wait to be told; more are forgotten, and go when the lender needs the room.
const FREED: usize = 1 << 16;

/// Where a pager may keep copies, as the host agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Borrowing {
    pub lender: HostId,
    pub address: SocketAddr,
    /// Of the lease.
    pub epoch: u64,
    /// How much this VM may have there.
    pub room: Pages,
    pub identity: Identity,
}

impl Borrowing {
    /// Whether copies that were brought under `other` are still there.
    fn goes_on(&self, other: &Self) -> bool {
        let of = |one: &Self| (one.lender, one.address, one.epoch, one.identity.clone());
        of(self) == of(other)
    }
}

/// What came of asking a lender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStatistics {
    /// Who lends now; none when nobody does, or does not answer.
    pub lender: Option<HostId>,
    /// Pages that came from a lender.
    pub fetched: u64,
    /// Pages that were to and came from the disk, because the lender was busy, silent, or did not have them any more.
    pub missed: u64,
    /// Of those, pages that came otherwise than they were sealed.
    pub altered: u64,
    /// Lines that were dropped because they broke or did not answer in time.
    pub broken: u64,
}

#[derive(Debug)]
pub(crate) struct Remote {
    store: Arc<Store>,
    wanted: Mutex<Option<Borrowing>>,
    /// The line of faults; none while there is nobody to be asked.
    line: Mutex<Option<Line>>,
    freed: Mutex<Vec<u64>>,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    fetched: AtomicU64,
    missed: AtomicU64,
    altered: AtomicU64,
    broken: AtomicU64,
}

impl Remote {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        let (wanted, line, freed, tally) = (Mutex::default(), Mutex::default(), Mutex::default(), Tally::default());
        Self { store, wanted, line, freed, tally }
    }

    /// From now on copies are kept there, or nowhere.
    pub(crate) fn set(&self, borrowing: Option<Borrowing>) {
        *locked(&self.wanted) = borrowing;
    }

    pub(crate) fn statistics(&self) -> RemoteStatistics {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Tally { fetched, missed, altered, broken } = &self.tally;
        RemoteStatistics {
            // A fault that asks holds the line: then somebody answers.
            lender: self.line.try_lock().map_or(true, |line| line.is_some()).then(|| self.lender()).flatten(),
            fetched: of(fetched),
            missed: of(missed),
            altered: of(altered),
            broken: of(broken),
        }
    }

    fn lender(&self) -> Option<HostId> {
        locked(&self.wanted).as_ref().map(|borrowing| borrowing.lender)
    }

    /// Asks for copies, and opens them: which of them are what they were.
    fn ask(&self, copies: &[(u64, Copy)], contents: &mut [Page]) -> Vec<bool> {
        let generations: Vec<u64> = copies.iter().map(|(_, copy)| copy.generation).collect();
        let fetched = {
            let Ok(mut line) = self.line.try_lock() else { return vec![false; copies.len()] };
            let asked = line.as_mut().map(|line| line.fetch(generations));
            match asked {
                Some(Ok(fetched)) => fetched,
                Some(Err(error)) => {
                    *line = None;
                    self.tally.broken.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%error, "a lender did not answer; the disk does");
                    Vec::new()
                }
                None => Vec::new(),
            }
        };
        let mut fetched = fetched.into_iter();
        let open = |((page, copy), content): (&(u64, Copy), &mut Page)| match fetched.next().flatten() {
            Some(sealed) => {
                *content = sealed;
                self.store.open(*page, *copy, content).map_err(|_| self.note_altered(*page)).is_ok()
            }
            None => false,
        };
        copies.iter().zip(contents).map(open).collect()
    }

    fn note_altered(&self, page: u64) {
        self.tally.altered.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(page, lender = ?self.lender(), "a lender gave back another page than it was given");
    }
}

impl Source for Remote {
    fn fetch(&self, disk: &mut Disk, pages: &[(u64, Away)], contents: &mut [Page]) -> Result<(), FetchError> {
        let copies = pages.iter().filter_map(|(page, away)| match away {
            Away::Remote(copy) => Some((*page, *copy)),
            _ => None,
        });
        let copies: Vec<(u64, Copy)> = copies.collect();
        let found = self.ask(&copies, contents);
        let count = found.iter().filter(|found| **found).count();
        self.tally.fetched.fetch_add(count as u64, Ordering::Relaxed);
        self.tally.missed.fetch_add((found.len() - count) as u64, Ordering::Relaxed);
        let mut at = 0;
        for alike in found.chunk_by(|a, b| a == b) {
            let part = at..at + alike.len();
            if !alike[0] {
                self.store.fetch(disk, &copies[part.clone()], &mut contents[part.clone()])?;
            }
            at = part.end;
        }
        Ok(())
    }

    fn free(&self, copy: Away) {
        let Away::Remote(copy) = copy else { return };
        self.store.free(copy.at);
        let mut freed = locked(&self.freed);
        if freed.len() < FREED {
            freed.push(copy.generation);
        }
    }
}
