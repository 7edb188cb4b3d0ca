//! Cuts on this host: instances made ready while they run, stopped together for a moment, and held as they were then.
//!
//! Owns a folder for each cut, named for its replica: the devices of each instance, with what a duplicate of it is started with,
//! and the record of the cut, which is written last. The memory is in the pagers, by the replica's name. Whatever is left when
//! an agent dies in the middle, the next one finds who was to be stopped ([`TAKING`]), and lets them go on.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use lucarne_memory::governor::Life;
use lucarne_model::{
    Bytes, ErrorCode, InstanceId, ReplicaId, VolumeId,
    instance::StateReason,
    replica::{CutProgress, DesiredCut, MemoryCopy, Stillness},
};
use lucarne_pager::client::{Client, ClientError};
use lucarne_vmm::driver::MachineSpec;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use super::{Memory, guests::Shared, sleep::chain};
use crate::{
    agent::now,
    durable::{self, Outlives},
    layers,
    layout::Layout,
    network::{self, Network},
};

/// In a cut's folder: how it went. Nothing else in it counts without this.
const RECORD: &str = "cut.json";
/// In a cut's folder: the instances that were running and are being stopped for it.
const TAKING: &str = "taking.json";
/// How long a pager may take for an answer. Arming goes over all of a guest's memory.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a pager that has just died is waited for, and how often it is asked whether there is another: what the dead one held
/// that one holds.
const NEXT_PAGER: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(50);

/// Why there is no cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CutError {
    #[error("{instance} does not run here, and its memory is wanted")]
    NotRunning { instance: InstanceId },
    #[error("{instance} sleeps, and its memory is wanted: it must be woken before")]
    Asleep { instance: InstanceId },
    #[error("the memory of {instance} is not paged on this host, and only such memory can be held")]
    NotPaged { instance: InstanceId },
    #[error("{instance} has a TPM of its own, whose keys two machines would have then")]
    HasTpm { instance: InstanceId },
    #[error("its network")]
    Network(#[source] Arc<network::CutError>),
    #[error("the pager of {instance}")]
    Pager {
        instance: InstanceId,
        #[source]
        cause: ClientError,
    },
    #[error("the hypervisor of {instance}")]
    Driver {
        instance: InstanceId,
        #[source]
        cause: lucarne_vmm::Error,
    },
    #[error("{volume} is not a volume of this host")]
    NoVolume { volume: VolumeId },
    #[error("an instance that runs and is no part of the cut has {volume}")]
    InUse { volume: VolumeId },
    #[error("{volume} cannot be frozen")]
    Disk {
        volume: VolumeId,
        #[source]
        cause: lucarne_vmm::Error,
    },
    #[error("could not {doing} a cut")]
    File {
        doing: &'static str,
        #[source]
        cause: io::Error,
    },
}

/// The state of an instance's devices, and with what it can be started.
type Devices = (MachineSpec, Vec<u8>);

/// An instance of a cut that stands still.
struct Still {
    instance: InstanceId,
    /// Since when, if it ran.
    since: Option<Instant>,
    /// To its pager, if its memory is to be held.
    pager: Option<Client>,
}

/// What was held of an instance.
struct HeldInstance {
    instance: InstanceId,
    devices: Option<Devices>,
    stillness: Stillness,
}

impl Memory {
    /// Makes the instances of a cut ready, which run on: what is left for the instant itself is little.
    pub(crate) async fn prepare_cut(
        &self,
        cut: &DesiredCut,
        sizes: &BTreeMap<VolumeId, Bytes>,
    ) -> Result<(), CutError> {
        let (folder, file) = (self.0.layout.cut(cut.replica), |cause| CutError::File { doing: "begin", cause });
        remove_folder(&folder).and_then(|()| DirBuilder::new().mode(0o700).create(&folder)).map_err(file)?;
        let armed = join_all(live(cut).map(|instance| self.0.arm(instance, cut.replica))).await;
        let layers =
            cut.volumes.iter().map(|volume| self.0.prepare_disk(cut.replica, *volume, sizes.get(volume).copied()));
        let layers = join_all(layers).await;
        let armed: Result<(), CutError> = armed.into_iter().chain(layers).collect();
        if let Err(error) = &armed {
            self.0.note_failure(cut.replica, error).await?;
        }
        armed
    }

