//! No page is lost, whatever the pager does and whenever it dies.

use std::time::{Duration, Instant};

use lucarne_model::memory::Pages;
use lucarne_pager::{Step, client::Client};

use crate::house::{House, Role};

/// 32 MiB: enough extents that they are compacted.
const PAGES: u64 = 8192;
/// Little: copies are moved on to the store all the time.
const POOL: u64 = 2 << 20;

/// What was done with one machine, in which every word was right.
pub struct Done {
    pub pages_evicted: u64,
    /// Checked operations of the guest.
    pub operations: u64,
    /// Pagers that died right behind each of [`Step::ALL`].
    pub kills: Vec<usize>,
}

/// Evicts everything again and again under writers who check each page before they change it.
pub fn rounds(count: usize) -> Done {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    // Squeezed, so that what comes back keeps its copies.
    client.set_target(Pages(PAGES - 1), None).unwrap();
    house.write_all(1);
    house.machine.ask("storm");
    let began = Instant::now();
    let mut left = Pages::ZERO;
    for _ in 0..count {
        left += house.evict_all(&mut client);
    }
    let took = began.elapsed();
    let operations: u64 = house.machine.ask("calm").parse().unwrap();
    house.check_all();
    let statistics = client.statistics().unwrap();
    assert!(operations > 0 && left.0 > PAGES / 2);
    assert_eq!(statistics.pages.total(), Pages(PAGES));
    println!(
        "{count} rounds in {took:?}: {} pages evicted ({:.1} us each, {} as they had come), {} kept by a write, {} refaults, {} came back beside; \
         {operations} checked operations of the guest",
        left.0,
        took.as_secs_f64() * 1e6 / left.0 as f64,
        statistics.unwritten.0,
        statistics.aborted.0,
        statistics.refaults,
        statistics.restored_beside.0,
    );
    Done { pages_evicted: left.0, operations, kills: vec![0; Step::ALL.len()] }
}

/// How long a step may take to come that comes sooner or later: longer than it ever does, but on a machine that hangs.
const DEATH: Duration = Duration::from_secs(120);

/// Evicts until the pager is dead: each step comes with evictions under a storm.
fn evict_until_death(mut client: Client, pager: &mut Role) -> bool {
    let end = Instant::now() + DEATH;
    while Instant::now() < end {
        if client.evict_all(DEATH).is_err() {
            return true;
        }
    }
    pager.has_ended()
}

/// All of a calm guest is away, and three pages of four come back, of each part of the store: what is left of it is moved
/// together. A guest that went on to work would take all of it back and leave nothing to move.
fn thin_out(house: &mut House, step: usize, time: u64) -> bool {
    let (before, mut client) = house.serve(POOL);
    house.machine.ask("calm");
    house.evict_all(&mut client);
    drop(before);
    let mut pager = house.mortal_pager(POOL, step, time);
    let checks = || (0..PAGES).step_by(64);
    checks().for_each(|first| house.machine.say(&format!("check {first} 48")));
    let end = Instant::now() + DEATH;
    while !pager.has_ended() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let died = pager.has_ended();
    pager.kill();
    let _next = house.serve(POOL);
    checks().for_each(|_| assert_eq!(house.machine.line().as_deref(), Some("done")));
    house.machine.ask("storm");
    died
}

/// Kills pagers, each right behind a step, by turns.
pub fn kills(count: usize) -> Done {
    let mut house = House::new(PAGES);
    let first = house.serve(POOL);
    house.write_all(1);
    house.machine.ask("storm");
    drop(first);
    let (mut at_step, mut starts, mut whole) = (vec![0; Step::ALL.len()], Vec::new(), Vec::new());
    for round in 0..count {
        assert!(!house.machine.has_ended(), "round {round}: {:?} {}", house.machine.line(), house.machine.last_words());
        let step = round % Step::ALL.len();
        let began = Instant::now();
        let often = !matches!(Step::ALL[step], Step::Stayed | Step::Demoted | Step::Compacted | Step::Rewritten);
        let times = if often { 40 } else { 2 };
        // Each index is written anew after some evictions of everything: once in a pager's life must do.
        let time = if Step::ALL[step] == Step::Rewritten { 1 } else { 1 + (round as u64 * 7) % times };
        if Step::ALL[step] == Step::Compacted {
            at_step[step] += usize::from(thin_out(&mut house, step, time));
            continue;
        }
        let mut pager = house.mortal_pager(POOL, step, time);
        let Some(mut client) = house.connect(&mut pager) else {
            at_step[step] += 1;
            continue;
        };
        whole.push(began.elapsed());
        // The index is written anew only where copies are not kept.
        if often {
            let _ = client.set_target(Pages(PAGES - 1), None);
        }
        if let Ok(statistics) = client.statistics() {
            starts.push(Duration::from_micros(statistics.start_microseconds));
        }
        at_step[step] += usize::from(evict_until_death(client, &mut pager));
        pager.kill();
    }
    let (_pager, mut client) = house.serve(POOL);
    let operations: u64 = house.machine.ask("calm").parse().unwrap();
    house.check_all();
    house.evict_all(&mut client);
    house.check_all();
    starts.sort_unstable();
    whole.sort_unstable();
    println!("{operations} checked operations of the guest");
    println!("{count} pagers killed, at their step: {:?}", Step::ALL.iter().zip(&at_step).collect::<Vec<_>>());
    let rounds = |step: usize| (count + Step::ALL.len() - 1 - step) / Step::ALL.len();
    assert!((0..at_step.len()).all(|step| at_step[step] == rounds(step)), "a step did not come, or not in its time");
    for (what, times) in [("by itself", &starts), ("with the start of its process", &whole)] {
        let [median, p99, most] = [times.len() / 2, times.len() * 99 / 100, times.len() - 1].map(|at| times[at]);
        println!("a new one serves, {what}: {median:?} in the median, {p99:?} in 99 of 100, {most:?} at most");
    }
    Done { pages_evicted: 0, operations, kills: at_step }
}

#[test]
fn no_byte_is_wrong_after_any_number_of_full_evictions_under_writers() {
    rounds(25);
}

#[test]
fn no_byte_is_wrong_wherever_the_pager_is_killed() {
    kills(2 * Step::ALL.len());
}
