//! Tests of [`super`] in a made-up kernel: guest, fault threads and evictor take turns in every order that chance gives.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::capture::held::Duty;

mod captured;

const PAGES: u64 = 12;
const REACH: Reach = Reach { fetch: 4, zero: 4 };

/// A thread of the guest that waits: for a read, or to write a value.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    page: u64,
    write: Option<u64>,
    kind: FaultKind,
    /// Its fault has not been taken by a fault thread yet.
    untold: bool,
}

/// How far the one evictor is.
#[derive(Debug)]
enum Eviction {
    Idle,
    Begun(Vec<u64>),
    Protected(Vec<u64>),
    Read(Vec<(u64, u64)>),
    Committed(Vec<u64>),
    Punched(Vec<u64>),
    Gone(Vec<u64>),
}

/// The kernel's view of the guest's memory, the copies, and what the guest should find.
#[derive(Debug)]
struct World {
    places: Places,
    memory: Vec<Option<u64>>,
    protected: Vec<bool>,
    discarded: Vec<bool>,
    copies: BTreeMap<u64, (u64, u64)>,
    /// What was recorded last of each page, and whether that is void.
    index: BTreeMap<u64, Away>,
    void: Vec<bool>,
    generation: u64,
    truth: Vec<u64>,
    waiters: Vec<Waiter>,
    answers: Vec<(u64, Answer, Option<Duty<()>>)>,
    /// Pages that were put there, and whether their copies are kept; the fault thread has not said so yet.
    arrivals: Vec<(Run, bool)>,
    eviction: Eviction,
    captured: captured::Captured,
}

impl World {
    fn new() -> Self {
        let (memory, count) = (vec![None; PAGES as usize], PAGES as usize);
        Self {
            places: Places::recover(origin(), |_| false, |_| false),
            memory,
            protected: vec![false; count],
            discarded: vec![false; count],
            copies: BTreeMap::new(),
            index: BTreeMap::new(),
            void: (0..PAGES).map(|page| !is_in_snapshot(page)).collect(),
            generation: 0,
            truth: (0..PAGES).map(|page| if is_in_snapshot(page) { in_snapshot(page) } else { 0 }).collect(),
            waiters: Vec::new(),
            answers: Vec::new(),
            arrivals: Vec::new(),
            eviction: Eviction::Idle,
            captured: captured::Captured::default(),
        }
    }

    /// The guest reads or writes; what cannot be done at once waits.
    fn touch(&mut self, page: u64, write: Option<u64>) {
        let at = page as usize;
        let kind = match (self.memory[at], write) {
            (None, _) => FaultKind::Missing,
            (Some(_), Some(_)) if self.protected[at] => FaultKind::Protected,
            (Some(_), Some(value)) => {
                (self.memory[at], self.truth[at]) = (Some(value), value);
                return;
            }
            (Some(found), None) => {
                assert_eq!(found, self.truth[at], "page {page}");
                return;
            }
        };
        self.waiters.push(Waiter { page, write, kind, untold: true });
    }

    fn wake(&mut self, first: u64, count: u64) {
        let (woken, rest) = self.waiters.iter().partition(|waiter| Run::new(first, count).contains(waiter.page));
        self.waiters = rest;
        let woken: Vec<Waiter> = woken;
        woken.iter().for_each(|waiter| self.touch(waiter.page, waiter.write));
    }

    /// A page that nobody waits for is given up by the guest: after that it is zero.
    fn discard(&mut self, page: u64) {
        let moving = self.answers.iter().any(|(_, answer, _)| match answer {
            Answer::Fetch(pages) => pages.iter().any(|(number, _)| *number == page),
            _ => false,
        });
        // One that is being fetched beside another may stay what it was; that is allowed, and not looked at here.
        // Nor does the machine give up anything while it is captured.
        if moving || self.captured.held.is_some() || self.waiters.iter().any(|waiter| waiter.page == page) {
            return;
        }
        self.discarded[page as usize] = true;
        self.memory[page as usize] = None;
        self.protected[page as usize] = false;
        self.truth[page as usize] = 0;
    }

