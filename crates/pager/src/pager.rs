//! What the threads of a pager share, and the answer to one fault.
//!
//! Owns the locks: `book` is held for decisions and never over a call that can wait for a disk; the order is book, then
//! what [`Sources`] locks. [`crate::eviction`] moves pages out, [`crate::upkeep`] looks after what they leave behind.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lucarne_memory::{policy::Arrival, residency::Residency, run::Run};
use lucarne_model::{
    InstanceId,
    memory::{EvictionPolicy, Pages, Place},
};

use crate::{
    capture::{record::Records, taking::Captures},
    control::{RegionHeat, Trouble},
    disk::Disk,
    exit::{Ending, Exit},
    guest::Guest,
    latency::Latencies,
    page::{self, Page},
    places::{Answer, Away, Places, Reach},
    priority,
    shim::Shim,
    source::{FetchError, Sources},
    step::{Observer, Step},
    uffd::{Fault, UffdError},
};

/// Pages that come back with one fault at most: 64 KiB.
pub(crate) const REACH: Reach = Reach { fetch: 16, zero: 16 };
/// How long a thread waits for faults before it looks whether the pager is ending.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where pages are, and which leave next.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) places: Places,
    pub(crate) residency: Residency,
    /// Its memory as of instants, while somebody has yet to read it.
    pub(crate) captures: Captures,
}

/// What the host agent wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steering {
    pub(crate) target: Pages,
    pub(crate) pages_per_second: Option<u64>,
    pub(crate) pinned: bool,
    pub(crate) policy: EvictionPolicy,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) faults: BTreeMap<Place, Latencies>,
    pub(crate) restored_beside: Pages,
    pub(crate) evicted: Pages,
    pub(crate) unwritten: Pages,
    pub(crate) aborted: Pages,
    pub(crate) discarded: Pages,
    pub(crate) refaults: u64,
    /// How long the guest has waited for them, as far as it is known here.
    pub(crate) lost: Duration,
    pub(crate) tripped: u64,
    pub(crate) index: u64,
    pub(crate) heat: Vec<RegionHeat>,
    pub(crate) trouble: Option<Trouble>,
}

#[derive(Debug)]
pub(crate) struct Pager {
    pub(crate) instance: InstanceId,
    pub(crate) guest: Guest,
    pub(crate) sources: Sources,
    pub(crate) book: Mutex<Book>,
    /// What a next pager finds of the captures.
    pub(crate) records: Records,
    pub(crate) steering: Mutex<Steering>,
    pub(crate) tally: Mutex<Tally>,
    pub(crate) shim: Mutex<Shim>,
    pub(crate) ending: Ending,
    pub(crate) observer: Observer,
    pub(crate) last_fault: AtomicU64,
    /// The machine's process.
    pub(crate) machine: Option<i32>,
    /// Whether the tripwire is set.
    pub(crate) minor: bool,
    /// Whether the machine can be told to discard nothing.
    pub(crate) holds_discards: bool,
    pub(crate) start_took: Duration,
}

/// Why a fault was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Uffd(#[from] UffdError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("a page could not be repaired: {0}")]
    Repair(std::io::Error),
}