    /// Stops the instances of a cut, holds what they are, and lets each go on as soon as that is done. On an error they go on
    /// too, and there is no cut.
    pub(crate) async fn take_cut(
        &self,
        cut: &DesiredCut,
        sizes: &BTreeMap<VolumeId, Bytes>,
        network: &dyn Network,
    ) -> Result<CutProgress, CutError> {
        let shared = &self.0;
        let guests: Vec<_> = cut.instances.keys().map(|instance| shared.guest(*instance)).collect();
        let mut turns = Vec::with_capacity(guests.len());
        for guest in &guests {
            turns.push(guest.turn.lock().await);
        }
        let in_use = cut.volumes.iter().find(|volume| !sizes.contains_key(volume));
        let taken = match in_use {
            Some(volume) => Err(CutError::InUse { volume: *volume }),
            None => shared.take_cut(cut, network).await,
        };
        if taken.is_err() {
            // Frames that were kept go on. A switch that does not answer has ended, and they with it.
            let _ = network.give_up_cut(cut.replica).await;
        }
        match &taken {
            Ok(progress) => write(&shared.layout.cut(cut.replica).join(RECORD), progress)?,
            Err(error) => shared.note_failure(cut.replica, error).await?,
        }
        let taking = shared.layout.cut(cut.replica).join(TAKING);
        durable::remove(&taking).map_err(|cause| CutError::File { doing: "keep", cause })?;
        taken
    }

    /// Nothing is held of it any more.
    pub(crate) async fn drop_cut(&self, replica: ReplicaId) -> io::Result<()> {
        if !self.0.let_go_of(replica).await {
            return Err(io::Error::other("a pager that may hold memory for it does not answer"));
        }
        remove_folder(&self.0.layout.cut(replica))
    }

    /// The cuts that an earlier agent left, and how they went. One that it was killed at has failed, and its instances go on.
    pub(crate) async fn settle_cuts(&self) -> io::Result<BTreeMap<ReplicaId, CutProgress>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(self.0.layout.cuts())? {
            let folder = entry?.path();
            let Some(replica) = folder.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            let stood: Option<Vec<InstanceId>> = read(&folder.join(TAKING)).ok();
            match read::<CutProgress>(&folder.join(RECORD)) {
                Ok(progress) => drop(found.insert(replica, progress)),
                // It was only being made ready: it is begun anew.
                Err(_) if stood.is_none() => {
                    self.0.settle_disks(replica).await?;
                    // What was armed and not frozen ends with its pager, if not here.
                    self.0.let_go_of(replica).await;
                    remove_folder(&folder)?;
                    continue;
                }
                Err(_) => {
                    let progress = failed("the host's agent ended while it was taken".into());
                    write(&folder.join(RECORD), &progress).map_err(io::Error::other)?;
                    found.insert(replica, progress);
                }
            }
            if !matches!(found.get(&replica), Some(CutProgress::Taken { .. })) {
                self.0.settle_disks(replica).await?;
            }
            self.0.go_on_all(&stood.unwrap_or_default()).await;
            if matches!(found.get(&replica), Some(CutProgress::Failed { .. })) {
                self.0.let_go_of(replica).await;
            }
            durable::remove(&folder.join(TAKING))?;
        }
        Ok(found)
    }
}

impl Shared {
    async fn arm(&self, instance: InstanceId, replica: ReplicaId) -> Result<(), CutError> {
        match self.known(instance).map(|guest| guest.kept().life) {
            Some(Life::Running | Life::Paused) if self.driver.process_id(instance).await.is_some() => {}
            Some(Life::Hibernated) => return Err(CutError::Asleep { instance }),
            _ => return Err(CutError::NotRunning { instance }),
        }
        if self.layout.tpm(instance).exists() {
            return Err(CutError::HasTpm { instance });
        }
        self.at_pager(instance, move |pager| pager.hold(&replica.to_string())).await
    }

