//! Hibernation: a VM without a process and without a page in memory, that goes on where it stopped.
//!
//! Owns the order in which a VM falls asleep and wakes, and what is on disk meanwhile. A VM sleeps from the instant at which
//! its `.asleep` file is there and its process is not; the devices' state and all pages are on the disk before that. The
//! key of its pages is not: it is in a file system of memory, and lost with the machine's.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lucarne_memory::governor::Life;
use lucarne_model::{
    InstanceId, Pages,
    memory::PagesByPlace,
    paging::{KEY, PageKey},
};
use lucarne_pager::{client::ClientError, shim};
use lucarne_vmm::driver::{EndOfMachine, MachineEvent, MachineSpec, Paging, Stop};
use ring::digest;
use serde::{Deserialize, Serialize};

use super::{
    guests::{Guest, Shared},
    supervisor::Wishes,
};
use crate::{
    durable::{self, Outlives},
    layout::Layout,
};

/// How long sending all pages out may take.
const EVICTION: Duration = Duration::from_secs(600);
/// A file system of memory that every Debian has.
const KEYS: &str = "/dev/shm";

/// Why a VM could not be put to sleep, or woken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SleepError {
    #[error("its hypervisor")]
    Driver(#[source] lucarne_vmm::Error),
    #[error("its pager")]
    Pager(#[source] ClientError),
    #[error("it has no pager")]
    NoPager,
    #[error("{left} of its pages could not leave")]
    PagesLeft { left: Pages },
    #[error("the key of its pages could not be {doing}")]
    Key {
        doing: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error(
        "this machine was started anew since, and the key of its memory was in the machine's own memory alone: what it had \
         there is lost, and what was written to its volumes is not"
    )]
    KeyLost,
    #[error("what wakes it could not be {doing}")]
    Record {
        doing: &'static str,
        #[source]
        cause: io::Error,
    },
}

/// The content of an `.asleep` file, version 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sleeper {
    pub(super) spec: MachineSpec,
    /// Where its pages are while it sleeps.
    pub(super) pages: PagesByPlace,
}

impl Shared {
    /// Puts a paused VM to sleep. Whatever fails, the VM is paused still, and nothing of it is lost.
    pub(super) async fn hibernate(&self, instance: InstanceId, guest: &Guest) -> Result<(), SleepError> {
        let _turn = guest.turn.lock().await;
        if guest.kept().life != Life::Paused {
            return Ok(());
        }
        let pager = guest.kept().pager.clone().ok_or(SleepError::NoPager)?;
        let spec = self.driver.save_devices(instance, &self.layout.devices(instance)).await;
        let spec = spec.map_err(SleepError::Driver)?;
        let left = pager.evict_all(EVICTION).await.map_err(SleepError::Pager)?;
        if left > Pages::ZERO {
            return Err(SleepError::PagesLeft { left });
        }
        let told = pager.ask().await.map_err(SleepError::Pager)?;
        self.keep_key(&spec).await?;
        let sleeper = Sleeper { spec, pages: told.pages };
        let json = serde_json::to_vec(&sleeper).map_err(io::Error::from);
        let written = json.and_then(|json| durable::replace(&self.layout.asleep(instance), &json, Outlives::Process));
        written.map_err(|cause| SleepError::Record { doing: "written", cause })?;
        let restarts = pager.restarts();
        drop(pager);
        {
            let mut kept = guest.kept();
            // From here on its pager's end is no accident.
            kept.pager = None;
            kept.restarts_before += restarts;
            kept.life = Life::Hibernated;
            kept.told = Some(lucarne_pager::control::Statistics { pool: Default::default(), ..told });
        }
        self.driver.stop(instance, Stop::Kill).await.map_err(SleepError::Driver)
    }

    /// Wakes a VM that sleeps; it may hold `limit` pages at first. One that cannot be woken is over.
    pub(super) async fn wake(
        self: &Arc<Self>,
        instance: InstanceId,
        guest: &Guest,
        wishes: Wishes,
    ) -> Result<(), SleepError> {
        let _turn = guest.turn.lock().await;
        if guest.kept().life != Life::Hibernated || guest.kept().is_brought {
            return Ok(());
        }
        let sleeper =
            read(&self.layout.asleep(instance)).map_err(|cause| SleepError::Record { doing: "read", cause })?;
        let woken = self.try_to_wake(&sleeper.spec, guest, wishes).await;
        match &woken {
            Ok(()) => {
                let mut kept = guest.kept();
                (kept.life, kept.failure) = (Life::Running, None);
            }
            Err(error) => {
                guest.kept().pager = None;
                self.is_lost(&sleeper.spec, error).await;
            }
        }
        forget(&self.layout, instance);
        woken
    }

