//! A guest that goes on from another one's memory, of one instant, while that one goes on too.
//!
//! The duplicate is a machine of its own with a pager of its own, which is told where the other one's listens.

use std::time::Duration;

use lucarne_model::memory::Pages;
use lucarne_pager::{Step, client::Client};

use crate::{
    capture::at_one_instant,
    house::{House, Role, eventually, number_of},
};

const PAGES: u64 = 4096;
const POOL: u64 = 2 << 20;
/// Those that are never written to.
const UNTOUCHED: u64 = 256;
const CUT: &str = "rep-1";

/// A machine whose pages are wherever a page can be, and its pager.
fn source() -> (House, Role, Client) {
    let mut house = House::new(PAGES);
    let (pager, mut client) = house.serve(POOL);
    house.machine.ask(&format!("write 0 {} 1", PAGES - UNTOUCHED));
    client.set_target(Pages(PAGES / 2), None).unwrap();
    eventually(&mut client, "it is squeezed", |now| {
        now.pages.resident <= Pages(PAGES / 2) && now.pages.ssd > Pages(64)
    });
    (house, pager, client)
}

fn cut(house: &House, client: &mut Client, name: &str) {
    client.hold(name).unwrap();
    at_one_instant(house, || client.freeze(name)).unwrap();
}

/// The next generation: what it believes to have is what its source had.
fn duplicate(house: &House, capture: &str, is_whole: bool) -> House {
    let mut duplicate = house.duplicate(capture, is_whole);
    assert_eq!(duplicate.machine.ask(&format!("expect 0 {} 1", PAGES - UNTOUCHED)), "done");
    duplicate
}

#[test]
fn a_duplicate_has_what_there_was_and_neither_sees_what_the_other_writes() {
    let (mut house, _pager, mut client) = source();
    cut(&house, &mut client, CUT);
    let mut other = duplicate(&house, CUT, false);
    let (_second, mut its) = other.serve(POOL);
    let first = its.statistics().unwrap().pages;
    assert_eq!((first.snapshot, first.untouched), (Pages(PAGES - UNTOUCHED), Pages(UNTOUCHED)), "{first:?}");
    house.machine.ask("write 0 2048 2");
    other.machine.ask("check 1000 64");
    let few = its.statistics().unwrap().pages;
    assert!(few.snapshot >= Pages(PAGES - UNTOUCHED - 128), "only what was asked for has come: {few:?}");
    assert_eq!(other.machine.ask("write 1024 1024 7"), "done");
    other.check_all();
    house.check_all();
    assert_eq!(client.statistics().unwrap().pages.total(), Pages(PAGES));
    client.let_go(CUT).unwrap();
    house.write_all(3);
    house.check_all();
    other.check_all();
    its.set_target(Pages(PAGES / 3), None).unwrap();
    eventually(&mut its, "its pages leave as any do", |now| now.pages.resident <= Pages(PAGES / 3));
    other.check_all();
}

#[test]
fn a_duplicate_goes_on_counting_from_the_instant() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    house.machine.ask("count");
    cut(&house, &mut client, CUT);
    let mut other = house.duplicate(CUT, false);
    let (_second, _its) = other.serve(POOL);
    let at = other.machine.ask("counted 1");
    assert_eq!(other.machine.ask("counted 1"), at, "it stands still");
    house.machine.ask("calm");
    let later = house.machine.ask("counted 1");
    let number = |told: &str| told.split(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(number(&later) > number(&at), "{later} is not after {at}");
    assert_eq!(other.machine.ask("count"), "done");
    other.machine.ask("calm");
    assert_eq!(house.machine.ask("counted 1"), later);
}

#[test]
fn a_duplicate_that_is_whole_outlives_its_source() {
    let (mut house, mut pager, mut client) = source();
    cut(&house, &mut client, CUT);
    let mut other = duplicate(&house, CUT, true);
    let (mut second, mut its) = other.serve(POOL);
    house.machine.ask("write 0 512 2");
    let is_whole = || other.state().join("whole").exists();
    let now = eventually(&mut its, "it is whole", |now| now.pages.snapshot == Pages::ZERO && is_whole());
    assert_eq!(now.pages.untouched, Pages(UNTOUCHED), "what was never touched stays so");
    house.machine.kill();
    pager.kill();
    other.check_all();
    second.kill();
    let (_third, mut its) = other.serve(POOL);
    assert_eq!(its.evict_all(Duration::from_secs(60)).unwrap().1, Pages::ZERO);
    other.check_all();
    other.write_all(9);
    other.check_all();
}

