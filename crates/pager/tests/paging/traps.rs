//! What goes wrong with memory that is paged from outside, each as a test of what we do instead.

use std::time::Duration;

use lucarne_model::memory::{Pages, Place};

use lucarne_pager::control::Statistics;

use crate::house::{House, eventually};

const PAGES: u64 = 1024;
const POOL: u64 = 1 << 20;
/// How long somebody must be silent to be taken for one who waits.
const SILENCE: Duration = Duration::from_millis(300);

/// The kernel answers faults with zeros once the last userfaultfd is closed. The machine holds one for as long as it lives:
/// without a pager it stands still, and with the next one it goes on.
#[test]
fn a_guest_whose_pager_died_waits_and_never_reads_zeros() {
    let mut house = House::new(PAGES);
    let (mut pager, mut client) = house.serve(POOL);
    house.write_all(1);
    assert_eq!(house.evict_all(&mut client), Pages(PAGES));
    pager.kill();
    house.machine.say(&format!("check 0 {PAGES}"));
    assert!(house.machine.is_silent(SILENCE));
    let _next = house.serve(POOL);
    assert_eq!(house.machine.line().unwrap(), "done");
}

/// A fault that the dead pager had taken is told by nobody again: the new one wakes all who wait.
#[test]
fn a_fault_that_a_dead_pager_had_taken_is_answered_by_the_next() {
    let mut house = House::new(PAGES);
    let step = crate::house::number_of(lucarne_pager::Step::Fetched);
    let mut pager = house.mortal_pager(POOL, step, 1);
    let mut client = house.connect(&mut pager).unwrap();
    house.write_all(1);
    house.evict_all(&mut client);
    house.machine.say("check 7 1");
    assert!(house.machine.is_silent(SILENCE));
    assert!(pager.has_ended());
    let _next = house.serve(POOL);
    assert_eq!(house.machine.line().unwrap(), "done");
}

/// Without the tripwire, a page of zeros that a second mapping made would be the guest's.
#[test]
fn a_page_that_a_second_mapping_made_is_found_by_the_tripwire_and_repaired() {
    let mut house = House::with(PAGES, true);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    house.evict_all(&mut client);
    assert_eq!(house.machine.ask("alias 3"), "alias saw 0");
    assert_eq!(house.machine.ask("check 3 1"), "done");
    eventually(&mut client, "it is counted", |now| now.tripped == 1);
    house.check_all();
}

#[test]
fn a_page_that_its_machine_discarded_is_zero_and_never_what_it_was_when_it_left() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    house.evict_all(&mut client);
    house.machine.ask("discard 16 32");
    house.machine.ask("remove 100 10");
    house.check_all();
    // And what is written there afterwards leaves and comes back as any other page.
    house.machine.ask("write 16 32 5");
    house.evict_all(&mut client);
    house.check_all();
}

#[test]
fn a_discard_that_no_pager_saw_counts_all_the_same() {
    let mut house = House::new(PAGES);
    let (mut pager, mut client) = house.serve(POOL);
    house.write_all(1);
    house.evict_all(&mut client);
    pager.kill();
    house.machine.ask("discard 0 64");
    let (_next, mut client) = house.serve(POOL);
    let before = client.statistics().unwrap().pages;
    assert_eq!(before.untouched, Pages(64), "the copies are void before anybody asks for them");
    house.check_all();
}

#[test]
fn copies_of_what_the_guest_gave_up_are_dropped_without_being_read() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(0);
    house.write_all(1);
    house.evict_all(&mut client);
    house.machine.ask(&format!("discard 0 {PAGES}"));
    let statistics = eventually(&mut client, "the copies are dropped", |now| now.pages.untouched == Pages(PAGES));
    assert_eq!((statistics.discarded, statistics.refaults), (Pages(PAGES), 0));
}

/// A userfaultfd for user code alone would let read(2) into a page that is away fail with EFAULT.
#[test]
fn the_kernel_itself_may_touch_a_page_that_is_away() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    house.evict_all(&mut client);
    for page in 3..9 {
        assert_eq!(house.machine.ask(&format!("read-into {page} 2")), "done");
    }
    house.check_all();
}

/// What KVM does for its guest, and a device for its driver: pages are looked up and held by the kernel, and are away.
#[test]
fn a_page_that_is_away_comes_back_for_a_kernel_that_would_hold_it() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    house.evict_all(&mut client);
    for page in 40..46 {
        assert_eq!(house.machine.ask(&format!("pin-into {page} 2")), "done");
    }
    house.check_all();
    house.evict_all(&mut client);
    house.check_all();
}

