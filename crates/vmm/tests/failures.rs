//! What goes wrong with real QEMU processes and real files, and what the driver makes of it.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use lucarne_model::{Bytes, ErrorCode, storage::DiskFormat};
use lucarne_vmm::{
    Error, ImageInfo,
    driver::{Driver, EndOfMachine, MachineEvent, MachineSpec, Stop, VolumeSource},
    inspect_image,
    qemu::{Qemu, Settings},
    simulated::{self, Fault, Simulated},
};
use support::{House, eventually, guest::BANNER, printed};
use tokio::{io::AsyncWriteExt, net::UnixStream, sync::mpsc, time::timeout};

fn driver(house: &House) -> Qemu {
    Qemu::new(house.settings()).unwrap()
}

async fn started(house: &House, driver: &Qemu) -> MachineSpec {
    let spec = house.machine(driver, 1).await;
    driver.start(&spec).await.unwrap();
    printed(driver, spec.instance, BANNER).await;
    spec
}

async fn next(events: &mut mpsc::Receiver<MachineEvent>) -> MachineEvent {
    timeout(Duration::from_secs(20), events.recv()).await.expect("an event within 20 s").expect("a driver")
}

/// Types at the guest's console; it obeys `Q` and `R`.
async fn tell(driver: &Qemu, spec: &MachineSpec, letter: &[u8]) {
    driver.console(spec.instance).await.unwrap().write_all(letter).await.unwrap();
}

/// By the monitor that the agent does not talk to.
#[tokio::test]
async fn a_machine_whose_power_a_sealed_operation_took_away_has_not_died() {
    let house = House::new();
    let driver = driver(&house);
    let mut events = driver.events();
    let spec = started(&house, &driver).await;
    let ways_in = driver.ways_in(spec.instance).await.unwrap();
    let mut monitor = UnixStream::connect(&ways_in.monitor).await.unwrap();
    monitor.write_all(b"{\"execute\": \"qmp_capabilities\"}\n{\"execute\": \"quit\"}\n").await.unwrap();
    let (instance, generation) = (spec.instance, spec.generation);
    assert_eq!(next(&mut events).await, MachineEvent::Ended { instance, generation, why: EndOfMachine::SwitchedOff });
}

#[tokio::test]
async fn a_killed_qemu_is_told_as_a_death() {
    let house = House::new();
    let driver = driver(&house);
    let mut events = driver.events();
    let spec = started(&house, &driver).await;
    house.kill_all();
    let MachineEvent::Ended { instance, generation, why: EndOfMachine::Died { said } } = next(&mut events).await else {
        panic!("not a death");
    };
    assert_eq!((instance, generation), (spec.instance, spec.generation));
    assert!(said.contains("signal 9"), "{said}");
    assert!(driver.console(spec.instance).await.is_err());
    driver.start(&spec).await.expect("it can be started again");
    driver.stop(spec.instance, Stop::Kill).await.unwrap();
}

/// Also of a VM that another agent started: the end of a process is known that is nobody's child.
#[tokio::test]
async fn a_guest_that_resets_or_ends_itself_is_told() {
    let house = House::new();
    let first = driver(&house);
    let spec = started(&house, &first).await;
    drop(first);
    let driver = driver(&house);
    let mut events = driver.events();
    driver.adopt().await.unwrap();
    tell(&driver, &spec, b"R").await;
    assert_eq!(next(&mut events).await, MachineEvent::Reset { instance: spec.instance });
    let booted_again = || async {
        let log = driver.console_log(spec.instance).await.unwrap();
        String::from_utf8_lossy(&log).matches(BANNER).count() >= 2
    };
    eventually("the guest boots again", booted_again).await;
    tell(&driver, &spec, b"Q").await;
    loop {
        match next(&mut events).await {
            MachineEvent::Reset { .. } => {}
            MachineEvent::Ended { why, .. } => break assert_eq!(why, EndOfMachine::GuestShutdown),
        }
    }
}

#[tokio::test]
async fn a_missing_qemu_is_an_error_that_names_the_package() {
    let house = House::new();
    let settings =
        Settings { qemu: "/nonexistent/qemu".into(), qemu_img: "/nonexistent/qemu-img".into(), ..house.settings() };
    let driver = Qemu::new(settings).unwrap();
    let spec = house.machine(&self::driver(&house), 1).await;
    for error in [driver.start(&spec).await.unwrap_err(), driver.version().await.unwrap_err()] {
        assert_eq!(error.code(), ErrorCode::HypervisorMissing);
        assert!(error.to_string().contains("apt-get install qemu-system-x86"), "{error}");
    }
    let volume = house.path().join("volume");
    let error = driver.create_volume(&volume, Bytes::mib(1), VolumeSource::Empty).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::HypervisorMissing);
    assert!(error.to_string().contains("apt-get install qemu-utils"), "{error}");
    assert!(!volume.exists() && !house.path().join("volume.part").exists());
}

