//! What the process of a running VM may do, as the kernel says it.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use lucarne_vmm::{
    driver::{Driver, Stop},
    qemu::{Qemu, User},
};
use support::House;

/// Soft and hard limit of what `/proc/PID/limits` calls `name`.
fn limits<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let line = table.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().take(2).collect()
}

#[tokio::test]
async fn a_vms_process_is_under_its_limits_and_is_not_roots() {
    let house = House::new();
    let driver = Qemu::new(house.settings()).unwrap();
    let spec = house.machine(&driver, 1).await;
    driver.start(&spec).await.unwrap();
    let [pid] = house.processes()[..] else { panic!("not one process: {:?}", house.processes()) };
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();

    let table = read("limits");
    assert_eq!(limits(&table, "Max core file size"), ["0", "0"]);
    assert_eq!(limits(&table, "Max locked memory"), ["65536", "65536"]);
    assert_eq!(limits(&table, "Max open files"), ["1024", "1024"]);
    let program = read("cmdline").split('\0').next().unwrap().to_owned();
    assert!(program.ends_with("/qemu-system-x86_64"), "prlimit has become {program}");
    if rustix::process::geteuid().is_root() {
        let uids = read("status").lines().find_map(|line| line.strip_prefix("Uid:").map(str::to_owned)).unwrap();
        let user = User::DEFAULT.uid.to_string();
        assert!(uids.split_whitespace().all(|uid| uid == user), "{uids}");
    }
    driver.stop(spec.instance, Stop::Kill).await.unwrap();
}
