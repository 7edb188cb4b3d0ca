//! The closed list of what the agent can do, and what each step touches.
//!
//! Owns [`Step`] and its [`Subject`]s: two steps that share one are never under way together. Choosing steps is the work of
//! [`super::next_steps`], carrying them out that of [`crate::perform`].

use std::{collections::BTreeMap, net::SocketAddr};

use lucarne_model::{
    Bytes, HostId, InstanceId, InterfaceId, Measurement, Octets, ReplicaId, SnapshotId, VolumeId,
    desired::{DesiredVolume, StreamRequest},
    instance::StateReason,
    replica::{DesiredCut, DesiredDuplicate},
    storage::{Blob, Digest},
};
use lucarne_switch::Plan;
use lucarne_vmm::driver::{Disk, MachineSpec, Stop};

use super::warm::{Beginning, Template};

/// One thing to do. It holds all that its doing needs, so that a plan can be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bring a blob from the controller's store to the cache.
    FetchBlob(Blob),
    /// Take a blob that nothing names out of the cache.
    EvictBlob(Digest),
    CreateVolume(DesiredVolume),
    DeleteVolume(VolumeId),
    /// Make the switch's networks, ports and peers these.
    ApplyNetwork(Box<Plan>),
    Start(Box<MachineSpec>, Beginning),
    /// Start a VM, measure it, and let it stand before its first instruction.
    Hold(Box<MachineSpec>, Beginning),
    /// Prove, signed with `nonce`, what this host is and what the VM was measured as.
    Prove {
        instance: InstanceId,
        generation: u64,
        nonce: Octets,
        measured: Vec<Measurement>,
    },
    /// Let a VM begin that was held.
    Release(InstanceId),
    /// Bring a running VM and its disks to another host, and let it stand still.
    Send {
        instance: InstanceId,
        generation: u64,
        disks: Vec<VolumeId>,
        host: HostId,
        address: SocketAddr,
    },
    /// Take a VM and its volumes in that another host brings, and let it stand still.
    Receive {
        spec: Box<MachineSpec>,
        volumes: Vec<DesiredVolume>,
        from: HostId,
    },
    /// Let a VM go on that stands still.
    LetGo(InstanceId),
    /// End the VM; `disks` are the volumes that it lets go.
    Stop {
        instance: InstanceId,
        generation: u64,
        how: Stop,
        disks: Vec<VolumeId>,
    },
    /// Delete what the driver keeps of a VM that is to be absent.
    Forget(InstanceId),
    Attach {
        instance: InstanceId,
        disk: Disk,
    },
    Detach {
        instance: InstanceId,
        volume: VolumeId,
    },
    /// Copy a volume's content at one instant; `user` is the VM that has the volume.
    TakeSnapshot {
        snapshot: SnapshotId,
        volume: VolumeId,
        user: Option<InstanceId>,
    },
    UploadSnapshot(SnapshotId),
    /// Delete the local copy of a snapshot that is no longer asked for.
    DropSnapshot(SnapshotId),
    OpenStream(StreamRequest),
    /// Boot a machine of an image and save it for others to go on from.
    MakeWarmState(Box<Template>),
    DropWarmState(Digest),
    /// Make instances ready to be held as they will be at one instant, while they run.
    /// With the sizes of those of its volumes that are here, and that no VM has but its own.
    PrepareCut(Box<DesiredCut>, BTreeMap<VolumeId, Bytes>),
    /// That is the instant.
    TakeCut(Box<DesiredCut>, BTreeMap<VolumeId, Bytes>),
    /// Let go of what is held.
    DropCut(ReplicaId),
    /// Start a VM that goes on where another was at a cut, and let it stand there.
    Duplicate {
        spec: Box<MachineSpec>,
        of: DesiredDuplicate,
        ports: Option<Ports>,
    },
    /// Let a duplicate go on, and give it what was in flight to its source at the cut.
    Begin {
        instance: InstanceId,
        replica: ReplicaId,
        ports: Option<Ports>,
    },
    /// Have all of a duplicate's memory brought here, whatever its guest asks for.
    CompleteMemory(InstanceId),
    /// Bring what is below a volume into its own file; `user` is the VM that has the volume.
    CompleteVolume {
        volume: VolumeId,
        user: Option<InstanceId>,
    },
    /// Take this generation as failed: something that it needs cannot be had.
    GiveUp {
        instance: InstanceId,
        generation: u64,
        reason: StateReason,
    },
}

