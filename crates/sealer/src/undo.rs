//! What undoes a change of a guest's memory, or of its machine's process, when its time is over, also if the process that made it is gone by then.
//!
//! Owns the record of it. It lies in memory that QEMU holds for us, so that it lives exactly as long as what it undoes: no
//! file has it, and whoever comes after a process that was killed finds it there. Whoever waits for its time has it locked.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lucarne_model::Octets;
use rustix::fs::{FlockOperation, MemfdFlags, flock, memfd_create};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    confinement::Needs,
    monitor::Monitor,
    operations::{hypervisor, patch},
    order::{Failure, Machine},
    process_memory::ProcessMemory,
    standstill,
};

const KEEPING: &str = "keep what undoes the change";
/// What the memory is called where it is listed.
const NAME: &str = "lucarne-undo";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// In microseconds since 1970.
    due: u64,
    /// What QEMU calls the descriptor.
    name: String,
    place: Place,
    before: Octets,
    after: Octets,
}

/// Where a change was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// In these pieces of the guest's physical memory.
    Guest(Vec<(u64, u64)>),
    /// In the machine's process, from this address on.
    Process(u64),
}

/// A change that is to be undone, with its lock.
#[derive(Debug)]
pub(crate) struct Undo {
    record: Record,
    _locked: File,
}

impl Undo {
    /// Has QEMU keep it, from before the change is made.
    pub(crate) fn keep(
        place: Place,
        (before, after): (&[u8], &[u8]),
        (seconds, monitor): (u64, &mut Monitor),
    ) -> Result<Self, Failure> {
        let due = now().saturating_add(seconds.saturating_mul(1_000_000));
        let record = Record { due, name: format!("{NAME}-{due}"), place, before: before.into(), after: after.into() };
        let (file, theirs) = write_down(&record).map_err(Failure::broken(KEEPING))?;
        monitor.ask_with(KEEPING, ("getfd", json!({ "fdname": record.name })), theirs.as_fd())?;
        Ok(Self { record, _locked: file })
    }

    pub(crate) const fn place(&self) -> &Place {
        &self.record.place
    }

    pub(crate) const fn due(&self) -> u64 {
        self.record.due
    }

    pub(crate) fn forget(&self, monitor: &mut Monitor) -> Result<(), Failure> {
        monitor.ask("forget what undoes the change", "closefd", json!({ "fdname": self.record.name })).map(drop)
    }

    /// One that nobody waits for any more, if the machine has one.
    pub(crate) fn left_behind(machine: &Machine) -> Option<Self> {
        descriptors(machine).find_map(|path| {
            let mut file = File::open(path).ok()?;
            flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
            let mut text = Vec::new();
            file.rewind().and_then(|()| file.read_to_end(&mut text)).ok()?;
            Some(Self { record: serde_json::from_slice(&text).ok()?, _locked: file })
        })
    }

    /// Waits for its time and undoes the change, unless what is there is not what was written: then somebody else has changed
    /// it since, and it is left as it is.
    pub(crate) fn wait_and_undo(self, machine: &Machine) -> Result<(), Failure> {
        thread::sleep(Duration::from_micros(self.record.due.saturating_sub(now())));
        let mut monitor = Monitor::connect(&machine.monitor)?;
        let Record { place, before, after, .. } = &self.record;
        let undone = match place {
            Place::Guest(pieces) => patch::replace(pieces, (after, before), machine, &mut monitor),
            Place::Process(address) => {
                let memory = ProcessMemory::open(machine.process, true, &mut monitor)?;
                hypervisor::replace(*address, (after, before), machine, &memory).map(drop)
            }
        };
        match undone {
            Ok(()) | Err(Failure::Impossible(_)) => self.forget(&mut monitor),
            Err(failure) => Err(failure),
        }
    }
}

/// What a process needs that waits and then undoes.
pub(crate) fn needs(place: &Place, machine: &Machine) -> Needs {
    let marks = Some(standstill::directory(machine).to_owned());
    Needs { marks, connects: true, inspects: matches!(place, Place::Process(_)), ..Needs::default() }
}

/// The memory with the record: ours with its lock, and one for QEMU. It could be swapped out, where the host swaps: it is of what the request says itself, and of nothing that was read.
fn write_down(record: &Record) -> io::Result<(File, File)> {
    let mut file = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(record)?)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // Opened anew: a copy of ours would hold the lock when we are gone.
    let theirs = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok((file, theirs))
}

/// Where QEMU's process has such memory.
fn descriptors(machine: &Machine) -> impl Iterator<Item = PathBuf> {
    let all = fs::read_dir(format!("/proc/{}/fd", machine.process)).into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        let target = fs::read_link(path).unwrap_or_default();
        target.to_str().is_some_and(|target| target.starts_with(&format!("/memfd:{NAME}")))
    };
    all.map(|entry| entry.path()).filter(is_ours)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