    /// A VM that sleeps is over, and what it had in its memory with it.
    pub(super) async fn is_lost(&self, spec: &MachineSpec, error: &SleepError) {
        let said = format!("it slept and could not be woken: {}", chain(error));
        let (instance, generation, why) = (spec.instance, spec.generation, EndOfMachine::Died { said });
        self.tell_end(MachineEvent::Ended { instance, generation, why }).await;
        forget(&self.layout, instance);
    }

    /// What opens the pages of a VM that sleeps.
    pub(super) fn kept_key(&self, instance: InstanceId) -> Result<PageKey, SleepError> {
        read_key(&self.layout, instance).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => SleepError::KeyLost,
            _ => SleepError::Key { doing: "read", cause },
        })
    }

    async fn try_to_wake(&self, spec: &MachineSpec, guest: &Guest, wishes: Wishes) -> Result<(), SleepError> {
        let instance = spec.instance;
        let key = self.kept_key(instance)?;
        let paging = self.paging(instance).ok_or(SleepError::NoPager)?;
        let spec = MachineSpec { paging: Some(Paging { key: Some(key), ..paging }), ..spec.clone() };
        self.watch(&spec, guest, wishes);
        self.driver.wake(&spec, &self.layout.devices(instance)).await.map_err(SleepError::Driver)
    }

    async fn keep_key(&self, spec: &MachineSpec) -> Result<(), SleepError> {
        let (instance, machine) = (spec.instance, self.layout.lent_memory(spec.instance));
        let layout = self.layout.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let key = shim::key_of(&machine).map_err(io::Error::other)?;
            write_key(&layout, instance, &key)
        });
        let kept = kept.await.map_err(io::Error::other).and_then(|kept| kept);
        kept.map_err(|cause| SleepError::Key { doing: "kept", cause })
    }
}

/// The error and what caused it, in one sentence.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// VMs that sleep here.
pub(super) fn find(layout: &Layout) -> Vec<Sleeper> {
    let Ok(entries) = fs::read_dir(layout.memory()) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    let asleep = paths.filter(|path| path.extension().is_some_and(|extension| extension == "asleep"));
    asleep
        .filter_map(|path| {
            let failed =
                |error: &io::Error| tracing::error!(path = %path.display(), %error, "a VM that sleeps is lost");
            read(&path).inspect_err(failed).ok()
        })
        .collect()
}

pub(super) fn read(path: &Path) -> io::Result<Sleeper> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Deletes what wakes a VM, and the key that was kept for it. What cannot be deleted is replaced by the next sleep.
pub(super) fn forget(layout: &Layout, instance: InstanceId) {
    for path in [layout.asleep(instance), layout.devices(instance), key_path(layout, instance)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "what was kept of a VM's sleep is left behind");
            }
            _ => {}
        }
    }
}

/// Of this agent alone: on one machine there may be several, and a VM that moves from one to another has a key with both.
fn key_path(layout: &Layout, instance: InstanceId) -> PathBuf {
    let root = layout.root().canonicalize().unwrap_or_else(|_| layout.root().into());
    let digest = digest::digest(&digest::SHA256, root.as_os_str().as_bytes());
    let agent: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Path::new(KEYS).join(format!("lucarne-{agent}-{instance}.key"))
}

pub(super) fn write_key(layout: &Layout, instance: InstanceId, key: &PageKey) -> io::Result<()> {
    let path = key_path(layout, instance);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // In a directory that is everyone's: it must be made by us, for us alone.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(&key.0)
}

pub(super) fn read_key(layout: &Layout, instance: InstanceId) -> io::Result<PageKey> {
    let bytes = fs::read(key_path(layout, instance))?;
    let wrong = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not a key");
    Ok(PageKey(<[u8; KEY]>::try_from(bytes.as_slice()).map_err(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_for_us_alone_and_gone_when_forgotten() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().into());
        let other = tempfile::tempdir().unwrap();
        let other = Layout::new(other.path().into());
        let instance = InstanceId::from_bits(u128::from(std::process::id()) << 20 | 1);
        let key = PageKey([9; KEY]);
        write_key(&layout, instance, &key).unwrap();
        write_key(&layout, instance, &key).unwrap();
        assert!(read_key(&layout, instance).unwrap() == key);
        assert_eq!(fs::metadata(key_path(&layout, instance)).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read_key(&other, instance).is_err(), "it is another agent's");
        forget(&other, instance);
        assert!(read_key(&layout, instance).unwrap() == key);
        forget(&layout, instance);
        assert!(read_key(&layout, instance).is_err());
    }
}
