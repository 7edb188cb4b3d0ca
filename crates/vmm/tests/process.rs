//! What the process of a running VM may do, as the kernel says it.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use lucarne_model::{
    ErrorCode,
    paging::{DEVICE, PageKey, VARIABLE},
};
use lucarne_vmm::{
    driver::{Driver, MachineSpec, Paging, Stop, VirtualTpm},
    qemu::{Qemu, Settings, User},
};
use support::{House, eventually};

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

/// The library is any that does nothing: what it would do is its own crate's matter, and tested there.
#[tokio::test]
async fn a_vm_whose_memory_is_paged_is_given_the_library_the_key_and_the_door_to_faults() {
    let house = House::new();
    let driver = Qemu::new(house.settings()).unwrap();
    // The C library itself, wherever this system has it.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps.lines().find_map(|line| line.split_whitespace().last().filter(|path| path.contains("/libc.so")));
    let library = library.unwrap();
    let socket = house.path().join("paging/machine.sock");
    let paging = Paging { library: library.into(), socket: socket.clone(), key: Some(PageKey([0x5a; 32])) };
    let spec = MachineSpec { paging: Some(paging), ..house.machine(&driver, 1).await };
    if driver.start(&spec).await.is_err() && fs::metadata(DEVICE).is_err() {
        eprintln!("not tried: there is no {DEVICE}");
        return;
    }
    let [pid] = house.processes()[..] else { panic!("not one process: {:?}", house.processes()) };
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    let value = |name: &str| environment.split('\0').find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    assert_eq!(value("LD_PRELOAD"), Some(library));
    let told: Vec<&str> = value(VARIABLE).unwrap().split(' ').collect();
    let held = |fd: &str| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap().display().to_string();
    assert_eq!((told[0], held(told[1]).as_str(), told[3]), ("1", DEVICE, "33554432"));
    assert!(held(told[2]).starts_with("/memfd:lucarne-key"));
    assert_eq!(fs::read(format!("/proc/{pid}/fd/{}", told[2])).unwrap(), [0x5a; 32]);
    assert_eq!(told[6], socket.display().to_string());
    // The record of the VM on the disk has no key.
    let record = fs::read_to_string(house.path().join(format!("instances/{}/machine.json", spec.instance))).unwrap();
    assert!(record.contains("machine.sock") && !record.contains("key"), "{record}");
    driver.stop(spec.instance, Stop::Kill).await.unwrap();
}

/// Its state is of swtpm's own making here; with which certificate the host agent makes one is tried there.
#[tokio::test]
async fn a_guests_tpm_ends_with_its_vm_however_that_ends_and_is_there_for_the_next() {
    let house = House::new();
    let driver = Qemu::new(house.settings()).unwrap();
    let state = house.path().join("tpm");
    fs::create_dir(&state).unwrap();
    let tpm = VirtualTpm { state: state.clone(), certificate: house.path().join("certificate") };
    let spec = MachineSpec { tpm: Some(tpm), ..house.machine(&driver, 1).await };
    // Whoever has the state in its command line.
    let tpms = || {
        let line = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("cmdline")).ok();
        let marker = format!("dir={}", state.display());
        fs::read_dir("/proc").unwrap().flatten().filter_map(line).filter(|line| line.contains(&marker)).count()
    };
    for generation in 1..=3 {
        driver.start(&MachineSpec { generation, ..spec.clone() }).await.unwrap();
        assert_eq!(tpms(), 1);
        if generation == 1 {
            house.kill_all();
            eventually("its TPM ended with it", || async { tpms() == 0 }).await;
        }
        // Of one that was killed the driver may not know it yet.
        let _ = driver.stop(spec.instance, Stop::Kill).await;
        eventually("its TPM ended with it", || async { tpms() == 0 }).await;
        assert!(state.join("tpm2-00.permall").exists(), "its keys are kept");
    }
}

/// A program in QEMU's place that ends the TPM beside it before it becomes QEMU.
fn kills_its_tpm(house: &House, state: &Path) -> PathBuf {
    let script = house.path().join("qemu");
    let text = format!(
        "#!/bin/sh\nfor process in /proc/[0-9]*; do\n\
         tr '\\0' ' ' < $process/cmdline 2> /dev/null | grep -q 'swtpm .*dir={}' && kill -9 ${{process#/proc/}}\ndone\n\
         exec qemu-system-x86_64 \"$@\"\n",
        state.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// QEMU itself says of it only that a line is broken.
#[tokio::test]
async fn a_tpm_that_is_killed_while_its_vm_starts_is_named_with_what_can_be_done() {
    let house = House::new();
    let state = house.path().join("tpm");
    fs::create_dir(&state).unwrap();
    let tpm = VirtualTpm { state: state.clone(), certificate: house.path().join("certificate") };
    let driver = Qemu::new(house.settings()).unwrap();
    let spec = MachineSpec { tpm: Some(tpm), ..house.machine(&driver, 1).await };
    let failing = Qemu::new(Settings { qemu: kills_its_tpm(&house, &state), ..house.settings() }).unwrap();
    let error = failing.start(&spec).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TpmFailed, "{error}");
    let said = error.to_string();
    assert!(said.contains("swtpm") && said.contains("signal 9") && said.contains("start the instance again"), "{said}");
    assert!(house.processes().is_empty());
    driver.start(&spec).await.expect("it can be started again");
    // One that ends for a reason of its own is not explained by its TPM, which ends with it.
    driver.stop(spec.instance, Stop::Kill).await.unwrap();
    fs::write(&spec.disks[0].path, "not a qcow2 file").unwrap();
    let error = driver.start(&MachineSpec { generation: 2, ..spec }).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::HypervisorFailed, "{error}");
}
