//! A rule that pagers do not have, measured beside theirs: which pages should come back with one that the guest wants.
//!
//! Owns the last faults and what became of the last proposals. Two guesses are made. If most of the last faults were the
//! same stride apart, the guest goes through its memory, and the next ones on its way are wanted soon (Leap, ATC'20).
//! Otherwise neighbours that left together come back together. Only pages that have left are proposed, and how many
//! depends on how many of the earlier ones the guest then touched.

use std::collections::VecDeque;

use lucarne_memory::{
    residency::Residency,
    run::{Run, Scan, add_page},
};

/// Faults that vote on a stride.
const VOTERS: usize = 8;
/// Pages that are proposed for one fault, at most: 128 KiB.
const WIDEST: u64 = 32;
/// Neighbours are looked for within so many pages, aligned: 64 KiB.
const BLOCK: u64 = 16;
/// Whoever proposes nothing any more, because it was wrong, still tries at one refault of so many.
const TRIAL: u64 = 32;
/// Proposals whose fate is awaited, at most.
const AWAITED: usize = 1024;

/// Proposes pages to fetch, for one VM.
#[derive(Clone, Debug)]
pub(crate) struct Prefetch {
    refaults: u64,
    last_fault: u64,
    strides: VecDeque<i64>,
    width: u64,
    awaited: VecDeque<u64>,
}

impl Default for Prefetch {
    fn default() -> Self {
        let (strides, awaited) = (VecDeque::with_capacity(VOTERS), VecDeque::new());
        Self { refaults: 0, last_fault: 0, strides, width: BLOCK / 2, awaited }
    }
}

impl Prefetch {
    /// The guest wants `page`, which had left and is being fetched: what to fetch along with it.
    pub(crate) fn on_refault(&mut self, page: u64, residency: &Residency) -> Vec<Run> {
        if self.strides.len() == VOTERS {
            self.strides.pop_front();
        }
        self.strides.push_back(page.wrapping_sub(self.last_fault).cast_signed());
        self.last_fault = page;
        self.refaults += 1;
        let width = if self.refaults.is_multiple_of(TRIAL) { self.width.max(1) } else { self.width };
        let mut pages = match self.majority() {
            Some(stride) => along(page, stride, width, residency),
            None => beside(page, width, residency),
        };
        pages.sort_unstable();
        let mut runs = Vec::new();
        for page in pages {
            if self.awaited.len() == AWAITED {
                self.awaited.pop_front();
            }
            self.awaited.push_back(page);
            add_page(&mut runs, page);
        }
        runs
    }

    /// Learns from a scan how many of the pages proposed since the last one were touched: if half of them or more, twice
    /// as many are proposed from now on; if less than a quarter, half as many, down to none.
    pub(crate) fn scanned(&mut self, scan: &Scan<'_>) {
        let before = self.awaited.len();
        let mut touched = 0;
        self.awaited.retain(|page| {
            touched += usize::from(scan.was_accessed(*page));
            !scan.run.contains(*page)
        });
        let judged = before - self.awaited.len();
        if judged == 0 {
            return;
        }
        if touched * 2 >= judged {
            self.width = (self.width * 2).clamp(1, WIDEST);
        } else if touched * 4 < judged {
            self.width /= 2;
        }
    }

    /// The stride that more than half of the last faults were apart, if there is one.
    fn majority(&self) -> Option<i64> {
        // Boyer and Moore's vote, and then a count: the winner need not have a majority.
        let (mut candidate, mut lead) = (0, 0);
        for stride in &self.strides {
            match (lead, candidate == *stride) {
                (0, _) => (candidate, lead) = (*stride, 1),
                (_, true) => lead += 1,
                (_, false) => lead -= 1,
            }
        }
        let votes = self.strides.iter().filter(|stride| **stride == candidate).count();
        (votes * 2 > VOTERS && candidate != 0).then_some(candidate)
    }
}

fn along(page: u64, stride: i64, width: u64, residency: &Residency) -> Vec<u64> {
    let ahead = (1..=width.cast_signed()).map_while(|step| page.checked_add_signed(stride.checked_mul(step)?));
    ahead.filter(|page| residency.has_left(*page)).collect()
}

