//! What holds for every policy, and what each is for.

use std::collections::BTreeSet;

use lucarne_model::{Pages, memory::EvictionPolicy};
use proptest::prelude::*;

use super::{Arrival, Clock, HOTTEST, Heat, Occasion, Policy};
use crate::{
    residency::Residency,
    run::{Run, Scan},
};

const ALL: [EvictionPolicy; 3] = [EvictionPolicy::Clock, EvictionPolicy::DecayedLfu, EvictionPolicy::Random];
const MEMORY: u64 = 300;

fn full(policy: EvictionPolicy) -> Residency {
    let mut residency = Residency::new(Pages(MEMORY), policy, 7);
    residency.arrived(Run::new(0, MEMORY), Arrival::Wanted);
    residency
}

fn scan(residency: &mut Residency, touched: impl Iterator<Item = u64>) {
    scan_at(Occasion::Regular, residency, touched);
}

fn scan_at(occasion: Occasion, residency: &mut Residency, touched: impl Iterator<Item = u64>) {
    let mut accessed = vec![0_u64; MEMORY.div_ceil(64) as usize];
    touched.for_each(|page| accessed[page as usize / 64] |= 1 << (page % 64));
    residency.scanned(Scan { run: Run::new(0, MEMORY), accessed: &accessed }, occasion);
}

fn numbers(runs: &[Run]) -> Vec<u64> {
    runs.iter().flat_map(|run| run.first..run.end()).collect()
}

#[derive(Clone, Debug)]
enum Event {
    Scan(u64, bool),
    Arrive(Run, bool),
    Discard(Run),
    Leave(Run),
    Evict(u64, bool),
}

fn event() -> impl Strategy<Value = Event> {
    let run = || (0..MEMORY + 20, 0_u64..40).prop_map(|(first, count)| Run::new(first, count));
    prop_oneof![
        any::<(u64, bool)>().prop_map(|(bits, regular)| Event::Scan(bits, regular)),
        (run(), any::<bool>()).prop_map(|(run, wanted)| Event::Arrive(run, wanted)),
        run().prop_map(Event::Discard),
        run().prop_map(Event::Leave),
        (0..MEMORY, any::<bool>()).prop_map(|(wanted, keep)| Event::Evict(wanted, keep)),
    ]
}

proptest! {
    /// Whatever happens in whatever order, victims are resident pages, each once, as many as were wanted if there are so
    /// many, and the residency agrees with a plain set of pages.
    #[test]
    fn victims_are_resident_pages_and_none_is_lost(events in proptest::collection::vec(event(), 1..60), policy in 0_usize..3) {
        let mut residency = Residency::new(Pages(MEMORY), ALL[policy], 1);
        let mut model = BTreeSet::new();
        let inside = |run: Run| run.first.min(MEMORY)..run.end().min(MEMORY);
        for event in events {
            match event {
                Event::Scan(bits, regular) => {
                    let occasion = if regular { Occasion::Regular } else { Occasion::Refaults };
                    scan_at(occasion, &mut residency, (0..MEMORY).filter(|page| bits >> (page % 64) & 1 == 1));
                }
                Event::Arrive(run, wanted) => {
                    residency.arrived(run, if wanted { Arrival::Wanted } else { Arrival::Prefetched });
                    model.extend(inside(run));
                }
                Event::Discard(run) => {
                    residency.discarded(run);
                    model.retain(|page| !inside(run).contains(page));
                }
                Event::Leave(run) => {
                    residency.left(run);
                    model.retain(|page| !inside(run).contains(page));
                }
                Event::Evict(wanted, keep) => {
                    let before = model.len() as u64;
                    let runs = residency.victims(Pages(wanted));
                    let victims = numbers(&runs);
                    prop_assert_eq!(victims.len() as u64, wanted.min(before));
                    for page in victims {
                        prop_assert!(model.remove(&page), "page {} left twice or was not here", page);
                    }
                    if let (true, Some(first)) = (keep, runs.first()) {
                        residency.kept(*first);
                        model.extend(inside(*first));
                    }
                }
            }
            prop_assert_eq!(residency.resident(), Pages(model.len() as u64));
            prop_assert!((0..MEMORY).all(|page| residency.is_resident(page) == model.contains(&page)));
            prop_assert!(residency.idle() <= residency.resident());
        }
    }
}

#[test]
fn what_was_touched_last_leaves_last() {
    for policy in [EvictionPolicy::Clock, EvictionPolicy::DecayedLfu] {
        let mut residency = full(policy);
        for _ in 0..10 {
            scan(&mut residency, 50..150);
        }
        let victims = numbers(&residency.victims(Pages(MEMORY - 100)));
        assert!(victims.iter().all(|page| !(50..150).contains(page)), "{policy:?} took {victims:?}");
    }
}