    /// A fault thread takes a fault.
    fn take_fault(&mut self, which: Index) {
        let untold: Vec<usize> = (0..self.waiters.len()).filter(|at| self.waiters[*at].untold).collect();
        if untold.is_empty() {
            return;
        }
        let at = *which.get(&untold);
        self.waiters[at].untold = false;
        let Waiter { page, kind, .. } = self.waiters[at];
        let discarded = self.discarded.clone();
        let was = self.places.place(page);
        let answer = self.places.handle_fault(page, kind, REACH, |page| discarded[page as usize]);
        let duty = self.duty(page, was, &answer);
        self.answers.push((page, answer, duty));
    }

    /// A fault thread comes to the end of an answer.
    fn give_answer(&mut self, which: Index) {
        if self.answers.is_empty() {
            return;
        }
        let (page, answer, duty) = self.answers.swap_remove(which.index(self.answers.len()));
        if let Some(duty) = duty
            && !self.keep_old(page, &duty)
        {
            return self.answers.push((page, answer, Some(duty)));
        }
        let one = Run::one(page);
        let run = match answer {
            Answer::Wait => return,
            Answer::Wake => return self.wake(page, 1),
            Answer::Zero { run, given_up } => {
                given_up.into_iter().for_each(|(_, away)| self.free(away));
                for page in run.first..run.end() {
                    self.memory[page as usize].get_or_insert(0);
                }
                run
            }
            Answer::Fetch(pages) => {
                for (page, away) in &pages {
                    let value = self.content(*page, *away);
                    if self.memory[*page as usize].is_none() {
                        self.memory[*page as usize] = Some(value);
                        self.protected[*page as usize] = self.comes_guarded(*page);
                    }
                }
                let run = Run::new(pages[0].0, pages.len() as u64);
                let keeps = |away: &Away| page.is_multiple_of(2) && matches!(away, Away::Ssd(_));
                pages.iter().filter(|(_, away)| !keeps(away)).for_each(|(_, away)| self.free(*away));
                run
            }
            Answer::Unprotect => {
                self.protected[page as usize] = false;
                one
            }
            Answer::Map | Answer::Repair(_) => unreachable!("no tripwire is set"),
        };
        self.wake(run.first, run.count);
        self.arrivals.push((run, page.is_multiple_of(2)));
    }

    /// And says so, after whatever happened in between.
    fn arrive(&mut self, which: Index) {
        if self.arrivals.is_empty() {
            return;
        }
        let (run, with_copies) = self.arrivals.swap_remove(which.index(self.arrivals.len()));
        (run.first..run.end()).for_each(|page| self.void[page as usize] = true);
        let places = &mut self.places;
        let awaited = if with_copies { places.arrived_with_copies(run) } else { places.arrived(run) };
        awaited.into_iter().for_each(|run| self.wake(run.first, run.count));
    }

    /// The copy's place may be another page's at once.
    fn free(&mut self, away: Away) {
        if let Some(generation) = away.generation() {
            self.copies.remove(&generation);
        }
    }

    fn content(&self, page: u64, away: Away) -> u64 {
        match away {
            Away::SameFilled(value) => value,
            Away::Snapshot => in_snapshot(page),
            Away::Compressed(copy, _) | Away::Ssd(copy) | Away::Remote(copy, _) => {
                let (of, value) = self.copies[&copy.generation];
                assert_eq!(of, page);
                value
            }
        }
    }

    /// The evictor takes one step; `run` is for one that begins.
    fn evict(&mut self, run: Run) {
        self.eviction = match std::mem::replace(&mut self.eviction, Eviction::Idle) {
            Eviction::Idle => {
                let runs = self.places.begin_eviction(run);
                Eviction::Begun(runs.iter().flat_map(|run| run.first..run.end()).collect())
            }
            Eviction::Begun(pages) => {
                for page in &pages {
                    self.discarded[*page as usize] = false;
                    self.protected[*page as usize] = true;
                }
                Eviction::Protected(pages)
            }
            Eviction::Protected(pages) => {
                let read = |page: u64| (page, self.memory[page as usize].unwrap_or(0));
                Eviction::Read(pages.into_iter().map(read).collect())
            }
            Eviction::Read(contents) => {
                let mut going = Vec::new();
                for (page, value) in contents {
                    let kept = self.places.kept(page);
                    let held = kept.filter(|copy| self.copies[&copy.generation] == (page, value));
                    let away = held.map_or_else(|| self.copy(page, value), Away::Ssd);
                    let goes = self.places.commit(page, away);
                    if goes {
                        going.push(page);
                        self.index.insert(page, away);
                        self.void[page as usize] = false;
                    }
                    match kept.filter(|_| goes).map(Away::Ssd) {
                        _ if held.is_some() => {}
                        Some(kept) => self.free(kept),
                        None if goes => {}
                        None => self.free(away),
                    }
                }
                Eviction::Committed(going)
            }
            Eviction::Committed(pages) => {
                for page in &pages {
                    self.memory[*page as usize] = None;
                    self.protected[*page as usize] = false;
                }
                Eviction::Punched(pages)
            }
            Eviction::Punched(pages) => {
                pages.iter().for_each(|page| self.places.gone(*page));
                Eviction::Gone(pages)
            }
            Eviction::Gone(pages) => {
                pages.iter().for_each(|page| self.wake(*page, 1));
                Eviction::Idle
            }
        };
    }

