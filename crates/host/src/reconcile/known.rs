//! What is here, as far as the agent knows, and how that changes with what happens.
//!
//! Owns [`Known`] and its `handle_*` transitions. What to do about it is decided by [`super::next_steps`]; finding out at
//! the start what the folder holds is the work of [`crate::folder`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lucarne_model::{
    Bytes, ErrorCode, Evidence, InstanceId, Measurement, Moment, ReplicaId, SnapshotId, VolumeId,
    desired::{Desired, DesiredInstance, DesiredMigration, DesiredVolume, Power, VolumeContent},
    instance::{Attachment, StateReason},
    replica::{CopyType, CutProgress},
    storage::{Blob, Digest},
    warm::{Began, WarmProgress},
};
use lucarne_switch::Plan;
use lucarne_vmm::driver::{EndOfMachine, MachineSpec};

use super::{
    ledger::Ledger,
    step::{Activity, Step, Subject},
    warm::{Beginning, WarmState},
};

/// The actual state of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub ledger: Ledger,
    pub running: BTreeMap<InstanceId, Running>,
    /// Instances of which nothing is here any more, for as long as they are desired to be absent.
    pub forgotten: BTreeSet<InstanceId>,
    pub volumes: BTreeSet<VolumeId>,
    /// What was copied for those that were made from others' frozen content.
    pub copied: BTreeMap<VolumeId, Bytes>,
    /// Those that were frozen: what is below them is not what they were made from alone.
    pub layered: BTreeSet<VolumeId>,
    /// Those that are overlays of what they were made from.
    pub overlaid: BTreeSet<VolumeId>,
    /// Duplicates all of whose memory is being brought here, or is here.
    pub completing: BTreeSet<InstanceId>,
    pub snapshots: BTreeMap<SnapshotId, Progress>,
    pub blobs: BTreeMap<Digest, Cached>,
    pub warm_states: BTreeMap<Digest, WarmState>,
    /// Cuts that are ready, taken, or failed.
    pub cuts: BTreeMap<ReplicaId, CutProgress>,
    /// Cuts that another host has said that it takes now.
    pub marked: BTreeSet<ReplicaId>,
    /// What the switch does; none before the first plan, or after one that failed.
    pub network: Option<Plan>,
    /// The plan that the switch is being given.
    pub applying: Option<Plan>,
    /// Tokens of streams that were opened.
    pub streams: BTreeSet<String>,
    pub under_way: BTreeMap<Subject, Activity>,
    pub faults: BTreeMap<Subject, Fault>,
}

/// A VM that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub generation: u64,
    pub began: Began,
    pub disks: Vec<Attachment>,
    pub standing: Standing,
    /// For how long it stood still on its way, of one that came from another host and went on here.
    pub stood_still: Option<Duration>,
    pub proof: Proof,
}

/// What is known of a VM that was held at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// What it was measured as; none of one that was not held.
    pub measured: Option<Vec<Measurement>>,
    /// The newest proof that this agent made of it. It is not kept: an agent that starts anew makes another.
    pub evidence: Option<Box<Evidence>>,
}

/// Whether a VM that is here goes on here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    #[default]
    Runs,
    /// It stands before its first instruction until it is said that it may begin.
    Held,
    /// All of it is at another host too; it stands still until it is known who goes on.
    Sent,
    /// It came from another host, and stands still likewise; or it is a duplicate that stands where its source was.
    Arrived,
}

/// How far a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Taken,
    Uploaded(Blob),
    Failed(StateReason),
}

/// A blob in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    pub size: Bytes,
    /// Since when nothing desired names it.
    pub unused_since: Option<Moment>,
}

/// Something that went wrong and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub reason: StateReason,
    pub attempts: u32,
    /// Whether what depends on it should fail now instead of waiting on.
    pub hopeless: bool,
    pub retry_at: Moment,
}

/// Why a step was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: StateReason,
    pub prospect: Prospect,
}

