//! What is kept of one VM on this host's disk, so that an agent that starts anew knows what it finds.
//!
//! Owns the names inside `instances/i-…/` and the format of `machine.json`. Whether the VM runs is not written down: the
//! process table says it, and a file could lie.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use lucarne_model::{InstanceId, Measurement, VolumeId};
use serde::{Deserialize, Serialize};

use crate::{
    driver::{Disk, MachineSpec},
    error::Error,
    files,
    measuring::Measured,
};

const VERSION: u32 = 1;

/// The directory of one VM. All in it is the agent's, but for `run/`, which belongs to the VM's process: a process that
/// broke out of its emulator must not be able to swap a file that the agent writes.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(crate) fn of(instances: &Path, instance: InstanceId) -> Self {
        Self { path: instances.join(instance.to_string()) }
    }
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
    /// Where the process makes its sockets.
    pub(crate) fn run(&self) -> PathBuf {
        self.path.join("run")
    }
    pub(crate) fn qmp(&self) -> PathBuf {
        self.path.join("run/qmp.sock")
    }
    /// A monitor of its own for sealed operations: what they read does not pass through the agent.
    pub(crate) fn sealed_monitor(&self) -> PathBuf {
        self.path.join("run/seal.sock")
    }
    pub(crate) fn serial(&self) -> PathBuf {
        self.path.join("run/serial.sock")
    }
    /// The ring of what the serial console printed.
    pub(crate) fn console(&self) -> PathBuf {
        self.path.join("console.ring")
    }
    /// The ring of what the process printed.
    pub(crate) fn said(&self) -> PathBuf {
        self.path.join("said.ring")
    }
    fn record(&self) -> PathBuf {
        self.path.join("machine.json")
    }
}

/// The content of `machine.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) spec: MachineSpec,
    /// The disks that the VM should have now. One being attached is in it before QEMU has it, one being detached until
    /// QEMU has let go: at adoption QEMU is asked which of them it has.
    pub(crate) disks: Vec<Disk>,
    /// Of disks that were frozen since the process opened them: the nodes above the first one, lowest first. The last may be one
    /// that QEMU has not put there yet: at adoption it is asked.
    #[serde(default)]
    pub(crate) layers: BTreeMap<VolumeId, Vec<String>>,
    /// Of these, those whose first node is gone, because all that it held was brought into the layers.
    #[serde(default)]
    pub(crate) whole: BTreeSet<VolumeId>,
    /// What it was measured as, of one that was held at its start.
    #[serde(default)]
    pub(crate) measured: Option<Measured>,
    /// Whether its processors are to stand until it is let go: of one that goes on from a warm state QEMU itself does not tell
    /// that from any other pause.
    #[serde(default)]
    pub(crate) held: bool,
    /// It is being taken in from another host, and all of it is not here yet, whatever its process says: what it has for disks
    /// may be gone with the agent that took it in.
    #[serde(default)]
    pub(crate) coming: bool,
}

impl Record {
    pub(crate) fn new(spec: MachineSpec) -> Self {
        let (disks, layers) = (spec.disks.clone(), BTreeMap::new());
        Self {
            version: VERSION,
            disks,
            spec,
            layers,
            whole: BTreeSet::new(),
            measured: None,
            held: false,
            coming: false,
        }
    }

    /// What the VM was found to be, without the files that were looked at.
    pub(crate) fn measurements(&self) -> Option<Vec<Measurement>> {
        self.measured.as_ref().map(|measured| measured.measurements.clone())
    }

    pub(crate) fn write(&self, directory: &Directory) -> Result<(), Error> {
        let path = directory.record();
        let content = serde_json::to_vec_pretty(self).map_err(|error| Error::file("write", &path, error.into()))?;
        files::replace(&path, &content)
    }

    pub(crate) fn read(directory: &Directory) -> Result<Self, Error> {
        let path = directory.record();
        let content = fs::read(&path).map_err(|error| Error::file("read", &path, error))?;
        let record = Self::parse(&content).map_err(|error| Error::file("understand", &path, error))?;
        Ok(record)
    }

    fn parse(content: &[u8]) -> io::Result<Self> {
        let record: Self = serde_json::from_slice(content)?;
        let known = record.version == VERSION;
        let newer = || io::Error::new(io::ErrorKind::Unsupported, format!("version {} is not known", record.version));
        if known { Ok(record) } else { Err(newer()) }
    }

    /// Deletes the record, so that nothing is known of the VM any more.
    pub(crate) fn remove(directory: &Directory) -> Result<(), Error> {
        files::remove(&directory.record())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version wrote it; it must open for as long as VMs may run that were started by it.
    const FIRST: &str = r#"{"version": 1, "spec": {"instance": "i-0123456789abcdef0", "generation": 2, "vcpus": 1,
        "memory": 134217728, "boot": {"Kernel": {"kernel": "/k", "initramfs": "/i", "command_line": "quiet"}},
        "nic": {"mac": "02:00:00:00:00:01", "switch_socket": "/s", "guest_socket": "/g"}, "disks": []},
        "disks": [{"volume": "vol-0123456789abcdef0", "slot": 1, "path": "/v", "format": "qcow2"}]}"#;

    #[test]
    fn a_record_of_the_first_version_opens() {
        let record = Record::parse(FIRST.as_bytes()).unwrap();
        assert_eq!(record.spec.generation, 2);
        assert_eq!((record.disks[0].slot, record.coming), (1, false));
    }

    #[test]
    fn a_record_of_a_later_version_is_refused() {
        let text = FIRST.replace("\"version\": 1", "\"version\": 9");
        assert!(Record::parse(text.as_bytes()).is_err());
    }
}