    async fn take_cut(&self, cut: &DesiredCut, network: &dyn Network) -> Result<CutProgress, CutError> {
        let replica = cut.replica;
        let mut running = Vec::new();
        for instance in cut.instances.keys() {
            let is_here = self.driver.process_id(*instance).await.is_some();
            if is_here && !self.driver.is_paused(*instance).await.unwrap_or_default() {
                running.push(*instance);
            }
        }
        let mut pagers = BTreeMap::new();
        for instance in live(cut) {
            pagers.insert(instance, self.reach_pager(instance).await?);
        }
        let folder = self.layout.cut(replica);
        write(&folder.join(TAKING), &running)?;
        let network_failed = |error| CutError::Network(Arc::new(error));
        let late = network.begin_cut(cut.vpc, replica, cut.hosts.clone()).await.map_err(network_failed)?;
        if !late.is_empty() {
            tracing::info!(%replica, ?late, "guests have not taken all frames that were given to them before a cut");
        }
        let at = now();
        let stopped = join_all(running.iter().map(|instance| self.stop_for_cut(*instance))).await;
        let stopped = match stopped.into_iter().collect::<Result<BTreeMap<InstanceId, Instant>, CutError>>() {
            Ok(stopped) => stopped,
            Err(error) => {
                self.go_on_all(&running).await;
                return Err(error);
            }
        };
        let closed = network.close_cut(replica).map(|closed| closed.map_err(Arc::new)).shared();
        let still = cut.instances.keys().map(|instance| {
            let still =
                Still { instance: *instance, since: stopped.get(instance).copied(), pager: pagers.remove(instance) };
            self.hold_and_go_on(still, (replica, &cut.volumes), closed.clone())
        });
        let held = join_all(still.collect::<Vec<_>>()).await;
        let frames = closed.await.map_err(CutError::Network)?;
        let held: Vec<HeldInstance> = held.into_iter().collect::<Result<_, _>>()?;
        for volume in cut.volumes.iter().filter(|volume| layers::is_prepared(&self.layout, replica, **volume)) {
            // Nobody has it open.
            layers::freeze(&self.layout, replica, *volume).map_err(no_freeze)?;
        }
        network.release_cut(replica).await.map_err(network_failed)?;
        for HeldInstance { instance, devices, .. } in &held {
            let Some((spec, devices)) = devices else { continue };
            keep_instance(&folder, *instance, (spec, devices))?;
        }
        let instances = held.iter().map(|one| (one.instance, one.stillness)).collect();
        Ok(CutProgress::Taken { at, instances, frames: u32::try_from(frames).unwrap_or(u32::MAX) })
    }

    async fn prepare_disk(&self, replica: ReplicaId, volume: VolumeId, size: Option<Bytes>) -> Result<(), CutError> {
        let Some(size) = size else { return Err(CutError::NoVolume { volume }) };
        let prepared = layers::prepare(self.driver.as_ref(), &self.layout, replica, (volume, size)).await;
        prepared.map_err(|cause| CutError::Disk { volume, cause })
    }

    /// Those of the volumes that the instance has, which stands still.
    async fn freeze_disks(
        &self,
        instance: InstanceId,
        replica: ReplicaId,
        volumes: &[VolumeId],
    ) -> Result<(), CutError> {
        for volume in volumes {
            let layer = layers::layer_of(&self.layout, replica, *volume);
            let over = self.driver.put_over(instance, *volume, &layer).await;
            if over.map_err(|cause| CutError::Disk { volume: *volume, cause })? {
                layers::freeze(&self.layout, replica, *volume).map_err(no_freeze)?;
            }
        }
        Ok(())
    }