    fn copy(&mut self, page: u64, value: u64) -> Away {
        self.generation += 1;
        let copy = Copy { at: page as u32, generation: self.generation };
        self.copies.insert(self.generation, (page, value));
        match value % 3 {
            _ if is_in_snapshot(page) && value == in_snapshot(page) => Away::Snapshot,
            0 => Away::SameFilled(value),
            1 => Away::Compressed(copy, 7),
            _ => Away::Ssd(copy),
        }
    }

    /// A lender gets a copy of this page too, or gives it up; none: so with all pages.
    fn lend(&mut self, page: Option<u64>) {
        for page in page.map_or(0..PAGES, |page| page..page + 1) {
            let Some(away) = self.places.away(page) else { continue };
            let other = match away {
                Away::Ssd(copy) => Away::Remote(copy, LoanNumber((page % LOANS as u64) as u8)),
                other => other.recorded(),
            };
            // One that moves stays what it is.
            let _ = self.places.move_copy(page, away, other);
        }
    }

    /// Everything comes to its end; then nobody waits, and every page is what it should be.
    fn settle(&mut self) {
        let any: Index = serde_index();
        // A reader holds nothing for long.
        for page in 0..PAGES {
            self.end_reading(page);
        }
        for _ in 0..1000 {
            if !matches!(self.eviction, Eviction::Idle) {
                self.evict(Run::one(0));
            }
            self.take_fault(any);
            self.give_answer(any);
            self.arrive(any);
        }
        assert!(self.waiters.is_empty(), "somebody waits for ever: {self:?}");
        self.take_all();
        self.lift();
        for page in 0..PAGES {
            self.touch(page, None);
        }
        for _ in 0..100 {
            self.take_fault(any);
            self.give_answer(any);
            self.arrive(any);
        }
        assert!(self.waiters.is_empty() && self.arrivals.is_empty() && self.answers.is_empty());
        let counts = self.places.counts();
        assert_eq!((counts.resident, counts.total()), (Pages(PAGES), Pages(PAGES)));
    }

    /// A new pager: fault threads and evictor are gone, what they had committed is in the index, and all are woken.
    fn restart(&mut self) {
        self.go_on_holding();
        let mut words = origin();
        self.index.iter().for_each(|(page, away)| words[*page as usize] = Word::away(*away));
        let (memory, discarded, void) = (&self.memory, &self.discarded, &self.void);
        let is_void = |page: u64| discarded[page as usize] || void[page as usize];
        self.places = Places::recover(words, |page| memory[page as usize].is_some(), is_void);
        for page in 0..PAGES {
            self.void[page as usize] |= self.places.away(page).is_none();
        }
        (self.answers, self.arrivals, self.eviction) = (Vec::new(), Vec::new(), Eviction::Idle);
        self.wake(0, PAGES);
    }
}

/// Half of the guest goes on from a snapshot, whose pages are these.
const fn is_in_snapshot(page: u64) -> bool {
    page >= PAGES / 2
}
const fn in_snapshot(page: u64) -> u64 {
    100 + page
}
fn origin() -> Vec<Word> {
    let word = |page| if is_in_snapshot(page) { Word::away(Away::Snapshot) } else { Word::UNTOUCHED };
    (0..PAGES).map(word).collect()
}

fn serde_index() -> Index {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    any::<Index>().new_tree(&mut runner).map(|tree| proptest::strategy::ValueTree::current(&tree)).unwrap()
}

