//! Where each page of one guest is, what is on its way, and what a fault on it must lead to.
//!
//! Owns 13 octets for each page and the rules of moving: no page is evicted while another move of it is under way, none is
//! punched out after the guest wrote to it, and none is fetched from where it no longer is. Pure: who calls does what it
//! returns and tells when it is done. Which pages should leave is the room `memory`'s to say.
//!
//! A page moves in one of three ways. *Arriving*: one fault is being answered, and other faults on it wait for that.
//! *Leaving*: write-protected and being copied out; a write stops that. *Going*: its copy is kept and counts, the page is
//! about to be punched out; faults on it wait, and are woken when it is away.
//!
//! A page that came back from the store may keep its copy there. Nobody watches whether it is written to: whether the copy
//! still holds is found out when the page leaves again, by its seal.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_memory::run::{Run, add_page};
use lucarne_model::memory::{Pages, PagesByPlace, Place};

use crate::uffd::FaultKind;

mod reading;
#[cfg(test)]
mod tests;

pub(crate) use reading::Reading;

/// Where the copy of a page is that is not in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Away {
    /// This value, over and over.
    SameFilled(u64),
    /// In the pool, at this unit, with this many octets.
    Compressed(Copy, u16),
    /// In the store, in this slot.
    Ssd(Copy),
    /// In the store, in this slot, and in another host's memory, under this loan.
    Remote(Copy, LoanNumber),
    /// In the snapshot that the guest goes on from, where it stays when the page comes back.
    Snapshot,
}

/// A copy outside of the guest's memory. Generations count the copies made of this guest's pages: no two are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) at: u32,
    pub(crate) generation: u64,
}

/// Which of the loans of other hosts' memory that the VM has: several hosts may have parts of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoanNumber(pub(crate) u8);

/// Loans that a VM has at most.
pub(crate) const LOANS: usize = 4;

impl Away {
    pub(crate) const fn place(self) -> Place {
        match self {
            Self::SameFilled(_) => Place::SameFilled,
            Self::Compressed(..) => Place::Compressed,
            Self::Ssd(_) => Place::Ssd,
            Self::Snapshot => Place::Snapshot,
            Self::Remote(..) => Place::Remote,
        }
    }

    /// As it is written down. What lies with a lender may be gone with it; what counts is what is on the disk.
    pub(crate) const fn recorded(self) -> Self {
        match self {
            Self::Remote(copy, _) => Self::Ssd(copy),
            other => other,
        }
    }