    /// What was prepared is taken back, and what QEMU writes to gets the name that it is to have.
    async fn settle_disks(&self, replica: ReplicaId) -> io::Result<()> {
        let frozen = layers::frozen_for(&self.layout, replica)?;
        let known: Vec<InstanceId> = self.guests().keys().copied().collect();
        for volume in frozen.into_iter().filter(|volume| layers::is_prepared(&self.layout, replica, *volume)) {
            let layer = layers::layer_of(&self.layout, replica, volume);
            let mut is_over = false;
            for instance in &known {
                is_over |= self.driver.has_over(*instance, volume, &layer).await;
            }
            match is_over {
                true => layers::freeze(&self.layout, replica, volume)?,
                false => layers::give_up(&self.layout, replica, volume)?,
            }
        }
        Ok(())
    }

    async fn stop_for_cut(&self, instance: InstanceId) -> Result<(InstanceId, Instant), CutError> {
        let since = Instant::now();
        self.driver.pause(instance).await.map_err(|cause| CutError::Driver { instance, cause })?;
        Ok((instance, since))
    }

    /// Whatever comes of it, the instance goes on, if it ran: as soon as it is held, and all of its network stands still.
    async fn hold_and_go_on(
        &self,
        still: Still,
        (replica, volumes): (ReplicaId, &[VolumeId]),
        closed: impl Future<Output = Result<usize, Arc<network::CutError>>>,
    ) -> Result<HeldInstance, CutError> {
        let Still { instance, since, pager } = still;
        let driver = |cause| CutError::Driver { instance, cause };
        let elapsed = || since.map_or(Duration::ZERO, |since| since.elapsed());
        let stopped = elapsed();
        let (held, closed) = tokio::join!(self.hold(instance, (replica, volumes), pager), closed);
        let until_held = elapsed();
        let resumed = if since.is_some() { self.driver.resume(instance).await.map_err(driver) } else { Ok(()) };
        let pause = elapsed();
        let held = held?;
        resumed?;
        closed.map_err(CutError::Network)?;
        let (devices, frozen) = held.map_or((None, Duration::ZERO), |(devices, frozen)| (Some(devices), frozen));
        tracing::info!(%instance, %replica, ?pause, ?stopped, ?until_held, ?frozen, "stood still for a cut");
        let octets = devices.as_ref().map_or(0, |(_, devices)| devices.len() as u64);
        let pause_micros = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        let stillness = Stillness { pause_micros, devices: Bytes(octets) };
        Ok(HeldInstance { instance, devices, stillness })
    }

    /// Devices and memory of one that stands still, if its memory is wanted, and how long its pager took.
    async fn hold(
        &self,
        instance: InstanceId,
        (replica, volumes): (ReplicaId, &[VolumeId]),
        pager: Option<Client>,
    ) -> Result<Option<(Devices, Duration)>, CutError> {
        self.freeze_disks(instance, replica, volumes).await?;
        let Some(mut pager) = pager else { return Ok(None) };
        let devices = self.driver.read_devices(instance).await;
        let devices = devices.map_err(|cause| CutError::Driver { instance, cause })?;
        let frozen = tokio::task::spawn_blocking(move || pager.freeze(&replica.to_string())).await;
        let frozen = frozen.map_err(|error| CutError::File { doing: "take", cause: error.into() })?;
        Ok(Some((devices, frozen.map_err(|cause| CutError::Pager { instance, cause })?)))
    }

    /// One that cannot is ended already, and that is told by itself.
    async fn go_on_all(&self, instances: &[InstanceId]) {
        for instance in instances {
            if let Err(error) = self.driver.resume(*instance).await {
                tracing::warn!(%instance, %error, "an instance that was stopped for a cut cannot go on");
            }
        }
    }

    /// There is no cut, and nothing is held for it.
    async fn note_failure(&self, replica: ReplicaId, error: &CutError) -> Result<(), CutError> {
        self.let_go_of(replica).await;
        self.settle_disks(replica).await.map_err(|cause| CutError::File { doing: "give up the disks of", cause })?;
        write(&self.layout.cut(replica).join(RECORD), &failed(chain(error)))
    }