/// The interfaces of an instance and of its duplicate, where both are parts of networks here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub source: InterfaceId,
    pub duplicate: InterfaceId,
}

/// What only one step at a time may touch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Blob(Digest),
    Volume(VolumeId),
    Instance(InstanceId),
    Snapshot(SnapshotId),
    Network,
    Stream(String),
    WarmState(Digest),
    Cut(ReplicaId),
}

/// The sort of work, as far as it counts for limits and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    Starting,
    Stopping,
    /// Moves many bytes.
    Transfer,
    /// A VM comes or goes.
    Move,
    Stream,
    /// Short, or held by a step whose work is counted with its first subject.
    Other,
}

impl Step {
    /// What the step touches; the first is what it is mainly about, and what a failure is remembered for.
    pub fn subjects(&self) -> Vec<Subject> {
        let with_disks = |instance: InstanceId, disks: &mut dyn Iterator<Item = VolumeId>| {
            std::iter::once(Subject::Instance(instance)).chain(disks.map(Subject::Volume)).collect()
        };
        match self {
            Self::FetchBlob(blob) => vec![Subject::Blob(blob.digest.clone())],
            Self::EvictBlob(digest) => vec![Subject::Blob(digest.clone())],
            Self::CreateVolume(volume) => vec![Subject::Volume(volume.id)],
            Self::DeleteVolume(volume) => vec![Subject::Volume(*volume)],
            Self::ApplyNetwork(_) => vec![Subject::Network],
            Self::Start(spec, _) | Self::Hold(spec, _) | Self::Receive { spec, .. } | Self::Duplicate { spec, .. } => {
                with_disks(spec.instance, &mut spec.disks.iter().map(|disk| disk.volume))
            }
            Self::Stop { instance, disks, .. } | Self::Send { instance, disks, .. } => {
                with_disks(*instance, &mut disks.iter().copied())
            }
            Self::Prove { instance, .. } => vec![Subject::Instance(*instance)],
            Self::LetGo(instance) | Self::Release(instance) | Self::Begin { instance, .. } => {
                vec![Subject::Instance(*instance)]
            }
            Self::CompleteVolume { volume, .. } => vec![Subject::Volume(*volume)],
            Self::Forget(instance) | Self::CompleteMemory(instance) | Self::GiveUp { instance, .. } => {
                vec![Subject::Instance(*instance)]
            }
            Self::Attach { instance, disk } => vec![Subject::Volume(disk.volume), Subject::Instance(*instance)],
            Self::Detach { instance, volume } => vec![Subject::Volume(*volume), Subject::Instance(*instance)],
            Self::TakeSnapshot { snapshot, volume, .. } => {
                vec![Subject::Snapshot(*snapshot), Subject::Volume(*volume)]
            }
            Self::UploadSnapshot(snapshot) | Self::DropSnapshot(snapshot) => vec![Subject::Snapshot(*snapshot)],
            Self::MakeWarmState(template) => vec![Subject::WarmState(template.key.clone())],
            Self::DropWarmState(key) => vec![Subject::WarmState(key.clone())],
            // Nothing else is done to them meanwhile.
            Self::PrepareCut(cut, _) | Self::TakeCut(cut, _) => {
                let instances = cut.instances.keys().map(|instance| Subject::Instance(*instance));
                let volumes = cut.volumes.iter().map(|volume| Subject::Volume(*volume));
                std::iter::once(Subject::Cut(cut.replica)).chain(instances).chain(volumes).collect()
            }
            Self::DropCut(replica) => vec![Subject::Cut(*replica)],
            Self::OpenStream(request) => vec![Subject::Stream(request.token.clone())],
        }
    }

    pub fn activity(&self) -> Activity {
        match self {
            Self::Start(..) | Self::Hold(..) | Self::Duplicate { .. } => Activity::Starting,
            Self::Stop { .. } | Self::Forget(_) => Activity::Stopping,
            Self::Send { .. } | Self::Receive { .. } => Activity::Move,
            Self::FetchBlob(_)
            | Self::CreateVolume(_)
            | Self::TakeSnapshot { .. }
            | Self::CompleteVolume { .. }
            | Self::UploadSnapshot(_)
            | Self::MakeWarmState(_) => Activity::Transfer,
            Self::OpenStream(_) => Activity::Stream,
            _ => Activity::Other,
        }
    }
}
