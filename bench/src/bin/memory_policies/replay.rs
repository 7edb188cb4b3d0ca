//! Plays a trace to a contender and counts the refaults; plays the pager to the policies of `lucarne-memory`.
//!
//! Owns the rule of the contest: a page's first touch is nobody's fault, every later touch of a page that is away counts, once
//! the guest has booted.

use std::time::Duration;

use lucarne_memory::{
    looks::Looks,
    policy::Arrival,
    residency::Residency,
    run::{Run, Scan},
};
use lucarne_model::{Pages, memory::EvictionPolicy};

use crate::{
    prefetch::Prefetch,
    recording::{Event, Trace},
};

/// Something that holds pages and is told of touches.
pub(crate) trait Contender {
    /// The guest touches a page, at this event of the trace. Whether it was away.
    fn touch(&mut self, at: usize, page: u32) -> bool;
    /// A tenth of a second of the guest's has passed.
    fn scan(&mut self) {}
}

pub(crate) fn refaults(trace: &Trace, contender: &mut impl Contender) -> u64 {
    let (mut seen, mut refaults, mut scans) = (vec![false; trace.pages()], 0, 0);
    for (at, event) in trace.events().enumerate() {
        match event {
            Event::Scan => {
                scans += 1;
                contender.scan();
            }
            Event::Touch(page) => {
                let missed = contender.touch(at, page);
                refaults += u64::from(missed && seen[page as usize] && scans >= trace.warm_up());
                seen[page as usize] = true;
            }
        }
    }
    refaults
}

/// Pages that are made to leave at once, ahead of the next fault, as a pager does: 64 KiB.
const AHEAD: u64 = 16;

// What things take, as measured (`docs/benchmarks.md`): by these a pager decides when to look at access bits.
/// From one scan mark of a trace to the next.
const INTERVAL: Duration = Duration::from_millis(100);
/// A refault, from the disk.
const REFAULT: Duration = Duration::from_micros(100);
/// A page that a look has unmapped, when it is touched again.
const TOUCH: Duration = Duration::from_nanos(2100);
/// A page of the guest, when the pager looks.
const LOOK: Duration = Duration::from_nanos(30);
/// The first look is expected to find one page in so many touched.
const TOUCHED: u32 = 8;

/// One of our policies with a pager around it.
#[derive(Debug)]
pub(crate) struct Ours {
    residency: Residency,
    capacity: u64,
    /// Access bits.
    accessed: Vec<u64>,
    /// The same since the last mark of time.
    lately: Vec<u64>,
    prefetch: Option<Prefetch>,
    looks: Looks,
    /// On the guest's clock, with what refaults have cost it, and of that the latter.
    now: Duration,
    lost: Duration,
    /// Fetched, and neither touched nor gone yet.
    pending: Vec<bool>,
    useless: u64,
    /// Scans until the guest has booted.
    warm_up: usize,
}

impl Ours {
    pub(crate) fn new(trace: &Trace, capacity: usize, policy: EvictionPolicy, seed: u64) -> Self {
        let pages = trace.pages();
        Self {
            residency: Residency::new(Pages(pages as u64), policy, seed),
            capacity: capacity as u64,
            accessed: vec![0; pages.div_ceil(64)],
            lately: vec![0; pages.div_ceil(64)],
            looks: Looks::new(Duration::ZERO, TOUCH * pages as u32 / TOUCHED),
            now: Duration::ZERO,
            lost: Duration::ZERO,
            prefetch: None,
            pending: vec![false; pages],
            useless: 0,
            warm_up: trace.warm_up(),
        }
    }

    pub(crate) fn with_prefetch(self) -> Self {
        Self { prefetch: Some(Prefetch::default()), ..self }
    }

    /// Pages that were fetched and left again untouched.
    pub(crate) const fn useless(&self) -> u64 {
        self.useless
    }

