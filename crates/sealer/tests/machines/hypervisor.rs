//! Operations on the process that plays a machine.

use std::{fs, process::Command, thread, time::Duration};

use lucarne_model::Octets;
use lucarne_seal::operation::OperationName::{
    HypervisorMemoryDump, HypervisorMemoryRead, HypervisorPatch, HypervisorRegisters, HypervisorSet,
};
use lucarne_seal::receipt::Consistency;
use lucarne_sealer::Failure;
use serde_json::json;

use crate::house::{House, eventually, folder};

/// Where the process has what is called so, from the first address on.
fn mapped(house: &House, name: &str) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{}/maps", house.qemu.id())).unwrap();
    let line = maps.lines().find(|line| line.contains(name)).unwrap();
    u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()
}

fn read(house: &House, address: u64, length: u64) -> Result<Vec<u8>, Failure> {
    let arguments = json!({"address": format!("{address:#x}"), "length": length});
    house.ask(HypervisorMemoryRead, arguments).map(|(_, content)| content)
}

#[test]
fn registers_of_all_threads_are_told_and_they_go_on() {
    let house = House::with_secret(&[1; 32]);
    let threads = house.ask_json(HypervisorRegisters, json!({}));
    let threads = threads.as_array().unwrap();
    assert!(threads.len() >= 3, "its main thread and two processors: {threads:?}");
    assert!(threads.iter().all(|thread| thread["registers"]["rsp"] != "0x0"), "{threads:?}");
    assert!(threads.iter().any(|thread| thread["id"] == house.qemu.id()));
    assert_eq!(house.status(), "running");
}

#[test]
fn the_processs_memory_is_read_and_patched_but_not_its_guests() {
    let house = House::with_secret(&[2; 32]);
    let program = mapped(&house, "qemu-system");
    assert_eq!(read(&house, program, 4).unwrap(), b"\x7fELF");
    let guest = mapped(&house, "memfd:memory-backend");
    for (address, length) in [(guest, 1), (guest + 0x9000, 32), (guest - 1, 2), (0, 1), (u64::MAX, 2)] {
        let read = read(&house, address, length);
        assert!(matches!(read, Err(Failure::Impossible(_))), "{address:#x}: {read:?}");
    }

    // What an ELF file says about itself: nobody needs it once it runs.
    let patch = |expected: &[u8; 8], replacement: &[u8; 8], seconds| {
        let change = json!({"expected": Octets::from(&expected[..]), "replacement": Octets::from(&replacement[..])});
        json!({"address": format!("{:#x}", program + 8), "change": change, "revert_after_seconds": seconds})
    };
    let wrong = house.ask(HypervisorPatch, patch(b"otherone", b"LUCARNE!", 0));
    assert!(matches!(wrong, Err(Failure::Impossible(_))), "{wrong:?}");
    house.ask_json(HypervisorPatch, patch(&[0; 8], b"LUCARNE!", 0));
    assert_eq!(read(&house, program + 8, 8).unwrap(), b"LUCARNE!");
    house.ask_json(HypervisorPatch, patch(b"LUCARNE!", &[0; 8], 0));
    assert_eq!(read(&house, program + 8, 8).unwrap(), [0; 8]);
    let until = house.ask_json(HypervisorPatch, patch(&[0; 8], b"a while.", 2));
    assert!(until["reverts_at"].is_u64());
    assert_eq!(read(&house, program + 8, 8).unwrap(), b"a while.");
    thread::sleep(Duration::from_secs(2));
    eventually("it is undone", || (read(&house, program + 8, 8).unwrap() == [0; 8]).then_some(()));
    assert_eq!(house.status(), "running");
}

/// A debugger finds the threads, the program and its libraries; what the guest has in its memory is not there.
#[test]
fn the_process_is_dumped_as_a_core_that_a_debugger_opens_and_its_guests_memory_is_not_in_it() {
    let secret = *b"thirty-two octets of the guest's";
    let house = House::with_secret(&secret);
    for (most, consistency) in [(0, Consistency::Torn), (10_000, Consistency::Instant)] {
        let (done, core) = house.ask(HypervisorMemoryDump, json!({"most_pause_milliseconds": most})).unwrap();
        assert_eq!((done.consistency, house.status().as_str()), (consistency, "running"));
        assert!(done.paused_nanoseconds > 0);
        assert!(!core.windows(secret.len()).any(|octets| octets == secret), "the guest's memory is in it");
        let path = house.folder.path().join("core");
        fs::write(&path, &core).unwrap();
        let program = fs::read_link(format!("/proc/{}/exe", house.qemu.id())).unwrap();
        let mut gdb = Command::new("gdb");
        gdb.args(["-batch", "-nx", "-iex", "set debuginfod enabled off", "-iex", "set auto-load off"]);
        gdb.args(["-ex", "info threads", "-ex", "info sharedlibrary", "-ex", "info registers rip"]);
        let said = gdb.arg(&program).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let threads = said.lines().filter(|line| line.contains("LWP ")).count();
        assert!(threads >= 3 && said.contains("libc.so.6"), "{said}");
    }
    // An order for less than there is.
    let mut order = house.order(HypervisorMemoryDump, json!({"most_pause_milliseconds": 0}));
    order.terms.most_octets = 100_000.try_into().unwrap();
    assert_eq!(house.carry_out(order).unwrap_err(), Failure::TooLong { most: 100_000 });
    // One that would take longer than it may.
    let short = house.ask(HypervisorMemoryDump, json!({"most_pause_milliseconds": 1}));
    assert!(matches!(short, Err(Failure::Impossible(_))), "{short:?}");
    assert_eq!(house.status(), "running");
}

#[test]
fn a_property_of_a_running_device_is_set_and_read_back() {
    let house = House::start(folder(), &["-object", "iothread,id=worker,poll-max-ns=1000"]);
    let set = |property: &str, value: &str| {
        house.ask(HypervisorSet, json!({"device": "/objects/worker", "property": property, "value": value}))
    };
    let (_, text) = set("poll-max-ns", "2000").unwrap();
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(document["result"], json!({"before": 1000, "after": 2000}));
    assert!(matches!(set("poll-max-ns", "fast"), Err(Failure::Impossible(_))));
    assert!(matches!(set("no-such", "1"), Err(Failure::Broken { .. })));
}