#[derive(Clone, Debug)]
enum Turn {
    Touch(u64, Option<u64>),
    Discard(u64),
    TakeFault(Index),
    GiveAnswer(Index),
    Arrive(Index),
    Evict(Run),
    Lend(Option<u64>),
    Restart,
    BeginCapture,
    Arm(Run),
    Freeze,
    Take(u64),
    Lift,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        8 => (0..PAGES, prop::option::of(1_u64..1000)).prop_map(|(page, write)| Turn::Touch(page, write)),
        1 => (0..PAGES).prop_map(Turn::Discard),
        8 => any::<Index>().prop_map(Turn::TakeFault),
        8 => any::<Index>().prop_map(Turn::GiveAnswer),
        8 => any::<Index>().prop_map(Turn::Arrive),
        10 => (0..PAGES, 1..PAGES).prop_map(|(first, count)| Turn::Evict(Run::new(first, count))),
        4 => prop::option::of(0..PAGES).prop_map(Turn::Lend),
        1 => Just(Turn::Restart),
        2 => Just(Turn::BeginCapture),
        6 => (0..PAGES, 1..=PAGES).prop_map(|(first, count)| Turn::Arm(Run::new(first, count))),
        4 => Just(Turn::Freeze),
        8 => (0..PAGES).prop_map(Turn::Take),
        1 => Just(Turn::Lift),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Whatever order guest, fault threads, evictor, a capture and deaths come in: every read finds what was written last, the
    /// capture what there was at its instant, and nobody waits for ever.
    #[test]
    fn no_write_is_lost_and_no_thread_of_the_guest_is_forgotten(turns in prop::collection::vec(turn(), 0..120)) {
        let mut world = World::new();
        for turn in turns {
            match turn {
                Turn::Touch(page, write) => world.touch(page, write),
                Turn::Discard(page) => world.discard(page),
                Turn::TakeFault(which) => world.take_fault(which),
                Turn::GiveAnswer(which) => world.give_answer(which),
                Turn::Arrive(which) => world.arrive(which),
                Turn::Evict(run) => world.evict(run),
                Turn::Lend(page) => world.lend(page),
                Turn::Restart => world.restart(),
                Turn::BeginCapture => world.begin_capture(),
                Turn::Arm(run) => world.arm(run),
                Turn::Freeze => world.freeze(),
                Turn::Take(page) => world.take(page),
                Turn::Lift => world.lift(),
            }
        }
        world.settle();
    }

    #[test]
    fn a_word_is_what_was_put_into_it(at in any::<u32>(), generation in 0_u64..1 << 48, length in any::<u16>(), value in any::<u64>()) {
        let copy = Copy { at, generation };
        for away in [Away::SameFilled(value), Away::Compressed(copy, length), Away::Ssd(copy), Away::Snapshot] {
            let word = Word::away(away);
            prop_assert_eq!(word.as_away(), Some(away));
            prop_assert_eq!(Word::from_bits(word.to_bits()), Some(word));
            for motion in [Motion::Still, Motion::Arriving, Motion::Awaited, Motion::Leaving, Motion::Going] {
                let moving = Word::new(State::Away(away), motion);
                prop_assert_eq!(Stored::new(moving).word(), moving);
            }
        }
        for loan in (0..LOANS as u8).map(LoanNumber) {
            let lent = Word::away(Away::Remote(copy, loan));
            prop_assert_eq!(lent.as_away(), Some(Away::Remote(copy, loan)));
            prop_assert_eq!(Stored::new(lent).word(), lent);
            prop_assert_eq!(Word::from_bits(lent.to_bits()), None, "no index speaks of a lender");
        }
    }

    #[test]
    fn no_other_bits_are_taken_for_a_word(bits in any::<u128>()) {
        if let Some(word) = Word::from_bits(bits) {
            prop_assert_eq!(word.to_bits(), bits);
            prop_assert_eq!(word.motion(), Motion::Still);
        }
    }
}

/// A guest of six pages that all left in one run, but for page 3, which left alone.
fn away() -> Places {
    let word = |page: u32| {
        let generation = if page == 3 { 900 } else { 100 + u64::from(page) };
        Word::away(Away::Ssd(Copy { at: page, generation }))
    };
    Places::recover((0..6).map(word).collect(), |_| false, |_| false)
}

fn fetched(answer: &Answer) -> Vec<u64> {
    let Answer::Fetch(pages) = answer else { panic!("{answer:?}") };
    pages.iter().map(|(page, _)| *page).collect()
}