/// It is told so while it runs, and its pager dies in the middle.
#[test]
fn a_duplicate_that_is_made_whole_later_outlives_its_source() {
    let (mut house, mut pager, mut client) = source();
    cut(&house, &mut client, CUT);
    let mut other = duplicate(&house, CUT, false);
    let (mut second, mut its) = other.serve(POOL);
    assert_eq!(its.statistics().unwrap().pages.snapshot, Pages(PAGES - UNTOUCHED), "nothing comes unasked");
    its.fetch_all().unwrap();
    eventually(&mut its, "some of it has come", |now| now.pages.snapshot < Pages(PAGES - UNTOUCHED));
    second.kill();
    house.machine.ask("write 0 512 2");
    let (_next, mut its) = other.serve(POOL);
    its.fetch_all().unwrap();
    let is_whole = || other.state().join("whole").exists();
    eventually(&mut its, "it is whole", |now| now.pages.snapshot == Pages::ZERO && is_whole());
    its.fetch_all().expect("to ask again is no error");
    house.machine.kill();
    pager.kill();
    other.check_all();
}

/// Wherever it dies, nothing that was fetched is asked for in vain, and nothing is lost.
#[test]
fn a_pager_of_a_duplicate_may_die_at_any_step() {
    let (mut house, _pager, mut client) = source();
    for (step, is_whole) in [Step::Fetched, Step::Restored, Step::Arrived].into_iter().zip([false, true, false]) {
        for count in [1, 23] {
            house.machine.ask(&format!("write 0 {} 1", PAGES - UNTOUCHED));
            cut(&house, &mut client, CUT);
            house.machine.ask("write 0 1024 2");
            let mut other = duplicate(&house, CUT, is_whole);
            let mut mortal = other.mortal_pager(POOL, number_of(step), count);
            drop(other.connect(&mut mortal));
            other.machine.say(&format!("check 0 {PAGES}"));
            assert!(mortal.last_words().is_empty(), "it died of itself");
            let (_next, mut its) = other.serve(POOL);
            assert_eq!(other.machine.line().as_deref(), Some("done"), "{step:?}");
            other.machine.ask("write 64 64 5");
            its.set_target(Pages(64), None).unwrap();
            eventually(&mut its, "its pages leave", |now| now.pages.resident <= Pages(64));
            other.check_all();
            client.let_go(CUT).unwrap();
        }
    }
    house.check_all();
}

/// What it draws on is gone with its source, and it is ended, with the reason, before it could see anything else.
#[test]
fn a_duplicate_whose_source_has_ended_is_ended_too() {
    let (mut house, mut pager, mut client) = source();
    cut(&house, &mut client, CUT);
    let mut other = duplicate(&house, CUT, false);
    let (_second, _its) = other.serve(POOL);
    other.machine.ask("check 0 64");
    house.machine.kill();
    pager.last_words();
    other.machine.say("check 0 4096");
    assert_eq!(other.machine.line(), None);
    let words = other.machine.last_words();
    assert!(words.contains("not held any more"), "{words}");
}

#[test]
fn a_duplicate_of_a_duplicate_has_what_both_left() {
    let (mut house, _pager, mut client) = source();
    cut(&house, &mut client, CUT);
    let mut other = duplicate(&house, CUT, false);
    let (_second, mut its) = other.serve(POOL);
    other.machine.ask("check 0 128");
    cut(&other, &mut its, "rep-2");
    cut(&house, &mut client, "rep-3");
    other.machine.ask("write 64 1024 3");
    let mut third = duplicate(&other, "rep-2", true);
    let mut fourth = duplicate(&house, "rep-3", true);
    let (_three, mut of_other) = third.serve(POOL);
    let (_four, mut of_house) = fourth.serve(POOL);
    house.machine.ask("write 0 4096 4");
    for client in [&mut of_other, &mut of_house] {
        eventually(client, "it is whole", |now| now.pages.snapshot == Pages::ZERO);
    }
    third.check_all();
    fourth.check_all();
    other.check_all();
    house.check_all();
}

#[test]
fn a_guest_whose_memory_is_held_for_a_duplicate_is_not_put_to_sleep() {
    let (house, _pager, mut client) = source();
    cut(&house, &mut client, CUT);
    let refused = client.evict_all(Duration::from_secs(60)).unwrap_err().to_string();
    assert!(refused.contains("held for a duplicate"), "{refused}");
    client.let_go(CUT).unwrap();
    assert_eq!(client.evict_all(Duration::from_secs(60)).unwrap().1, Pages::ZERO);
}