/// The kernel lets one listen for faults of a memory. QEMU's own ways that listen (a post-copy migration, a snapshot in the
/// background) fail for a machine that is paged, and do not take it from its pager.
#[test]
fn nobody_else_can_have_the_faults_of_memory_that_is_paged() {
    const EBUSY: i32 = 16;
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    house.evict_all(&mut client);
    assert_eq!(house.machine.ask("listen-too"), format!("error {EBUSY}"));
    house.check_all();
}

/// The kernel refuses to put a page where one is (EEXIST), and with it what comes behind in the same run.
#[test]
fn a_page_that_somebody_else_put_first_stays_and_its_neighbours_come_all_the_same() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    house.evict_all(&mut client);
    for (place, first) in [("in front", 32), ("in the middle", 64 + 7), ("at the end", 96 + 15)] {
        assert_eq!(house.machine.ask(&format!("put-first {first} 2")), "done");
        let asked = first / 16 * 16 + (first + 1) % 16;
        assert_eq!(house.machine.ask(&format!("check {asked} 1")), "done", "{place}");
        assert_eq!(house.machine.ask(&format!("check {} 16", first / 16 * 16)), "done", "{place}");
    }
    // Nor is the copy of what it was taken for it when it leaves.
    house.evict_until_all_is_away(&mut client);
    house.check_all();
}

/// Each comes back once, however many wait for it; who waits for a page that has just come is let go too.
#[test]
fn processors_that_want_the_same_page_at_once_all_get_it() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    house.evict_all(&mut client);
    for page in (0..PAGES).step_by(16) {
        assert_eq!(house.machine.ask(&format!("check-together {page} 6")), "done");
    }
    let touched = PAGES / 16;
    let statistics = eventually(&mut client, "each came once", |now| now.refaults == touched);
    assert_eq!(statistics.pages.resident, Pages(touched) + statistics.restored_beside);
    house.check_all();
}

/// A large page could leave and come back only whole.
#[test]
fn a_machine_that_asks_for_large_pages_gets_none() {
    let mut house = House::new(PAGES);
    let (_pager, _client) = house.serve(POOL);
    house.write_all(1);
    assert_eq!(house.machine.ask("may-be-large"), "false");
    house.check_all();
}

#[test]
fn a_pager_ends_with_its_machine_and_says_so() {
    let mut house = House::new(PAGES);
    let (pager, mut client) = house.serve(POOL);
    house.write_all(1);
    house.evict_all(&mut client);
    house.machine.kill();
    assert_eq!(pager.line().unwrap(), "MachineGone");
}

#[test]
fn first_touches_are_answered_in_runs() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    let told = |now: &Statistics| now.faults.get(&Place::Untouched).map(|faults| faults.count);
    let statistics = eventually(&mut client, "64 faults for 1024 pages", |now| told(now) == Some(PAGES / 16));
    assert_eq!(statistics.pages.resident, Pages(PAGES));
}

#[test]
fn pages_that_left_together_come_back_with_one_fault() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(0);
    house.write_all(1);
    house.evict_all(&mut client);
    house.check_all();
    let pages = (PAGES / 16, Pages(PAGES / 16 * 15));
    eventually(&mut client, "64 faults for 1024 pages", |now| (now.refaults, now.restored_beside) == pages);
}

/// Nor is anything written for a page that was only read; and what was written to is not taken for what it was.
#[test]
fn what_was_only_read_leaves_again_without_a_write() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(0);
    house.write_all(1);
    client.set_target(Pages(PAGES - 1), None).unwrap();
    house.evict_all(&mut client);
    house.check_all();
    house.evict_all(&mut client);
    let before = client.statistics().unwrap();
    // One page in eight is the same all over, and in no store.
    assert!(before.unwritten >= Pages(PAGES / 8 * 7), "{before:?}");
    house.check_all();
    house.write_all(2);
    let before = client.statistics().unwrap();
    house.evict_all(&mut client);
    assert_eq!(client.statistics().unwrap().unwritten, before.unwritten);
    house.check_all();
    // A guest that may have all of its memory keeps no copies.
    client.set_target(Pages(PAGES), None).unwrap();
    house.check_all();
    eventually(&mut client, "the store is empty", |now| now.store.0 <= 3 << 20);
}