impl Pager {
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        locked(&self.book)
    }
    pub(crate) fn steering(&self) -> MutexGuard<'_, Steering> {
        locked(&self.steering)
    }
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        locked(&self.tally)
    }

    /// One of the threads that answer faults, until the pager ends.
    pub(crate) fn serve(&self) {
        priority::prefer_this_thread();
        // The room grows to what was needed: most faults are answered by the first thread.
        let (mut disk, mut room) = (Disk::new(), Vec::new());
        let listener = match self.guest.uffd.listen() {
            Ok(listener) => listener,
            Err(error) => return self.give_up(&error.into()),
        };
        while !self.ending.has_begun() {
            let fault = self.guest.uffd.fault(&listener, PATIENCE).map_err(ServeError::from);
            let answered =
                fault.and_then(|fault| fault.map_or(Ok(()), |fault| self.answer(fault, &mut disk, &mut room)));
            if let Err(error) = answered {
                self.give_up(&error);
            }
        }
    }

    /// The guest waits for something that cannot be given. It must not go on with anything else, so its machine is ended,
    /// and says why; the pager follows.
    pub(crate) fn give_up(&self, error: &ServeError) {
        if matches!(error, ServeError::Uffd(UffdError::Gone)) {
            return self.ending.begin(Exit::MachineGone);
        }
        let reason = format!("the memory of {} cannot be given back to it: {error}", self.instance);
        tracing::error!("{reason}");
        // First, because the main thread takes a machine that is gone for one that ended by itself.
        self.ending.begin(Exit::Lost { reason: reason.clone() });
        if let Err(error) = locked(&self.shim).end(&reason) {
            tracing::error!(%error, "the machine could not be ended; it stands still");
        }
    }

    fn answer(&self, fault: Fault, disk: &mut Disk, room: &mut Vec<Page>) -> Result<(), ServeError> {
        let began = Instant::now();
        let Some(page) = self.guest.page_at(fault.address) else { return Ok(()) };
        let discards = &self.guest.discards;
        let target = self.steering().target;
        let (was, answer, duties) = {
            let Book { places, captures, .. } = &mut *self.book();
            let reach = self.reach(page, places.counts().resident >= target);
            let was = places.place(page);
            let answer = places.handle_fault(page, fault.kind, reach, |page| discards.contains(page));
            let duties = captures.handle_answer(page, was, &answer);
            (was, answer, duties)
        };
        duties.iter().for_each(|duty| self.keep_old(page, duty));
        let one = Run::one(page);
        match answer {
            Answer::Wait => {}
            Answer::Wake => self.guest.wake(one)?,
            Answer::Zero { run, given_up } => {
                self.zero(page, run, given_up)?;
                self.count(was, began);
            }
            Answer::Fetch(pages) => self.fetch((page, fault.writes), &pages, (disk, room), began)?,
            Answer::Unprotect => {
                self.guest.unprotect(one)?;
                self.observer.at(Step::Stayed);
                self.arrived(one, Arrival::Found)?;
                self.count(was, began);
            }
            Answer::Map => {
                self.guest.map(one)?;
                self.arrived(one, Arrival::Wanted)?;
            }
            Answer::Repair(away) => self.repair(page, away, (disk, room))?,
        }
        Ok(())
    }

    /// Neighbours come along where there is room for them, or where the guest goes on from its last fault. What a squeezed
    /// guest that jumps about does not ask for would only drive out what it needs.
    fn reach(&self, page: u64, is_squeezed: bool) -> Reach {
        let goes_on = self.last_fault.swap(page, Ordering::Relaxed).abs_diff(page) <= 2 * REACH.fetch;
        if is_squeezed && !goes_on { Reach { fetch: 1, ..REACH } } else { REACH }
    }

    fn zero(&self, page: u64, run: Run, given_up: Vec<(u64, Away)>) -> Result<(), ServeError> {
        self.guest.zero(run)?;
        self.observer.at(Step::Filled);
        self.arrived(Run::one(page), Arrival::Wanted)?;
        self.arrived(run, Arrival::Prefetched)?;
        self.tally().discarded += Pages(given_up.len() as u64);
        given_up.into_iter().for_each(|(_, copy)| self.sources.free(copy));
        Ok(())
    }

    /// The page that is waited for first, then those that left with it. What is not about to be written to keeps its copy in
    /// the store: if it leaves unchanged, nothing needs to be written.
    fn fetch(
        &self,
        (page, writes): (u64, bool),
        pages: &[(u64, Away)],
        (disk, room): (&mut Disk, &mut Vec<Page>),
        began: Instant,
    ) -> Result<(), ServeError> {
        let at = pages.iter().position(|(number, _)| *number == page).unwrap_or(0);
        let mut waited = Duration::ZERO;
        self.sources.fetch_around(disk, pages, at, room_for(room, pages.len()), |which, contents| {
            let part = &pages[which.clone()];
            let why = if which == (at..at + 1) { Arrival::Wanted } else { Arrival::Prefetched };
            self.observer.at(Step::Fetched);
            self.bring(part[0].0, contents)?;
            if why == Arrival::Wanted {
                self.count(part[0].1.place(), began);
                waited = began.elapsed();
            }
            self.observer.at(Step::Restored);
            let keeps = !(writes && why == Arrival::Wanted) && self.squeezes();
            self.came(Run::new(part[0].0, part.len() as u64), why, keeps)?;
            let free = part.iter().filter(|(_, copy)| !(keeps && matches!(copy, Away::Ssd(_))));
            free.for_each(|(_, copy)| self.sources.free(*copy));
            if matches!(part[0].1, Away::Snapshot) {
                self.sources.ancestor.have(Run::new(part[0].0, part.len() as u64));
            }
            self.observer.at(Step::Arrived);
            Ok::<(), ServeError>(())
        })?;
        let mut tally = self.tally();
        tally.refaults += 1;
        tally.lost += waited;
        tally.restored_beside += Pages(pages.len() as u64 - 1);
        Ok(())
    }

    /// Somebody has touched a hole through another mapping, and made a page of zeros where the guest had something else.
    fn repair(&self, page: u64, away: Away, (disk, room): (&mut Disk, &mut Vec<Page>)) -> Result<(), ServeError> {
        let content = room_for(room, 1);
        self.sources.fetch(disk, &[(page, away)], content)?;
        self.guest.overwrite(page, page::bytes(content)).map_err(ServeError::Repair)?;
        self.guest.map(Run::one(page))?;
        self.arrived(Run::one(page), Arrival::Wanted)?;
        self.sources.free(away);
        self.tally().tripped += 1;
        Ok(())
    }

    pub(crate) fn arrived(&self, run: Run, why: Arrival) -> Result<(), UffdError> {
        self.came(run, why, false)
    }

    fn came(&self, run: Run, why: Arrival, with_copies: bool) -> Result<(), UffdError> {
        // Before it can leave again: a next pager that finds it discarded must not take its old copy for it.
        (run.first..run.end()).for_each(|page| self.guest.discards.set_void(page, true));
        let awaited = {
            let mut book = self.book();
            book.residency.arrived(run, why);
            if with_copies { book.places.arrived_with_copies(run) } else { book.places.arrived(run) }
        };
        awaited.into_iter().try_for_each(|run| self.guest.wake(run))
    }

    /// Whether pages are to leave: the guest may not keep all of its memory.
    pub(crate) fn squeezes(&self) -> bool {
        let steering = self.steering();
        !steering.pinned && steering.target.0 < self.guest.pages()
    }

    fn count(&self, place: Place, began: Instant) {
        self.tally().faults.entry(place).or_default().add(began.elapsed());
    }
}

fn room_for(room: &mut Vec<Page>, count: usize) -> &mut [Page] {
    if room.len() < count {
        room.resize(count, Page::ZERO);
    }
    &mut room[..count]
}

/// What these locks guard is changed in single steps: a thread that panicked has left nothing half-changed.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