    const fn generation(self) -> Option<u64> {
        match self {
            Self::SameFilled(_) | Self::Snapshot => None,
            Self::Compressed(copy, _) | Self::Ssd(copy) | Self::Remote(copy, _) => Some(copy.generation),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Untouched,
    Resident,
    /// Resident, and this copy in the store may still be what it is.
    Kept(Copy),
    Away(Away),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Motion {
    Still,
    Arriving,
    /// Arriving, and a fault on it was told meanwhile: who waits may have come after the page, and is to be woken once more.
    Awaited,
    Leaving,
    Going,
}

/// State and motion of a page in 16 octets: 4 bits of place, 4 of motion, 16 of length or loan, 32 of place, 48 of
/// generation; of a same-filled page 64 bits of value instead of the latter two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u128);

const UNTOUCHED: u128 = 0;
const RESIDENT: u128 = 1;
const SAME_FILLED: u128 = 2;
const COMPRESSED: u128 = 3;
const SSD: u128 = 4;
const SNAPSHOT: u128 = 6;
// These are never written down.
const KEPT: u128 = 7;
const REMOTE: u128 = 15;

impl Word {
    pub(crate) const UNTOUCHED: Self = Self(UNTOUCHED);

    const fn new(state: State, motion: Motion) -> Self {
        let motion = (motion as u128) << 4;
        let state = match state {
            State::Untouched => UNTOUCHED,
            State::Resident => RESIDENT,
            State::Kept(copy) => KEPT | copy.packed(),
            State::Away(Away::SameFilled(value)) => SAME_FILLED | (value as u128) << 64,
            State::Away(Away::Compressed(copy, length)) => COMPRESSED | (length as u128) << 8 | copy.packed(),
            State::Away(Away::Ssd(copy)) => SSD | copy.packed(),
            State::Away(Away::Remote(copy, loan)) => REMOTE | (loan.0 as u128) << 8 | copy.packed(),
            State::Away(Away::Snapshot) => SNAPSHOT,
        };
        Self(state | motion)
    }

    /// Of a page that does not move: as it is written down, unless a lender has a copy too ([`Away::recorded`]).
    pub(crate) const fn away(away: Away) -> Self {
        Self::new(State::Away(away), Motion::Still)
    }

    pub(crate) const fn to_bits(self) -> u128 {
        self.0
    }

    /// None: no word has these bits.
    pub(crate) fn from_bits(bits: u128) -> Option<Self> {
        let is_written = !matches!(bits & 15, KEPT | REMOTE);
        (is_written && Self::new(Self(bits).state(), Motion::Still).0 == bits).then_some(Self(bits))
    }

    pub(crate) fn as_away(self) -> Option<Away> {
        match self.state() {
            State::Away(away) => Some(away),
            _ => None,
        }
    }

    const fn state(self) -> State {
        let copy = Copy { at: (self.0 >> 32) as u32, generation: (self.0 >> 80) as u64 };
        match self.0 & 15 {
            UNTOUCHED => State::Untouched,
            RESIDENT => State::Resident,
            KEPT => State::Kept(copy),
            SAME_FILLED => State::Away(Away::SameFilled((self.0 >> 64) as u64)),
            COMPRESSED => State::Away(Away::Compressed(copy, (self.0 >> 8) as u16)),
            REMOTE => State::Away(Away::Remote(copy, LoanNumber((self.0 >> 8) as u8))),
            SNAPSHOT => State::Away(Away::Snapshot),
            _ => State::Away(Away::Ssd(copy)),
        }
    }

    const fn motion(self) -> Motion {
        match self.0 >> 4 & 15 {
            0 => Motion::Still,
            1 => Motion::Arriving,
            2 => Motion::Awaited,
            3 => Motion::Leaving,
            _ => Motion::Going,
        }
    }
}

/// A word without the bits that no word has: 24 of place, motion and length, and 80 of the rest, of which a value takes 64.
#[derive(Clone, Copy, Debug)]
struct Stored([u8; 13]);

impl Stored {
    fn new(word: Word) -> Self {
        let mut octets = [0; 13];
        let bits = word.0.to_le_bytes();
        octets[..3].copy_from_slice(&bits[..3]);
        if word.0 & 15 == SAME_FILLED {
            octets[3..11].copy_from_slice(&bits[8..]);
        } else {
            octets[3..7].copy_from_slice(&bits[4..8]);
            octets[7..].copy_from_slice(&bits[10..]);
        }
        Self(octets)
    }

    fn word(self) -> Word {
        let (octets, mut bits) = (self.0, [0; 16]);
        bits[..3].copy_from_slice(&octets[..3]);
        if u128::from(octets[0]) & 15 == SAME_FILLED {
            bits[8..].copy_from_slice(&octets[3..11]);
        } else {
            bits[4..8].copy_from_slice(&octets[3..7]);
            bits[10..].copy_from_slice(&octets[7..]);
        }
        Word(u128::from_le_bytes(bits))
    }
}

impl Copy {
    const fn packed(self) -> u128 {
        (self.at as u128) << 32 | (self.generation as u128) << 80
    }
}

/// What a fault leads to. All pages named are arriving until [`Places::arrived`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Whoever moves the page now wakes the guest when done.
    Wait,
    /// Nothing to do: it has been done since; wake the guest.
    Wake,
    /// Put zeros there. Copies that the guest gave up can be freed: they are in the list.
    Zero { run: Run, given_up: Vec<(u64, Away)> },
    /// Fetch these, neighbours in a row, and put them there; then their copies can be freed.
    Fetch(Vec<(u64, Away)>),
    /// Take the write protection off.
    Unprotect,
    /// Map what is there.
    Map,
    /// Somebody else has put a page there. Write this page's content over it, then map it and free the copy.
    Repair(Away),
}

/// How far a fault may reach beyond its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Pages of one fetch at most; a power of two.
    pub(crate) fetch: u64,
    /// Pages of one filling with zeros at most; a power of two.
    pub(crate) zero: u64,
}

/// The state of every page of one guest.
#[derive(Debug)]
pub(crate) struct Places {
    words: Vec<Stored>,
    counts: PagesByPlace,
    /// Of the remote ones, those under each loan.
    lent: [Pages; LOANS],
    /// Pages that have kept a copy.
    kept: u64,
}

impl Places {
    /// A guest whose pages are as `words` say, of an earlier pager perhaps; `is_there` says whether a page is in its
    /// memory, which counts more than any record, and `is_void` whether what they say of it does not hold any more.
    pub(crate) fn recover(mut words: Vec<Word>, is_there: impl Fn(u64) -> bool, is_void: impl Fn(u64) -> bool) -> Self {
        let mut counts = PagesByPlace::default();
        for (page, word) in words.iter_mut().enumerate() {
            let state = match word.state() {
                _ if is_there(page as u64) => State::Resident,
                State::Away(away) if !is_void(page as u64) => State::Away(away),
                _ => State::Untouched,
            };
            *word = Word::new(state, Motion::Still);
            *counts.at_mut(place(state)) += Pages(1);
        }
        Self { words: words.into_iter().map(Stored::new).collect(), counts, lent: [Pages::ZERO; LOANS], kept: 0 }
    }

