//! What the controller is told: the actual state, in its words.
//!
//! Owns the reading of [`Known`] as [`ActualState`]s. Every desired thing is in the report, and everything that runs or lies
//! here beside it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet};

use lucarne_model::{
    InstanceId, VolumeId,
    actual::{ActualInstance, ActualSnapshot, ActualState, ActualVolume, Capacity, Report},
    desired::{Desired, DesiredInstance, Power},
};

use super::{
    cuts,
    known::{Known, Progress, Standing, content_blob},
    proof::proof,
    step::{Activity, Subject},
};

/// The report of this moment; dropped frames, figures, memory, recordings and asked starts are filled in by whoever knows them.
pub fn report(desired: &Desired, known: &Known, capacity: Capacity) -> Report {
    let named: BTreeSet<_> = desired.instances.iter().map(|instance| instance.id).collect();
    let unnamed = known.running.keys().filter(|instance| !named.contains(instance));
    let instances = desired.instances.iter().map(|wanted| instance(wanted, known));
    Report {
        version: desired.version,
        capacity,
        instances: instances.chain(unnamed.map(|instance| left_out(*instance, known))).collect(),
        volumes: volumes(desired, known),
        snapshots: known.snapshots.iter().map(|(snapshot, progress)| self::snapshot(*snapshot, progress)).collect(),
        dropped_frames: BTreeMap::new(),
        recordings: Vec::new(),
        replays: Vec::new(),
        loads: Vec::new(),
        figures: Vec::new(),
        starts: Vec::new(),
        memory: None,
        warm_states: super::warm::report(desired, known),
        cuts: cuts::report(desired, known),
    }
}

fn instance(wanted: &DesiredInstance, known: &Known) -> ActualInstance {
    let subject = Subject::Instance(wanted.id);
    let running = known.running.get(&wanted.id);
    let ended = known.ledger.ended(wanted.id).filter(|ended| ended.generation >= wanted.generation);
    let stopping = known.under_way.get(&subject) == Some(&Activity::Stopping);
    let mut reason = known.faults.get(&subject).map(|fault| fault.reason.clone());
    let (state, generation) = match (running, ended, wanted.power) {
        (Some(running), ..) if stopping || wanted.power != Power::Running => {
            (ActualState::Stopping, running.generation)
        }
        (Some(running), ..) if running.standing == Standing::Held => {
            // While it is still tried again nothing is said.
            reason = known.hopeless(&subject).map(|fault| fault.reason.clone());
            (ActualState::Held, running.generation)
        }
        (Some(running), ..) if running.standing == Standing::Arrived && cuts::is_one(running) => {
            (ActualState::Ready, running.generation)
        }
        (Some(running), ..) if running.standing == Standing::Arrived => (ActualState::Arrived, running.generation),
        (Some(running), ..) => (ActualState::Running, running.generation),
        (None, _, Power::Absent) if known.forgotten.contains(&wanted.id) => (ActualState::Absent, wanted.generation),
        (None, _, Power::Absent) => (ActualState::Stopping, wanted.generation),
        (None, Some(ended), _) if ended.failure.is_some() => {
            reason.clone_from(&ended.failure);
            (ActualState::Failed, ended.generation)
        }
        (None, Some(ended), _) => (ActualState::Stopped, ended.generation),
        (None, None, Power::Stopped | Power::Off) => (ActualState::Stopped, wanted.generation),
        (None, None, Power::Running) => {
            (cuts::waits(wanted, known).unwrap_or(ActualState::Preparing), wanted.generation)
        }
    };
    let volumes = match (running, state) {
        (Some(running), _) => running.disks.clone(),
        (None, ActualState::Stopped | ActualState::Failed) => {
            wanted.volumes.iter().filter(|disk| known.volumes.contains(&disk.volume)).copied().collect()
        }
        _ => Vec::new(),
    };
    let began = running.map(|running| running.began.clone());
    let stood_still = running.and_then(|running| running.stood_still);
    let stood_still_millis = stood_still.map(|still| u64::try_from(still.as_millis()).unwrap_or(u64::MAX));
    let evidence = running.and_then(|running| proof(wanted, running)).map(|evidence| Box::new(evidence.clone()));
    ActualInstance { id: wanted.id, generation, state, reason, volumes, began, stood_still_millis, evidence }
}

/// A VM that runs although the desired state does not speak of it.
fn left_out(id: InstanceId, known: &Known) -> ActualInstance {
    let running = known.running.get(&id);
    let (generation, volumes) = running.map(|running| (running.generation, running.disks.clone())).unwrap_or_default();
    let is_held = running.is_some_and(|running| running.standing == Standing::Held);
    let state = if is_held { ActualState::Held } else { ActualState::Running };
    let (reason, began, stood_still_millis, evidence) = (None, None, None, None);
    ActualInstance { id, generation, state, reason, volumes, began, stood_still_millis, evidence }
}

fn volumes(desired: &Desired, known: &Known) -> Vec<ActualVolume> {
    let named: BTreeSet<VolumeId> = desired.volumes.iter().map(|volume| volume.id).collect();
    let wanted = desired.volumes.iter().map(|volume| {
        let present = known.volumes.contains(&volume.id);
        let content = content_blob(&volume.content).map(|blob| Subject::Blob(blob.digest.clone()));
        let blob_fault = content.filter(|_| volume.present && !present).and_then(|blob| known.hopeless(&blob));
        // While it is still tried again nothing is said: the controller takes a reason for the end of the matter.
        let fault = known.hopeless(&Subject::Volume(volume.id)).or(blob_fault);
        let (reason, copied) = (fault.map(|fault| fault.reason.clone()), known.copied.get(&volume.id).copied());
        let draws = cuts::is_duplicate(volume) && known.overlaid.contains(&volume.id);
        ActualVolume { id: volume.id, present, reason, copied, draws }
    });
    let unnamed = known.volumes.iter().filter(|volume| !named.contains(volume));
    let unnamed =
        unnamed.map(|volume| ActualVolume { id: *volume, present: true, reason: None, copied: None, draws: false });
    wanted.chain(unnamed).collect()
}

fn snapshot(id: lucarne_model::SnapshotId, progress: &Progress) -> ActualSnapshot {
    let (blob, reason) = match progress {
        Progress::Taken => (None, None),
        Progress::Uploaded(blob) => (Some(blob.clone()), None),
        Progress::Failed(reason) => (None, Some(reason.clone())),
    };
    ActualSnapshot { id, blob, reason }
}
