//! A guest's memory as of one instant, while the guest writes and its pages leave and come back.
//!
//! The machine *counts*: it goes over its pages and writes the number of its pass into each. So at every instant the first
//! pages have one number and those behind them the number before; anything else is of no instant.

use std::{
    collections::BTreeSet,
    fs,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use lucarne_model::memory::Pages;
use lucarne_pager::{
    capture::{Capture, CaptureError, Over, TOGETHER},
    client::ClientError,
    control::Statistics,
};

use crate::{
    house::{House, eventually},
    machine::{COUNTER, word},
};

const PAGES: u64 = 4096;
const POOL: u64 = 2 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn begin(house: &House) -> Capture {
    Capture::begin(&house.control(), 60, PATIENCE).unwrap()
}

/// Stops all threads of the machine, as QEMU does its processors; then they go on.
pub fn at_one_instant<T>(house: &House, then: impl FnOnce() -> T) -> T {
    let process = rustix::process::Pid::from_raw(house.machine.id().cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    let stopped = || {
        let mut tasks = fs::read_dir(format!("/proc/{}/task", house.machine.id())).unwrap();
        tasks.all(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap().contains(") T "))
    };
    let end = Instant::now() + PATIENCE;
    while !stopped() {
        assert!(Instant::now() < end, "a thread does not stop");
        thread::sleep(Duration::from_micros(200));
    }
    let done = then();
    rustix::process::kill_process(process, rustix::process::Signal::CONT).unwrap();
    done
}

fn frozen(house: &House) -> Capture {
    let mut capture = begin(house);
    at_one_instant(house, || capture.freeze(PATIENCE)).unwrap();
    capture
}

/// All of it, page by page; and it agrees with what was said of zeros before.
fn read(capture: &mut Capture, mut see: impl FnMut(u64, Option<&[u64]>)) {
    let occupied = capture.occupied().unwrap();
    let mut seen = 0;
    while let Some(taken) = capture.next().unwrap() {
        assert_eq!(taken.first(), seen);
        for at in 0..TOGETHER.min(PAGES - seen) {
            let content: Option<Vec<u64>> = taken
                .alike(at, 1)
                .1
                .map(|octets| octets.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect());
            assert_eq!(content.is_some(), occupied[(seen / 64) as usize] >> at & 1 == 1, "page {}", seen + at);
            see(seen + at, content.as_deref());
        }
        seen += TOGETHER;
    }
    assert_eq!(seen, PAGES);
}

/// Every word of it: what was written as `version`, and in the words that count a number. Those numbers.
fn counted(capture: &mut Capture, version: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    read(capture, |page, content| {
        let content = content.unwrap_or_else(|| panic!("page {page} was not zeros"));
        for (at, found) in (0..).zip(content).filter(|(at, _)| *at != COUNTER) {
            assert_eq!(*found, word(page, version, at), "page {page} word {at}");
        }
        numbers.push(content[COUNTER as usize]);
    });
    numbers
}

fn is_of_one_instant(numbers: &[u64]) -> bool {
    numbers.windows(2).all(|pair| pair[0] >= pair[1]) && numbers[0] - numbers[numbers.len() - 1] <= 1
}

#[test]
fn what_is_captured_is_of_one_instant_while_the_guest_writes_and_its_pages_leave() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    client.set_target(Pages(PAGES / 3), None).unwrap();
    eventually(&mut client, "it is squeezed", |now| now.pages.resident <= Pages(PAGES / 3));
    house.machine.ask("count");
    let mut ends = BTreeSet::new();
    let before = client.statistics().unwrap();
    for round in 0..12 {
        let numbers = counted(&mut frozen(&house), 1);
        assert!(is_of_one_instant(&numbers), "capture {round} is torn: {numbers:?}");
        ends.insert((numbers[0], numbers.iter().filter(|number| **number == numbers[0]).count()));
    }
    assert!(ends.len() > 6, "the guest stood still: {ends:?}");
    // And what is not of one instant would be found: halves of two captures, between which the guest went on.
    let (first, end) = (counted(&mut frozen(&house), 1), Instant::now() + PATIENCE);
    let half = first.len() / 2;
    while is_of_one_instant(&[&first[..half], &counted(&mut frozen(&house), 1)[half..]].concat()) {
        assert!(Instant::now() < end, "the guest stood still");
    }
    house.machine.ask("calm");
    let after = client.statistics().unwrap();
    assert!(after.evicted > before.evicted + Pages(PAGES), "pages did not leave meanwhile");
}

/// Nothing comes in, nothing leaves, nothing is faulted for it; and afterwards the guest writes as if nothing had been.
#[test]
fn a_capture_leaves_every_page_where_it_is() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.machine.ask(&format!("write 0 {} 1", PAGES - 64));
    client.set_target(Pages(PAGES / 3), None).unwrap();
    let is_squeezed = |now: &Statistics| now.pages.resident <= Pages(PAGES / 3) && now.pages.compressed > Pages(100);
    eventually(&mut client, "it is squeezed", is_squeezed);
    thread::sleep(Duration::from_millis(100));
    let before = client.statistics().unwrap();
    assert!(
        before.pages.ssd > Pages(100) && before.pages.same_filled > Pages(100) && before.pages.untouched >= Pages(48)
    );
    let (mut capture, mut zeros) = (frozen(&house), 0);
    read(&mut capture, |page, content| match content {
        Some(content) => assert!((0..).zip(content).all(|(at, found)| *found == word(page, 1, at)), "page {page}"),
        None => zeros += 1,
    });
    assert_eq!(zeros, 64, "what was never touched is zeros");
    drop(capture);
    let after = client.statistics().unwrap();
    let moved = |now: &Statistics| (now.pages, now.evicted, now.refaults, now.restored_beside);
    assert_eq!(moved(&after), moved(&before));
    client.set_target(Pages(PAGES), None).unwrap();
    house.machine.ask(&format!("check 0 {}", PAGES - 64));
    house.write_all(2);
    house.check_all();
}

