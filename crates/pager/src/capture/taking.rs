//! A capture from the pager's side: the guest's memory is armed, frozen, and taken chunk by chunk, while the guest runs.
//!
//! Owns the order in which that is safe. What the guest would write over is kept before it may; what leaves or comes back
//! keeps its content, and comes back write-protected; what is read is held as arriving meanwhile, so that it neither moves
//! nor changes. A page's protection ends only after its content was taken, and never while it is leaving, when it would let
//! a write hide from [`crate::eviction`].

use std::{
    io, slice,
    sync::{Arc, Mutex, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use lucarne_memory::run::{Run, add_page};

use super::{
    held::{Duty, Held, Phase, Was},
    kept::Kept,
    wire::{CHUNK, Over},
};
use crate::{
    disk::Disk,
    page::{self, Page},
    pager::{Book, Pager, locked},
    places::{Away, Reading},
    source::FetchError,
    uffd::UffdError,
};

pub(crate) type Holding = Held<Arc<Mutex<Kept>>>;
pub(crate) type Keeping = Duty<Arc<Mutex<Kept>>>;

/// Pages that are looked at while the book is locked.
const PART: u64 = 1 << 12;
/// With so few left, the rest of arming is done while the guest stands still: a fraction of a millisecond.
const FEW: u64 = 256;
/// Rounds of arming at most: a guest that writes everywhere never has few.
const ROUNDS: u32 = 8;
/// How long pages that are on their way are waited for while the guest stands still.
const FREEZE: Duration = Duration::from_secs(2);
/// How long one chunk may be moved about before it can be read.
const CHUNK_PATIENCE: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_micros(50);

/// Why there is no content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error(transparent)]
    Over(Over),
    #[error(transparent)]
    Uffd(#[from] UffdError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("a page cannot be read: {0}")]
    Read(#[from] io::Error),
}

impl TakeError {
    pub(crate) const fn over(&self) -> Over {
        match self {
            Self::Over(over) => *over,
            Self::Uffd(UffdError::Gone) => Over::MachineGone,
            _ => Over::Unreadable,
        }
    }
}

impl Book {
    /// Whether a capture needs this page to stay write-protected.
    pub(crate) fn guards(&self, page: u64) -> bool {
        self.capture.as_ref().is_some_and(|held| held.guards(page))
    }

    /// The capture, as long as it goes on.
    fn held(&mut self) -> Result<&mut Holding, TakeError> {
        match self.capture.as_mut().map(|held| (held.phase(), held)) {
            Some((Phase::Over(over), _)) => Err(TakeError::Over(over)),
            Some((_, held)) => Ok(held),
            None => Err(TakeError::Over(Over::NotUnderstood)),
        }
    }
}

impl Pager {
    /// From here on all pages are guarded as soon as that can be. `Err`: why there is none.
    pub(crate) fn begin_capture(&self, number: u64, kept: Kept) -> Result<(), String> {
        if self.minor || !self.holds_discards {
            return Err("its machine's memory can be changed unseen".into());
        }
        {
            let book = &mut *self.book();
            if book.capture.is_some() {
                return Err("another capture of it is under way".into());
            }
            // Before any page is guarded, and to be found by the next pager.
            self.guest.discards.hold().store(1, Ordering::SeqCst);
            book.capture = Some(Held::new(number, self.guest.pages(), Arc::new(Mutex::new(kept))));
        }
        let armed = (0..ROUNDS).try_fold(u64::MAX, |left, _| if left <= FEW { Ok(left) } else { self.guard_all() });
        armed.map(drop).map_err(|error| {
            self.end_capture(error.over());
            self.lift_capture();
            error.to_string()
        })
    }

    /// Guards what is not; how many pages still are not.
    fn guard_all(&self) -> Result<u64, TakeError> {
        for first in (0..self.guest.pages()).step_by(PART as usize) {
            let protect = {
                let book = &mut *self.book();
                book.held()?;
                let Book { places, capture, .. } = book;
                capture.as_mut().map_or_else(Vec::new, |held| held.guard(Run::new(first, PART), places))
            };
            protect.into_iter().try_for_each(|run| self.guest.protect(run))?;
        }
        Ok(self.book().held()?.unguarded())
    }

    /// The guest stands still: what is not guarded yet is, and then all of it is what it is now.
    pub(crate) fn freeze_capture(&self) -> Result<Duration, TakeError> {
        let began = Instant::now();
        loop {
            self.guard_all()?;
            {
                let book = &mut *self.book();
                let held = book.held()?;
                if held.freeze() {
                    return Ok(began.elapsed());
                }
                if held.phase() != Phase::Armed {
                    return Err(TakeError::Over(Over::NotUnderstood));
                }
            }
            // A fault that was told before the guest stood still is being answered.
            if began.elapsed() > FREEZE {
                return Err(TakeError::Over(Over::Busy));
            }
            thread::sleep(MOMENT);
        }
    }

    /// It goes no further, and lets everything be written to that is asked for; the rest [`Self::lift_capture`] does.
    pub(crate) fn end_capture(&self, over: Over) {
        if let Some(held) = self.book().capture.as_mut() {
            held.end(over);
        }
    }

    /// The same, and waits until nothing is held for it: all of the guest is to leave.
    pub(crate) fn be_rid_of_capture(&self) {
        self.end_capture(Over::Asleep);
        let end = Instant::now() + CHUNK_PATIENCE;
        while self.book().capture.is_some() && Instant::now() < end {
            thread::sleep(MOMENT);
        }
    }

    /// What the page is must be kept before it changes. If it cannot be, the capture is over; the guest goes on in any case.
    pub(crate) fn keep_old(&self, page: u64, duty: &Keeping) {
        let mut content = Page::ZERO;
        let read = self.guest.read(page, page::bytes_mut(slice::from_mut(&mut content)));
        let is_zeros = content.filled_with() == Some(0);
        let kept = read.and_then(|()| if is_zeros { Ok(()) } else { locked(&duty.kept).keep(page, &content) });
        let book = &mut *self.book();
        let Some(held) = book.capture.as_mut().filter(|held| held.number == duty.number) else { return };
        match kept {
            Ok(()) if is_zeros => held.release_zeros(page),
            Ok(()) => held.release(page),
            Err(error) => {
                tracing::warn!(instance = %self.instance, %error, "a capture is given up");
                held.end(Over::CannotKeep);
            }
        }
    }

    /// Puts pages back that were away: those that a capture has yet to take cannot be written to.
    pub(crate) fn bring(&self, first: u64, contents: &[Page]) -> Result<(), UffdError> {
        let is_guarded: Vec<bool> = match &self.book().capture {
            Some(held) => (first..first + contents.len() as u64).map(|page| held.guards_arrival(page)).collect(),
            None => vec![false; contents.len()],
        };
        let mut at = 0;
        for alike in is_guarded.chunk_by(|a, b| a == b) {
            let part = page::bytes(&contents[at..at + alike.len()]);
            let page = first + at as u64;
            if alike[0] { self.guest.copy_protected(page, part) } else { self.guest.copy(page, part) }?;
            at += alike.len();
        }
        Ok(())
    }

    /// Which pages of the chunk are not zeros, a bit each, with their contents in `contents`. With `takes` the capture is done
    /// with them.
    pub(crate) fn read_chunk(
        &self,
        chunk: u64,
        takes: bool,
        disk: &mut Disk,
        contents: &mut [Page],
    ) -> Result<u64, TakeError> {
        let first = chunk.saturating_mul(CHUNK);
        let mut left: Vec<u64> = (first..self.guest.pages().min(first.saturating_add(CHUNK))).collect();
        let (mut mask, end) = (0, Instant::now() + CHUNK_PATIENCE);
        while !left.is_empty() {
            let sorted = self.sort_out(first, left, takes)?;
            for page in sorted.kept {
                let content = &mut contents[(page - first) as usize];
                let found = locked(&sorted.old).read(page, !takes, content).map_err(TakeError::Read)?;
                mask |= u64::from(found) << (page - first);
            }
            mask |= self.read_in_place(first, takes, &sorted.here, &sorted.away, (&mut *disk, &mut *contents))?;
            left = sorted.moving;
            if !left.is_empty() {
                if Instant::now() > end {
                    return Err(TakeError::Over(Over::Busy));
                }
                thread::sleep(MOMENT);
            }
        }
        Ok(mask)
    }

    fn sort_out(&self, first: u64, pages: Vec<u64>, takes: bool) -> Result<Sorted, TakeError> {
        let book = &mut *self.book();
        let held = book.held()?;
        if held.phase() != Phase::Frozen || pages.first() < Some(&first) {
            return Err(TakeError::Over(Over::NotUnderstood));
        }
        let mut sorted = Sorted::new(held.kept.clone());
        let Book { places, capture: Some(held), .. } = book else { return Ok(sorted) };
        for page in pages {
            let reading = match held.was(page) {
                Was::Zeros => continue,
                Was::Kept => {
                    sorted.kept.push(page);
                    continue;
                }
                Was::There => places.begin_reading(page, self.guest.discards.contains(page)),
            };
            match reading {
                Reading::Here => add_page(&mut sorted.here, page),
                Reading::Moves => sorted.moving.push(page),
                Reading::Away(away) if away != Away::SameFilled(0) => sorted.away.push((page, away)),
                Reading::Away(_) | Reading::Zeros => {
                    if matches!(reading, Reading::Away(_)) {
                        // Nobody could have waited: the book is locked.
                        places.end_reading(page);
                    }
                    if takes {
                        held.release_zeros(page);
                    }
                }
            }
        }
        Ok(sorted)
    }

    /// Reads pages where they are, and lets go of them whether that could be done or not.
    fn read_in_place(
        &self,
        first: u64,
        takes: bool,
        here: &[Run],
        away: &[(u64, Away)],
        (disk, contents): (&mut Disk, &mut [Page]),
    ) -> Result<u64, TakeError> {
        let mut read = || -> Result<u64, TakeError> {
            let mut mask = 0;
            for run in here {
                let into = &mut contents[(run.first - first) as usize..][..run.count as usize];
                self.guest.read(run.first, page::bytes_mut(into))?;
                let bits = (run.first - first..).zip(&*into);
                mask |= bits.fold(0, |mask, (bit, content)| mask | u64::from(content.filled_with() != Some(0)) << bit);
            }
            for part in away.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
                if takes {
                    let into = &mut contents[(part[0].0 - first) as usize..][..part.len()];
                    self.sources.fetch(disk, part, into)?;
                }
                mask |= part.iter().fold(0, |mask, (page, _)| mask | 1 << (page - first));
            }
            // What it was is here: it may be written to before it is known as taken.
            if takes {
                here.iter().try_for_each(|run| self.guest.unprotect(*run))?;
            }
            Ok(mask)
        };
        let mask = read();
        let awaited = {
            let Book { places, capture, .. } = &mut *self.book();
            let pages = here.iter().flat_map(|run| run.first..run.end()).chain(away.iter().map(|(page, _)| *page));
            let mut awaited = Vec::new();
            for page in pages {
                if let Some(held) = capture.as_mut().filter(|_| takes && mask.is_ok()) {
                    held.release(page);
                }
                if places.end_reading(page) {
                    add_page(&mut awaited, page);
                }
            }
            awaited
        };
        awaited.into_iter().try_for_each(|run| self.guest.wake(run))?;
        mask
    }

    /// Takes the protection off everything that still has it for the capture, and forgets the capture.
    pub(crate) fn lift_capture(&self) {
        for first in (0..self.guest.pages()).step_by(CHUNK as usize) {
            let runs = {
                let Book { places, capture: Some(held), .. } = &mut *self.book() else { break };
                let mut runs = Vec::new();
                let leftover = held.leftover();
                for page in (first..self.guest.pages().min(first + CHUNK)).filter(|page| leftover.contains(*page)) {
                    match places.begin_reading(page, false) {
                        Reading::Here => add_page(&mut runs, page),
                        Reading::Away(_) => drop(places.end_reading(page)),
                        // One that is moving is let through at the next write.
                        Reading::Zeros | Reading::Moves => {}
                    }
                }
                runs
            };
            let lifted = runs.iter().try_for_each(|run| self.guest.unprotect(*run));
            let places = &mut self.book().places;
            // Whoever waited was woken when the protection went.
            let awaited = runs.iter().flat_map(|run| run.first..run.end()).filter(|page| places.end_reading(*page));
            let awaited = awaited.fold(Vec::new(), |mut runs, page| {
                add_page(&mut runs, page);
                runs
            });
            if lifted.and_then(|()| awaited.into_iter().try_for_each(|run| self.guest.wake(run))).is_err() {
                // The machine is gone, and with it what was protected.
                break;
            }
        }
        self.book().capture = None;
        self.guest.discards.hold().store(0, Ordering::SeqCst);
    }
}

/// Pages of a chunk by where what they were is.
#[derive(Debug)]
struct Sorted {
    old: Arc<Mutex<Kept>>,
    kept: Vec<u64>,
    here: Vec<Run>,
    away: Vec<(u64, Away)>,
    /// To be asked for again.
    moving: Vec<u64>,
}

impl Sorted {
    const fn new(old: Arc<Mutex<Kept>>) -> Self {
        Self { old, kept: Vec::new(), here: Vec::new(), away: Vec::new(), moving: Vec::new() }
    }
}
