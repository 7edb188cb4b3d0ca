//! The doing of steps.
//!
//! Owns the order of system calls within one step and what each failure means. Which step is due is the reconciler's
//! decision. Every step may be cut short at any point and begun again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use lucarne_model::{
    ErrorCode, Evidence, InstanceId, Measurement, Octets, SnapshotId, VolumeId,
    desired::{DesiredVolume, VolumeContent},
    storage::Blob,
};
use lucarne_vmm::driver::{Driver, MachineSpec, VolumeSource, Ways};
use tokio_util::sync::CancellationToken;

use crate::{
    blobs::{self, file_failure, problem_failure},
    controller::Controller,
    durable::{self, Outlives},
    layers,
    layout::Layout,
    memory::{CutError, DuplicateError, Memory},
    network::Network,
    peers::{PeerError, Peers, way},
    prover::Prover,
    reconcile::{Failure, Ports, Product, Prospect, Step, base_blob},
    streams,
    virtual_tpms::VirtualTpms,
};

/// Between two looks at a volume that is being made whole.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What steps are done with.
#[derive(Clone, Debug)]
pub(crate) struct Hands {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) memory: Memory,
    pub(crate) prover: Option<Arc<dyn Prover>>,
    pub(crate) tpms: VirtualTpms,
    pub(crate) controller: Arc<dyn Controller>,
    pub(crate) layout: Layout,
    pub(crate) peers: Peers,
}

impl Hands {
    /// A step that goes from host to host, or makes a volume whole, breaks off at `cut`.
    pub(crate) async fn perform(&self, step: &Step, cut: &CancellationToken) -> Result<Product, Failure> {
        let driver = &self.driver;
        match step {
            Step::FetchBlob(blob) => blobs::fetch(self.controller.as_ref(), &self.layout, blob).await?,
            Step::EvictBlob(digest) => delete(self.layout.blob(digest)).await?,
            Step::CreateVolume(volume) => return self.create_volume(volume).await,
            Step::DeleteVolume(volume) => {
                let (layout, volume) = (self.layout.clone(), *volume);
                blocking("delete a volume", move || layers::delete(&layout, volume)).await?;
            }
            Step::ApplyNetwork(plan) => self.network.apply(plan).await.map_err(|error| network_failure(&error))?,
            Step::Start(spec, beginning) => {
                self.make_tpm(spec).await?;
                let began = self.memory.start(spec, beginning).await.map_err(|error| driver_failure(&error))?;
                return Ok(Product::Began(began));
            }
            Step::Hold(spec, beginning) => {
                self.make_tpm(spec).await?;
                let held = self.memory.hold(spec, beginning).await;
                let (began, measured) = held.map_err(|error| driver_failure(&error))?;
                return Ok(Product::Held(began, measured));
            }
            Step::Prove { instance, generation, nonce, measured } => {
                return self.prove((*instance, *generation), nonce, measured).await.map(Product::Proved);
            }
            Step::Release(instance) => {
                self.memory.release(*instance).await.map_err(|error| driver_failure(&error))?;
            }
            Step::Send { instance, generation, disks, host, address } => {
                let ways = self.peers.connect((*host, *address), (*instance, *generation), disks);
                let ways = until_cut(*instance, ways, cut).await?;
                self.memory.send(*instance, ways).await.map_err(|error| driver_failure(&error))?;
            }
            Step::Receive { spec, volumes, from } => {
                for volume in volumes {
                    if let Some(disk) = base_blob(volume) {
                        self.link_base(disk, &self.layout.volume_base(volume.id)).await?;
                    }
                }
                let disks: Vec<_> = volumes.iter().map(|volume| volume.id).collect();
                let ways = self.peers.await_from(*from, (spec.instance, spec.generation), &disks);
                let ways = until_cut(spec.instance, ways, cut).await?;
                let began = self.memory.receive(spec, ways).await.map_err(|error| driver_failure(&error))?;
                return Ok(Product::Began(began));
            }
            Step::LetGo(instance) => {
                let stood_still = self.memory.go_on(*instance).await.map_err(|error| driver_failure(&error))?;
                return Ok(Product::WentOn { stood_still });
            }
            Step::Begin { instance, replica, ports } => {
                if let Some(Ports { source, duplicate }) = *ports {
                    let delivered = self.network.deliver_cut(*replica, source, duplicate).await;
                    if let Err(error) = delivered {
                        // After another agent's start: what was in flight was in that one's memory.
                        tracing::warn!(%instance, %error, "a duplicate goes on without what was in flight at the cut");
                    }
                }
                let stood_still = self.memory.go_on(*instance).await.map_err(|error| driver_failure(&error))?;
                return Ok(Product::WentOn { stood_still });
            }
            Step::MakeWarmState(template) => {
                let saved = self.memory.make_warm_state(template).await.map_err(|error| warm_failure(&error))?;
                return Ok(Product::Saved(saved));
            }
            Step::DropWarmState(key) => {
                let (memory, key) = (self.memory.clone(), key.clone());
                blocking("delete a warm state", move || memory.drop_warm_state(&key)).await?;
            }
            Step::PrepareCut(cut, sizes) => {
                self.memory.prepare_cut(cut, sizes).await.map_err(|error| cut_failure(&error))?
            }
            Step::TakeCut(cut, sizes) => {
                let taken = self
                    .memory
                    .take_cut(cut, sizes, self.network.as_ref())
                    .await
                    .map_err(|error| cut_failure(&error))?;
                return Ok(Product::Cut(taken));
            }
            Step::DropCut(replica) => {
                // A switch that does not answer has ended, and what it kept with it.
                let _ = self.network.give_up_cut(*replica).await;
                let dropped = self.memory.drop_cut(*replica).await;
                dropped.map_err(|error| file_failure(&error, "let go of a cut"))?;
            }
            Step::Duplicate { spec, of, ports } => {
                if let Some(Ports { source, duplicate }) = *ports {
                    let stands_by = self.network.stand_by(of.replica, source, duplicate).await;
                    stands_by.map_err(|error| network_cut_failure(&error))?;
                }
                let began = self.memory.duplicate(spec, of).await;
                return Ok(Product::Began(began.map_err(|error| duplicate_failure(&error))?));
            }
            Step::CompleteMemory(instance) => {
                let told = self.memory.complete(*instance).await;
                told.map_err(|error| Failure::new(ErrorCode::HypervisorFailed, chain(&error), Prospect::Passing))?;
            }
            Step::CompleteVolume { volume, user } => self.complete_volume(*volume, *user, cut).await?,
            Step::Stop { instance, how, .. } => {
                self.memory.stop(*instance, *how).await.map_err(|error| driver_failure(&error))?;
            }
            Step::Forget(instance) => {
                self.memory.forget(*instance).await.map_err(|error| driver_failure(&error))?;
                self.tpms.delete(*instance).await?;
            }
            Step::Attach { instance, disk } => {
                driver.attach(*instance, disk).await.map_err(|error| driver_failure(&error))?;
            }
            Step::Detach { instance, volume } => {
                driver.detach(*instance, *volume).await.map_err(|error| driver_failure(&error))?;
            }
            Step::TakeSnapshot { snapshot, volume, user } => self.take_snapshot(*snapshot, *volume, *user).await?,
            Step::UploadSnapshot(snapshot) => return self.upload_snapshot(*snapshot).await.map(Product::Uploaded),
            Step::DropSnapshot(snapshot) => {
                delete(self.layout.snapshot(*snapshot)).await?;
                delete(self.layout.snapshot_receipt(*snapshot)).await?;
            }
            Step::OpenStream(request) => streams::serve(driver.as_ref(), self.controller.as_ref(), request).await,
            Step::GiveUp { .. } => {}
        }
        Ok(Product::Nothing)
    }