    /// As the pager does, after whatever may be the occasion.
    fn look_if_due(&mut self) {
        let lost = if self.residency.scans_at_refaults() { self.lost } else { Duration::ZERO };
        let Some(occasion) = self.looks.due(self.now, lost) else { return };
        let run = Run::new(0, self.pending.len() as u64);
        let scan = Scan { run, accessed: &self.accessed };
        self.residency.scanned(scan, occasion);
        let touched = self.accessed.iter().map(|word| word.count_ones()).sum::<u32>();
        self.accessed.fill(0);
        self.looks.done(occasion, self.now, lost, LOOK * self.pending.len() as u32 + TOUCH * touched);
    }

    fn make_room(&mut self, pages: u64) {
        if self.residency.resident().0 + pages <= self.capacity {
            return;
        }
        for run in self.residency.victims(Pages(pages.max(AHEAD))) {
            for page in run.first..run.end() {
                let is_useless = std::mem::take(&mut self.pending[page as usize]);
                self.useless += u64::from(is_useless && self.warm_up == 0);
                self.accessed[page as usize / 64] &= !(1 << (page % 64));
            }
        }
    }

    fn proposed(&mut self, page: u64) -> Vec<Run> {
        match &mut self.prefetch {
            Some(prefetch) if self.residency.has_left(page) => prefetch.on_refault(page, &self.residency),
            _ => Vec::new(),
        }
    }

    fn fetch(&mut self, run: Run) {
        self.make_room(run.count);
        self.residency.arrived(run, Arrival::Prefetched);
        (run.first..run.end()).for_each(|page| self.pending[page as usize] = true);
    }
}

impl Contender for Ours {
    fn touch(&mut self, _: usize, page: u32) -> bool {
        let number = u64::from(page);
        let missed = !self.residency.is_resident(number);
        if missed {
            if self.residency.has_left(number) {
                self.now += REFAULT;
                self.lost += REFAULT;
                self.look_if_due();
            }
            let along = self.proposed(number);
            self.make_room(1);
            self.residency.arrived(Run::one(number), Arrival::Wanted);
            along.into_iter().for_each(|run| self.fetch(run));
        }
        self.pending[page as usize] = false;
        self.accessed[page as usize / 64] |= 1 << (page % 64);
        self.lately[page as usize / 64] |= 1 << (page % 64);
        missed
    }

    fn scan(&mut self) {
        self.now += INTERVAL;
        self.look_if_due();
        if let Some(prefetch) = &mut self.prefetch {
            // Not at each look: what was fetched a moment ago may be touched in the next.
            prefetch.scanned(&Scan { run: Run::new(0, self.pending.len() as u64), accessed: &self.lately });
        }
        self.lately.fill(0);
        self.warm_up = self.warm_up.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rivals::{Fifo, Lru, Optimum};

    /// The textbook's string, on which FIFO does worse with more memory (Belady, 1969): faults less the five first touches.
    #[test]
    fn the_rivals_fault_as_the_textbook_says() {
        let trace = Trace::new(vec![1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5], 0);
        let counts = |capacity| {
            [
                refaults(&trace, &mut Optimum::new(&trace, capacity)),
                refaults(&trace, &mut Lru::new(&trace, capacity)),
                refaults(&trace, &mut Fifo::new(&trace, capacity)),
            ]
        };
        assert_eq!(counts(3), [2, 5, 4]);
        assert_eq!(counts(4), [1, 3, 5]);
    }

    #[test]
    fn with_room_for_all_nobody_faults_twice() {
        let trace = Trace::new((0..2000).map(|at| at * 7919 % 500).collect(), 0);
        for policy in [EvictionPolicy::Clock, EvictionPolicy::DecayedLfu, EvictionPolicy::Random] {
            assert_eq!(refaults(&trace, &mut Ours::new(&trace, 500, policy, 1)), 0);
        }
    }

    /// Round and round over more than fits: LRU and its like lose all, and whoever fetches what comes next does not.
    #[test]
    fn prefetch_helps_where_the_order_is_plain() {
        let trace = Trace::new((0..20_000).map(|at| at % 1000).collect(), 0);
        let plain = refaults(&trace, &mut Ours::new(&trace, 500, EvictionPolicy::Clock, 1));
        let fetching = refaults(&trace, &mut Ours::new(&trace, 500, EvictionPolicy::Clock, 1).with_prefetch());
        assert!(plain > 9_000 && fetching * 4 < plain, "{plain} {fetching}");
    }
}