#[tokio::test]
async fn the_version_names_qemu_and_what_runs_its_processors() {
    let house = House::new();
    let version = driver(&house).version().await.unwrap();
    assert!(version.starts_with("QEMU "), "{version}");
    assert!(version.ends_with("(TCG)") || version.ends_with("(KVM)"), "{version}");
}

#[tokio::test]
async fn a_qemu_that_dies_at_once_is_an_error_with_its_last_words() {
    let house = House::new();
    let spec = house.machine(&driver(&house), 1).await;
    let script = house.path().join("qemu");
    fs::write(&script, "#!/bin/sh\necho out of luck >&2\nexit 4\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let failing = Qemu::new(Settings { qemu: script, ..house.settings() }).unwrap();
    let error = failing.start(&spec).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::HypervisorFailed);
    let said = error.to_string();
    assert!(said.contains("out of luck") && said.contains("status 4"), "{said}");
    assert!(house.processes().is_empty());
}

#[tokio::test]
async fn a_disk_that_is_no_disk_is_an_error_with_qemus_words() {
    let house = House::new();
    let driver = driver(&house);
    let spec = house.machine(&driver, 1).await;
    fs::write(&spec.disks[0].path, "not a qcow2 file").unwrap();
    let error = driver.start(&spec).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::HypervisorFailed);
    assert!(error.to_string().contains("qcow2"), "{error}");
    assert!(house.processes().is_empty());
}

