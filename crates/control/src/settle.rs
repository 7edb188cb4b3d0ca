//! What a host's report changes in the records of instances, volumes and snapshots that no workflow is busy with.
//!
//! Owns the transitions. Pure: records and reports come in, the new state comes out, or none where nothing changes. A
//! report about an older start of an instance says nothing.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_model::{
    ErrorCode,
    actual::{ActualInstance, ActualSnapshot, ActualState, ActualVolume, AskedStart},
    instance::{Instance, InstanceState, StateReason},
    storage::{Snapshot, SnapshotState, Volume, VolumeState},
};

/// An instance's new state and why it is in it.
pub(crate) fn instance(instance: &Instance, actual: &ActualInstance) -> Option<(InstanceState, Option<StateReason>)> {
    use ActualState as Is;
    use InstanceState as State;
    if actual.generation != instance.generation {
        return None;
    }
    match (instance.state, actual.state) {
        (State::Pending, Is::Running) => Some((State::Running, None)),
        (State::Pending | State::Running, Is::Failed) => Some((State::Stopped, Some(why_failed(actual)))),
        (State::Pending | State::Running, Is::Stopped) => Some((State::Stopped, Some(why_stopped(actual)))),
        (State::Stopping, Is::Stopped | Is::Failed) => Some((State::Stopped, None)),
        _ => None,
    }
}

/// Whether another start follows from what the host was asked: the generation that was meant is over, and stopped it still is.
pub(crate) fn is_to_start(instance: &Instance, asked: &AskedStart) -> bool {
    instance.state == InstanceState::Stopped && instance.generation == asked.generation
}

fn why_failed(actual: &ActualInstance) -> StateReason {
    actual.reason.clone().unwrap_or_else(|| StateReason {
        code: ErrorCode::HypervisorFailed,
        message: "the hypervisor ended without a reason".into(),
    })
}

fn why_stopped(actual: &ActualInstance) -> StateReason {
    actual.reason.clone().unwrap_or_else(|| StateReason {
        code: ErrorCode::IncorrectState,
        message: "the guest shut itself down".into(),
    })
}

/// What becomes of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VolumeChange {
    Attached,
    Detached,
    Failed(StateReason),
    /// Its bytes are gone: its record goes too.
    Deleted,
}

/// `at` is what the report says of the instance that the volume is, was or will be attached to. Reports of a host come in
/// order, and a volume is detached only after one that had it attached: what no longer lists it is not from before.
pub(crate) fn volume(
    volume: &Volume,
    at: Option<&ActualInstance>,
    actual: Option<&ActualVolume>,
) -> Option<VolumeChange> {
    let connected = at.is_some_and(|at| at.volumes.iter().any(|attachment| attachment.volume == volume.id));
    let powered = at.is_some_and(|at| at.state == ActualState::Running);
    let failed = actual.and_then(|actual| actual.reason.clone());
    match volume.state {
        VolumeState::Deleting => actual.is_some_and(|actual| !actual.present).then_some(VolumeChange::Deleted),
        VolumeState::Attaching if connected => Some(VolumeChange::Attached),
        VolumeState::Attaching => failed.map(VolumeChange::Failed),
        VolumeState::Detaching => (at.is_some() && !(powered && connected)).then_some(VolumeChange::Detached),
        VolumeState::Available | VolumeState::InUse | VolumeState::Error => None,
    }
}

/// A snapshot that is completed or failed.
pub(crate) fn snapshot(snapshot: &Snapshot, actual: &ActualSnapshot) -> Option<Snapshot> {
    if snapshot.state != SnapshotState::Pending {
        return None;
    }
    let settled =
        |state| Snapshot { state, state_reason: actual.reason.clone(), blob: actual.blob.clone(), ..snapshot.clone() };
    match (&actual.blob, &actual.reason) {
        (Some(_), _) => Some(settled(SnapshotState::Completed)),
        (None, Some(_)) => Some(settled(SnapshotState::Error)),
        (None, None) => None,
    }
}
