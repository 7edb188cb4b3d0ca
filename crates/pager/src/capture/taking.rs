//! A capture from the pager's side: the guest's memory is armed, frozen, and taken chunk by chunk, while the guest runs.
//!
//! Owns the order in which that is safe. What the guest would write over is kept before it may; what leaves or comes back
//! keeps its content, and comes back write-protected; what is read is held as arriving meanwhile, so that it neither moves
//! nor changes. A page's protection ends only after its content was taken, and never while it is leaving, when it would let
//! a write hide from [`crate::eviction`]; and after that is written where the next pager finds it ([`super::record`]), which goes
//! on holding what has a name ([`go_on_holding`]).

use std::{
    io, slice,
    sync::{Arc, Mutex, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use lucarne_memory::run::{Run, add_page};
use lucarne_model::{InstanceId, memory::Place};

use super::{
    held::{Duty, Held, Phase, Was},
    kept::Kept,
    record::{LAYOUT, Records},
    under_way::UnderWay,
    wire::{CHUNK, Over},
};
use crate::{
    disk::Disk,
    guest::Guest,
    page::{self, Page},
    pager::{Book, Pager, locked},
    places::{Away, Reading},
    source::FetchError,
    step::Step,
    uffd::UffdError,
};

type Holding = Held<Arc<Mutex<Kept>>>;
pub(crate) type Captures = UnderWay<Arc<Mutex<Kept>>>;
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

/// What is done with pages of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is told which of them are not zeros.
    Look,
    /// The same, with their contents.
    Read,
    /// The same, and the capture is done with them.
    Take,
    /// Nothing is told: the capture is done with them.
    LetGo,
}

impl Way {
    const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Take)
    }
    const fn lets_go(self) -> bool {
        matches!(self, Self::Take | Self::LetGo)
    }
}

impl Book {
    /// The capture, as long as it goes on.
    fn held(&mut self, number: u64) -> Result<&mut Holding, TakeError> {
        match self.captures.get_mut(number).map(|held| (held.phase(), held)) {
            Some((Phase::Over(over), _)) => Err(TakeError::Over(over)),
            Some((_, held)) => Ok(held),
            None => Err(TakeError::Over(Over::LetGo)),
        }
    }
}

impl Pager {
    /// From here on all pages are guarded as soon as that can be. The number of the capture; `Err`: why there is none.
    pub(crate) fn begin_capture(&self, name: Option<String>) -> Result<u64, String> {
        if self.minor || !self.holds_discards {
            return Err("its machine's memory can be changed unseen".into());
        }
        let (kept, ledger) = self.records.begin(name.as_deref())?;
        let number = {
            let book = &mut *self.book();
            let number = book.captures.begin(name, self.guest.pages(), (Arc::new(Mutex::new(kept)), ledger))?;
            // Before any page is guarded, and to be found by the next pager.
            self.guest.discards.hold().store(LAYOUT, Ordering::SeqCst);
            number
        };
        let guard = |left, _| if left <= FEW { Ok(left) } else { self.guard_all(number) };
        (0..ROUNDS).try_fold(u64::MAX, guard).map_err(|error| {
            self.end_capture(number, error.over());
            self.lift_capture(number);
            error.to_string()
        })?;
        Ok(number)
    }

    /// Guards what is not; how many pages still are not.
    fn guard_all(&self, number: u64) -> Result<u64, TakeError> {
        for first in (0..self.guest.pages()).step_by(PART as usize) {
            let protect = {
                let book = &mut *self.book();
                book.held(number)?;
                let Book { places, captures, .. } = book;
                let held = captures.get_mut(number);
                held.map_or_else(Vec::new, |held| held.guard(Run::new(first, PART), places))
            };
            protect.into_iter().try_for_each(|run| self.guest.protect(run))?;
            self.observer.at(Step::Guarded);
        }
        Ok(self.book().held(number)?.unguarded())
    }