/// What trying again is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// The controller is away: what depends on it waits.
    Passing,
    /// Worth a few tries.
    Doubtful,
    /// The next try will not be better.
    Hopeless,
}

impl Failure {
    pub fn new(code: ErrorCode, message: impl Into<String>, prospect: Prospect) -> Self {
        Self { reason: StateReason { code, message: message.into() }, prospect }
    }
}

/// What a step that was done gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Product {
    Nothing,
    Uploaded(Blob),
    /// So much, for a volume.
    Copied(Bytes),
    Began(Began),
    Held(Began, Vec<Measurement>),
    Proved(Box<Evidence>),
    Saved(WarmState),
    WentOn {
        stood_still: Option<Duration>,
    },
    Cut(CutProgress),
}

/// How often a step is tried before those that wait for it fail.
pub(super) const ATTEMPTS: u32 = 3;
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// A fault that is not met again for this long is forgotten.
const FAULT_MEMORY: Duration = Duration::from_secs(3600);

impl Known {
    pub fn is_busy(&self, subject: &Subject) -> bool {
        self.under_way.contains_key(subject)
    }
    pub fn count(&self, activity: Activity) -> usize {
        self.under_way.values().filter(|under_way| **under_way == activity).count()
    }
    /// The running VM that has the volume.
    pub fn user_of(&self, volume: VolumeId) -> Option<InstanceId> {
        let has = |running: &Running| running.disks.iter().any(|disk| disk.volume == volume);
        self.running.iter().find(|(_, running)| has(running)).map(|(instance, _)| *instance)
    }
    /// The fault that makes waiting for `subject` pointless.
    pub fn hopeless(&self, subject: &Subject) -> Option<&Fault> {
        self.faults.get(subject).filter(|fault| fault.hopeless)
    }
    /// When something that failed is due again.
    pub fn next_retry(&self, now: Moment) -> Option<Moment> {
        self.faults.values().map(|fault| fault.retry_at).filter(|due| *due > now).min()
    }

    /// Takes note of what is wanted at `now`: lines in the ledger, what may be forgotten, which blobs are unused.
    pub fn handle_desired(&mut self, desired: &Desired, now: Moment) {
        let wanted = desired.instances.iter().filter(|instance| instance.power != Power::Absent);
        wanted.for_each(|instance| self.ledger.open(instance.id, now));
        let absent: BTreeSet<_> =
            desired.instances.iter().filter(|one| one.power == Power::Absent).map(|one| one.id).collect();
        self.forgotten.retain(|instance| absent.contains(instance));
        let tokens: BTreeSet<_> = desired.streams.iter().map(|stream| &stream.token).collect();
        self.streams.retain(|token| tokens.contains(token));
        let named = named_blobs(desired);
        for (digest, cached) in &mut self.blobs {
            cached.unused_since = (!named.contains(digest)).then(|| cached.unused_since.unwrap_or(now));
        }
        self.marked.retain(|replica| desired.cuts.iter().any(|cut| cut.replica == *replica));
        self.faults.retain(|_, fault| now.since(fault.retry_at) < FAULT_MEMORY);
    }

    /// A VM was found that runs from before.
    pub fn handle_adopted(&mut self, instance: InstanceId, running: Running, now: Moment) {
        self.ledger.open(instance, now);
        self.running.insert(instance, running);
    }

    /// Another host takes a cut.
    pub fn handle_mark(&mut self, replica: ReplicaId) {
        self.marked.insert(replica);
    }

    /// A step is under way from now on.
    pub fn handle_begun(&mut self, step: &Step) {
        for (place, subject) in step.subjects().into_iter().enumerate() {
            self.under_way.insert(subject, if place == 0 { step.activity() } else { Activity::Other });
        }
        match step {
            Step::ApplyNetwork(plan) => self.applying = Some(Plan::clone(plan)),
            Step::OpenStream(request) => drop(self.streams.insert(request.token.clone())),
            Step::Start(spec, _) | Step::Hold(spec, _) | Step::Receive { spec, .. } | Step::Duplicate { spec, .. } => {
                self.forgotten.remove(&spec.instance);
            }
            _ => {}
        }
    }

