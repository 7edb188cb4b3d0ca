//! Disks that are made whole under VMs that run, on real QEMU processes that are killed in the middle.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::PathBuf, process::Command, time::Duration};

use lucarne_model::{Bytes, InstanceId, VolumeId, storage::DiskFormat};
use lucarne_vmm::{
    driver::{Disk, Driver, Layer, MachineSpec, Stop, VolumeSource},
    file_below,
    qemu::Qemu,
};
use serde_json::{Value, json};
use support::{House, eventually, guest::BANNER, printed};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::sleep,
};

const SIZE: u64 = 48 << 20;

fn driver(house: &House) -> Qemu {
    Qemu::new(house.settings()).unwrap()
}

/// A VM with a disk over a file of noise.
struct Scene {
    house: House,
    spec: MachineSpec,
    disk: Disk,
    below: PathBuf,
    /// What the disk is to hold, as the guest sees it.
    expected: Vec<u8>,
}

impl Scene {
    async fn new(driver: impl Fn(&House) -> Qemu) -> (Self, Qemu) {
        let house = House::new();
        let driver = driver(&house);
        let expected: Vec<u8> = (0..SIZE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let (below, disk) = (house.path().join("noise.raw"), house.disk(5, 1));
        fs::write(&below, &expected).unwrap();
        let source = VolumeSource::Overlay { base: &below, format: DiskFormat::Raw };
        driver.create_volume(&disk.path, Bytes(SIZE), source).await.unwrap();
        let mut spec = house.machine(&driver, 1).await;
        spec.disks.push(disk.clone());
        let scene = Self { house, spec, disk, below, expected };
        scene.start(&driver).await;
        (scene, driver)
    }

    async fn start(&self, driver: &Qemu) {
        driver.start(&self.spec).await.unwrap();
        printed(driver, self.spec.instance, BANNER).await;
    }

    fn names(&self) -> (InstanceId, VolumeId) {
        (self.spec.instance, self.disk.volume)
    }

    /// Asks QEMU by the monitor that the agent does not talk to.
    async fn ask(&self, driver: &Qemu, command: &str, arguments: Value) -> Value {
        let monitor = driver.ways_in(self.spec.instance).await.unwrap().monitor;
        let mut monitor = BufReader::new(UnixStream::connect(monitor).await.unwrap());
        let mut answer = json!({});
        for (command, arguments) in [("qmp_capabilities", json!({})), (command, arguments)] {
            let line = json!({"execute": command, "arguments": arguments}).to_string();
            monitor.write_all(line.as_bytes()).await.unwrap();
            answer = json!({});
            while answer.get("return").is_none() {
                let mut line = String::new();
                assert!(monitor.read_line(&mut line).await.unwrap() > 0, "the monitor hung up");
                answer = serde_json::from_str(&line).unwrap();
                assert!(answer.get("error").is_none(), "{answer}");
            }
        }
        answer["return"].clone()
    }

    /// As the guest would: by what its device writes to.
    async fn write(&mut self, driver: &Qemu, (pattern, at, length): (u8, usize, usize)) {
        let device = format!("/machine/peripheral/disk-{}/virtio-backend", self.disk.volume);
        for command in [format!("write -P {pattern} {at} {length}"), "flush".into()] {
            let line = format!("qemu-io -d {device} \"{command}\"");
            let said = self.ask(driver, "human-monitor-command", json!({ "command-line": line })).await;
            assert!(!said.as_str().unwrap_or_default().contains("Error"), "{said}");
        }
        self.expected[at..at + length].fill(pattern);
    }

    async fn complete(&self, driver: &Qemu) {
        let (instance, volume) = self.names();
        while !driver.complete(instance, volume).await.unwrap() {
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn kill(&self, driver: &Qemu) {
        self.house.kill_all();
        let ended = || async { driver.process_id(self.spec.instance).await.is_none() };
        eventually("its end is heard of", ended).await;
    }

    /// Whether the file holds all by itself.
    fn check(&self, file: &std::path::Path) {
        assert_eq!(file_below(file).unwrap(), None);
        let expected = self.house.path().join("expected.raw");
        fs::write(&expected, &self.expected).unwrap();
        let mut compare = Command::new("qemu-img");
        compare.args(["compare", "-U", "-f", "raw", "-F", "qcow2"]).arg(&expected).arg(file);
        let compared = compare.output().unwrap();
        assert!(compared.status.success(), "{compared:?}");
    }
}

/// Every death is a kill -9: of the agent, and of QEMU itself, also in the instant after it said that all is there.
#[tokio::test]
async fn a_disk_is_made_whole_whoever_is_killed_and_holds_what_was_below_and_what_was_written() {
    let (mut scene, first) = Scene::new(driver).await;
    let (instance, volume) = scene.names();
    scene.write(&first, (7, 1 << 20, 1 << 20)).await;
    assert!(!first.complete(instance, volume).await.unwrap(), "it takes its time");
    sleep(Duration::from_millis(50)).await;
    scene.write(&first, (9, 40 << 20, 1 << 20)).await;
    drop(first);

    let driver = driver(&scene.house);
    driver.adopt().await.unwrap();
    assert_eq!(scene.ask(&driver, "query-jobs", json!({})).await, json!([]), "the next agent begins it anew");
    assert_eq!(file_below(&scene.disk.path).unwrap(), Some(scene.below.clone()));
    assert!(!driver.complete(instance, volume).await.unwrap());
    sleep(Duration::from_millis(50)).await;
    scene.kill(&driver).await;
    assert_eq!(file_below(&scene.disk.path).unwrap(), Some(scene.below.clone()));

    scene.start(&driver).await;
    scene.write(&driver, (11, 20 << 20, 1 << 20)).await;
    scene.complete(&driver).await;
    scene.kill(&driver).await;
    fs::remove_file(&scene.below).unwrap();
    scene.check(&scene.disk.path);
    scene.start(&driver).await;
    assert!(driver.complete(instance, volume).await.unwrap(), "to ask again is no error");
    driver.stop(instance, Stop::Kill).await.unwrap();
}

/// QEMU would let the file forget what is below it while its tables are still in QEMU's memory.
#[tokio::test]
async fn a_qemu_that_dies_as_the_file_forgets_what_is_below_loses_nothing() {
    let (scene, driver) = Scene::new(driver).await;
    let (instance, volume) = scene.names();
    while file_below(&scene.disk.path).unwrap().is_some() {
        driver.complete(instance, volume).await.unwrap();
    }
    scene.kill(&driver).await;
    fs::remove_file(&scene.below).unwrap();
    scene.check(&scene.disk.path);
}

#[tokio::test]
async fn a_disk_that_is_left_by_half_goes_on_where_it_was_left() {
    let (scene, driver) = Scene::new(driver).await;
    let (instance, volume) = scene.names();
    assert!(!driver.complete(instance, volume).await.unwrap());
    sleep(Duration::from_millis(100)).await;
    driver.stop_completing(instance, volume).await.unwrap();
    driver.stop_completing(instance, volume).await.expect("to ask again is no error");
    assert_eq!(scene.ask(&driver, "query-jobs", json!({})).await, json!([]));
    scene.complete(&driver).await;
    driver.stop(instance, Stop::Kill).await.unwrap();
    fs::remove_file(&scene.below).unwrap();
    scene.check(&scene.disk.path);
}

/// One that was itself frozen while it ran: its lower files are closed, and another layer can be put over it.
#[tokio::test]
async fn a_disk_of_layers_becomes_one_file_and_the_next_agent_knows_it() {
    let (mut scene, first) = Scene::new(driver).await;
    let (instance, volume) = scene.names();
    scene.write(&first, (7, 1 << 20, 1 << 20)).await;
    let layer = |name: &str| Layer { name: name.into(), path: scene.house.path().join(format!("{name}.qcow2")) };
    let (one, other) = (layer("one"), layer("other"));
    let put = async |driver: &Qemu, layer: &Layer, below: &std::path::Path| {
        driver.create_volume(&layer.path, Bytes(SIZE), VolumeSource::Layer { below }).await.unwrap();
        driver.pause(instance).await.unwrap();
        assert!(driver.put_over(instance, volume, layer).await.unwrap());
        driver.resume(instance).await.unwrap();
    };
    put(&first, &one, &scene.disk.path).await;
    scene.write(&first, (9, 2 << 20, 1 << 20)).await;
    scene.complete(&first).await;
    let nodes = scene.ask(&first, "query-named-block-nodes", json!({ "flat": true })).await;
    let open =
        |path: &std::path::Path| nodes.as_array().unwrap().iter().any(|node| node["file"].as_str() == path.to_str());
    assert!(open(&one.path) && !open(&scene.disk.path) && !open(&scene.below), "{nodes}");
    drop(first);

    let driver = driver(&scene.house);
    let machines = driver.adopt().await.unwrap();
    assert!(machines[0].disks.iter().any(|disk| disk.volume == volume));
    assert!(driver.has_over(instance, volume, &one).await);
    fs::remove_file(&scene.below).unwrap();
    put(&driver, &other, &one.path).await;
    scene.write(&driver, (11, 3 << 20, 1 << 20)).await;
    scene.complete(&driver).await;
    driver.stop(instance, Stop::Kill).await.unwrap();
    scene.check(&other.path);
}