    pub(crate) const fn len(&self) -> u64 {
        self.words.len() as u64
    }
    pub(crate) const fn counts(&self) -> PagesByPlace {
        self.counts
    }
    /// Pages of which the lender of this loan has a copy.
    pub(crate) fn lent(&self, loan: LoanNumber) -> Pages {
        self.lent.get(usize::from(loan.0)).copied().unwrap_or_default()
    }
    pub(crate) fn place(&self, page: u64) -> Place {
        place(self.word(page).state())
    }
    /// Where the copy of `page` is, if it counts.
    pub(crate) fn away(&self, page: u64) -> Option<Away> {
        self.word(page).as_away()
    }
    /// Every page whose copy counts, also of those that are moving: what an index must have.
    pub(crate) fn all_away(&self, run: Run) -> impl Iterator<Item = (u64, Away)> {
        let numbers = run.first..run.end().min(self.len());
        numbers.filter_map(|page| self.word(page).as_away().map(|away| (page, away)))
    }

    /// A thread of the guest waits at `page`.
    pub(crate) fn handle_fault(
        &mut self,
        page: u64,
        kind: FaultKind,
        reach: Reach,
        is_discarded: impl Fn(u64) -> bool,
    ) -> Answer {
        let word = self.word(page);
        match (kind, word.state(), word.motion()) {
            (_, state, Motion::Arriving | Motion::Awaited) => {
                self.set(page, state, Motion::Awaited);
                Answer::Wait
            }
            (_, _, Motion::Going) => Answer::Wait,
            (FaultKind::Missing, State::Away(away), _) if is_discarded(page) => self.give_up(page, away),
            (FaultKind::Missing, State::Away(_), _) => self.fetch(page, reach, is_discarded),
            (FaultKind::Missing, State::Untouched, _) => self.zero(page, reach),
            // Discarded while it was here, or put there just now: the kernel will tell.
            (FaultKind::Missing, state @ (State::Resident | State::Kept(_)), _) => {
                self.set(page, state, Motion::Arriving);
                Answer::Zero { run: Run::one(page), given_up: Vec::new() }
            }
            (FaultKind::Protected, state @ (State::Resident | State::Kept(_)), _) => {
                self.set(page, state, Motion::Arriving);
                Answer::Unprotect
            }
            // It left since this fault was told; whoever waited was woken then.
            (FaultKind::Protected, _, _) => Answer::Wake,
            (FaultKind::Minor, State::Away(away), _) => {
                self.set(page, State::Away(away), Motion::Arriving);
                Answer::Repair(away)
            }
            (FaultKind::Minor, state, _) => {
                self.set(page, state, Motion::Arriving);
                Answer::Map
            }
        }
    }

    fn give_up(&mut self, page: u64, away: Away) -> Answer {
        self.set(page, State::Untouched, Motion::Arriving);
        Answer::Zero { run: Run::one(page), given_up: vec![(page, away)] }
    }