    /// A step is over, one way or the other.
    pub fn handle_done(&mut self, step: Step, outcome: Result<Product, Failure>, now: Moment) {
        let subjects = step.subjects();
        for subject in &subjects {
            self.under_way.remove(subject);
        }
        match outcome {
            Ok(product) => {
                if let Some(main) = subjects.first() {
                    self.faults.remove(main);
                }
                self.handle_success(step, product);
            }
            Err(failure) => self.handle_failure(step, failure, now),
        }
    }

    fn handle_success(&mut self, step: Step, product: Product) {
        match (step, product) {
            (Step::FetchBlob(blob), _) => {
                self.blobs.insert(blob.digest, Cached { size: blob.size, unused_since: None });
            }
            (Step::EvictBlob(digest), _) => drop(self.blobs.remove(&digest)),
            (Step::CreateVolume(volume), product) => {
                self.volumes.insert(volume.id);
                if matches!(volume.content, VolumeContent::Duplicate { copy: CopyType::Shallow, .. }) {
                    self.overlaid.insert(volume.id);
                }
                if let Product::Copied(octets) = product {
                    self.copied.insert(volume.id, octets);
                }
            }
            (Step::DeleteVolume(volume), _) => {
                self.volumes.remove(&volume);
                self.layered.remove(&volume);
                self.overlaid.remove(&volume);
                self.copied.remove(&volume);
            }
            (Step::ApplyNetwork(plan), _) => {
                self.applying = None;
                self.network = Some(*plan);
            }
            (Step::Start(spec, beginning), Product::Began(began)) => {
                self.drop_unusable(&beginning, &began);
                self.handle_here(&spec, began, Standing::Runs, None);
            }
            (Step::Hold(spec, beginning), Product::Held(began, measured)) => {
                self.drop_unusable(&beginning, &began);
                self.handle_here(&spec, began, Standing::Held, Some(measured));
            }
            (Step::Prove { instance, .. }, Product::Proved(evidence)) => {
                if let Some(running) = self.running.get_mut(&instance) {
                    running.proof.evidence = Some(evidence);
                }
            }
            (Step::Release(instance) | Step::Begin { instance, .. }, _) => self.stand(instance, Standing::Runs),
            (Step::Receive { spec, volumes, .. }, Product::Began(began)) => {
                self.volumes.extend(volumes.iter().map(|volume| volume.id));
                self.handle_here(&spec, began, Standing::Arrived, None);
            }
            (Step::Duplicate { spec, .. }, Product::Began(began)) => {
                self.handle_here(&spec, began, Standing::Arrived, None);
            }
            (Step::CompleteMemory(instance), _) => drop(self.completing.insert(instance)),
            (Step::CompleteVolume { volume, .. }, _) => drop(self.overlaid.remove(&volume)),
            (Step::PrepareCut(cut, _), _) => drop(self.cuts.insert(cut.replica, CutProgress::Ready)),
            (Step::TakeCut(cut, _), Product::Cut(progress)) => {
                self.layered.extend(&cut.volumes);
                self.cuts.insert(cut.replica, progress);
            }
            (Step::DropCut(replica), _) => {
                self.cuts.remove(&replica);
                self.marked.remove(&replica);
            }
            (Step::Send { instance, .. }, _) => self.stand(instance, Standing::Sent),
            (Step::LetGo(instance), product) => {
                self.stand(instance, Standing::Runs);
                if let (Some(running), Product::WentOn { stood_still }) = (self.running.get_mut(&instance), product) {
                    running.stood_still = stood_still;
                }
            }
            (Step::MakeWarmState(template), Product::Saved(state)) => {
                self.warm_states.insert(template.key, state);
            }
            (Step::DropWarmState(key), _) => drop(self.warm_states.remove(&key)),
            (Step::Stop { instance, generation, .. }, _) => {
                self.running.remove(&instance);
                self.completing.remove(&instance);
                self.ledger.close(instance, generation, None);
            }
            (Step::Forget(instance), _) => {
                self.ledger.strike(instance);
                self.forgotten.insert(instance);
            }
            (Step::Attach { instance, disk }, _) => {
                if let Some(running) = self.running.get_mut(&instance) {
                    running.disks.push(Attachment { volume: disk.volume, slot: disk.slot });
                }
            }
            (Step::Detach { instance, volume }, _) => {
                if let Some(running) = self.running.get_mut(&instance) {
                    running.disks.retain(|disk| disk.volume != volume);
                }
            }
            (Step::TakeSnapshot { snapshot, .. }, _) => drop(self.snapshots.insert(snapshot, Progress::Taken)),
            (Step::UploadSnapshot(snapshot), Product::Uploaded(blob)) => {
                self.snapshots.insert(snapshot, Progress::Uploaded(blob));
            }
            (Step::DropSnapshot(snapshot), _) => drop(self.snapshots.remove(&snapshot)),
            (Step::GiveUp { instance, generation, reason }, _) => {
                self.ledger.close(instance, generation, Some(reason));
            }
            (Step::Start(..) | Step::Hold(..) | Step::Prove { .. } | Step::Receive { .. }, _) => {}
            (Step::UploadSnapshot(_) | Step::OpenStream(_) | Step::MakeWarmState(_), _) => {}
            (Step::Duplicate { .. } | Step::TakeCut(..), _) => {}
        }
    }

