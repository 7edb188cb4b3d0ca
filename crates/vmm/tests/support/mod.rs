//! What the tests of drivers share: a state directory that ends with its VMs, and a VM to put into it.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_debug_implementations)] // each test binary uses its part

pub mod guest;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lucarne_model::{Bytes, InstanceId, MacAddress, Vcpus, VolumeId, storage::DiskFormat};
use lucarne_vmm::{
    driver::{Boot, Disk, Driver, MachineSpec, Nic, Origin, VolumeSource},
    qemu,
};
use tempfile::TempDir;

/// A directory in which VMs run; dropped, it kills those that a failed test left.
pub struct House {
    directory: TempDir,
}

impl House {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // The unprivileged user of the VMs has to come through.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Self { directory }
    }
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
    pub fn settings(&self) -> qemu::Settings {
        qemu::Settings::new(self.path())
    }

    /// A VM that boots the one-sector guest from a volume over its image; `number` makes it another one.
    pub async fn machine(&self, driver: &dyn Driver, number: u128) -> MachineSpec {
        let base = self.path().join("guest.raw");
        fs::write(&base, guest::boot_sector()).unwrap();
        let disk = self.disk(number, 0);
        let source = VolumeSource::Overlay { base: &base, format: DiskFormat::Raw };
        driver.create_volume(&disk.path, Bytes::mib(1), source).await.unwrap();
        let network = self.path().join(format!("net-{number}"));
        fs::create_dir_all(&network).unwrap();
        MachineSpec {
            instance: InstanceId::from_bits(number),
            generation: 1,
            vcpus: Vcpus(1),
            memory: Bytes::mib(32),
            boot: Boot::FirstDisk,
            nic: Some(Nic {
                mac: MacAddress::from_bits(number as u64),
                switch_socket: network.join("switch.sock"),
                guest_socket: network.join("guest.sock"),
            }),
            disks: vec![disk],
            paging: None,
            origin: Origin::Boot,
            tpm: None,
        }
    }

    /// A place for a volume; nothing is there yet.
    pub fn disk(&self, number: u128, slot: u8) -> Disk {
        let volume = VolumeId::from_bits(number);
        let path = self.path().join(format!("{volume}.qcow2"));
        Disk { volume, slot, path, format: DiskFormat::Qcow2, size: None, base: None }
    }

    /// The VMs' processes, by the path of this directory in their command lines.
    pub fn processes(&self) -> Vec<i32> {
        let marker = self.path().join("instances").display().to_string();
        let numbered = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let runs_here = |pid: &i32| {
            let line = fs::read(PathBuf::from(format!("/proc/{pid}/cmdline"))).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&marker)
        };
        fs::read_dir("/proc").unwrap().flatten().filter_map(numbered).filter(runs_here).collect()
    }

    pub fn kill_all(&self) {
        for pid in self.processes() {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// Waits until `holds` does, and fails the test when it does not within what a busy machine may need.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < end, "{what}: not within 30 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the VM's console log holds `text`.
pub async fn printed(driver: &dyn Driver, instance: InstanceId, text: &str) {
    let shown = || async {
        let log = driver.console_log(instance).await.unwrap();
        String::from_utf8_lossy(&log).contains(text)
    };
    eventually(&format!("the console shows {text:?}"), shown).await;
}
