//! The same made-up guest with a capture of it under way: armed, frozen at one instant, and read page by page.

use super::*;
use crate::{
    capture::{
        held::{Duty, Held, Ledger, Phase, Was},
        wire::Over,
    },
    shared::Words,
};

/// A capture, its reader, and what it should find.
#[derive(Debug, Default)]
pub(super) struct Captured {
    pub(super) held: Option<Held<()>>,
    /// Where a next pager finds it.
    ledger: Option<Ledger>,
    /// Guarded, and not protected yet.
    pending: Vec<u64>,
    /// What every page was at the instant.
    instant: Vec<u64>,
    kept: BTreeMap<u64, u64>,
    /// Being read: the page, and whether it is here.
    reading: Vec<(u64, Reading)>,
    number: u64,
}

/// Of nothing yet, in a file that outlives the pager.
fn ledger() -> Ledger {
    let file = rustix::fs::memfd_create("ledger", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into();
    let words = Words::map_at(&file, 0, 3).unwrap();
    Ledger { mark: words.part(0, 1), guarded: words.part(1, 1), zeros: words.part(2, 1) }
}

impl World {
    pub(super) fn duty(&mut self, page: u64, was: Place, answer: &Answer) -> Option<Duty<()>> {
        self.captured.held.as_mut().and_then(|held| held.handle_answer(page, was, answer))
    }

    /// Before the fault is answered: the content first, and then that it is kept. False: the latter is to come.
    pub(super) fn keep_old(&mut self, page: u64, duty: &Duty<()>) -> bool {
        let content = self.memory[page as usize].unwrap_or(0);
        if let Some(held) = self.captured.held.as_mut().filter(|held| held.number == duty.number) {
            if content == 0 {
                held.release_zeros(page);
            } else if self.captured.kept.insert(page, content).is_none() {
                return false;
            } else {
                held.release(page);
            }
        }
        true
    }

    /// A new pager: what was frozen is so still, and what was armed is nothing.
    pub(super) fn go_on_holding(&mut self) {
        let Captured { held, ledger, instant, mut kept, number, .. } = std::mem::take(&mut self.captured);
        drop(held);
        let Some(ledger) = ledger.filter(Ledger::is_frozen) else { return };
        // What is guarded still was about to be kept.
        kept.retain(|page, _| !ledger.guards(*page));
        let held = Held::found(number + 1, PAGES, (), ledger.clone());
        let number = number + 1;
        self.captured =
            Captured { held: Some(held), ledger: Some(ledger), instant, kept, number, ..Captured::default() };
    }

    pub(super) fn comes_guarded(&self, page: u64) -> bool {
        self.captured.held.as_ref().is_some_and(|held| held.guards_arrival(page))
    }

    pub(super) fn begin_capture(&mut self) {
        if self.captured.held.is_none() {
            let number = self.captured.number + 1;
            let ledger = ledger();
            let held = Held::new(number, PAGES, (), ledger.clone());
            self.captured = Captured { held: Some(held), ledger: Some(ledger), number, ..Captured::default() };
        }
    }

    /// A round of arming begins, or what it began is done.
    pub(super) fn arm(&mut self, run: Run) {
        let Some(held) = self.captured.held.as_mut().filter(|held| held.phase() == Phase::Armed) else { return };
        if self.captured.pending.is_empty() {
            let runs = held.guard(run, &self.places);
            self.captured.pending = runs.iter().flat_map(|run| run.first..run.end()).collect();
        } else {
            self.captured.pending.drain(..).for_each(|page| self.protected[page as usize] = true);
        }
    }

    /// If the guest stands still, which it does not while it waits for a page. What is left of arming is done first.
    pub(super) fn freeze(&mut self) {
        if self.waiters.is_empty() {
            while !self.captured.pending.is_empty() {
                self.arm(Run::new(0, PAGES));
            }
            self.arm(Run::new(0, PAGES));
            self.captured.pending.drain(..).for_each(|page| self.protected[page as usize] = true);
            let frozen = self.captured.held.as_mut().is_some_and(Held::freeze);
            if frozen {
                self.captured.instant = self.truth.clone();
            }
        }
    }

    /// The reader begins to take a page, or ends with one.
    pub(super) fn take(&mut self, page: u64) {
        let Some(held) = self.captured.held.as_mut().filter(|held| held.phase() == Phase::Frozen) else { return };
        if let Some(at) = self.captured.reading.iter().position(|(other, _)| *other == page) {
            let (page, reading) = self.captured.reading.swap_remove(at);
            return self.taken(page, reading);
        }
        let found = match held.was(page) {
            Was::Zeros => 0,
            Was::Kept => self.captured.kept[&page],
            Was::There => match self.places.begin_reading(page, self.discarded[page as usize]) {
                Reading::Zeros => {
                    held.release_zeros(page);
                    0
                }
                Reading::Moves => return,
                reading => return self.captured.reading.push((page, reading)),
            },
        };
        assert_eq!(found, self.captured.instant[page as usize], "page {page}: {self:?}");
    }

    pub(super) fn end_reading(&mut self, page: u64) {
        while self.captured.reading.iter().any(|(other, _)| *other == page) {
            self.take(page);
        }
    }

    fn taken(&mut self, page: u64, reading: Reading) {
        let found = match reading {
            Reading::Away(away) => self.content(page, away),
            _ => self.memory[page as usize].unwrap_or(0),
        };
        assert_eq!(found, self.captured.instant[page as usize], "page {page}: {self:?}");
        let is_guarded = self.captured.held.as_ref().is_some_and(|held| held.was(page) == Was::There);
        if is_guarded && let Some(held) = &mut self.captured.held {
            held.release(page);
            self.captured.kept.insert(page, found);
            // And its protection goes after that.
            return self.captured.reading.push((page, reading));
        }
        if reading == Reading::Here {
            self.protected[page as usize] = false;
            self.wake(page, 1);
        }
        if self.places.end_reading(page) {
            self.wake(page, 1);
        }
    }

    /// The reader is gone.
    pub(super) fn lift(&mut self) {
        for (page, _) in std::mem::take(&mut self.captured.reading) {
            if self.places.end_reading(page) {
                self.wake(page, 1);
            }
        }
        let Some(mut held) = self.captured.held.take() else { return };
        held.end(Over::LetGo);
        for page in (0..PAGES).filter(|page| held.leftover().contains(*page)) {
            match self.places.begin_reading(page, false) {
                Reading::Here => {
                    self.protected[page as usize] = false;
                    self.wake(page, 1);
                    assert!(!self.places.end_reading(page));
                }
                Reading::Away(_) => assert!(!self.places.end_reading(page)),
                Reading::Zeros | Reading::Moves => {}
            }
        }
        self.captured.pending.clear();
    }

    /// All that is left is taken, once nothing moves.
    pub(super) fn take_all(&mut self) {
        for page in 0..PAGES {
            self.take(page);
            self.end_reading(page);
        }
        let is_frozen = self.captured.held.as_ref().is_some_and(|held| held.phase() == Phase::Frozen);
        let left = self.captured.held.as_ref().map(|held| (0..PAGES).filter(|page| held.guards(*page)).count());
        assert!(!is_frozen || left == Some(0), "{self:?}");
    }
}