    /// Nothing goes on from a warm state of which one could not: it is made anew.
    fn drop_unusable(&mut self, beginning: &Beginning, began: &Began) {
        if let (Beginning::Warm(key), Began::Cold { .. }) = (beginning, began) {
            self.warm_states.remove(key);
        }
    }

    fn stand(&mut self, instance: InstanceId, standing: Standing) {
        if let Some(running) = self.running.get_mut(&instance) {
            running.standing = standing;
        }
    }

    /// A VM was started or came.
    fn handle_here(
        &mut self,
        spec: &MachineSpec,
        began: Began,
        standing: Standing,
        measured: Option<Vec<Measurement>>,
    ) {
        // It may have ended before its start was told.
        if !self.ledger.is_over(spec.instance, spec.generation) {
            let disks = spec.disks.iter().map(|disk| Attachment { volume: disk.volume, slot: disk.slot }).collect();
            let (generation, stood_still) = (spec.generation, None);
            let proof = Proof { measured, evidence: None };
            self.running.insert(spec.instance, Running { generation, began, disks, standing, stood_still, proof });
        }
    }

    /// One that went on from a warm state has died: whatever of that it died of, the next ones begin from another.
    fn doubt_warm_state(&mut self, instance: InstanceId) {
        let Some(Running { began: Began::Warm { digest: of }, .. }) = self.running.get(&instance) else { return };
        self.warm_states
            .retain(|_, state| !matches!(&state.progress, WarmProgress::Ready { digest, .. } if digest == of));
    }

    fn handle_failure(&mut self, step: Step, failure: Failure, now: Moment) {
        match step {
            Step::Start(spec, _) | Step::Hold(spec, _) | Step::Receive { spec, .. } | Step::Duplicate { spec, .. } => {
                self.ledger.close(spec.instance, spec.generation, Some(failure.reason));
            }
            Step::TakeSnapshot { snapshot, .. } => {
                self.snapshots.insert(snapshot, Progress::Failed(failure.reason));
            }
            Step::UploadSnapshot(snapshot) if failure.prospect == Prospect::Hopeless => {
                self.snapshots.insert(snapshot, Progress::Failed(failure.reason));
            }
            Step::OpenStream(_) => {}
            Step::PrepareCut(cut, _) | Step::TakeCut(cut, _) => {
                // Some may have been frozen before it failed.
                self.layered.extend(&cut.volumes);
                self.cuts.insert(cut.replica, CutProgress::Failed { reason: failure.reason });
            }
            other => {
                if matches!(other, Step::ApplyNetwork(_)) {
                    (self.applying, self.network) = (None, None);
                }
                if let Some(main) = other.subjects().into_iter().next() {
                    self.remember(main, failure, now);
                }
            }
        }
    }

