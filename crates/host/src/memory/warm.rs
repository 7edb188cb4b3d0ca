//! Warm states on this host: made of a machine that was booted for it, and gone on from.
//!
//! Owns what a warm state is on the disk: a folder with the devices of a machine that stands still, its memory as the pagers'
//! snapshot, and `state.json`, which has the digests of both. It is renamed into place whole. A VM that goes on from it has
//! a name of its own for the snapshot's file, so that the folder may go while the VM lives.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use lucarne_model::{Bytes, InstanceId, Measurement, Pages, storage::Digest, warm::WarmProgress};
use lucarne_pager::snapshot::{self, SnapshotError};
use lucarne_vmm::{
    devices_digest,
    driver::{MachineSpec, Origin, Stop},
    warm_state_digest,
};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{
    Memory,
    guests::{Guest, Shared},
    supervisor::Wishes,
};
use crate::{
    durable::{self, Outlives},
    layout::Layout,
    reconcile::{Template, WarmState},
};

/// What a guest prints when it has nothing yet that is its own, and waits for its network card.
const READY: &str = "lucarne: warm";
/// How long it may take for that, on a busy host.
const BOOT: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(100);
/// After it said so, what else it began comes to rest.
const REST: Duration = Duration::from_millis(500);

const VERSION: u32 = 1;
const DEVICES: &str = "devices";
const MEMORY: &str = "memory";
const RECORD: &str = "state.json";

/// Why there is no warm state, or a VM could not go on from it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WarmError {
    #[error("guests' memory is not paged on this host")]
    NotPaged,
    #[error("its hypervisor")]
    Driver(#[source] lucarne_vmm::Error),
    #[error("its guest ended before it could be saved")]
    Ended,
    #[error("its guest did not say `{READY}` within {BOOT:?}; is it made for warm states?")]
    Silent,
    #[error("its memory could not be saved")]
    Memory(#[source] SnapshotError),
    #[error("the saved devices are not those that were saved")]
    Changed,
    #[error("no random number could be drawn")]
    Random,
    #[error("could not {doing}")]
    File {
        doing: &'static str,
        #[source]
        cause: io::Error,
    },
}

/// The content of `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    version: u32,
    devices: Digest,
    memory: Digest,
    /// Of the two digests: what the whole is measured as.
    digest: Digest,
    stored: Bytes,
    hypervisor: String,
}

impl Memory {
    /// Boots the template, lets it come to where it waits for its identity, and saves it there. Nothing of it runs afterwards.
    pub(crate) async fn make_warm_state(&self, template: &Template) -> Result<WarmState, WarmError> {
        let shared = &self.0;
        if shared.paging(template.spec.instance).is_none() {
            return Err(WarmError::NotPaged);
        }
        let instance = template.spec.instance;
        // What an earlier try left is not this one's.
        shared.end_template(instance).await?;
        shared.templates().insert(instance);
        let saved = shared.save(template).await;
        shared.end_template(instance).await?;
        shared.templates().remove(&instance);
        saved
    }

    /// Machines that are booted to be saved just now.
    pub(crate) fn templates(&self) -> Vec<InstanceId> {
        self.0.templates().iter().copied().collect()
    }

    /// Ends what an earlier agent booted to be saved, and was killed at it.
    pub(crate) async fn end_templates(&self, found: &[InstanceId]) {
        for instance in found {
            if let Err(error) = self.0.end_template(*instance).await {
                tracing::warn!(%instance, error = &error as &dyn std::error::Error, "a template was left behind");
            }
        }
    }

    pub(crate) fn drop_warm_state(&self, key: &Digest) -> io::Result<()> {
        remove_folder(&self.0.layout.warm_state(key))
    }
}

impl Shared {
    fn templates(&self) -> MutexGuard<'_, BTreeSet<InstanceId>> {
        self.templates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn end_template(&self, instance: InstanceId) -> Result<(), WarmError> {
        self.driver.stop(instance, Stop::Kill).await.map_err(WarmError::Driver)?;
        self.driver.forget(instance).await.map_err(WarmError::Driver)
    }

