//! Operations that say whether a guest runs, and the one that says how it is.

use std::{fs, time::Duration};

use lucarne_seal::operation::OperationName::{
    GuestPause, GuestRegisters, GuestReset, GuestResume, GuestStop, HostHealth,
};
use lucarne_sealer::{Failure, carry_out_by};
use serde_json::json;

use crate::house::{COUNTERS, House, block_on, eventually, nowhere, program};

#[test]
fn a_guest_is_paused_until_it_is_resumed_and_only_if_a_request_paused_it() {
    let house = House::with_secret(&[1; 32]);
    assert_eq!(house.ask_json(GuestPause, json!({})), json!({"changed": true}));
    assert_eq!(house.status(), "paused");
    assert_eq!(house.ask_json(GuestPause, json!({})), json!({"changed": false}));
    // Reading does not let it go on.
    let before = house.read("physical", COUNTERS.0, 4).1;
    assert_eq!(house.read("physical", COUNTERS.0, 4), (before_done(), before));
    block_on(lucarne_sealer::recover_by(program(), house.machine())).unwrap();
    assert_eq!(house.status(), "paused", "it was not left behind");
    assert_eq!(house.ask_json(GuestResume, json!({})), json!({"changed": true}));
    assert_eq!(house.ask_json(GuestResume, json!({})), json!({"changed": false}));
    assert_eq!(house.status(), "running");
    // As its agent does for its own purposes.
    house.agent("stop");
    for operation in [GuestPause, GuestResume] {
        assert!(matches!(house.ask(operation, json!({})), Err(Failure::Impossible(_))), "{operation}");
    }
    assert_eq!(house.status(), "paused");
}

const fn before_done() -> lucarne_sealer::Done {
    lucarne_sealer::Done { consistency: lucarne_seal::receipt::Consistency::Instant, paused_nanoseconds: 0 }
}

#[test]
fn registers_of_all_processors_are_told_and_the_guest_goes_on() {
    let house = House::with_secret(&[2; 32]);
    let registers = house.ask_json(GuestRegisters, json!({}));
    let processors = registers["processors"].as_array().unwrap();
    assert_eq!(processors.len(), 2);
    // The guest's code is below 64 KiB; the second processor waits.
    let at = processors[0]["registers"]["eip"].as_str().or(processors[0]["registers"]["rip"].as_str()).unwrap();
    let at = u64::from_str_radix(&at[2..], 16).unwrap();
    assert!((0x7c28..0x7c34).contains(&at), "{at:#x}");
    assert_eq!(processors[0]["segments"]["ds"]["selector"], "0x0000");
    assert_eq!(house.status(), "running");
    let count = || u32::from_le_bytes(house.read("physical", COUNTERS.0, 4).1.try_into().unwrap());
    let before = count();
    eventually("the guest counts on", || (count() != before).then_some(()));
}

#[test]
fn a_guest_whose_power_is_taken_away_ends_and_one_that_is_reset_begins_anew() {
    let mut house = House::with_secret(&[3; 32]);
    house.ask_json(GuestReset, json!({}));
    // It waits for its secret again.
    eventually("the guest has begun anew", || (house.read("physical", COUNTERS.0, 4).1 == [0; 4]).then_some(()));
    assert_eq!(house.ask_json(GuestStop, json!({})), json!({"changed": true}));
    let status = eventually("the machine has ended", || house.qemu.try_wait().unwrap());
    assert!(status.success());
    let after = house.ask(GuestPause, json!({}));
    assert!(matches!(after, Err(Failure::Impossible(_))), "{after:?}");
}

#[test]
fn a_guest_that_stands_still_for_a_process_that_was_killed_goes_on() {
    let house = House::with_secret(&[4; 32]);
    for _ in 0..10 {
        let order = house.order(
            lucarne_seal::operation::OperationName::GuestMemoryRead,
            json!({"space": "physical", "address": "0x100000", "length": 8 << 20}),
        );
        block_on(async {
            let carried = carry_out_by(program(), order, nowhere());
            let _ = tokio::time::timeout(Duration::from_millis(rand(60)), carried).await;
            // The runtime's end would end what mends it.
            tokio::time::sleep(Duration::from_millis(300)).await;
        });
        eventually("the guest runs", || (house.status() == "running").then_some(()));
    }
    // One that its agent did not see: the next agent mends it.
    house.agent("stop");
    let mark = house.folder.path().join("i/standstill.json");
    fs::write(&mark, json!({"generation": 3, "lasting": false}).to_string()).unwrap();
    block_on(lucarne_sealer::recover_by(program(), house.machine())).unwrap();
    assert_eq!((house.status().as_str(), mark.exists()), ("running", false));
}

fn rand(below: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::from(now.subsec_nanos()) / 1000 % below
}

#[test]
fn a_host_says_how_it_does() {
    let house = House::with_secret(&[5; 32]);
    let mut order = house.order(HostHealth, json!({}));
    order.machine = None;
    let (_, text) = house.carry_out(order).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert!(document["result"]["memory"]["MemTotal"].as_u64().unwrap() > 0);
}