    /// Neighbours that left in the same run come back with it: their generations follow as their numbers do.
    fn fetch(&mut self, page: u64, reach: Reach, is_discarded: impl Fn(u64) -> bool) -> Answer {
        let window = self.window(page, reach.fetch);
        let left_together = |here: u64, next: u64| -> bool {
            let (word, other) = (self.word(here), self.word(next));
            if word.motion() != Motion::Still || other.motion() != Motion::Still || is_discarded(next) {
                return false;
            }
            match (word.as_away(), other.as_away()) {
                (Some(a), Some(b)) => match (a.generation(), b.generation()) {
                    (Some(a), Some(b)) => a.wrapping_sub(here) == b.wrapping_sub(next),
                    _ => true,
                },
                _ => false,
            }
        };
        let (mut first, mut end) = (page, page + 1);
        while first > window.first && left_together(first, first - 1) {
            first -= 1;
        }
        while end < window.end() && left_together(end - 1, end) {
            end += 1;
        }
        let pages: Vec<(u64, Away)> = self.all_away(Run::new(first, end - first)).collect();
        for (page, away) in &pages {
            self.set(*page, State::Away(*away), Motion::Arriving);
        }
        Answer::Fetch(pages)
    }

    fn zero(&mut self, page: u64, reach: Reach) -> Answer {
        let window = self.window(page, reach.zero);
        let fresh = Word::new(State::Untouched, Motion::Still);
        let (mut first, mut end) = (page, page + 1);
        while first > window.first && self.word(first - 1) == fresh {
            first -= 1;
        }
        while end < window.end() && self.word(end) == fresh {
            end += 1;
        }
        for page in first..end {
            self.set(page, State::Untouched, Motion::Arriving);
        }
        Answer::Zero { run: Run::new(first, end - first), given_up: Vec::new() }
    }

    /// Those of `run` that are where the guest goes on from, and still: they are arriving.
    pub(crate) fn begin_bringing(&mut self, run: Run, is_discarded: impl Fn(u64) -> bool) -> Vec<u64> {
        let pages = run.first..run.end().min(self.len());
        let there = |page: &u64| self.word(*page) == Word::away(Away::Snapshot) && !is_discarded(*page);
        let pages: Vec<u64> = pages.filter(there).collect();
        pages.iter().for_each(|page| self.set(*page, State::Away(Away::Snapshot), Motion::Arriving));
        pages
    }

    fn window(&self, page: u64, size: u64) -> Run {
        let first = page - page % size;
        Run::new(first, size.min(self.len() - first))
    }

    /// A fault was answered: these pages are in the guest's memory. Whoever waits at those that are returned is to be woken
    /// now: a fault that is told between the page's coming and this would otherwise be nobody's.
    pub(crate) fn arrived(&mut self, run: Run) -> Vec<Run> {
        let mut awaited = Vec::new();
        for page in run.first..run.end() {
            let (motion, state) = self.movement(page);
            if !matches!(motion, Motion::Arriving | Motion::Awaited) {
                continue;
            }
            let state = if matches!(state, State::Kept(_)) { state } else { State::Resident };
            self.set(page, state, Motion::Still);
            if motion == Motion::Awaited {
                add_page(&mut awaited, page);
            }
        }
        awaited
    }

    /// The same of pages that were fetched; those that were in the store keep their copies there.
    pub(crate) fn arrived_with_copies(&mut self, run: Run) -> Vec<Run> {
        for page in run.first..run.end() {
            if let (motion @ (Motion::Arriving | Motion::Awaited), State::Away(Away::Ssd(copy))) = self.movement(page) {
                self.set(page, State::Kept(copy), motion);
            }
        }
        self.arrived(run)
    }

    /// Whether any page has kept a copy.
    pub(crate) const fn keeps_any(&self) -> bool {
        self.kept > 0
    }

    /// The copy in the store that a resident page has kept.
    pub(crate) fn kept(&self, page: u64) -> Option<Copy> {
        match self.word(page).state() {
            State::Kept(copy) => Some(copy),
            _ => None,
        }
    }

