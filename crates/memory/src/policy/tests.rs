//! What holds for every policy, and what each is for.

use std::collections::BTreeSet;

use lucarne_model::{Pages, memory::EvictionPolicy};
use proptest::prelude::*;

use super::Arrival;
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
    let mut accessed = vec![0_u64; MEMORY.div_ceil(64) as usize];
    touched.for_each(|page| accessed[page as usize / 64] |= 1 << (page % 64));
    residency.scanned(Scan { run: Run::new(0, MEMORY), accessed: &accessed });
}

fn numbers(runs: &[Run]) -> Vec<u64> {
    runs.iter().flat_map(|run| run.first..run.end()).collect()
}

#[derive(Clone, Debug)]
enum Event {
    Scan(u64),
    Arrive(Run, bool),
    Discard(Run),
    Leave(Run),
    Evict(u64, bool),
}

fn event() -> impl Strategy<Value = Event> {
    let run = || (0..MEMORY + 20, 0_u64..40).prop_map(|(first, count)| Run::new(first, count));
    prop_oneof![
        any::<u64>().prop_map(Event::Scan),
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
                Event::Scan(bits) => scan(&mut residency, (0..MEMORY).filter(|page| bits >> (page % 64) & 1 == 1)),
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