    /// Every pager here is told: which instances were of it may be written nowhere. False: one that may hold something for it was
    /// not to be reached.
    async fn let_go_of(&self, replica: ReplicaId) -> bool {
        let guests: Vec<InstanceId> = self.guests().keys().copied().collect();
        let guests = guests.into_iter().filter(|instance| self.layout.pager_socket(*instance).exists());
        let told = join_all(guests.map(|instance| self.have_let_go(instance, replica))).await;
        let failed = told.into_iter().filter_map(Result::err);
        failed.inspect(|error| tracing::warn!(%replica, error = chain(error), "held for a cut that is none")).count()
            == 0
    }

    async fn have_let_go(&self, instance: InstanceId, replica: ReplicaId) -> Result<(), CutError> {
        let end = Instant::now() + NEXT_PAGER;
        loop {
            let error = match self.at_pager(instance, move |pager| pager.let_go(&replica.to_string())).await {
                Err(error @ CutError::Pager { .. }) => error,
                // Nothing is held of one that is not paged.
                Ok(()) | Err(_) => return Ok(()),
            };
            if self.driver.process_id(instance).await.is_none() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn reach_pager(&self, instance: InstanceId) -> Result<Client, CutError> {
        let control = self.layout.pager_socket(instance);
        let reached = tokio::task::spawn_blocking(move || Client::connect(&control, PATIENCE)).await;
        let reached = reached.map_err(|error| CutError::File { doing: "begin", cause: error.into() })?;
        reached.map_err(|cause| CutError::Pager { instance, cause })
    }

    async fn at_pager(
        &self,
        instance: InstanceId,
        talk: impl FnOnce(&mut Client) -> Result<(), ClientError> + Send + 'static,
    ) -> Result<(), CutError> {
        if self.paging(instance).is_none() {
            return Err(CutError::NotPaged { instance });
        }
        let mut client = self.reach_pager(instance).await?;
        let said = tokio::task::spawn_blocking(move || talk(&mut client)).await;
        let said = said.map_err(|error| CutError::File { doing: "begin", cause: error.into() })?;
        said.map_err(|cause| CutError::Pager { instance, cause })
    }
}

/// The instances whose memory is wanted.
fn live(cut: &DesiredCut) -> impl Iterator<Item = InstanceId> {
    cut.instances.iter().filter(|(_, memory)| **memory == MemoryCopy::Live).map(|(instance, _)| *instance)
}

const fn no_freeze(cause: io::Error) -> CutError {
    CutError::File { doing: "freeze the disks of", cause }
}

fn failed(message: String) -> CutProgress {
    CutProgress::Failed { reason: StateReason { code: ErrorCode::HypervisorFailed, message } }
}

/// What a duplicate of the instance is started with.
pub(super) fn held_instance(layout: &Layout, replica: ReplicaId, of: InstanceId) -> io::Result<(MachineSpec, PathBuf)> {
    let folder = layout.cut(replica);
    Ok((read(&folder.join(format!("{of}.json")))?, folder.join(format!("{of}.devices"))))
}

fn keep_instance(folder: &Path, instance: InstanceId, held: (&MachineSpec, &[u8])) -> Result<(), CutError> {
    let devices = durable::replace(&folder.join(format!("{instance}.devices")), held.1, Outlives::Process);
    devices.map_err(|cause| CutError::File { doing: "keep", cause })?;
    write(&folder.join(format!("{instance}.json")), held.0)
}

fn write<T: Serialize + ?Sized>(path: &Path, content: &T) -> Result<(), CutError> {
    let json = serde_json::to_vec(content).map_err(io::Error::from);
    let written = json.and_then(|json| durable::replace(path, &json, Outlives::Process));
    written.map_err(|cause| CutError::File { doing: "keep", cause })
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