/// A file that is read once goes through the memory of a guest that works with something else, and drives out itself: what
/// came and was done with leaves before what is touched in each scan, and also before what is touched in every fourth.
#[test]
fn what_passes_through_does_not_drive_out_what_is_worked_with() {
    let mut residency = Residency::new(Pages(MEMORY), EvictionPolicy::Clock, 0);
    residency.arrived(Run::new(0, 100), Arrival::Wanted);
    for round in 0..100_u64 {
        let busy = (0..100).filter(|page| page % 4 == round % 4 || *page < 50);
        scan_at(Occasion::Refaults, &mut residency, busy);
        if round >= 20 {
            let (first, room) = (100 + (round * 20) % 200, Pages(residency.resident().0.saturating_sub(130)));
            let victims = numbers(&residency.victims(room));
            assert!(victims.iter().all(|page| *page >= 100), "in round {round} {victims:?} left");
            residency.arrived(Run::new(first, 20), Arrival::Wanted);
        }
    }
}

proptest! {
    /// A touch never makes colder and its absence never hotter; of two pages that a scan saw alike, the one that was hotter
    /// is not colder afterwards; and a scan at refaults takes no more away than a regular one. One that has just come is
    /// apart: the touch for which it came does not count.
    #[test]
    fn heat_follows_touches(heat in 0..=HOTTEST, other in 0..=HOTTEST, accessed in any::<bool>(), regular in any::<bool>()) {
        let new = Clock.on_arrival(Arrival::Wanted);
        prop_assume!(heat != new && other != new);
        let occasion = if regular { Occasion::Regular } else { Occasion::Refaults };
        let after = |heat: Heat, accessed| Clock.after_scan(heat, accessed, occasion);
        prop_assert!(after(heat, false) != new && after(heat, true) != new);
        prop_assert!(after(heat, false) <= heat && heat <= after(heat, true) && after(heat, true) <= HOTTEST);
        prop_assert_eq!(after(heat.min(other), accessed), after(heat, accessed).min(after(other, accessed)));
        prop_assert!(Clock.after_scan(heat, false, Occasion::Regular) <= Clock.after_scan(heat, false, Occasion::Refaults));
    }
}

/// The fault of plain LFU: what was busy long ago must not outlive what is busy now.
#[test]
fn fame_fades() {
    for policy in [EvictionPolicy::Clock, EvictionPolicy::DecayedLfu] {
        let mut residency = full(policy);
        for _ in 0..1000 {
            scan(&mut residency, 0..150);
        }
        for _ in 0..8 {
            scan(&mut residency, 150..300);
        }
        let victims = numbers(&residency.victims(Pages(150)));
        assert!(victims.iter().all(|page| *page < 150), "{policy:?}");
    }
}

#[test]
fn what_was_fetched_and_not_used_leaves_before_what_was_used() {
    for policy in [EvictionPolicy::Clock, EvictionPolicy::DecayedLfu] {
        let mut residency = Residency::new(Pages(MEMORY), policy, 0);
        residency.arrived(Run::new(0, 100), Arrival::Wanted);
        residency.arrived(Run::new(100, 50), Arrival::Prefetched);
        scan(&mut residency, std::iter::empty());
        assert_eq!(residency.victims(Pages(50)), [Run::new(100, 50)]);
    }
}

#[test]
fn pages_are_idle_after_many_scans_without_a_touch_and_no_sooner() {
    for policy in ALL {
        let mut residency = full(policy);
        scan(&mut residency, std::iter::empty());
        assert_eq!(residency.idle(), Pages(0));
        for _ in 0..40 {
            scan(&mut residency, 0..100);
        }
        assert_eq!(residency.idle(), Pages(200));
    }
}

/// A sweep over memory in which nothing is hotter than the rest takes runs and not single pages.
#[test]
fn victims_come_in_runs() {
    for policy in ALL {
        let runs = full(policy).victims(Pages(128));
        assert!(runs.len() <= 12, "{policy:?}: {runs:?}");
    }
}

#[test]
fn the_same_seed_draws_the_same_victims_and_another_seed_others() {
    let draw = |seed| {
        let mut residency = Residency::new(Pages(MEMORY), EvictionPolicy::Random, seed);
        residency.arrived(Run::new(0, MEMORY), Arrival::Found);
        residency.victims(Pages(64))
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn a_refault_is_told_from_a_first_touch_and_from_a_return_after_a_discard() {
    let mut residency = full(EvictionPolicy::Clock);
    assert_eq!(residency.refaults().first_touches(), MEMORY);
    residency.left(Run::new(0, 10));
    residency.arrived(Run::new(0, 5), Arrival::Prefetched);
    residency.arrived(Run::new(5, 5), Arrival::Wanted);
    assert_eq!((residency.refaults().total(), residency.refaults().left()), (5, 10));
    residency.left(Run::new(0, 10));
    residency.discarded(Run::new(0, 10));
    residency.arrived(Run::new(0, 10), Arrival::Wanted);
    assert_eq!((residency.refaults().total(), residency.refaults().first_touches()), (5, MEMORY + 10));
}
