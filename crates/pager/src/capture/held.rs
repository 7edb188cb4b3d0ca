//! Which pages of a captured guest still are what they were, and where what they were is else.
//!
//! Owns two bits for each page and the rules by which they change. A page is *guarded* when nobody changes it unseen: it is
//! write-protected, or it is not in the guest's memory at all. While a capture is armed, pages become guarded a part at a
//! time and stop being so when the guest wants to write; the capture is frozen when all of them are, at once. From then on a
//! guarded page is worth what it was at that instant wherever it lies, and it stops being guarded when its content has been
//! taken by the reader, or kept apart, or noted as zeros. Pure: who calls holds the book's lock, and does what it returns.
//!
//! The bits are where a next pager finds them ([`Ledger`]), and right at each instant: that a page is guarded is taken back
//! after what is known of it instead, and before its protection goes. So of a page that is found guarded nothing can have been
//! written over, and one that is found otherwise is not needed any more.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_memory::run::{Run, add_page};
use lucarne_model::memory::Place;

use super::wire::Over;
use crate::{
    places::{Answer, Places},
    shared::Words,
};

/// A bit for each page.
#[derive(Debug)]
pub(crate) struct Bits {
    words: Words,
    set: u64,
}

impl Bits {
    /// As the words are, of so many pages.
    fn found(words: Words, pages: u64) -> Self {
        let mut bits = Self { words, set: 0 };
        bits.set = (0..pages.div_ceil(64)).map(|at| u64::from(bits.word(at).count_ones())).sum();
        bits
    }
    fn word(&self, at: u64) -> u64 {
        self.words.get(at as usize)
    }
    pub(crate) fn contains(&self, page: u64) -> bool {
        self.word(page / 64) >> (page % 64) & 1 == 1
    }
    fn put(&mut self, page: u64, is_set: bool) {
        let (word, bit) = (self.word(page / 64), 1 << (page % 64));
        let changed = match (word & bit == 0, is_set) {
            (true, true) => (word | bit, self.set + 1),
            (false, false) => (word & !bit, self.set.saturating_sub(1)),
            _ => return,
        };
        self.words.set((page / 64) as usize, changed.0);
        self.set = changed.1;
    }
}

/// Where the state of a capture is, for this pager and the next one.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    /// One word: whether the rest says what pages were at an instant.
    pub(crate) mark: Words,
    /// A bit for each page, of words that are zero at first.
    pub(crate) guarded: Words,
    pub(crate) zeros: Words,
}

impl Ledger {
    const FROZEN: u64 = 1;

    pub(crate) fn is_frozen(&self) -> bool {
        self.mark.get(0) == Self::FROZEN
    }
    /// It says nothing any more.
    pub(crate) fn void(&self) {
        self.mark.set(0, 0);
    }
    /// Whether a next pager is to take the page for what it was.
    pub(crate) fn guards(&self, page: u64) -> bool {
        self.guarded.get((page / 64) as usize) >> (page % 64) & 1 == 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Armed,
    Frozen,
    Over(Over),
}

/// A capture, as the book has it. `K` is where old contents are kept.
#[derive(Debug)]
pub(crate) struct Held<K> {
    /// Of all captures of this pager.
    pub(crate) number: u64,
    pub(crate) kept: K,
    pages: u64,
    phase: Phase,
    ledger: Ledger,
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
    /// One that is armed; the ledger says nothing yet.
    pub(crate) fn new(number: u64, pages: u64, kept: K, ledger: Ledger) -> Self {
        Self::with(number, (pages, kept), Phase::Armed, ledger)
    }

    /// One that an earlier pager had frozen.
    pub(crate) fn found(number: u64, pages: u64, kept: K, ledger: Ledger) -> Self {
        Self::with(number, (pages, kept), Phase::Frozen, ledger)
    }

    fn with(number: u64, (pages, kept): (u64, K), phase: Phase, ledger: Ledger) -> Self {
        let found = |words: &Words| Bits::found(words.clone(), pages);
        let (guarded, zeros) = (found(&ledger.guarded), found(&ledger.zeros));
        Self { number, kept, pages, phase, ledger, guarded, zeros }
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }
    /// The first reason is the one that counts.
    pub(crate) fn end(&mut self, over: Over) {
        self.ledger.void();
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
    /// Pages that are arriving are passed over: who puts them there would not know. Of one that is frozen there are none: what
    /// it is done with is not what it was any more.
    pub(crate) fn guard(&mut self, run: Run, places: &Places) -> Vec<Run> {
        let mut protect = Vec::new();
        if self.phase != Phase::Armed {
            return protect;
        }
        // A guest may be large, and when it stands still nearly all is done: words that are whole are passed over.
        let words = run.first / 64..run.end().min(self.pages).div_ceil(64);
        let left: Vec<u64> = words.filter(|at| self.guarded.word(*at) != u64::MAX).collect();
        for page in left.into_iter().flat_map(|at| at * 64..(at + 1) * 64) {
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
        self.pages.saturating_sub(self.guarded.set)
    }

    /// The guest stands still: from here on pages are what they are now. False: some are not guarded yet.
    pub(crate) fn freeze(&mut self) -> bool {
        let can = self.phase == Phase::Armed && self.unguarded() == 0;
        if can {
            self.phase = Phase::Frozen;
            self.ledger.mark.set(0, Ledger::FROZEN);
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
            self.zeros.put(page, true);
            self.guarded.put(page, false);
        }
    }
}
