//! What [`Driver`] promises, tried on both drivers: on real QEMU processes and on simulated VMs.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use lucarne_model::{
    Bytes, Component, ErrorCode, InstanceId, Measurement, VolumeId,
    storage::{Digest, DiskFormat},
};
use lucarne_vmm::{
    Error, devices_digest,
    driver::{Base, Disk, Driver, MachineSpec, Origin, Passage, SLOTS, Stop, VolumeSource, Ways},
    qemu::Qemu,
    simulated::{self, Simulated},
    warm_state_digest,
};
use support::{House, guest, guest::BANNER, printed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A VM that goes from house to house, here and there: with a disk over an image, and an empty one that is here only.
async fn traveller(house: &House, driver: &dyn Driver) -> MachineSpec {
    let mut spec = house.machine(driver, 1).await;
    spec.disks[0].base = Some(Base { path: house.path().join("guest.raw"), format: DiskFormat::Raw });
    spec.disks.push(house.disk(2, 1));
    spec.disks.iter_mut().for_each(|disk| disk.size = Some(Bytes::mib(1)));
    spec
}

fn ways(disks: &[Disk]) -> (Ways, Ways) {
    let way = || -> (Box<dyn Passage>, Box<dyn Passage>) {
        let (here, there) = tokio::io::duplex(1 << 16);
        (Box::new(here), Box::new(there))
    };
    let ((here, there), each) = (way(), disks.iter().map(|disk| (disk.volume, way())));
    let (mut out, mut into) = (Vec::new(), Vec::new());
    for (volume, (here, there)) in each {
        out.push((volume, here));
        into.push((volume, there));
    }
    (
        Ways { machine: here, disks: out.into_iter().collect() },
        Ways { machine: there, disks: into.into_iter().collect() },
    )
}

/// As a guest would read them.
fn are_the_same(one: &Path, other: &Path) -> bool {
    Command::new("qemu-img").args(["compare", "-q", "-U"]).args([one, other]).status().unwrap().success()
}

async fn a_vm_goes_to_another_host_with_what_its_disks_hold(start: Start) {
    let (old, new) = (House::new(), House::new());
    let (here, there) = (start(&old), start(&new));
    let spec = traveller(&old, &*here).await;
    let data = &spec.disks[1].path;
    here.create_volume(data, Bytes::mib(1), VolumeSource::Empty).await.unwrap();
    for (path, pattern) in spec.disks.iter().map(|disk| &disk.path).zip([7, 9]) {
        // Behind the boot sector. A simulated disk has words of its own, and nothing is written there.
        let write = format!("write -q -P {pattern} 128k 256k");
        let _ = Command::new("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(path).output().unwrap();
    }
    here.start(&spec).await.unwrap();
    printed(&*here, spec.instance, BANNER).await;
    // What has the name of its first disk there is from another time.
    let coming = traveller(&new, &*there).await;
    let (before, instance) = (std::fs::read(&coming.disks[0].path).unwrap(), spec.instance);

    let (out, mut into) = ways(&spec.disks);
    into.disks.remove(&spec.disks[1].volume);
    let (sent, came) = tokio::join!(here.send(instance, out), there.receive(&coming, into));
    assert!(sent.is_err() && came.is_err(), "a disk has no way");
    assert!(!here.is_paused(instance).await.unwrap(), "it runs on");
    assert!(std::fs::read(&coming.disks[0].path).unwrap() == before && !coming.disks[1].path.exists());
    let drafts = std::fs::read_dir(new.path()).unwrap().flatten();
    assert!(!drafts.into_iter().any(|file| file.path().extension().is_some_and(|end| end == "part")));

    let (out, into) = ways(&spec.disks);
    let (sent, came) = tokio::join!(here.send(instance, out), there.receive(&coming, into));
    sent.unwrap();
    came.unwrap();
    assert!(here.is_paused(instance).await.unwrap() && there.is_paused(instance).await.unwrap());
    for (one, other) in spec.disks.iter().zip(&coming.disks) {
        assert!(are_the_same(&one.path, &other.path), "{}", other.path.display());
    }
    here.stop(instance, KILL).await.unwrap();
    drop(there);
    let there = start(&new);
    let adopted = there.adopt().await.unwrap();
    assert_eq!(adopted[0].disks, coming.disks, "the next agent knows it too");
    there.resume(instance).await.unwrap();
    let mut line = there.console(instance).await.unwrap();
    line.write_all(b"word").await.unwrap();
    let mut back = [0; 4];
    line.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"word");
    there.stop(instance, KILL).await.unwrap();
}

/// Makes a driver as an agent that starts would: on what an earlier one left.
type Start = fn(&House) -> Box<dyn Driver>;

fn qemu(house: &House) -> Box<dyn Driver> {
    Box::new(Qemu::new(house.settings()).unwrap())
}
fn simulated(house: &House) -> Box<dyn Driver> {
    let state_dir = Some(house.path().to_owned());
    Box::new(Simulated::new(simulated::Settings { state_dir, ..Default::default() }))
}

macro_rules! contract {
    ($($(#[doc = $doc:literal])* $promise:ident)*) => {
        mod qemu_keeps { $($(#[doc = $doc])* #[tokio::test] async fn $promise() { super::$promise(super::qemu).await; })* }
        mod simulated_keeps {
            $($(#[doc = $doc])* #[tokio::test] async fn $promise() { super::$promise(super::simulated).await; })*
        }
    };
}

contract! {
    a_vm_starts_prints_listens_and_is_stopped
    every_call_may_be_repeated
    what_does_not_run_is_said_not_to
    two_starts_at_once_make_one_vm
    an_agent_that_starts_anew_adopts_what_runs
    a_disk_attached_while_it_runs_is_known_to_the_next_agent
    a_snapshot_is_taken_of_a_disk_in_use_and_of_one_at_rest
    a_slot_that_does_not_exist_is_refused
    a_vm_goes_to_another_host_with_what_its_disks_hold
    a_held_vm_is_measured_outlives_its_agent_and_begins_when_it_is_let_go
    an_image_that_was_changed_after_it_was_measured_does_not_begin
    one_held_at_a_warm_state_is_measured_with_it_and_goes_on_by_nothing_but_a_release
    devices_that_are_not_the_warm_states_own_are_not_loaded
}

const KILL: Stop = Stop::Kill;
const IN_ORDER: Stop = Stop::InOrder { patience: Duration::from_secs(20) };

async fn started(house: &House, driver: &dyn Driver) -> MachineSpec {
    let spec = house.machine(driver, 1).await;
    driver.start(&spec).await.unwrap();
    spec
}

async fn a_vm_starts_prints_listens_and_is_stopped(start: Start) {
    let house = House::new();
    let driver = start(&house);
    let mut events = driver.events();
    let spec = started(&house, &*driver).await;
    printed(&*driver, spec.instance, BANNER).await;
    let mut line = driver.console(spec.instance).await.unwrap();
    line.write_all(b"word").await.unwrap();
    let mut back = [0; 4];
    line.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"word");
    driver.stop(spec.instance, IN_ORDER).await.unwrap();
    assert!(house.processes().is_empty());
    printed(&*driver, spec.instance, BANNER).await;
    driver.forget(spec.instance).await.unwrap();
    assert!(driver.console_log(spec.instance).await.unwrap().is_empty());
    assert!(!house.path().join("instances").join(spec.instance.to_string()).exists());
    assert!(events.try_recv().is_err(), "an end that was asked for is no news");
}

async fn every_call_may_be_repeated(start: Start) {
    let house = House::new();
    let driver = start(&house);
    let spec = started(&house, &*driver).await;
    driver.start(&spec).await.unwrap();
    let next = MachineSpec { generation: 2, ..spec.clone() };
    let running = driver.start(&next).await.unwrap_err();
    assert!(matches!(running, Error::StillRunning { running: 1, .. }), "{running}");
    assert_eq!(driver.forget(spec.instance).await.unwrap_err().code(), ErrorCode::IncorrectState);
    driver.stop(spec.instance, KILL).await.unwrap();
    driver.stop(spec.instance, KILL).await.unwrap();
    driver.start(&next).await.unwrap();
    driver.stop(spec.instance, KILL).await.unwrap();
    driver.forget(spec.instance).await.unwrap();
    driver.forget(spec.instance).await.unwrap();
}

async fn what_does_not_run_is_said_not_to(start: Start) {
    let house = House::new();
    let driver = start(&house);
    let nobody = InstanceId::from_bits(9);
    assert!(driver.adopt().await.unwrap().is_empty());
    driver.stop(nobody, IN_ORDER).await.unwrap();
    driver.detach(nobody, VolumeId::from_bits(9)).await.unwrap();
    driver.forget(nobody).await.unwrap();
    assert!(driver.console_log(nobody).await.unwrap().is_empty());
    assert_eq!(driver.console(nobody).await.err().unwrap().code(), ErrorCode::IncorrectState);
    let refused = driver.attach(nobody, &house.disk(2, 1)).await.unwrap_err();
    assert!(matches!(refused, Error::NotRunning { .. }), "{refused}");
}

async fn two_starts_at_once_make_one_vm(start: Start) {
    let house = House::new();
    let driver = start(&house);
    let spec = house.machine(&*driver, 1).await;
    let (one, other) = tokio::join!(driver.start(&spec), driver.start(&spec));
    one.unwrap();
    other.unwrap();
    assert!(house.processes().len() <= 1);
    assert_eq!(driver.adopt().await.unwrap().len(), 1);
    driver.stop(spec.instance, KILL).await.unwrap();
    assert!(house.processes().is_empty());
}

async fn an_agent_that_starts_anew_adopts_what_runs(start: Start) {
    let house = House::new();
    let driver = start(&house);
    let spec = started(&house, &*driver).await;
    printed(&*driver, spec.instance, BANNER).await;
    drop(driver);
    let driver = start(&house);
    let machines = driver.adopt().await.unwrap();
    assert_eq!(machines.len(), 1);
    assert_eq!(machines[0].spec, spec);
    assert_eq!(machines[0].disks, spec.disks);
    printed(&*driver, spec.instance, BANNER).await;
    let mut line = driver.console(spec.instance).await.unwrap();
    line.write_all(b"again").await.unwrap();
    let mut back = [0; 5];
    line.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"again");
    driver.start(&spec).await.unwrap();
    driver.stop(spec.instance, KILL).await.unwrap();
    drop(driver);
    assert!(start(&house).adopt().await.unwrap().is_empty());
}

async fn a_disk_attached_while_it_runs_is_known_to_the_next_agent(start: Start) {
    let house = House::new();
    let driver = start(&house);
    let spec = started(&house, &*driver).await;
    let disk = house.disk(2, 3);
    driver.create_volume(&disk.path, Bytes::mib(8), VolumeSource::Empty).await.unwrap();
    driver.attach(spec.instance, &disk).await.unwrap();
    driver.attach(spec.instance, &disk).await.unwrap();
    let rival = house.disk(3, 3);
    driver.create_volume(&rival.path, Bytes::mib(8), VolumeSource::Empty).await.unwrap();
    assert_eq!(driver.attach(spec.instance, &rival).await.unwrap_err().code(), ErrorCode::IncorrectState);
    drop(driver);
    let driver = start(&house);
    let machines = driver.adopt().await.unwrap();
    assert_eq!(machines[0].disks, [spec.disks[0].clone(), disk.clone()]);
    // Nothing of the rival was left in the VM.
    driver.attach(spec.instance, &Disk { slot: 4, ..rival }).await.unwrap();
    driver.stop(spec.instance, KILL).await.unwrap();
}

async fn a_snapshot_is_taken_of_a_disk_in_use_and_of_one_at_rest(start: Start) {
    let house = House::new();
    let driver = start(&house);
    let spec = started(&house, &*driver).await;
    let (disk, in_use, at_rest) = (&spec.disks[0], house.path().join("in-use"), house.path().join("at-rest"));
    let user = Some((spec.instance, disk.volume));
    driver.snapshot(&disk.path, user, &in_use).await.unwrap();
    driver.snapshot(&disk.path, user, &in_use).await.unwrap();
    driver.snapshot(&disk.path, user, &house.path().join("in-use-again")).await.unwrap();
    driver.stop(spec.instance, KILL).await.unwrap();
    driver.snapshot(&disk.path, user, &at_rest).await.unwrap();
    let copy = house.disk(7, 0);
    driver.create_volume(&copy.path, Bytes::mib(2), VolumeSource::Copy { from: &in_use }).await.unwrap();
    assert!(at_rest.exists() && copy.path.exists());
    let left = std::fs::read_dir(house.path()).unwrap().flatten();
    assert!(left.map(|entry| entry.file_name()).all(|name| !name.to_string_lossy().ends_with(".part")));
    // What was copied is what the guest boots from.
    let again = MachineSpec { generation: 2, disks: vec![copy], ..spec.clone() };
    driver.forget(spec.instance).await.unwrap();
    driver.start(&again).await.unwrap();
    printed(&*driver, spec.instance, BANNER).await;
    driver.stop(spec.instance, KILL).await.unwrap();
}

async fn a_slot_that_does_not_exist_is_refused(start: Start) {
    let house = House::new();
    let driver = start(&house);
    let spec = started(&house, &*driver).await;
    let disk = house.disk(2, SLOTS);
    driver.create_volume(&disk.path, Bytes::mib(1), VolumeSource::Empty).await.unwrap();
    let refused = driver.attach(spec.instance, &disk).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::AttachmentLimitExceeded);
    driver.stop(spec.instance, KILL).await.unwrap();
}

/// A VM whose disk's image is measured.
async fn held(house: &House, driver: &dyn Driver) -> (MachineSpec, Vec<Measurement>) {
    let mut spec = house.machine(driver, 1).await;
    spec.disks[0].base = Some(Base { path: house.path().join("guest.raw"), format: DiskFormat::Raw });
    let measured = driver.hold(&spec).await.unwrap();
    (spec, measured)
}

async fn a_held_vm_is_measured_outlives_its_agent_and_begins_when_it_is_let_go(start: Start) {
    let house = House::new();
    let driver = start(&house);
    let (spec, measured) = held(&house, &*driver).await;
    let of = |component| measured.iter().find(|one| one.component == component).unwrap();
    let image = ring::digest::digest(&ring::digest::SHA256, &guest::boot_sector());
    assert_eq!(of(Component::DiskImage).digest.to_bytes(), image.as_ref());
    of(Component::Devices);
    of(Component::Memory);
    assert_eq!(driver.hold(&spec).await.unwrap(), measured, "asked again");
    drop(driver);
    let next = start(&house);
    let found = next.adopt().await.unwrap();
    let held = found.iter().find(|machine| machine.spec.instance == spec.instance).unwrap();
    assert!(held.held && held.measured.as_ref() == Some(&measured));
    // A simulated guest has printed from the beginning; a real one has not run yet.
    assert!(house.processes().is_empty() || next.console_log(spec.instance).await.unwrap().is_empty());
    next.release(spec.instance).await.unwrap();
    next.release(spec.instance).await.unwrap();
    printed(&*next, spec.instance, BANNER).await;
    drop(next);
    let last = start(&house);
    let found = last.adopt().await.unwrap();
    let released = found.iter().find(|machine| machine.spec.instance == spec.instance).unwrap();
    assert!(!released.held && released.measured.as_ref() == Some(&measured));
    last.stop(spec.instance, KILL).await.unwrap();
}

async fn an_image_that_was_changed_after_it_was_measured_does_not_begin(start: Start) {
    let house = House::new();
    let driver = start(&house);
    let (spec, _) = held(&house, &*driver).await;
    let image = std::fs::OpenOptions::new().write(true).open(house.path().join("guest.raw")).unwrap();
    std::os::unix::fs::FileExt::write_at(&image, b"!", 200).unwrap();
    let refused = driver.release(spec.instance).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::MeasurementChanged, "{refused}");
    assert!(driver.adopt().await.unwrap().iter().all(|machine| machine.held));
    driver.stop(spec.instance, KILL).await.unwrap();
    assert!(house.processes().is_empty());
}

/// One that goes on from the state of a template, and the devices of that.
async fn warm(house: &House, driver: &dyn Driver) -> (MachineSpec, PathBuf) {
    let template = MachineSpec { nic: None, origin: Origin::Template, ..house.machine(driver, 1).await };
    driver.start(&template).await.unwrap();
    driver.pause(template.instance).await.unwrap();
    let devices = house.path().join("devices");
    driver.save_devices(template.instance, &devices).await.unwrap();
    driver.stop(template.instance, KILL).await.unwrap();
    driver.forget(template.instance).await.unwrap();
    let memory = Digest::from_bytes([3; 32]);
    let state = warm_state_digest(&devices_digest(&std::fs::read(&devices).unwrap()), &memory);
    let origin = Origin::Warm { generation_id: 5, memory: Some(memory), state };
    (MachineSpec { origin, ..house.machine(driver, 1).await }, devices)
}

async fn one_held_at_a_warm_state_is_measured_with_it_and_goes_on_by_nothing_but_a_release(start: Start) {
    let house = House::new();
    let driver = start(&house);
    let (spec, devices) = warm(&house, &*driver).await;
    let Origin::Warm { state, .. } = &spec.origin else { unreachable!() };
    let measured = driver.hold_warm(&spec, &devices).await.unwrap();
    let of_state = |one: &&Measurement| one.component == Component::WarmState;
    let found: Vec<_> = measured.iter().filter(of_state).map(|one| (one.name.as_str(), &one.digest == state)).collect();
    assert_eq!(found, [("state", true), ("devices", false)]);
    // The same but for these two is what boots.
    let cold = MachineSpec { origin: Origin::Boot, ..house.machine(&*driver, 2).await };
    let booting = driver.hold(&cold).await.unwrap();
    assert!(booting.iter().filter(|one| one.component != Component::DiskImage).all(|one| measured.contains(one)));
    driver.stop(cold.instance, KILL).await.unwrap();
    std::fs::write(&devices, "others").unwrap();
    for driver in [driver, start(&house)] {
        let adopted = driver.adopt().await.unwrap();
        let found = adopted.iter().find(|machine| machine.spec.instance == spec.instance).unwrap();
        assert!(found.held && found.measured.as_ref() == Some(&measured));
        assert!(!driver.is_paused(spec.instance).await.unwrap(), "nobody may take it for one that only rests");
        assert!(driver.resume(spec.instance).await.is_err());
    }
    let driver = start(&house);
    driver.adopt().await.unwrap();
    driver.release(spec.instance).await.unwrap();
    driver.release(spec.instance).await.unwrap();
    assert!(driver.adopt().await.unwrap().iter().all(|machine| !machine.held));
    driver.pause(spec.instance).await.unwrap();
    assert!(driver.is_paused(spec.instance).await.unwrap(), "now it may rest");
    driver.resume(spec.instance).await.unwrap();
    driver.stop(spec.instance, KILL).await.unwrap();
}

async fn devices_that_are_not_the_warm_states_own_are_not_loaded(start: Start) {
    let house = House::new();
    let driver = start(&house);
    let (spec, devices) = warm(&house, &*driver).await;
    let mut octets = std::fs::read(&devices).unwrap();
    let last = octets.len() - 1;
    octets[last] ^= 1;
    std::fs::write(&devices, octets).unwrap();
    let refused = driver.hold_warm(&spec, &devices).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::MeasurementChanged, "{refused}");
    assert!(house.processes().is_empty());
}