    fn remember(&mut self, subject: Subject, failure: Failure, now: Moment) {
        let before = self.faults.get(&subject).map_or(0, |fault| fault.attempts);
        let attempts = before.saturating_add(1);
        let hopeless = match failure.prospect {
            Prospect::Passing => false,
            Prospect::Doubtful => attempts >= ATTEMPTS,
            Prospect::Hopeless => true,
        };
        let delay = Duration::from_secs(1 << before.min(5)).min(LONGEST_DELAY);
        self.faults.insert(subject, Fault { reason: failure.reason, attempts, hopeless, retry_at: now.plus(delay) });
    }

    /// A VM ended by itself.
    pub fn handle_machine_ended(&mut self, instance: InstanceId, generation: u64, why: EndOfMachine) {
        let asked = self.under_way.get(&Subject::Instance(instance)) == Some(&Activity::Stopping);
        let failure = match why {
            EndOfMachine::Died { said } if !asked => Some(StateReason {
                code: ErrorCode::HypervisorFailed,
                message: format!("the virtual machine's process died; it said: {}", last_words(&said)),
            }),
            _ => None,
        };
        if failure.is_some() {
            self.doubt_warm_state(instance);
        }
        self.ledger.close(instance, generation, failure);
        if self.running.get(&instance).is_some_and(|running| running.generation <= generation) {
            self.running.remove(&instance);
            self.completing.remove(&instance);
        }
    }
}

/// The end of a long text.
fn last_words(said: &str) -> &str {
    const LONGEST: usize = 1000;
    let said = said.trim();
    let from = said.len().saturating_sub(LONGEST);
    let from = (from..said.len()).find(|at| said.is_char_boundary(*at)).unwrap_or(0);
    if said.is_empty() { "nothing" } else { &said[from..] }
}

/// Every blob that an instance or a volume of the desired state is made from.
fn named_blobs(desired: &Desired) -> BTreeSet<&Digest> {
    let booted = desired.instances.iter().filter(|instance| instance.power != Power::Absent);
    let booted = booted.flat_map(|instance| instance.boot.blobs());
    let contents =
        desired.volumes.iter().filter(|volume| volume.present).filter_map(|volume| content_blob(&volume.content));
    let coming = desired.instances.iter().flat_map(coming).filter_map(base_blob);
    let warm = desired.warm_states.iter().flat_map(|state| state.boot.blobs());
    booted.chain(contents).chain(coming).chain(warm).map(|blob| &blob.digest).collect()
}

/// The volumes that come with an instance from another host.
pub(super) fn coming(instance: &DesiredInstance) -> &[DesiredVolume] {
    match &instance.migration {
        Some(DesiredMigration::From { volumes, .. }) => volumes,
        Some(DesiredMigration::To { .. }) | None => &[],
    }
}

/// The blob that stays below a volume; what else it holds comes with it from host to host.
pub(crate) fn base_blob(volume: &DesiredVolume) -> Option<&Blob> {
    match &volume.content {
        VolumeContent::Image { disk, .. } => Some(disk),
        VolumeContent::Empty | VolumeContent::Snapshot { .. } | VolumeContent::Duplicate { .. } => None,
    }
}

/// The blob that a volume is made from.
pub(crate) fn content_blob(content: &VolumeContent) -> Option<&Blob> {
    match content {
        VolumeContent::Empty | VolumeContent::Duplicate { .. } => None,
        VolumeContent::Snapshot { blob } => Some(blob),
        VolumeContent::Image { disk, .. } => Some(disk),
    }
}
