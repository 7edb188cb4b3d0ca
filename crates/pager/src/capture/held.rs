//! Which pages of a captured guest still are what they were, and where what they were is else.
//!
//! Owns two bits for each page and the rules by which they change. A page is *guarded* when nobody changes it unseen: it is
//! write-protected, or it is not in the guest's memory at all. While a capture is armed, pages become guarded a part at a
//! time and stop being so when the guest wants to write; the capture is frozen when all of them are, at once. From then on a
//! guarded page is worth what it was at that instant wherever it lies, and it stops being guarded when its content has been
//! taken by the reader, or kept apart, or noted as zeros. Pure: who calls holds the book's lock, and does what it returns.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_memory::run::{Run, add_page};
use lucarne_model::memory::Place;

use super::wire::Over;
use crate::places::{Answer, Places};

/// A bit for each page.
#[derive(Clone, Debug)]
pub(crate) struct Bits {
    words: Vec<u64>,
    set: u64,
}

impl Bits {
    fn new(pages: u64) -> Self {
        Self { words: vec![0; pages.div_ceil(64) as usize], set: 0 }
    }
    pub(crate) fn contains(&self, page: u64) -> bool {
        self.words.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }
    fn put(&mut self, page: u64, is_set: bool) {
        let Some(word) = self.words.get_mut((page / 64) as usize) else { return };
        let bit = 1 << (page % 64);
        match (*word & bit == 0, is_set) {
            (true, true) => (*word, self.set) = (*word | bit, self.set + 1),
            (false, false) => (*word, self.set) = (*word & !bit, self.set - 1),
            _ => {}
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Armed,
    Frozen,
    Over(Over),
}

/// A capture, as the book has it. `K` is where old contents are kept.
#[derive(Clone, Debug)]
pub(crate) struct Held<K> {
    /// Of all captures of this pager.
    pub(crate) number: u64,
    pub(crate) kept: K,
    pages: u64,
    phase: Phase,
    guarded: Bits,
    /// Not guarded any more, and was zeros.
    zeros: Bits,
}

/// The content of a page must be kept, as it is now, before its fault is answered; then it is [`Held::release`]d.
#[derive(Clone, Debug)]
pub(crate) struct Duty<K> {
    pub(crate) number: u64,
    pub(crate) kept: K,
}

/// Where what a page was is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Was {
    /// Where the page is now.
    There,
    Zeros,
    Kept,
}

impl<K: Clone> Held<K> {
    pub(crate) fn new(number: u64, pages: u64, kept: K) -> Self {
        Self { number, kept, pages, phase: Phase::Armed, guarded: Bits::new(pages), zeros: Bits::new(pages) }
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }
    /// The first reason is the one that counts.
    pub(crate) fn end(&mut self, over: Over) {
        if !matches!(self.phase, Phase::Over(_)) {
            self.phase = Phase::Over(over);
        }
    }
    /// Whether the page is to stay write-protected, whoever else is done with it.
    pub(crate) fn guards(&self, page: u64) -> bool {
        !matches!(self.phase, Phase::Over(_)) && self.guarded.contains(page)
    }
    /// Whether a page that comes back is to come write-protected.
    pub(crate) fn guards_arrival(&self, page: u64) -> bool {
        self.phase == Phase::Frozen && self.guarded.contains(page)
    }
    /// Pages that were protected for it and may still be; for who takes that off when it is over.
    pub(crate) const fn leftover(&self) -> &Bits {
        &self.guarded
    }

    pub(crate) fn was(&self, page: u64) -> Was {
        match (self.guarded.contains(page), self.zeros.contains(page)) {
            (true, _) => Was::There,
            (false, true) => Was::Zeros,
            (false, false) => Was::Kept,
        }
    }

    /// Guards the pages of `run` that can be now, and returns those of them that are to be write-protected at once, in runs.
    /// Pages that are arriving are passed over: who puts them there would not know.
    pub(crate) fn guard(&mut self, run: Run, places: &Places) -> Vec<Run> {
        let mut protect = Vec::new();
        let whole = self.guarded.words.iter().enumerate().take(run.end().div_ceil(64) as usize);
        // A guest may be large, and when it stands still nearly all is done: words that are whole are passed over.
        let left =
            whole.skip((run.first / 64) as usize).filter(|(_, word)| **word != u64::MAX).map(|(at, _)| at as u64);
        for page in left.collect::<Vec<_>>().into_iter().flat_map(|at| at * 64..(at + 1) * 64) {
            let is_meant = run.contains(page) && page < self.pages && !self.guarded.contains(page);
            if is_meant && !places.is_arriving(page) {
                self.guarded.put(page, true);
                if places.place(page) == Place::Resident {
                    add_page(&mut protect, page);
                }
            }
        }
        protect
    }

    pub(crate) const fn unguarded(&self) -> u64 {
        self.pages - self.guarded.set
    }

    /// The guest stands still: from here on pages are what they are now. False: some are not guarded yet.
    pub(crate) fn freeze(&mut self) -> bool {
        let can = self.phase == Phase::Armed && self.unguarded() == 0;
        if can {
            self.phase = Phase::Frozen;
        }
        can
    }

    /// A fault on `page`, which was at `was`, will be answered so.
    pub(crate) fn handle_answer(&mut self, page: u64, was: Place, answer: &Answer) -> Option<Duty<K>> {
        match (self.phase, answer) {
            (Phase::Over(_), _) | (_, Answer::Wait | Answer::Wake) | (Phase::Frozen, Answer::Fetch(_)) => None,
            (Phase::Armed, Answer::Fetch(pages)) => {
                pages.iter().for_each(|(page, _)| self.guarded.put(*page, false));
                None
            }
            (Phase::Armed, Answer::Zero { run, .. }) => {
                (run.first..run.end()).for_each(|page| self.guarded.put(page, false));
                None
            }
            (Phase::Armed, Answer::Unprotect | Answer::Map | Answer::Repair(_)) => {
                self.guarded.put(page, false);
                None
            }
            // One that was here may be here: a fault that was told late. It is looked at.
            (Phase::Frozen, Answer::Zero { run, .. }) if was != Place::Resident => {
                (run.first..run.end()).for_each(|page| self.release_zeros(page));
                None
            }
            (Phase::Frozen, _) => {
                let duty = || Duty { number: self.number, kept: self.kept.clone() };
                self.guarded.contains(page).then(duty)
            }
        }
    }

    /// What the page was has been kept or taken.
    pub(crate) fn release(&mut self, page: u64) {
        self.guarded.put(page, false);
    }

    /// What the page was was zeros.
    pub(crate) fn release_zeros(&mut self, page: u64) {
        if self.guarded.contains(page) {
            self.guarded.put(page, false);
            self.zeros.put(page, true);
        }
    }
}