    /// The TPM that the VM is to have is there before its process is.
    async fn make_tpm(&self, spec: &MachineSpec) -> Result<(), Failure> {
        if spec.tpm.is_some() { self.tpms.make(spec.instance).await } else { Ok(()) }
    }

    async fn prove(
        &self,
        (instance, generation): (InstanceId, u64),
        nonce: &Octets,
        measured: &[Measurement],
    ) -> Result<Box<Evidence>, Failure> {
        let Some(prover) = &self.prover else {
            let message = "this host has no TPM that could prove what it runs";
            return Err(Failure::new(ErrorCode::HostNotProved, message, Prospect::Hopeless));
        };
        let proved = prover.prove(instance, generation, nonce, measured).await;
        proved.map(Box::new).map_err(|error| Failure::new(error.code, chain(&error), Prospect::Doubtful))
    }

    async fn create_volume(&self, volume: &DesiredVolume) -> Result<Product, Failure> {
        let (path, base) = (self.layout.volume(volume.id), self.layout.volume_base(volume.id));
        let (blob, source) = match &volume.content {
            VolumeContent::Empty => (None, VolumeSource::Empty),
            VolumeContent::Snapshot { blob } => (Some(self.layout.blob(&blob.digest)), VolumeSource::Empty),
            VolumeContent::Image { disk, format } => {
                self.link_base(disk, &base).await?;
                (None, VolumeSource::Overlay { base: &base, format: *format })
            }
            VolumeContent::Duplicate { replica, source, copy } => {
                let (of, new) = ((*replica, *source, *copy), (volume.id, volume.size));
                let made = layers::duplicate(self.driver.as_ref(), &self.layout, of, new).await;
                return made.map(Product::Copied).map_err(|error| driver_failure(&error));
            }
        };
        let source = blob.as_deref().map_or(source, |from| VolumeSource::Copy { from });
        let made = self.driver.create_volume(&path, volume.size, source).await;
        made.map(|()| Product::Nothing).map_err(|error| driver_failure(&error))
    }

