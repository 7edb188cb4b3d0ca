//! A pager that holds its guest's memory for a duplicate dies, at any step and at any moment. Neither the guest nor the
//! duplicate sees more of it than time: both check every word that they have, before they change it and at the end.

use std::{
    thread,
    time::{Duration, Instant},
};

use lucarne_model::memory::Pages;
use lucarne_pager::{Step, client::Client};

use crate::{
    capture::at_one_instant,
    house::{House, Role, eventually, number_of},
};

const PAGES: u64 = 4096;
const POOL: u64 = 2 << 20;
/// What the guest may keep in memory: so much that pages leave and come back all the time.
const TARGET: Pages = Pages(PAGES / 2);
const CUT: &str = "rep-1";
/// Pages that are zeros at the cut, though they were not before: first and count.
const ZEROS: [(u64, u64); 2] = [(100, 150), (3000, 200)];
/// Longer than a step takes to come, but on a machine that hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// All of it is of this version, but for what is zeros; and wherever a page can be.
fn fill(house: &mut House, client: &mut Client, version: u64) {
    client.set_target(TARGET, None).unwrap();
    house.write_all(version);
    for (first, count) in ZEROS {
        house.machine.ask(&format!("discard {first} {count}"));
    }
    eventually(client, "it is squeezed", |now| now.pages.resident <= TARGET);
}

/// A machine that goes on from there, and believes to have what its source had.
fn duplicate(house: &House, version: u64, is_whole: bool) -> House {
    let mut other = house.duplicate(CUT, is_whole);
    other.machine.ask(&format!("expect 0 {PAGES} {version}"));
    for (first, count) in ZEROS {
        other.machine.ask(&format!("expect {first} {count} 0"));
    }
    other
}

fn hold(house: &House, client: &mut Client) -> Result<(), lucarne_pager::client::ClientError> {
    client.hold(CUT)?;
    at_one_instant(house, || client.freeze(CUT)).map(drop)
}

/// The next pager of the guest.
fn next(house: &House) -> (Role, Client) {
    let (pager, mut client) = house.serve(POOL);
    client.set_target(TARGET, None).unwrap();
    (pager, client)
}