    /// Whether the page kept the copy in this slot, which from now on can be freed. Not for one that is leaving.
    pub(crate) fn forget_kept(&mut self, page: u64, slot: u32) -> bool {
        let is_kept = self.kept(page).is_some_and(|copy| copy.at == slot);
        if is_kept {
            self.set(page, State::Resident, self.word(page).motion());
        }
        is_kept
    }

    /// Begins an eviction: of `wanted` those that are here and still. They are to be write-protected and copied.
    pub(crate) fn begin_eviction(&mut self, wanted: Run) -> Vec<Run> {
        let mut runs = Vec::new();
        for page in wanted.first..wanted.end().min(self.len()) {
            if let (Motion::Still, state @ (State::Resident | State::Kept(_))) = self.movement(page) {
                self.set(page, state, Motion::Leaving);
                add_page(&mut runs, page);
            }
        }
        runs
    }

    /// Copies have been made: of those whose page was not written to meanwhile, they count from now on, and the index is to
    /// have them before the page is punched out. Returns whether this page goes.
    pub(crate) fn commit(&mut self, page: u64, away: Away) -> bool {
        let goes = matches!(self.movement(page), (Motion::Leaving, State::Resident | State::Kept(_)));
        if goes {
            self.set(page, State::Away(away), Motion::Going);
        }
        goes
    }

    /// The page is punched out.
    pub(crate) fn gone(&mut self, page: u64) {
        if let (State::Away(away), Motion::Going) = (self.word(page).state(), self.word(page).motion()) {
            self.set(page, State::Away(away), Motion::Still);
        }
    }

    /// The page does not leave after all, and is to have its write protection taken off; then it has [`arrived`](Self::arrived).
    /// False: the guest wrote to it, and that has been done.
    pub(crate) fn stays(&mut self, page: u64) -> bool {
        match self.movement(page) {
            (Motion::Leaving, state) => self.set(page, state, Motion::Arriving),
            (Motion::Going, _) => self.set(page, State::Resident, Motion::Arriving),
            _ => return false,
        }
        true
    }

    /// The copy of a page has moved from `from` to `to`. False: it was not there any more.
    pub(crate) fn move_copy(&mut self, page: u64, from: Away, to: Away) -> bool {
        let is_there = self.word(page) == Word::away(from);
        if is_there {
            self.set(page, State::Away(to), Motion::Still);
        }
        is_there
    }

    /// The guest gave the page up while it was away: its copy can be freed.
    pub(crate) fn drop_copy(&mut self, page: u64) -> Option<Away> {
        let word = self.word(page);
        let away = word.as_away().filter(|_| word.motion() == Motion::Still)?;
        self.set(page, State::Untouched, Motion::Still);
        Some(away)
    }

    fn movement(&self, page: u64) -> (Motion, State) {
        let word = self.word(page);
        (word.motion(), word.state())
    }

    fn word(&self, page: u64) -> Word {
        self.words.get(page as usize).map_or(Word::UNTOUCHED, |stored| stored.word())
    }

    fn set(&mut self, page: u64, state: State, motion: Motion) {
        let word = self.word(page);
        let Some(stored) = self.words.get_mut(page as usize) else { return };
        *self.counts.at_mut(place(word.state())) -= Pages(1);
        *self.counts.at_mut(place(state)) += Pages(1);
        if let Some(lent) = loan(word.state()).and_then(|loan| self.lent.get_mut(loan)) {
            *lent -= Pages(1);
        }
        if let Some(lent) = loan(state).and_then(|loan| self.lent.get_mut(loan)) {
            *lent += Pages(1);
        }
        self.kept -= u64::from(matches!(word.state(), State::Kept(_)));
        self.kept += u64::from(matches!(state, State::Kept(_)));
        *stored = Stored::new(Word::new(state, motion));
    }
}

const fn loan(state: State) -> Option<usize> {
    match state {
        State::Away(Away::Remote(_, loan)) => Some(loan.0 as usize),
        _ => None,
    }
}

const fn place(state: State) -> Place {
    match state {
        State::Untouched => Place::Untouched,
        State::Resident | State::Kept(_) => Place::Resident,
        State::Away(away) => away.place(),
    }
}
