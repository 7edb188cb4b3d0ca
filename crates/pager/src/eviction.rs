//! Pages on their way out: one thread that chooses victims, copies them and punches them out.
//!
//! Owns the order in which that is safe. *Write-protect* the run, so that no write can hide; *read* it; *keep* the copies;
//! let those *count* whose page was not written to; *record* that in the index; only then *punch* the pages out, and *wake*
//! whoever ran into them meanwhile. A pager that dies between any two of these leaves every page either in the guest's
//! memory or in a copy that the index knows.
//!
//! This thread alone writes the index and gives out generations. Looking after the copies is [`crate::upkeep`]'s.

use std::{
    io,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use lucarne_memory::{
    policy::Arrival,
    run::{Run, add_page},
};
use lucarne_model::memory::{Pages, Place};

use crate::{
    control::Trouble,
    disk::Disk,
    exit::Exit,
    index::{Entry, Index},
    page::{self, Page, Room},
    pager::Pager,
    places::{Away, Copy, Word},
    pool::Compressed,
    seal::Proof,
    step::Step,
    uffd::UffdError,
    upkeep::{self, Upkeep},
};

/// Pages that leave together, in whichever runs they lie: one write to the store and one record for all of them. Their copies
/// take this much of the pager's memory, 512 KiB, and a fault's read waits for a write of at most as much.
pub(crate) const BATCH: u64 = 128;
/// Victims chosen at a time: choosing goes over the whole guest.
const CHOSEN: u64 = 4096;
/// Pages that are looked at while the book is locked.
const LOOKED_AT: u64 = 1 << 13;
/// How often the target is compared with what is resident, when nobody says that it has changed.
const INTERVAL: Duration = Duration::from_millis(50);
/// What the rate allowed and was not used counts for as long as this.
const BURST: Duration = Duration::from_millis(100);
/// How long nothing leaves after a batch has left for a disk that is slow.
const REST: Duration = Duration::from_millis(250);
/// How long nothing is tried after the store has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What others ask of this thread.
#[derive(Debug)]
pub(crate) enum Wish {
    /// The target has changed.
    Look,
    /// All of it; the answer is how many left.
    EvictAll(SyncSender<Result<Pages, String>>),
}

/// Why a run did not leave.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EvictError {
    #[error(transparent)]
    Uffd(#[from] UffdError),
    #[error("the guest's memory cannot be read: {0}")]
    Read(io::Error),
    #[error("there is no memory for copies: {0}")]
    Memory(io::Error),
    #[error("the store cannot be written: {0}")]
    Store(io::Error),
    #[error("the index cannot be written: {0}")]
    Index(io::Error),
    #[error("pages cannot be punched out: {0}")]
    Punch(io::Error),
    #[error("its memory is held for a duplicate")]
    Held,
}

/// A copy that was made of a page that is leaving.
struct Made {
    page: u64,
    away: Away,
    proof: Proof,
    /// False: it had been made before, kept, and still holds.
    is_new: bool,
}

impl Made {
    const fn in_memory(page: u64, away: Away) -> Self {
        Self { page, away, proof: [0; 16], is_new: true }
    }
}

#[derive(Debug)]
pub(crate) struct Evictor {
    pub(crate) pager: Arc<Pager>,
    pub(crate) index: Index,
    pub(crate) disk: Disk,
    wishes: Receiver<Wish>,
    /// Of a batch; empty while nothing leaves.
    contents: Room,
    compressed: Compressed,
    /// A page as its guest's snapshot has it.
    unchanged: Box<Page>,
    /// Pages that may leave now, of those that the rate allows.
    allowance: f64,
    measured: Instant,
    paused_until: Option<Instant>,
}

impl Evictor {
    /// To be called in the thread that is to [`run`](Self::run).
    pub(crate) fn new(pager: Arc<Pager>, index: Index, wishes: Receiver<Wish>) -> Self {
        let (contents, disk, compressed, measured) = (Room::default(), Disk::new(), Compressed::new(), Instant::now());
        let unchanged = Box::new(Page::ZERO);
        Self {
            pager,
            index,
            disk,
            wishes,
            contents,
            compressed,
            unchanged,
            allowance: 0.0,
            measured,
            paused_until: None,
        }
    }

    /// Until the pager ends.
    pub(crate) fn run(mut self) {
        let mut upkeep = Upkeep::new(self.pager.guest.pages());
        while !self.pager.ending.has_begun() {
            let progress = self.evict_some();
            let patience = if progress { Duration::ZERO } else { INTERVAL };
            if !progress {
                // A pager that has nothing to do should cost its host next to nothing.
                self.contents = Room::default();
            }
            match self.wishes.recv_timeout(patience) {
                Ok(Wish::EvictAll(answer)) => {
                    // Whoever asked may have gone meanwhile.
                    let _ = answer.send(self.evict_all().map_err(|error| error.to_string()));
                }
                Ok(Wish::Look) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            upkeep.look_after(&mut self);
            self.pager.tally().index = self.index.length();
        }
    }

    /// Sends out what is above the target, as far as the rate allows; whether anything left.
    fn evict_some(&mut self) -> bool {
        let steering = *self.pager.steering();
        let now = Instant::now();
        let passed = now.duration_since(std::mem::replace(&mut self.measured, now)).as_secs_f64();
        let rate = steering.pages_per_second.map_or(f64::INFINITY, |rate| rate as f64);
        self.allowance = (self.allowance + rate * passed).min((rate * BURST.as_secs_f64()).max(1.0));
        if steering.pinned || self.paused_until.is_some_and(|until| now < until) {
            return false;
        }
        let is_slow = self.mind_pace();
        let runs = {
            let book = &mut *self.pager.book();
            let above = book.places.counts().resident - steering.target;
            let allowed = if rate.is_finite() { self.allowance as u64 } else { u64::MAX };
            let wanted = above.0.min(allowed).min(if is_slow { BATCH } else { CHOSEN });
            if wanted == 0 { Vec::new() } else { book.residency.victims(Pages(wanted)) }
        };
        let mut left = 0;
        let mut batches = batches(runs).into_iter();
        while let Some(batch) = batches.next() {
            match self.evict(&batch) {
                Ok(count) => left += count,
                Err(error) => {
                    self.failed(&error);
                    // The others need not try the same: they stay.
                    let residency = &mut self.pager.book().residency;
                    batches.by_ref().flatten().for_each(|run| residency.kept(run));
                }
            }
        }
        self.allowance -= left as f64;
        if is_slow && self.paused_until.is_none_or(|until| until < now) {
            self.paused_until = Some(Instant::now() + REST);
        }
        left > 0
    }

    /// Says so when the disk becomes slow, and when it no longer is; whether it is.
    fn mind_pace(&self) -> bool {
        let is_slow = self.pager.sources.store.pace().is_slow();
        let trouble = &mut self.pager.tally().trouble;
        if is_slow && trouble.is_none() {
            tracing::warn!(instance = %self.pager.instance, "the disk of a guest's pages is slow; few leave");
            *trouble = Some(Trouble::StoreSlow);
        } else if !is_slow {
            trouble.take_if(|trouble| *trouble == Trouble::StoreSlow);
        }
        is_slow
    }

    /// Everything that is resident now, wherever it lies, and all of it on the disk.
    fn evict_all(&mut self) -> Result<Pages, EvictError> {
        // They would hold pages here, and who asks for this puts the guest to sleep.
        if !self.pager.be_rid_of_captures() {
            return Err(EvictError::Held);
        }
        let mut left = 0;
        for batch in batches(self.resident()) {
            match self.evict(&batch) {
                Ok(count) => left += count,
                Err(error) => {
                    self.failed(&error);
                    return Err(error);
                }
            }
        }
        self.demote_all()?;
        self.pager.sources.store.sync().map_err(EvictError::Store)?;
        self.index.sync().map_err(EvictError::Index)?;
        Ok(Pages(left))
    }

    /// All that is in the guest's memory now.
    fn resident(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        let pages = self.pager.guest.pages();
        for first in (0..pages).step_by(LOOKED_AT as usize) {
            let places = &self.pager.book().places;
            let here = (first..(first + LOOKED_AT).min(pages)).filter(|page| places.place(*page) == Place::Resident);
            here.for_each(|page| add_page(&mut runs, page));
        }
        runs
    }

    fn failed(&mut self, error: &EvictError) {
        let trouble = match error {
            EvictError::Uffd(UffdError::Gone) => return self.pager.ending.begin(Exit::MachineGone),
            EvictError::Store(cause) | EvictError::Index(cause)
                if matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                // What is kept in case that it is needed again takes room from what has none.
                self.forget_kept(&upkeep::ALL);
                Trouble::StoreFull
            }
            other => Trouble::StoreFailed { reason: other.to_string() },
        };
        if self.pager.tally().trouble.replace(trouble.clone()).as_ref() != Some(&trouble) {
            tracing::warn!(instance = %self.pager.instance, %error, "pages do not leave");
        }
        self.paused_until = Some(Instant::now() + PAUSE);
    }

    /// Sends out those pages of a batch that are here; how many left. On an error none has left, and none is lost.
    pub(crate) fn evict(&mut self, batch: &[Run]) -> Result<u64, EvictError> {
        let leaving: Vec<Run> = {
            let book = &mut *self.pager.book();
            let leaving = batch.iter().flat_map(|run| book.places.begin_eviction(*run)).collect::<Vec<_>>();
            leaving.iter().for_each(|part| book.residency.left(*part));
            leaving
        };
        self.pager.observer.at(Step::Begun);
        let made = match self.copy_out(&leaving) {
            Ok(made) => made,
            Err(error) => {
                self.let_stay(leaving.iter().flat_map(|part| part.first..part.end()))?;
                return Err(error);
            }
        };
        self.pager.observer.at(Step::Kept);
        let going = self.commit(made)?;
        self.punch(&going)?;
        let all = leaving.iter().map(|part| part.count).sum::<u64>();
        let left = going.len() as u64;
        let mut tally = self.pager.tally();
        tally.evicted += Pages(left);
        tally.aborted += Pages(all - left);
        if left > 0 {
            tally.trouble.take_if(|trouble| *trouble != Trouble::StoreSlow);
        }
        Ok(left)
    }

    /// Write-protects, reads and keeps.
    fn copy_out(&mut self, leaving: &[Run]) -> Result<Vec<Made>, EvictError> {
        let guest = &self.pager.guest;
        for part in leaving {
            // What the guest discards from here on is noted anew; what it had discarded before is a hole, and read as zeros.
            (part.first..part.end()).for_each(|page| guest.discards.clear(page));
            guest.protect(*part)?;
        }
        self.pager.observer.at(Step::Protected);
        if self.contents.is_empty() {
            self.contents = Room::new(BATCH as usize).map_err(EvictError::Memory)?;
        }
        let mut numbers = Vec::new();
        for part in leaving {
            let into = &mut self.contents[numbers.len()..][..part.count as usize];
            guest.read(part.first, page::bytes_mut(into)).map_err(EvictError::Read)?;
            numbers.extend(part.first..part.end());
        }
        self.pager.observer.at(Step::Read);
        let first = self.index.generations(BATCH).map_err(EvictError::Index)?;
        self.keep(&numbers, first)
    }

    /// Makes a copy of each page, in the nearest place that has room. Generations follow the order of pages, so that those of
    /// neighbours follow each other: by that is known later what left together.
    fn keep(&mut self, numbers: &[u64], first_generation: u64) -> Result<Vec<Made>, EvictError> {
        let mut made = Vec::with_capacity(numbers.len());
        let mut to_store: Vec<(u64, u64)> = Vec::new();
        for (at, (page, generation)) in numbers.iter().copied().zip(first_generation..).enumerate() {
            if let Some(away) = self.keep_in_memory(page, generation, at) {
                made.push(Made::in_memory(page, away));
            } else if let Some(copy) = self.kept_copy(page, at) {
                let proof = self.pager.sources.store.proof(copy);
                made.push(Made { page, away: Away::Ssd(copy), proof, is_new: false });
            } else {
                // What goes to the store moves together, and is sealed and written from where it lies.
                self.contents.swap(to_store.len(), at);
                to_store.push((page, generation));
            }
        }
        if to_store.is_empty() {
            return Ok(made);
        }
        match self.pager.sources.store.keep(&mut self.disk, &to_store, &mut self.contents[..to_store.len()]) {
            Ok(copies) => {
                let stored = to_store.iter().zip(copies);
                made.extend(stored.map(|((page, _), (copy, proof))| Made {
                    page: *page,
                    away: Away::Ssd(copy),
                    proof,
                    is_new: true,
                }));
                Ok(made)
            }
            Err(error) => {
                made.iter().filter(|made| made.is_new).for_each(|made| self.pager.sources.free(made.away));
                Err(EvictError::Store(error))
            }
        }
    }

    /// The copy of the page whose content is at `at`, if it needs no disk.
    fn keep_in_memory(&mut self, page: u64, generation: u64, at: usize) -> Option<Away> {
        let content = &self.contents[at];
        if let Some(value) = content.filled_with() {
            return Some(Away::SameFilled(value));
        }
        if self.pager.sources.ancestor.holds(page, content, &mut self.unchanged) {
            return Some(Away::Snapshot);
        }
        if !self.pager.sources.pool().has_room() || !self.compressed.take(page, generation, content) {
            return None;
        }
        let bytes = self.compressed.bytes();
        let at = self.pager.sources.pool().keep(page, bytes)?;
        Some(Away::Compressed(Copy { at, generation }, bytes.len() as u16))
    }

    /// The copy that the page has kept in the store, if that is what it holds now.
    fn kept_copy(&self, page: u64, at: usize) -> Option<Copy> {
        let copy = self.pager.book().places.kept(page)?;
        self.pager.sources.store.holds(page, copy, &self.contents[at]).then_some(copy)
    }

    /// Lets the copies count of pages that were not written to, here and then in the index.
    fn commit(&mut self, made: Vec<Made>) -> Result<Vec<u64>, EvictError> {
        let mut needless = Vec::new();
        let going: Vec<Made> = {
            let places = &mut self.pager.book().places;
            let goes = |made: &Made| {
                let kept = places.kept(made.page).map(Away::Ssd);
                let goes = places.commit(made.page, made.away);
                // Of the new copy and the one that was kept, one is enough.
                needless.extend(if goes { kept } else { Some(made.away) }.filter(|_| made.is_new));
                goes
            };
            made.into_iter().filter(goes).collect()
        };
        self.pager.observer.at(Step::Committed);
        needless.into_iter().for_each(|copy| self.pager.sources.free(copy));
        let entry = |made: &Made| Entry { page: made.page as u32, word: Word::away(made.away), proof: made.proof };
        let recorded = self.index.append(&going.iter().map(entry).collect::<Vec<_>>());
        let mut pages: Vec<u64> = going.iter().map(|made| made.page).collect();
        pages.sort_unstable();
        if let Err(error) = recorded {
            self.let_stay(pages.iter().copied())?;
            return Err(EvictError::Index(error));
        }
        self.note_index();
        pages.iter().for_each(|page| self.pager.guest.discards.set_void(*page, false));
        self.pager.observer.at(Step::Recorded);
        self.pager.tally().unwritten += Pages(going.iter().filter(|made| !made.is_new).count() as u64);
        Ok(pages)
    }

    /// Where the machine is, so that no other index is taken for this one.
    pub(crate) fn note_index(&self) {
        self.pager.guest.discards.note().store(self.index.sequence(), Ordering::SeqCst);
    }

    fn punch(&self, going: &[u64]) -> Result<(), EvictError> {
        for part in going.chunk_by(|a, b| a + 1 == *b) {
            let run = Run::new(part[0], part.len() as u64);
            if let Err(error) = self.pager.guest.punch(run) {
                // Recorded as away and yet here: what is here counts.
                self.let_stay(going.iter().copied().filter(|page| *page >= part[0]))?;
                return Err(EvictError::Punch(error));
            }
            self.pager.observer.at(Step::Punched);
            {
                let places = &mut self.pager.book().places;
                part.iter().for_each(|page| places.gone(*page));
            }
            self.pager.observer.at(Step::Gone);
            self.pager.guest.wake(run)?;
            self.pager.observer.at(Step::Woken);
        }
        Ok(())
    }

    /// These do not leave after all, and copies that counted already are free.
    fn let_stay(&self, pages: impl Iterator<Item = u64>) -> Result<(), EvictError> {
        for page in pages {
            let (copy, stays, is_guarded) = {
                let book = &mut *self.pager.book();
                (book.places.away(page), book.places.stays(page), book.captures.guard(page))
            };
            if stays {
                let one = Run::one(page);
                if is_guarded { self.pager.guest.wake(one) } else { self.pager.guest.unprotect(one) }?;
                self.pager.arrived(Run::one(page), Arrival::Found)?;
                copy.into_iter().for_each(|copy| self.pager.sources.free(copy));
            }
        }
        Ok(())
    }
}

/// The runs in the order of their pages, neighbours joined, in batches of at most [`BATCH`] pages.
fn batches(mut runs: Vec<Run>) -> Vec<Vec<Run>> {
    runs.sort_unstable();
    let mut all: Vec<Vec<Run>> = Vec::new();
    let mut room = 0;
    for mut run in runs {
        while run.count > 0 {
            if room == 0 {
                all.push(Vec::new());
                room = BATCH;
            }
            let part = Run::new(run.first, run.count.min(room));
            run = Run::new(part.end(), run.count - part.count);
            room -= part.count;
            if let Some(batch) = all.last_mut() {
                match batch.last_mut() {
                    Some(last) if last.end() == part.first => last.count += part.count,
                    _ => batch.push(part),
                }
            }
        }
    }
    all
}