fn until_dead(pager: &mut Role) {
    let end = Instant::now() + PATIENCE;
    while !pager.has_ended() {
        assert!(Instant::now() < end, "the step does not come");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Its pager is dead, or lives: it works, and every word of it is right.
fn is_right(house: &mut House) {
    let operations: u64 = house.machine.ask("calm").parse().unwrap();
    assert!(operations > 0, "it has stood still");
    house.check_all();
}

fn accounts(client: &mut Client) {
    let pages = client.statistics().unwrap().pages;
    assert_eq!(pages.total(), Pages(PAGES), "{pages:?}");
}

/// One pager dies there, the next one goes on.
fn dies_at(step: Step, count: u64, is_whole: bool) {
    let mut house = House::new(PAGES);
    let (mut first, mut client) = house.serve(POOL);
    fill(&mut house, &mut client, 1);
    first.kill();
    let mut mortal = house.mortal_pager(POOL, number_of(step), count);
    let mut client = house.connect(&mut mortal).unwrap();
    client.set_target(TARGET, None).unwrap();
    let held = hold(&house, &mut client);
    if matches!(step, Step::Guarded | Step::Frozen) {
        held.unwrap_err();
        until_dead(&mut mortal);
        (mortal, client) = next(&house);
        if step == Step::Guarded {
            // One that was not frozen is of no instant.
            client.freeze(CUT).unwrap_err();
            hold(&house, &mut client).unwrap();
        }
    } else {
        held.unwrap();
    }
    let mut other = duplicate(&house, 1, is_whole);
    house.machine.ask("storm");
    let is_of_source_alone = matches!(step, Step::Saved | Step::Released | Step::Sealed | Step::Spilled);
    let mut second = None;
    if !is_of_source_alone {
        second = Some(other.pager(POOL));
        other.machine.ask("storm");
    }
    if !matches!(step, Step::Guarded | Step::Frozen) {
        until_dead(&mut mortal);
        (mortal, client) = next(&house);
    }
    if is_of_source_alone {
        second = Some(other.pager(POOL));
        other.machine.ask("storm");
    }
    let mut its = other.connect(second.as_mut().unwrap()).unwrap();
    thread::sleep(Duration::from_millis(200));
    is_right(&mut other);
    is_right(&mut house);
    accounts(&mut client);
    accounts(&mut its);
    client.let_go(CUT).unwrap();
    house.write_all(1 << 40);
    house.check_all();
    other.check_all();
    drop(mortal);
}

#[test]
fn the_next_pager_goes_on_holding_whatever_the_last_one_was_doing() {
    for step in Step::HOLDING {
        let counts: &[u64] = match step {
            Step::Guarded | Step::Frozen => &[1],
            Step::Sealed | Step::Spilled => &[1, 5],
            // Also while the duplicate asks for the first time what there is.
            Step::Lent => &[7, 65, 200],
            Step::Saved | Step::Released | Step::LetGo => &[1, 30, 400],
            other => panic!("{other:?}"),
        };
        for (at, count) in counts.iter().enumerate() {
            dies_at(step, *count, at % 2 == 1);
        }
    }
}

/// Pages leave and come back beside it, and that may be what the pager is about when it dies.
#[test]
fn a_pager_may_die_while_it_moves_pages_that_it_holds() {
    for step in [Step::Protected, Step::Recorded, Step::Punched, Step::Gone, Step::Stayed, Step::Restored, Step::Filled]
    {
        dies_at(step, if step == Step::Filled { 5 } else { 25 }, false);
    }
}

/// One duplicate after the other of a guest that works, and so do they; and of both sides pagers are killed whenever chance has it.
fn rounds(count: u64, seed: u64) {
    let mut dice = seed;
    let mut chance = move |below: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % below
    };
    let mut house = House::new(PAGES);
    let (mut pager, mut client) = house.serve(POOL);
    for round in 0..count {
        let version = (round + 1) << 32;
        fill(&mut house, &mut client, version);
        hold(&house, &mut client).unwrap();
        let mut other = duplicate(&house, version, round % 3 == 2);
        let mut second = other.pager(POOL);
        house.machine.ask("storm");
        other.machine.ask("storm");
        for _ in 0..6 {
            thread::sleep(Duration::from_micros(chance(60_000)));
            pager.kill();
            let both = chance(4) == 0;
            if both {
                second.kill();
            }
            thread::sleep(Duration::from_micros(chance(20_000)));
            if both {
                second = other.pager(POOL);
            }
            (pager, client) = next(&house);
        }
        let mut its = other.connect(&mut second).unwrap();
        is_right(&mut other);
        is_right(&mut house);
        accounts(&mut client);
        accounts(&mut its);
        client.let_go(CUT).unwrap();
    }
    house.check_all();
}

#[test]
fn neither_side_finds_a_wrong_word_whenever_pagers_are_killed() {
    rounds(8, 1);
}

/// `LUCARNE_HELD_ROUNDS=1000 cargo test -p lucarne-pager --test paging held::many -- --ignored --nocapture`.
#[test]
#[ignore = "takes a second for each round"]
fn many() {
    let count = std::env::var("LUCARNE_HELD_ROUNDS").map_or(100, |count| count.parse().unwrap());
    rounds(count, u64::from(std::process::id()));
}

/// What was written over is still there, and so is what is written over after that.
#[test]
fn what_was_kept_outlives_its_pager_in_memory_and_on_the_disk() {
    const MANY: u64 = 4 * PAGES;
    let mut house = House::new(MANY);
    let (mut pager, mut client) = house.serve(POOL);
    house.write_all(1);
    hold(&house, &mut client).unwrap();
    house.machine.ask(&format!("write 0 {} 2", MANY / 2));
    for version in 3..6 {
        pager.kill();
        (pager, client) = house.serve(POOL);
        house.machine.ask(&format!("write {} 1024 {version}", MANY / 2 + version * 1024));
        assert!(client.hold("rep-2").is_ok() && client.let_go("rep-2").is_ok());
    }
    let mut other = house.duplicate(CUT, false);
    other.machine.ask(&format!("expect 0 {MANY} 1"));
    let (_second, mut its) = other.serve(POOL);
    assert_eq!(its.statistics().unwrap().pages.snapshot, Pages(MANY));
    other.check_all();
    house.check_all();
    let before = client.statistics().unwrap().overhead.0;
    client.let_go(CUT).unwrap();
    let after = eventually(&mut client, "its memory is free", |now| now.overhead.0 + (7 << 20) < before);
    assert_eq!(after.pages.total(), Pages(MANY));
    let files = std::fs::read_dir(house.state()).unwrap().map(|entry| entry.unwrap().file_name());
    let captured = files.filter(|name| name.to_string_lossy().starts_with("captured")).count();
    assert_eq!(captured, 0, "its file is deleted");
    house.write_all(9);
    house.check_all();
}

/// Whoever starts its pagers may be away for a while; but when the machine has ended there is nothing to wait for.
#[test]
fn a_duplicate_waits_for_the_next_pager_for_as_long_as_the_other_machine_lives() {
    let mut house = House::new(PAGES);
    let (mut pager, mut client) = house.serve(POOL);
    house.write_all(1);
    hold(&house, &mut client).unwrap();
    let mut other = duplicate(&house, 1, false);
    ZEROS.iter().for_each(|(first, count)| drop(other.machine.ask(&format!("expect {first} {count} 1"))));
    let (_second, _its) = other.serve(POOL);
    pager.kill();
    std::fs::remove_file(house.control()).unwrap();
    other.machine.say("check 0 64");
    assert!(other.machine.is_silent(Duration::from_secs(12)));
    (pager, _) = house.serve(POOL);
    assert_eq!(other.machine.line().as_deref(), Some("done"));
    pager.kill();
    other.machine.say("check 64 64");
    assert!(other.machine.is_silent(Duration::from_millis(300)));
    let began = Instant::now();
    house.machine.kill();
    assert_eq!(other.machine.line(), None);
    assert!(began.elapsed() < Duration::from_secs(5));
    let words = other.machine.last_words();
    assert!(words.contains("not held any more"), "{words}");
}

/// What was let go before the pager died is not held by the next one.
#[test]
fn what_has_ended_stays_so() {
    let mut house = House::new(PAGES);
    let (mut pager, mut client) = house.serve(POOL);
    house.write_all(1);
    hold(&house, &mut client).unwrap();
    house.machine.ask("write 0 100 2");
    client.let_go(CUT).unwrap();
    pager.kill();
    (pager, client) = house.serve(POOL);
    assert_eq!(client.evict_all(PATIENCE).unwrap().1, Pages::ZERO);
    house.check_all();
    hold(&house, &mut client).unwrap();
    pager.kill();
    let (_next, mut client) = house.serve(POOL);
    let refused = client.evict_all(PATIENCE).unwrap_err().to_string();
    assert!(refused.contains("held for a duplicate"), "{refused}");
    client.let_go(CUT).unwrap();
    assert_eq!(client.evict_all(PATIENCE).unwrap().1, Pages::ZERO);
    house.check_all();
}
