//! Copies of this VM's pages in other hosts' memory, nearer than a slow disk: asked first, and never relied upon.
//!
//! Owns the rule that makes a lender harmless: **each page that is there is on this host's disk too**, in the slot that the
//! index knows. A lender that is slow, silent, gone, or answers with anything but what was sealed costs the time until the
//! disk is read instead, and no page. The index says nothing of lenders; a new pager begins with none.
//!
//! Several hosts may lend to one VM, each under a [`Loan`] of its own; a page is with one of them. Faults ask over the one
//! [`Line`] of its loan, one at a time: who finds it busy reads the disk. A line that did not answer in [`SHORT`] is dropped,
//! so that no other fault waits for it; [`bringing`], for each loan a thread of its own, opens lines and brings copies, so that
//! a lender that is not to be had holds up no other.

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
    places::{Away, Copy, LOANS, LoanNumber},
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

/// What came of asking lenders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStatistics {
    /// Who lends now, and answers.
    #[serde(default)]
    pub lenders: Vec<HostId>,
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
    loans: [Loan; LOANS],
    tally: Tally,
}

/// What one host lends, or nobody.
#[derive(Debug, Default)]
struct Loan {
    wanted: Mutex<Option<Borrowing>>,
    /// The line of faults; none while there is nobody to be asked.
    line: Mutex<Option<Line>>,
    freed: Mutex<Vec<u64>>,
}

impl Loan {
    fn lender(&self) -> Option<HostId> {
        locked(&self.wanted).as_ref().map(|borrowing| borrowing.lender)
    }

    /// The lender, if it answers. A fault that asks holds the line: then somebody does.
    fn answers(&self) -> Option<HostId> {
        self.line.try_lock().map_or(true, |line| line.is_some()).then(|| self.lender()).flatten()
    }

    fn note_freed(&self, generation: u64) {
        let mut freed = locked(&self.freed);
        if freed.len() < FREED {
            freed.push(generation);
        }
    }
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
        Self { store, loans: Default::default(), tally: Tally::default() }
    }

    fn loan(&self, number: LoanNumber) -> &Loan {
        &self.loans[usize::from(number.0) % LOANS]
    }

    /// From now on copies are kept there and nowhere else. Who lends already goes on under the same number; more than there
    /// are numbers for are not used.
    pub(crate) fn set(&self, mut borrowings: Vec<Borrowing>) {
        for loan in &self.loans {
            let mut wanted = locked(&loan.wanted);
            let goes_on = |new: &Borrowing| wanted.as_ref().is_some_and(|now| now.lender == new.lender);
            let again = borrowings.iter().position(goes_on);
            *wanted = again.map(|at| borrowings.remove(at));
        }
        let mut others = borrowings.into_iter();
        for loan in &self.loans {
            let mut wanted = locked(&loan.wanted);
            if wanted.is_none() {
                *wanted = others.next();
            }
        }
    }

    pub(crate) fn statistics(&self) -> RemoteStatistics {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Tally { fetched, missed, altered, broken } = &self.tally;
        RemoteStatistics {
            lenders: self.loans.iter().filter_map(Loan::answers).collect(),
            fetched: of(fetched),
            missed: of(missed),
            altered: of(altered),
            broken: of(broken),
        }
    }

    /// Asks the lender for copies, and opens them: which of them are what they were.
    fn ask(&self, loan: &Loan, copies: &[(u64, Copy)], contents: &mut [Page]) -> Vec<bool> {
        let generations: Vec<u64> = copies.iter().map(|(_, copy)| copy.generation).collect();
        let fetched = {
            let Ok(mut line) = loan.line.try_lock() else { return vec![false; copies.len()] };
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
                self.store.open(*page, *copy, content).map_err(|_| self.note_altered(loan, *page)).is_ok()
            }
            None => false,
        };
        copies.iter().zip(contents).map(open).collect()
    }

    fn note_altered(&self, loan: &Loan, page: u64) {
        self.tally.altered.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(page, lender = ?loan.lender(), "a lender gave back another page than it was given");
    }

    /// Copies that are all of one loan: from the lender, and what does not come from there from the disk.
    fn fetch_under(
        &self,
        loan: &Loan,
        disk: &mut Disk,
        copies: &[(u64, Copy)],
        contents: &mut [Page],
    ) -> Result<(), FetchError> {
        let found = self.ask(loan, copies, contents);
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
}

impl Source for Remote {
    fn fetch(&self, disk: &mut Disk, pages: &[(u64, Away)], contents: &mut [Page]) -> Result<(), FetchError> {
        let copies = pages.iter().filter_map(|(page, away)| match away {
            Away::Remote(copy, number) => Some((*number, (*page, *copy))),
            _ => None,
        });
        let (numbers, copies): (Vec<LoanNumber>, Vec<(u64, Copy)>) = copies.unzip();
        let mut at = 0;
        for alike in numbers.chunk_by(|a, b| a == b) {
            let part = at..at + alike.len();
            self.fetch_under(self.loan(alike[0]), disk, &copies[part.clone()], &mut contents[part.clone()])?;
            at = part.end;
        }
        Ok(())
    }

    fn free(&self, copy: Away) {
        let Away::Remote(copy, number) = copy else { return };
        self.store.free(copy.at);
        self.loan(number).note_freed(copy.generation);
    }
}