    /// Makes a volume whole; left at `cut` as far as it is.
    async fn complete_volume(
        &self,
        volume: VolumeId,
        user: Option<InstanceId>,
        cut: &CancellationToken,
    ) -> Result<(), Failure> {
        let failed = |error: lucarne_vmm::Error| Failure { prospect: Prospect::Passing, ..driver_failure(&error) };
        let (driver, layout) = (self.driver.as_ref(), self.layout.clone());
        let done = match user {
            None => cut.run_until_cancelled(layers::complete(driver, &layout, volume)).await.transpose(),
            Some(user) => match cut.run_until_cancelled(until_whole(driver, user, volume)).await {
                None => driver.stop_completing(user, volume).await.map(|()| None),
                done => done.transpose(),
            },
        };
        if done.map_err(failed)?.is_none() {
            let message = format!("{volume} is made whole later, because something else is to be done with it");
            return Err(Failure::new(ErrorCode::IncorrectState, message, Prospect::Passing));
        }
        blocking("let go of what is below a volume", move || layers::let_go_below(&layout, volume)).await
    }

    /// Gives the base of an overlay a name beside it, so that the cache can forget the blob while the overlay lives.
    async fn link_base(&self, disk: &Blob, base: &std::path::Path) -> Result<(), Failure> {
        match tokio::fs::hard_link(self.layout.blob(&disk.digest), base).await {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(file_failure(&error, "keep the base of a volume"))
            }
            _ => Ok(()),
        }
    }

    async fn take_snapshot(&self, id: SnapshotId, volume: VolumeId, user: Option<InstanceId>) -> Result<(), Failure> {
        let (place, disk) = (self.layout.snapshot(id), self.layout.volume(volume));
        let part = place.with_extension("part");
        delete(part.clone()).await?;
        let user = user.map(|instance| (instance, volume));
        let taken = self.driver.snapshot(&disk, user, &part).await.map_err(|error| driver_failure(&error));
        let taken = match taken {
            Ok(()) => tokio::fs::rename(&part, &place).await.map_err(|error| file_failure(&error, "keep a snapshot")),
            failed => failed,
        };
        if taken.is_err() {
            delete(part).await?;
        }
        taken
    }

    async fn upload_snapshot(&self, id: SnapshotId) -> Result<Blob, Failure> {
        let place = self.layout.snapshot(id);
        let blob = self.controller.upload(&place).await.map_err(|problem| match problem.code {
            // The controller's word on the file itself will not change.
            ErrorCode::RequestTooLarge | ErrorCode::ImageUnreadable | ErrorCode::ResourceLimitExceeded => {
                Failure::new(problem.code, problem.detail, Prospect::Hopeless)
            }
            _ => problem_failure(&problem),
        })?;
        let receipt = serde_json::to_vec(&blob).map_err(|error| file_failure(&error.into(), "keep a receipt"))?;
        let path = self.layout.snapshot_receipt(id);
        blocking("keep a receipt", move || durable::replace(&path, &receipt, Outlives::Process)).await?;
        delete(place).await?;
        Ok(blob)
    }
}

async fn delete(path: PathBuf) -> Result<(), Failure> {
    blocking("delete a file", move || durable::remove(&path)).await
}

async fn blocking(doing: &str, work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), Failure> {
    let done = tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other);
    done.and_then(|result| result).map_err(|error| file_failure(&error, doing))
}

async fn until_whole(driver: &dyn Driver, user: InstanceId, volume: VolumeId) -> Result<(), lucarne_vmm::Error> {
    while !driver.complete(user, volume).await? {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Ways that are being opened, and hold until `cut`.
async fn until_cut(
    instance: InstanceId,
    ways: impl Future<Output = Result<Ways, PeerError>>,
    cut: &CancellationToken,
) -> Result<Ways, Failure> {
    let ways = cut.run_until_cancelled(ways).await.unwrap_or(Err(PeerError::Cut { instance }));
    Ok(way::until_cut(ways.map_err(|error| peer_failure(&error))?, cut))
}

/// What an error of the driver means for a step.
fn driver_failure(error: &lucarne_vmm::Error) -> Failure {
    let code = error.code();
    let prospect = match code {
        ErrorCode::DiskFull | ErrorCode::ImageUnreadable | ErrorCode::HypervisorMissing => Prospect::Hopeless,
        // What was measured does not come back.
        ErrorCode::MeasurementChanged => Prospect::Hopeless,
        _ => Prospect::Doubtful,
    };
    Failure::new(code, chain(error), prospect)
}

fn warm_failure(error: &crate::memory::WarmError) -> Failure {
    Failure::new(ErrorCode::HypervisorFailed, chain(error), Prospect::Doubtful)
}

fn network_cut_failure(error: &crate::network::CutError) -> Failure {
    Failure::new(ErrorCode::Internal, chain(error), Prospect::Doubtful)
}

fn cut_failure(error: &CutError) -> Failure {
    Failure::new(ErrorCode::HypervisorFailed, chain(error), Prospect::Hopeless)
}

fn duplicate_failure(error: &DuplicateError) -> Failure {
    Failure::new(ErrorCode::HypervisorFailed, chain(error), Prospect::Hopeless)
}

fn peer_failure(error: &PeerError) -> Failure {
    Failure::new(ErrorCode::HostUnreachable, chain(error), Prospect::Doubtful)
}

fn network_failure(error: &crate::network::NetworkError) -> Failure {
    Failure::new(ErrorCode::Internal, chain(error), Prospect::Doubtful)
}

/// The error and what caused it, in one sentence.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