#[test]
fn neighbours_that_left_together_come_back_together() {
    let reach = Reach { fetch: 8, zero: 8 };
    let mut places = away();
    assert_eq!(fetched(&places.handle_fault(1, FaultKind::Missing, reach, |_| false)), [0, 1, 2]);
    assert_eq!(fetched(&places.handle_fault(5, FaultKind::Missing, reach, |_| false)), [4, 5]);
    assert_eq!(fetched(&places.handle_fault(3, FaultKind::Missing, reach, |_| false)), [3]);
    // Within its window only, and never what was given up meanwhile.
    let narrow = Reach { fetch: 2, zero: 2 };
    assert_eq!(fetched(&away().handle_fault(1, FaultKind::Missing, narrow, |_| false)), [0, 1]);
    assert_eq!(fetched(&away().handle_fault(1, FaultKind::Missing, reach, |page| page == 0)), [1, 2]);
}

/// The second of two vCPUs that miss one page waits for the first one's answer.
#[test]
fn faults_on_one_page_are_answered_once() {
    let mut places = away();
    assert!(matches!(places.handle_fault(3, FaultKind::Missing, REACH, |_| false), Answer::Fetch(_)));
    assert_eq!(places.handle_fault(3, FaultKind::Missing, REACH, |_| false), Answer::Wait);
    places.arrived(Run::one(3));
    assert_eq!(places.place(3), Place::Resident);
}

#[test]
fn a_write_while_the_page_is_being_copied_stops_its_eviction() {
    let mut places = away();
    places.handle_fault(3, FaultKind::Missing, REACH, |_| false);
    places.arrived(Run::one(3));
    assert_eq!(places.begin_eviction(Run::new(0, 6)), [Run::one(3)]);
    assert_eq!(places.handle_fault(3, FaultKind::Protected, REACH, |_| false), Answer::Unprotect);
    assert!(!places.commit(3, Away::SameFilled(1)), "the copy is of what the page was before");
    // And until the protection is off, it cannot begin to leave again.
    assert_eq!(places.begin_eviction(Run::one(3)), []);
    places.arrived(Run::one(3));
    assert_eq!(places.begin_eviction(Run::one(3)), [Run::one(3)]);
    assert!(places.commit(3, Away::SameFilled(1)));
    assert_eq!(places.handle_fault(3, FaultKind::Protected, REACH, |_| false), Answer::Wait, "too late: it goes");
}

/// What became of the page meanwhile does not matter to the copy: whether it still holds is asked when the page leaves.
#[test]
fn a_copy_that_was_kept_stays_until_another_counts_or_it_is_forgotten() {
    let copy = Copy { at: 3, generation: 900 };
    let mut places = away();
    places.handle_fault(3, FaultKind::Missing, REACH, |_| false);
    places.arrived_with_copies(Run::one(3));
    assert_eq!((places.place(3), places.kept(3), places.away(3)), (Place::Resident, Some(copy), None));
    assert_eq!(places.begin_eviction(Run::new(0, 6)), [Run::one(3)]);
    assert_eq!(places.handle_fault(3, FaultKind::Protected, REACH, |_| false), Answer::Unprotect);
    places.arrived(Run::one(3));
    assert_eq!(places.kept(3), Some(copy));
    assert_eq!(places.begin_eviction(Run::one(3)), [Run::one(3)]);
    assert!(places.stays(3));
    places.arrived(Run::one(3));
    assert!(!places.forget_kept(3, 4), "that is another slot");
    assert!(places.keeps_any() && places.forget_kept(3, 3));
    assert!(!places.keeps_any() && places.kept(3).is_none());
    assert_eq!(places.place(3), Place::Resident);
}

#[test]
fn what_was_given_up_is_zero_and_its_copy_is_freed() {
    let mut places = away();
    let answer = places.handle_fault(3, FaultKind::Missing, REACH, |page| page == 3);
    let Answer::Zero { run, given_up } = answer else { panic!("{answer:?}") };
    assert_eq!((run, given_up.len()), (Run::one(3), 1));
    assert!(places.drop_copy(0).is_some());
    assert_eq!(places.place(0), Place::Untouched);
}

#[test]
fn first_touches_are_filled_in_runs() {
    let mut places = Places::recover(vec![Word::UNTOUCHED; 12], |page| page == 5, |_| false);
    let answer = places.handle_fault(6, FaultKind::Missing, REACH, |_| false);
    assert_eq!(answer, Answer::Zero { run: Run::new(6, 2), given_up: vec![] });
}