    /// The guest stands still: what is not guarded yet is, and then all of it is what it is now.
    pub(crate) fn freeze_capture(&self, number: u64) -> Result<Duration, TakeError> {
        let began = Instant::now();
        loop {
            self.guard_all(number)?;
            {
                let book = &mut *self.book();
                let held = book.held(number)?;
                if held.freeze() {
                    self.observer.at(Step::Frozen);
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
    pub(crate) fn end_capture(&self, number: u64, over: Over) {
        if let Some(held) = self.book().captures.get_mut(number) {
            held.end(over);
        }
    }

    /// Ends those that end with their reader, and waits until nothing is held for them: all of the guest is to leave. False: a
    /// duplicate goes on from it, whose memory would be lost.
    pub(crate) fn be_rid_of_captures(&self) -> bool {
        let is_awaited = {
            let captures = &mut self.book().captures;
            captures.nameless_mut().for_each(|held| held.end(Over::Asleep));
            captures.has_named()
        };
        let end = Instant::now() + CHUNK_PATIENCE;
        while !is_awaited && !self.book().captures.is_empty() && Instant::now() < end {
            thread::sleep(MOMENT);
        }
        !is_awaited
    }

    /// What the page is must be kept before it changes. If it cannot be, the capture is over; the guest goes on in any case.
    pub(crate) fn keep_old(&self, page: u64, duty: &Keeping) {
        let mut content = Page::ZERO;
        let read = self.guest.read(page, page::bytes_mut(slice::from_mut(&mut content)));
        let is_zeros = content.filled_with() == Some(0);
        let kept = read.and_then(|()| if is_zeros { Ok(()) } else { locked(&duty.kept).keep(page, &content) });
        self.observer.at(Step::Saved);
        {
            let book = &mut *self.book();
            let Some(held) = book.captures.get_mut(duty.number) else { return };
            match kept {
                Ok(()) if is_zeros => held.release_zeros(page),
                Ok(()) => held.release(page),
                Err(error) => {
                    tracing::warn!(instance = %self.instance, %error, "a capture is given up");
                    held.end(Over::CannotKeep);
                }
            }
        }
        self.observer.at(Step::Released);
    }

    /// Puts pages back that were away: those that a capture has yet to take cannot be written to.
    pub(crate) fn bring(&self, first: u64, contents: &[Page]) -> Result<(), UffdError> {
        let is_guarded: Vec<bool> = {
            let captures = &self.book().captures;
            (first..first + contents.len() as u64).map(|page| captures.guard_arrival(page)).collect()
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

    /// Does so with the pages of `run`, at most 64: which of them are not zeros, a bit each, with their contents in `contents`.
    pub(crate) fn read_run(
        &self,
        number: u64,
        run: Run,
        way: Way,
        (disk, contents): (&mut Disk, &mut [Page]),
    ) -> Result<u64, TakeError> {
        let first = run.first;
        let mut left: Vec<u64> = (first..run.end().min(self.guest.pages())).collect();
        let (mut mask, end) = (0, Instant::now() + CHUNK_PATIENCE);
        while !left.is_empty() {
            let sorted = self.sort_out(number, left, way)?;
            for page in sorted.kept {
                let mut old = locked(&sorted.old);
                if way == Way::LetGo {
                    old.forget(page);
                } else {
                    let content = &mut contents[(page - first) as usize];
                    let found = old.read(page, !way.lets_go(), content).map_err(TakeError::Read)?;
                    mask |= u64::from(found) << (page - first);
                }
            }
            let in_place =
                InPlace { number, first, way, here: &sorted.here, shared: &sorted.shared, away: &sorted.away };
            mask |= self.read_in_place(&in_place, (&mut *disk, &mut *contents))?;
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

    /// Which pages of `run`, at most 64, may be other than zeros, without a look into them.
    pub(crate) fn find_run(&self, number: u64, run: Run) -> Result<u64, TakeError> {
        let book = &mut *self.book();
        let held = book.held(number)?;
        if held.phase() != Phase::Frozen {
            return Err(TakeError::Over(Over::NotUnderstood));
        }
        let old = held.kept.clone();
        let Book { places, captures, .. } = book;
        let may_be = |page: &u64| match captures.get(number).map(|held| held.was(*page)) {
            Some(Was::There) => match places.place(*page) {
                Place::Untouched => false,
                Place::Resident => true,
                _ => !self.guest.discards.contains(*page) && places.away(*page) != Some(Away::SameFilled(0)),
            },
            Some(Was::Kept) => locked(&old).contains(*page),
            Some(Was::Zeros) | None => false,
        };
        let pages = (run.first..run.end().min(self.guest.pages())).filter(may_be);
        Ok(pages.fold(0, |mask, page| mask | 1 << (page - run.first)))
    }

    fn sort_out(&self, number: u64, pages: Vec<u64>, way: Way) -> Result<Sorted, TakeError> {
        let book = &mut *self.book();
        let held = book.held(number)?;
        if held.phase() != Phase::Frozen {
            return Err(TakeError::Over(Over::NotUnderstood));
        }
        let mut sorted = Sorted::new(held.kept.clone());
        let Book { places, captures, .. } = book;
        for page in pages {
            let others = captures.others_guard(number, page);
            let Some(held) = captures.get_mut(number) else { break };
            let reading = match held.was(page) {
                Was::Zeros => continue,
                Was::Kept => {
                    sorted.kept.push(page);
                    continue;
                }
                Was::There => places.begin_reading(page, self.guest.discards.contains(page)),
            };
            match reading {
                Reading::Here if others => add_page(&mut sorted.shared, page),
                Reading::Here => add_page(&mut sorted.here, page),
                Reading::Moves => sorted.moving.push(page),
                Reading::Away(away) if away != Away::SameFilled(0) => sorted.away.push((page, away)),
                Reading::Away(_) | Reading::Zeros => {
                    if matches!(reading, Reading::Away(_)) {
                        // Nobody could have waited: the book is locked.
                        places.end_reading(page);
                    }
                    if way.lets_go() {
                        held.release_zeros(page);
                    }
                }
            }
        }
        Ok(sorted)
    }

    /// Reads pages where they are, and lets go of them whether that could be done or not.
    fn read_in_place(&self, asked: &InPlace<'_>, (disk, contents): (&mut Disk, &mut [Page])) -> Result<u64, TakeError> {
        let InPlace { number, first, way, here, shared, away } = *asked;
        let mut read = || -> Result<u64, TakeError> {
            let mut mask = 0;
            for run in here.iter().chain(shared).filter(|_| way != Way::LetGo) {
                let into = &mut contents[(run.first - first) as usize..][..run.count as usize];
                self.guest.read(run.first, page::bytes_mut(into))?;
                let bits = (run.first - first..).zip(&*into);
                mask |= bits.fold(0, |mask, (bit, content)| mask | u64::from(content.filled_with() != Some(0)) << bit);
            }
            for part in away.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
                if way.reads() {
                    let into = &mut contents[(part[0].0 - first) as usize..][..part.len()];
                    self.sources.fetch(disk, part, into)?;
                }
                mask |= part.iter().fold(0, |mask, (page, _)| mask | 1 << (page - first));
            }
            Ok(mask)
        };
        let pages = || {
            let resident = here.iter().chain(shared).flat_map(|run| run.first..run.end());
            resident.chain(away.iter().map(|(page, _)| *page))
        };
        let mut mask = read();
        if way.lets_go() && mask.is_ok() {
            if let Some(held) = self.book().captures.get_mut(number) {
                pages().for_each(|page| held.release(page));
            }
            self.observer.at(Step::LetGo);
            // Not before: a next pager would take what the guest writes to them for what they were. Those that another capture
            // holds stay protected.
            if let Err(gone) = here.iter().try_for_each(|run| self.guest.unprotect(*run)) {
                mask = Err(gone.into());
            }
        }
        let awaited = {
            let places = &mut self.book().places;
            pages().filter(|page| places.end_reading(*page)).fold(Vec::new(), |mut awaited, page| {
                add_page(&mut awaited, page);
                awaited
            })
        };
        awaited.into_iter().try_for_each(|run| self.guest.wake(run))?;
        mask
    }

    /// Takes the protection off everything that still has it for this capture alone, and forgets the capture.
    pub(crate) fn lift_capture(&self, number: u64) {
        for first in (0..self.guest.pages()).step_by(CHUNK as usize) {
            let runs = {
                let Book { places, captures, .. } = &mut *self.book();
                let Some(leftover) = captures.get(number).map(Held::leftover) else { break };
                let mut runs = Vec::new();
                let is_its_alone = |page: &u64| leftover.contains(*page) && !captures.others_guard(number, *page);
                for page in (first..self.guest.pages().min(first + CHUNK)).filter(is_its_alone) {
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
        let ended = {
            let captures = &mut self.book().captures;
            let ended = captures.end(number);
            if captures.is_empty() {
                self.guest.discards.hold().store(0, Ordering::SeqCst);
            }
            ended
        };
        // Its file is deleted with it, which may take a while.
        drop(ended);
    }
}

/// What an earlier pager held under names is held on; of all else the protection is taken off. To be called before anybody of the
/// guest is woken.
pub(crate) fn go_on_holding(guest: &Guest, records: &Records, instance: InstanceId) -> Captures {
    let (mut captures, hold) = (Captures::default(), guest.discards.hold());
    let was_held = hold.load(Ordering::SeqCst);
    if was_held == LAYOUT {
        for (name, kept, ledger) in records.recover() {
            tracing::info!(%instance, name, "goes on holding the guest's memory");
            captures.go_on(name, guest.pages(), (Arc::new(Mutex::new(kept)), ledger));
        }
    } else {
        records.forget_rest();
    }
    if captures.is_empty() {
        hold.store(0, Ordering::SeqCst);
    }
    let lifted = match was_held {
        0 => Ok(()),
        _ if captures.is_empty() => guest.unprotect(guest.all()),
        _ => unguarded(guest.pages(), &captures).try_for_each(|run| guest.unprotect(run)),
    };
    if lifted.is_err() {
        // What is protected for nobody is let through page by page. The machine has ended, and that is found out soon.
        tracing::debug!(%instance, "a capture's protection stays");
    }
    captures
}

/// Where none of them guards anything in 16 MiB; what is left out is let through page by page.
fn unguarded(pages: u64, captures: &Captures) -> impl Iterator<Item = Run> {
    let parts = (0..pages).step_by(PART as usize).map(move |first| Run::new(first, PART.min(pages - first)));
    parts.filter(|run| !(run.first..run.end()).any(|page| captures.guard(page)))
}

/// Pages that are to be read where they are.
#[derive(Debug)]
struct InPlace<'a> {
    number: u64,
    /// What the first of the contents is of.
    first: u64,
    way: Way,
    here: &'a [Run],
    shared: &'a [Run],
    away: &'a [(u64, Away)],
}

/// Pages of a chunk by where what they were is.
#[derive(Debug)]
struct Sorted {
    old: Arc<Mutex<Kept>>,
    kept: Vec<u64>,
    here: Vec<Run>,
    /// Here, and write-protected for another capture too.
    shared: Vec<Run>,
    away: Vec<(u64, Away)>,
    /// To be asked for again.
    moving: Vec<u64>,
}

impl Sorted {
    fn new(old: Arc<Mutex<Kept>>) -> Self {
        let (here, shared) = (Vec::new(), Vec::new());
        Self { old, kept: Vec::new(), here, shared, away: Vec::new(), moving: Vec::new() }
    }
}