/// What the guest writes over is kept, all of it, and in bounded memory.
#[test]
fn a_guest_that_writes_over_everything_costs_the_pager_little_memory_and_the_capture_nothing() {
    const MANY: u64 = 4 * PAGES;
    let mut house = House::new(MANY);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    let before = client.statistics().unwrap().overhead;
    let mut capture = frozen(&house);
    house.write_all(2);
    let grown = client.statistics().unwrap().overhead.0 - before.0;
    assert!((4 << 20..14 << 20).contains(&grown), "{grown} octets for {MANY} pages that were written over");
    let mut seen = 0;
    while let Some(taken) = capture.next().unwrap() {
        for at in 0..TOGETHER {
            let (page, content) = (taken.first() + at, taken.alike(at, 1).1.unwrap());
            let mut words = (0..).zip(content.as_chunks::<8>().0);
            assert!(words.all(|(at, found)| u64::from_ne_bytes(*found) == word(page, 1, at)), "page {page}");
            seen += 1;
        }
    }
    assert_eq!(seen, MANY);
    drop(capture);
    house.check_all();
    eventually(&mut client, "its memory is free", |now| now.overhead.0 < before.0 + (4 << 20));
}

#[test]
fn a_reader_that_is_gone_leaves_a_guest_that_writes_freely() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    let mut capture = frozen(&house);
    for _ in 0..10 {
        capture.next().unwrap().unwrap();
    }
    drop(capture);
    let told = |statistics: &Statistics| statistics.faults.values().map(|latencies| latencies.count).sum::<u64>();
    let before = told(&client.statistics().unwrap());
    house.write_all(2);
    assert_eq!(told(&client.statistics().unwrap()), before, "nothing is write-protected any more");
    // And so of one that was only armed.
    drop(begin(&house));
    let before = told(&client.statistics().unwrap());
    house.write_all(3);
    assert_eq!(told(&client.statistics().unwrap()), before, "nothing is write-protected any more");
    house.check_all();
}

#[test]
fn a_pager_that_dies_takes_its_capture_along_and_nothing_of_the_guest() {
    let mut house = House::new(PAGES);
    let (mut pager, mut client) = house.serve(POOL);
    house.write_all(1);
    house.machine.ask("storm");
    client.set_target(Pages(PAGES / 3), None).unwrap();
    for round in 0..4 {
        let mut capture = begin(&house);
        if round > 0 {
            at_one_instant(&house, || capture.freeze(PATIENCE)).unwrap();
            (0..10 * round).for_each(|_| assert!(capture.next().unwrap().is_some()));
        }
        pager.kill();
        let lost = loop {
            match capture.next() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(lost, CaptureError::Broken(_)), "{lost}");
        (pager, client) = house.serve(POOL);
        client.set_target(Pages(PAGES / 3), None).unwrap();
    }
    house.machine.ask("calm");
    house.check_all();
    house.machine.ask("count");
    // The counter is in a word that the storm wrote too: only pages' numbers are looked at.
    let mut capture = frozen(&house);
    while capture.next().unwrap().is_some() {}
    drop(pager);
}