    async fn save(&self, Template { key, spec }: &Template) -> Result<WarmState, WarmError> {
        let (driver, instance) = (&self.driver, spec.instance);
        driver.start(spec).await.map_err(WarmError::Driver)?;
        self.until_ready(instance).await?;
        driver.pause(instance).await.map_err(WarmError::Driver)?;
        let part = self.layout.warm_state_part(key);
        let file = |doing| move |cause| WarmError::File { doing, cause };
        remove_folder(&part)
            .and_then(|()| DirBuilder::new().mode(0o700).create(&part))
            .map_err(file("make its folder"))?;
        driver.save_devices(instance, &part.join(DEVICES)).await.map_err(WarmError::Driver)?;
        let process = driver.process_id(instance).await.ok_or(WarmError::Ended)?;
        let hypervisor = driver.version().await.map_err(WarmError::Driver)?;
        let place = self.layout.warm_state(key);
        let keep = move || keep(process, hypervisor, &part, &place);
        tokio::task::spawn_blocking(keep).await.map_err(|error| file("keep it")(error.into()))?
    }

    async fn until_ready(&self, instance: InstanceId) -> Result<(), WarmError> {
        let end = Instant::now() + BOOT;
        loop {
            let log = self.driver.console_log(instance).await.map_err(WarmError::Driver)?;
            if String::from_utf8_lossy(&log).contains(READY) {
                sleep(REST).await;
                return Ok(());
            }
            if self.driver.process_id(instance).await.is_none() {
                return Err(WarmError::Ended);
            }
            if Instant::now() >= end {
                return Err(WarmError::Silent);
            }
            sleep(LOOK).await;
        }
    }

    /// Starts the VM where the warm state with this key was saved, or has it stand there, and returns what that state was
    /// measured as, and what the VM was, if it is `held`. On an error nothing of it runs; what was begun is to be given up.
    pub(super) async fn begin_warm(
        &self,
        spec: &MachineSpec,
        (key, held): (&Digest, bool),
        guest: &Guest,
    ) -> Result<(Digest, Vec<Measurement>), WarmError> {
        let paging = self.paging(spec.instance).ok_or(WarmError::NotPaged)?;
        let folder = self.layout.warm_state(key);
        let (here, name) = (folder.clone(), self.layout.origin(spec.instance));
        let taken = tokio::task::spawn_blocking(move || take(&here, &name)).await;
        let record = taken.map_err(|error| WarmError::File { doing: "read it", cause: error.into() })??;
        let mut generation_id = [0; 16];
        SystemRandom::new().fill(&mut generation_id).map_err(|_| WarmError::Random)?;
        let origin = Origin::Warm {
            generation_id: u128::from_be_bytes(generation_id),
            memory: Some(record.memory),
            state: record.digest.clone(),
        };
        let spec = MachineSpec { paging: Some(paging), origin, ..spec.clone() };
        let memory = Pages::covering(spec.memory);
        self.watch(&spec, guest, Wishes::at_first(memory));
        let devices = folder.join(DEVICES);
        let measured = match held {
            true => self.driver.hold_warm(&spec, &devices).await.map_err(WarmError::Driver)?,
            false => {
                self.driver.start_warm(&spec, &devices).await.map_err(WarmError::Driver)?;
                Vec::new()
            }
        };
        Ok((record.digest, measured))
    }
}

/// Saves the memory of the process beside the devices, and puts all of it in its place.
fn keep(process: u32, hypervisor: String, part: &Path, place: &Path) -> Result<WarmState, WarmError> {
    let file = |doing| move |cause| WarmError::File { doing, cause };
    let written = snapshot::write_memory_of(process, &part.join(MEMORY)).map_err(WarmError::Memory)?;
    let devices = fs::read(part.join(DEVICES)).map_err(file("read its devices"))?;
    let stored = Bytes(written.length + devices.len() as u64);
    let devices = devices_digest(&devices);
    let digest = warm_state_digest(&devices, &written.digest);
    let record = Record { version: VERSION, devices, memory: written.digest, digest, stored, hypervisor };
    let json = serde_json::to_vec(&record).map_err(|error| file("write its record")(error.into()))?;
    durable::replace(&part.join(RECORD), &json, Outlives::PowerCut).map_err(file("write its record"))?;
    remove_folder(place).and_then(|()| fs::rename(part, place)).map_err(file("put it in its place"))?;
    Ok(record.into())
}