/// A process between its start and its first instruction, as a kill of the agent at that moment leaves it.
#[tokio::test]
async fn a_vm_that_was_started_by_half_is_ended_at_adoption() {
    let house = House::new();
    let driver = driver(&house);
    let spec = started(&house, &driver).await;
    driver.stop(spec.instance, Stop::Kill).await.unwrap();
    let run = house.path().join("instances").join(spec.instance.to_string()).join("run");
    let socket = |id: &str, name: &str| format!("socket,id={id},path={}/{name},server=on,wait=off", run.display());
    let mut half = Command::new("qemu-system-x86_64")
        .args(["-S", "-nodefaults", "-display", "none", "-name", &spec.instance.to_string()])
        .args(["-chardev", &socket("serial0", "serial.sock"), "-serial", "chardev:serial0"])
        .args(["-chardev", &socket("qmp", "qmp.sock"), "-mon", "chardev=qmp,mode=control"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the process has its command line", || async { !house.processes().is_empty() }).await;
    assert!(driver.adopt().await.unwrap().is_empty());
    assert!(house.processes().is_empty());
    // The driver has waited for it already: it is this process's child too.
    let _ = half.wait();
    driver.start(&spec).await.unwrap();
    driver.stop(spec.instance, Stop::Kill).await.unwrap();
}

/// A file system of 1 MiB; none where the test may not mount.
struct SmallDisk(PathBuf);
impl SmallDisk {
    fn new(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).ok()?;
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m,mode=711", "tmpfs"]).arg(&at).output();
        mount.ok()?.status.success().then_some(Self(at))
    }
}
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_leaves_nothing_behind() {
    let house = House::new();
    let Some(small) = SmallDisk::new(house.path().join("small")) else {
        return eprintln!("not tried: this user may not mount");
    };
    let driver = driver(&house);
    let spec = started(&house, &driver).await;
    let large = house.disk(5, 1);
    let noise: Vec<u8> = (0..4u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let raw = house.path().join("noise.raw");
    fs::write(&raw, noise).unwrap();
    let source = VolumeSource::Overlay { base: &raw, format: DiskFormat::Raw };
    driver.create_volume(&large.path, Bytes::mib(4), source).await.unwrap();

    let at_rest = driver.snapshot(&large.path, None, &small.0.join("at-rest")).await.unwrap_err();
    assert_eq!(at_rest.code(), ErrorCode::DiskFull, "{at_rest}");
    driver.attach(spec.instance, &large).await.unwrap();
    let user = Some((spec.instance, large.volume));
    let in_use = driver.snapshot(&large.path, user, &small.0.join("in-use")).await.unwrap_err();
    assert_eq!(in_use.code(), ErrorCode::DiskFull, "{in_use}");
    assert_eq!(fs::read_dir(&small.0).unwrap().count(), 0);
    // Neither the VM nor the next copy has suffered.
    driver.snapshot(&large.path, user, &house.path().join("elsewhere")).await.unwrap();
    driver.stop(spec.instance, Stop::InOrder { patience: Duration::from_secs(20) }).await.unwrap();
}

fn image(house: &House, name: &str, arguments: &[&str]) -> PathBuf {
    let path = house.path().join(name);
    let made = Command::new("qemu-img").args(["create", "-q"]).args(arguments).arg(&path).arg("4M").status();
    assert!(made.unwrap().success());
    path
}

async fn refusal(path: &Path) -> String {
    let error = inspect_image(path).await.unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::ImageUnreadable);
    error.to_string()
}

#[tokio::test]
async fn an_image_is_taken_for_what_it_is_or_refused_with_its_reason() {
    let house = House::new();
    let size = Bytes::mib(4);
    let qcow2 = image(&house, "plain", &["-f", "qcow2"]);
    let taken = inspect_image(&qcow2).await.unwrap();
    assert_eq!(taken, ImageInfo { format: DiskFormat::Qcow2, virtual_size: size });
    let raw = image(&house, "raw", &["-f", "raw"]);
    let taken = inspect_image(&raw).await.unwrap();
    assert_eq!(taken, ImageInfo { format: DiskFormat::Raw, virtual_size: size });

    let on_top = image(&house, "on-top", &["-f", "qcow2", "-b", &qcow2.display().to_string(), "-F", "qcow2"]);
    assert!(refusal(&on_top).await.contains("backing file"));
    let elsewhere = format!("data_file={}", house.path().join("data").display());
    let outside = image(&house, "outside", &["-f", "qcow2", "-o", &elsewhere]);
    assert!(refusal(&outside).await.contains("another file"));
    assert!(refusal(&image(&house, "vmdk", &["-f", "vmdk"])).await.contains("VMDK"));
    let odd = house.path().join("odd");
    fs::write(&odd, "short").unwrap();
    assert!(refusal(&odd).await.contains("sectors"));
    assert!(refusal(house.path()).await.contains("not a file"));
    assert_eq!(inspect_image(Path::new("/nonexistent")).await.unwrap_err().code(), ErrorCode::Internal);
}

#[tokio::test]
async fn a_qcow2_whose_tables_are_damaged_is_refused() {
    let house = House::new();
    let path = image(&house, "damaged", &["-f", "qcow2"]);
    let mut bytes = fs::read(&path).unwrap();
    let level_1 = u64::from_be_bytes(bytes[40..48].try_into().unwrap()) as usize;
    // An entry that points far behind the end of the file.
    bytes[level_1..level_1 + 8].copy_from_slice(&0x8000_00ff_ffff_0000_u64.to_be_bytes());
    fs::write(&path, &bytes).unwrap();
    refusal(&path).await;
    fs::write(&path, &bytes[..100]).unwrap();
    refusal(&path).await;
}

#[tokio::test]
async fn simulated_failures_come_when_they_are_ordered() {
    let house = House::new();
    let driver = Simulated::new(simulated::Settings::default());
    let mut events = driver.events();
    let spec = house.machine(&driver, 1).await;
    driver.inject(Fault::StartFails { said: "no luck".into() });
    let error = driver.start(&spec).await.unwrap_err();
    assert!(error.to_string().contains("no luck"), "{error}");
    driver.start(&spec).await.unwrap();
    let why = EndOfMachine::Died { said: "gone".into() };
    driver.end(spec.instance, why.clone()).await.unwrap();
    let ended = MachineEvent::Ended { instance: spec.instance, generation: 1, why };
    assert_eq!(events.recv().await, Some(ended));
    driver.inject(Fault::DiskFull);
    let full = driver.create_volume(&house.path().join("v"), Bytes::mib(1), VolumeSource::Empty).await;
    assert_eq!(full.unwrap_err().code(), ErrorCode::DiskFull);
    assert!(!house.path().join("v").exists());
}

#[tokio::test]
async fn ten_thousand_simulated_vms_are_no_burden() {
    let house = House::new();
    let driver = Simulated::new(simulated::Settings::default());
    let one = house.machine(&driver, 1).await;
    for number in 0..10_000 {
        let instance = lucarne_model::InstanceId::from_bits(number);
        driver.start(&MachineSpec { instance, ..one.clone() }).await.unwrap();
    }
    assert_eq!(driver.running(), 10_000);
}