/// From `page` outwards, as far as pages left at the same time as it did.
fn beside(page: u64, width: u64, residency: &Residency) -> Vec<u64> {
    let block = page - page % BLOCK;
    let together = |other: &u64| residency.left_together(page, *other);
    let after = (page + 1..block + BLOCK).take_while(together);
    let before = (block..page).rev().take_while(together);
    after.chain(before).take(width as usize).collect()
}

#[cfg(test)]
mod tests {
    use lucarne_model::{Pages, memory::EvictionPolicy};

    use super::*;
    use lucarne_memory::{dice::Dice, policy::Arrival};

    const MEMORY: u64 = 10_000;

    /// All pages have been here; those of `away` have left, in this order, `pause` other leavings between.
    fn residency(away: &[Run]) -> Residency {
        let mut residency = Residency::new(Pages(MEMORY), EvictionPolicy::Clock, 0);
        residency.arrived(Run::new(0, MEMORY), Arrival::Found);
        away.iter().for_each(|run| residency.left(*run));
        residency
    }

    /// Lets a fault happen: the page comes, and what is proposed.
    fn fault(prefetch: &mut Prefetch, residency: &mut Residency, page: u64) -> Vec<Run> {
        let runs = prefetch.on_refault(page, residency);
        residency.arrived(Run::one(page), Arrival::Wanted);
        runs.iter().for_each(|run| residency.arrived(*run, Arrival::Prefetched));
        runs
    }

    #[test]
    fn a_guest_that_strides_finds_its_next_pages_there() {
        let mut residency = residency(&[Run::new(0, MEMORY)]);
        let mut prefetch = Prefetch::default();
        let mut met = 0;
        for page in (0..6_000).step_by(20) {
            if residency.is_resident(page) {
                met += 1;
            } else {
                fault(&mut prefetch, &mut residency, page);
            }
        }
        assert!(met > 200, "{met} of 300");
    }

    #[test]
    fn neighbours_that_left_together_come_back_together_and_strangers_do_not() {
        // In an epoch of leaving, a 32nd of the memory leaves: 312 pages.
        let mut residency = residency(&[Run::new(96, 8), Run::new(4000, 1000), Run::new(104, 8)]);
        let runs = fault(&mut Prefetch::default(), &mut residency, 100);
        assert_eq!(runs, [Run::new(96, 4), Run::new(101, 3)], "the block's other half left later");
    }

    #[test]
    fn who_is_wrong_proposes_less_and_who_is_right_more() {
        let mut residency = residency(&[Run::new(0, MEMORY)]);
        let mut prefetch = Prefetch::default();
        let whole = Run::new(0, MEMORY);
        let all = vec![u64::MAX; MEMORY.div_ceil(64) as usize];
        for round in 0..5 {
            fault(&mut prefetch, &mut residency, 16 * (7 * round * round + 3 * round));
            prefetch.scanned(&Scan { run: whole, accessed: &[] });
        }
        assert_eq!(prefetch.width, 0);
        let mut proposed = 0;
        for round in 0..200_u64 {
            let page = 2_000 + 16 * (round * round % 499);
            proposed += u64::from(!fault(&mut prefetch, &mut residency, page).is_empty());
            prefetch.scanned(&Scan { run: whole, accessed: &all });
            if prefetch.width == WIDEST {
                assert!(round > 30 && proposed <= 10, "one trial in a while is enough: {proposed} in {round}");
                return;
            }
        }
        panic!("it never dared again");
    }

    /// Whatever the faults, only pages that have left are proposed, each once, not the one that is wanted, and few.
    #[test]
    fn only_what_has_left_is_proposed() {
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let mut residency = residency(&[Run::new(dice.below(MEMORY), dice.below(MEMORY))]);
            let mut prefetch = Prefetch::default();
            for _ in 0..dice.below(80) {
                let page = dice.below(MEMORY + 50);
                let runs = prefetch.on_refault(page, &residency);
                let pages: Vec<u64> = runs.iter().flat_map(|run| run.first..run.end()).collect();
                assert!(pages.len() as u64 <= WIDEST);
                assert!(pages.is_sorted_by(|a, b| a < b));
                assert!(pages.iter().all(|other| residency.has_left(*other) && *other != page));
                runs.iter().for_each(|run| residency.arrived(*run, Arrival::Prefetched));
            }
        }
    }
}