/// Neighbours would drive out what it needs; but one that goes straight on has them again.
#[test]
fn a_squeezed_guest_that_jumps_about_gets_what_it_asks_for_and_no_more() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(0);
    house.write_all(1);
    client.set_target(Pages::ZERO, None).unwrap();
    eventually(&mut client, "all of it leaves", |now| now.pages.resident == Pages::ZERO);
    for page in [100, 900, 300, 700, 500] {
        house.machine.ask(&format!("check {page} 1"));
    }
    let statistics = eventually(&mut client, "five faults", |now| now.refaults == 5);
    assert_eq!(statistics.restored_beside, Pages::ZERO);
    house.machine.ask("check 600 64");
    eventually(&mut client, "neighbours", |now| now.restored_beside > Pages::ZERO);
}

#[test]
fn a_target_is_reached_and_kept_and_a_pinned_guest_keeps_everything() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    client.set_pinned(true).unwrap();
    client.set_target(Pages(100), None).unwrap();
    std::thread::sleep(SILENCE);
    assert_eq!(client.statistics().unwrap().pages.resident, Pages(PAGES));
    client.set_pinned(false).unwrap();
    eventually(&mut client, "the target is reached", |now| now.pages.resident <= Pages(100));
    house.check_all();
    eventually(&mut client, "it is reached again", |now| now.pages.resident <= Pages(100));
    // At a rate: of a thousand pages a hundred take a second at least.
    client.set_target(Pages(PAGES), None).unwrap();
    // What was leaving when the target was set still leaves.
    while client.statistics().unwrap().pages.resident < Pages(PAGES) {
        house.check_all();
    }
    let before = client.statistics().unwrap().evicted;
    let began = std::time::Instant::now();
    client.set_target(Pages(PAGES - 200), Some(100)).unwrap();
    eventually(&mut client, "two hundred left", |now| now.evicted >= before + Pages(200));
    assert!(began.elapsed() >= Duration::from_millis(1900), "after {:?}", began.elapsed());
}

/// A guest that was stopped leaves nothing behind in the host's memory; another machine, with the same key, goes on.
#[test]
fn what_a_hibernated_guest_had_is_found_by_the_machine_that_wakes() {
    let mut house = House::new(PAGES);
    let (pager, mut client) = house.serve(POOL);
    house.write_all(3);
    assert_eq!(client.evict_all(Duration::from_secs(60)).unwrap(), (Pages(PAGES), Pages::ZERO));
    let statistics = client.statistics().unwrap();
    assert_eq!(
        (statistics.pages.compressed, statistics.pool.0),
        (Pages::ZERO, 0),
        "the pool does not outlive the machine"
    );
    house.machine.kill();
    assert_eq!(pager.line().unwrap(), "MachineGone");
    let mut house = house.wake();
    let (_pager, _client) = house.serve(POOL);
    house.machine.ask(&format!("expect 0 {PAGES} 3"));
    house.check_all();
}

#[test]
fn a_terminated_pager_leaves_no_copy_and_no_process() {
    let mut house = House::new(PAGES);
    let (pager, mut client) = house.serve(0);
    house.write_all(1);
    house.evict_all(&mut client);
    client.terminate().unwrap();
    assert_eq!(pager.line().unwrap(), "Terminated");
    assert_eq!(std::fs::read_dir(house.state()).unwrap().count(), 0);
}

#[test]
fn the_access_bits_say_what_was_touched() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(POOL);
    house.write_all(1);
    // The first look sees everything, and clears; the second what was touched in between.
    let seen = eventually(&mut client, "a first look", |now| !now.heat.is_empty());
    assert_eq!(seen.heat.iter().map(|region| region.touched).sum::<Pages>(), Pages(PAGES));
    house.machine.ask("check 512 16");
    let touched =
        |now: &lucarne_pager::control::Statistics| now.heat.iter().map(|region| region.touched).sum::<Pages>();
    let seen = eventually(&mut client, "a second look", |now| touched(now) != Pages(PAGES));
    let hot: Vec<u64> =
        seen.heat.iter().filter(|region| region.touched > Pages::ZERO).map(|region| region.first).collect();
    assert_eq!((hot, touched(&seen)), (vec![512], Pages(16)));
    assert_eq!(seen.heat.iter().map(|region| region.pages).sum::<Pages>(), Pages(PAGES));
}