/// Reads what the warm state in `folder` is, checks its devices, and gives its memory the name `name` too.
fn take(folder: &Path, name: &Path) -> Result<Record, WarmError> {
    let file = |doing| move |cause| WarmError::File { doing, cause };
    let record = read(folder).map_err(file("read its record"))?;
    if devices_digest(&fs::read(folder.join(DEVICES)).map_err(file("read its devices"))?) != record.devices {
        return Err(WarmError::Changed);
    }
    durable::remove(name).and_then(|()| fs::hard_link(folder.join(MEMORY), name)).map_err(file("take its memory"))?;
    Ok(record)
}

fn read(folder: &Path) -> io::Result<Record> {
    let record: Record = serde_json::from_slice(&fs::read(folder.join(RECORD))?)?;
    if record.version == VERSION { Ok(record) } else { Err(io::Error::other("it is of another version")) }
}

impl From<Record> for WarmState {
    fn from(Record { digest, stored, hypervisor, .. }: Record) -> Self {
        Self { progress: WarmProgress::Ready { digest, stored }, hypervisor }
    }
}

/// The warm states in the state folder, by key. What was being made is swept; what cannot be read is made anew.
pub(crate) fn find(layout: &Layout) -> io::Result<Vec<(Digest, WarmState)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(layout.warm_states())? {
        let path: PathBuf = entry?.path();
        let key = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        match key.zip(read(&path).ok()) {
            Some((key, record)) => found.push((key, record.into())),
            None => remove_folder(&path)?,
        }
    }
    Ok(found)
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use lucarne_vmm::devices_digest as digest_of;

    use super::*;

    fn made(layout: &Layout, key: &Digest) -> Record {
        let folder = layout.warm_state(key);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(DEVICES), b"devices").unwrap();
        fs::write(folder.join(MEMORY), b"memory").unwrap();
        let record = Record {
            version: VERSION,
            devices: digest_of(b"devices"),
            memory: digest_of(b"memory"),
            digest: digest_of(b"both"),
            stored: Bytes(13),
            hypervisor: "QEMU 7.2 (TCG)".into(),
        };
        fs::write(folder.join(RECORD), serde_json::to_vec(&record).unwrap()).unwrap();
        record
    }

    #[test]
    fn what_is_whole_is_found_and_what_was_being_made_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().into());
        let (whole, torn) = (digest_of(b"1"), digest_of(b"2"));
        let record = made(&layout, &whole);
        made(&layout, &torn);
        fs::write(layout.warm_state(&torn).join(RECORD), b"{").unwrap();
        fs::create_dir(layout.warm_state_part(&whole)).unwrap();
        assert_eq!(find(&layout).unwrap(), [(whole.clone(), record.into())]);
        assert!(!layout.warm_state(&torn).exists() && !layout.warm_state_part(&whole).exists());
    }

    #[test]
    fn changed_devices_are_not_taken_and_memory_outlives_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().into());
        let (key, name) = (digest_of(b"1"), folder.path().join("origin"));
        let record = made(&layout, &key);
        assert_eq!(take(&layout.warm_state(&key), &name).unwrap(), record);
        assert_eq!(take(&layout.warm_state(&key), &name).unwrap(), record, "once more, after a try that was cut short");
        fs::write(layout.warm_state(&key).join(DEVICES), b"device5").unwrap();
        assert!(matches!(take(&layout.warm_state(&key), &name), Err(WarmError::Changed)));
        remove_folder(&layout.warm_state(&key)).unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"memory");
    }
}