/// Each has what there was at its own instant, and neither lets go of what the other still has to read.
#[test]
fn captures_beside_each_other_do_not_disturb_each_other() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    client.set_target(Pages(PAGES / 2), None).unwrap();
    house.write_all(1);
    let mut first = frozen(&house);
    house.machine.ask(&format!("write 0 {} 2", PAGES / 2));
    let mut second = frozen(&house);
    let version = |page, written: u64| if page < written { 2 } else { 1 };
    (0..8).for_each(|_| assert!(second.next().unwrap().is_some()));
    house.machine.ask(&format!("write 0 {} 3", PAGES / 4 * 3));
    read(&mut first, |page, content| {
        assert!((0..).zip(content.unwrap()).all(|(at, found)| *found == word(page, 1, at)), "page {page}");
    });
    drop(first);
    house.write_all(4);
    while let Some(taken) = second.next().unwrap() {
        for at in 0..TOGETHER {
            let (page, content) = (taken.first() + at, taken.alike(at, 1).1.unwrap());
            let mut words = (0..).zip(content.as_chunks::<8>().0);
            let version = version(page, PAGES / 2);
            assert!(words.all(|(at, found)| u64::from_ne_bytes(*found) == word(page, version, at)), "page {page}");
        }
    }
    drop(second);
    house.check_all();
    house.write_all(5);
    house.check_all();
}

#[test]
fn captures_are_a_few_at_most_and_the_time_of_one_ends() {
    let mut house = House::new(PAGES);
    let (_pager, _client) = house.serve(POOL);
    house.write_all(1);
    let mut first = Capture::begin(&house.control(), 1, PATIENCE).unwrap();
    let others: Vec<Capture> = (0..3).map(|_| begin(&house)).collect();
    let fifth = Capture::begin(&house.control(), 60, PATIENCE);
    let is_refused = |result: &Result<Capture, CaptureError>, why: &str| match result {
        Err(CaptureError::Refused(ClientError::Refused { reason, .. })) => reason.contains(why),
        _ => false,
    };
    assert!(is_refused(&fifth, "4 captures of it"), "{fifth:?}");
    drop(others);
    let endless = Capture::begin(&house.control(), 0, PATIENCE);
    assert!(is_refused(&endless, "between 1 and"), "{endless:?}");
    assert!(matches!(first.next(), Err(CaptureError::Over(Over::NotUnderstood))), "it was not frozen");
    let mut first = Capture::begin(&house.control(), 1, PATIENCE).unwrap();
    at_one_instant(&house, || first.freeze(PATIENCE)).unwrap();
    thread::sleep(Duration::from_millis(1300));
    assert!(matches!(first.next(), Err(CaptureError::Over(Over::Expired) | CaptureError::Broken(_))));
    house.write_all(2);
    house.check_all();
}

#[test]
fn a_guest_that_is_put_to_sleep_ends_its_capture_and_sleeps_whole() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(3);
    let mut capture = frozen(&house);
    capture.next().unwrap().unwrap();
    assert_eq!(client.evict_all(PATIENCE).unwrap(), (Pages(PAGES), Pages::ZERO));
    assert!(matches!(capture.next(), Err(CaptureError::Over(Over::Asleep) | CaptureError::Broken(_))));
    house.check_all();
}

/// A balloon may take from the guest what it had no more use for after the instant: at the instant it had.
#[test]
fn what_the_machine_discards_meanwhile_is_captured_as_it_was() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    house.evict_all(&mut client);
    house.machine.ask(&format!("check 0 {}", PAGES / 2));
    let mut capture = frozen(&house);
    for command in ["discard 100 50", "remove 200 50", "discard 3000 50", "remove 3100 50"] {
        house.machine.ask(command);
    }
    read(&mut capture, |page, content| {
        let content = content.unwrap_or_else(|| panic!("page {page} is gone"));
        assert!((0..).zip(content).all(|(at, found)| *found == word(page, 1, at)), "page {page}");
    });
    drop(capture);
    // Held only as long as that.
    house.machine.ask("discard 100 50");
    house.machine.ask("check 100 50");
    house.write_all(2);
    house.check_all();
}

/// How long a capture keeps its guest from running, beyond the stop itself: it does not follow the guest's size.
#[test]
#[ignore = "a measurement: cargo test -p lucarne-pager --test paging pause -- --ignored --nocapture"]
fn pause() {
    static LONGEST: AtomicU32 = AtomicU32::new(0);
    for mib in [16_u64, 64, 256, 1024] {
        let mut house = House::new(mib << 8);
        let (_pager, _client) = house.serve(POOL);
        house.write_all(1);
        house.machine.ask("storm");
        for _ in 0..5 {
            let began = Instant::now();
            let mut capture = begin(&house);
            let armed = began.elapsed();
            let (took, seen) = at_one_instant(&house, || {
                let began = Instant::now();
                (capture.freeze(PATIENCE).unwrap(), began.elapsed())
            });
            LONGEST.fetch_max(took.as_micros() as u32, Ordering::Relaxed);
            let began = Instant::now();
            while capture.next().unwrap().is_some() {}
            println!(
                "{mib} MiB: armed in {armed:?}, frozen in {took:?} ({seen:?} seen here), read in {:?}",
                began.elapsed()
            );
        }
    }
    assert!(LONGEST.load(Ordering::Relaxed) > 0);
}
