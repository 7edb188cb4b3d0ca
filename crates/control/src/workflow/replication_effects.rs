//! What replicas' jobs see of the world, and what their decisions change in the store.
//!
//! Owns both; when a change is due is decided in [`super::replication`]. What a duplicate consists of is made and removed by
//! [`crate::services::replicas`].

use std::collections::BTreeSet;

use lucarne_api::{Problem, bodies::instance::JobState};
use lucarne_model::{
    Bytes, InstanceId, ReplicaId,
    actual::ActualState,
    desired::VolumeContent,
    instance::{InstanceState, StateReason},
    network::Vpc,
    replica::{CopyType, CutProgress, DuplicateClock, MemoryCopy},
    replication::{ObjectId, Replica, ReplicaState, ReplicatedInstance},
    storage::VolumeState,
};

use super::{
    engine,
    replication::{DuplicateSeen, Effect, Sight},
    steps::Observed,
};
use crate::{
    fleet::Fleet,
    records::{InstanceRecord, JobRecord, VolumeRecord},
    replica_records::{ReplicaRecord, Stage},
    services::{instances, replicas, scaling_groups},
    store::{Scope, Tx},
    workflow::replication::CutSeen,
};

const ALL: Scope = Scope::Everything;

/// What wakes a job that works on the replica: its hosts' and its duplicates' words, and whatever changes in its network.
pub(super) fn topics(tx: &Tx<'_>, id: ReplicaId) -> Result<Vec<String>, Problem> {
    let record: ReplicaRecord = tx.get(ALL, id)?;
    let duplicates = record.duplicates().map(|duplicate| duplicate.to_string());
    Ok(duplicates.chain([id.to_string(), record.replica.vpc.to_string()]).collect())
}

pub(super) fn look(tx: &Tx<'_>, fleet: &Fleet, id: &str) -> Result<Sight, Problem> {
    let record: ReplicaRecord = tx.get(ALL, id)?;
    let cuts = record.cuts.keys().map(|host| fleet.cut(*host, record.replica.id, tx.now()));
    let disks_are_whole = disks_are_whole(tx, fleet, &record)?;
    let mut sight = Sight { cuts: cuts.collect(), disks_are_whole, ..Sight::default() };
    for duplicate in record.duplicates() {
        if let Some(duplicate) = tx.find::<InstanceRecord>(ALL, duplicate)? {
            sight.duplicates.push(see(tx, fleet, &duplicate));
        }
    }
    for one in tx.referring::<InstanceRecord>(ALL, record.replica.vpc)? {
        sight.inhabitants.push(lives_on(tx, &one)?);
    }
    Ok(sight)
}

/// The state of an instance of the duplicate. One whose launch is being undone is on its way to its end.
fn lives_on(tx: &Tx<'_>, record: &InstanceRecord) -> Result<InstanceState, Problem> {
    let job = engine::unfinished(tx, record.instance.id)?;
    let ends = job.is_some_and(|job| job.job.state == JobState::Undoing);
    Ok(if ends { InstanceState::ShuttingDown } else { record.instance.state })
}

fn see(tx: &Tx<'_>, fleet: &Fleet, record: &InstanceRecord) -> DuplicateSeen {
    let instance = &record.instance;
    let (state, generation) = (instance.state, instance.generation);
    let observed = fleet.observe(instance.host, instance.id, tx.now());
    let Some(of) = record.duplicate else {
        return DuplicateSeen { state, generation, observed, runs: false, whole: true };
    };
    // What was stopped, or was started again since, has nothing of its source's memory.
    let is_over = state == InstanceState::Stopped || generation > replicas::FIRST;
    let goes = matches!(&observed, Observed::Said(actual) if actual.state == ActualState::Running);
    let whole = of.copy == CopyType::Shallow || of.memory != Some(MemoryCopy::Live) || is_over || {
        let told = instance.host.and_then(|host| fleet.memory_of(host, instance.id));
        goes && told.is_some_and(|told| told.pages.snapshot.0 == 0)
    };
    DuplicateSeen { state, generation, observed, runs: of.memory.is_some(), whole }
}

/// Wherever they are attached by now. One that is going needs nothing any more.
fn disks_are_whole(tx: &Tx<'_>, fleet: &Fleet, replica: &ReplicaRecord) -> Result<bool, Problem> {
    for id in replica.volumes() {
        let Some(VolumeRecord { volume, content }) = tx.find::<VolumeRecord>(ALL, id)? else { continue };
        let deep = matches!(content, VolumeContent::Duplicate { copy: CopyType::Deep, .. });
        let stays = volume.state != VolumeState::Deleting;
        if deep && stays && volume.host.is_some_and(|host| !fleet.is_whole(host, id)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Hosts copy from now on what was shallow.
fn deepen(tx: &mut Tx<'_>, record: &mut ReplicaRecord) -> Result<(), Problem> {
    for id in record.duplicates() {
        let Some(mut duplicate) = tx.find::<InstanceRecord>(ALL, id)? else { continue };
        if let Some(of) = &mut duplicate.duplicate {
            of.copy = CopyType::Deep;
            tx.put(&duplicate)?;
        }
    }
    for id in record.volumes() {
        let Some(mut volume) = tx.find::<VolumeRecord>(ALL, id)? else { continue };
        if let VolumeContent::Duplicate { copy, .. } = &mut volume.content {
            *copy = CopyType::Deep;
            tx.put(&volume)?;
        }
    }
    let terms = &mut record.replica.terms;
    terms.copy = CopyType::Deep;
    terms.overrides.iter_mut().for_each(|wish| wish.copy = wish.copy.map(|_| CopyType::Deep));
    Ok(())
}

/// Carries out `effect`; gives the instances whose end has begun with it.
pub(super) fn perform(
    tx: &mut Tx<'_>,
    fleet: &Fleet,
    job: &JobRecord,
    effect: Effect,
) -> Result<Vec<InstanceId>, Problem> {
    let mut record: ReplicaRecord = tx.get(ALL, job.subject())?;
    record.replica.changed = tx.now();
    match effect {
        Effect::Nothing => return Ok(Vec::new()),
        Effect::Take => record.stage = Stage::Taking,
        Effect::Duplicate => {
            note_cut(tx, fleet, &mut record);
            record.stage = Stage::Standing;
        }
        Effect::Begin => {
            set_clock(tx, &record.replica)?;
            record.stage = Stage::Going;
        }
        Effect::MarkRunning => {
            mark_running(tx, &record)?;
            note_disks(tx, fleet, &mut record)?;
            record.replica.state = ReplicaState::Copying;
        }
        Effect::Deepen => deepen(tx, &mut record)?,
        Effect::Complete => {
            note_disks(tx, fleet, &mut record)?;
            complete(tx, &mut record)?;
            tx.put(&record)?;
            return replicas::removal::end_source(tx, &record).map(|()| Vec::new());
        }
        Effect::ShutDown => return shut_down(tx, &record),
        Effect::Remove => {
            let end = if job.job.state == JobState::Undoing { ReplicaState::Failed } else { ReplicaState::Deleted };
            return replicas::removal::remove(tx, record, end).map(|()| Vec::new());
        }
    }
    tx.put(&record).map(|()| Vec::new())
}

/// What the replica is shown with while it is undone, and afterwards.
pub(super) fn note_failure(tx: &mut Tx<'_>, id: &str, reason: &StateReason) -> Result<(), Problem> {
    let mut record: ReplicaRecord = tx.get(ALL, id)?;
    record.replica.state_reason = Some(reason.clone());
    tx.put(&record)
}

/// Notes how each source stood still.
fn note_cut(tx: &Tx<'_>, fleet: &Fleet, record: &mut ReplicaRecord) {
    for host in record.cuts.keys() {
        let CutSeen::Said(CutProgress::Taken { at, instances, .. }) = fleet.cut(*host, record.replica.id, tx.now())
        else {
            continue;
        };
        record.replica.taken = record.replica.taken.max(Some(at));
        record.replica.instances.extend(instances.into_iter().map(|(source, still)| {
            let (pause_micros, devices) = (still.pause_micros, still.devices);
            (source, ReplicatedInstance { pause_micros, devices, copied: Bytes::ZERO })
        }));
    }
}

/// What the guests' clocks lie behind when they go on is what the network's does too, if it is to go on with them.
fn set_clock(tx: &mut Tx<'_>, replica: &Replica) -> Result<(), Problem> {
    let mut stood_still = false;
    for object in replica.objects.values() {
        let ObjectId::Instance(id) = object else { continue };
        let of = tx.find::<InstanceRecord>(ALL, *id)?.and_then(|one| one.duplicate);
        stood_still |= of.is_some_and(|of| of.memory == Some(MemoryCopy::Live));
    }
    let mut duplicate: Vpc = tx.get(ALL, replica.vpc)?;
    duplicate.clock_behind_micros = match (replica.terms.clock, replica.taken) {
        (DuplicateClock::Continue, Some(taken)) if stood_still => {
            let source = tx.find::<Vpc>(ALL, replica.source)?.map_or(0, |source| source.clock_behind_micros);
            let still = u64::try_from(tx.now().since(taken).as_micros()).unwrap_or(u64::MAX);
            source.saturating_add(still)
        }
        _ => 0,
    };
    tx.put(&duplicate)
}

/// Notes what was copied of volumes, as far as hosts know: an agent that was started meanwhile has forgotten.
fn note_disks(tx: &Tx<'_>, fleet: &Fleet, record: &mut ReplicaRecord) -> Result<(), Problem> {
    let mut copied = Bytes::ZERO;
    for object in record.replica.objects.values() {
        let ObjectId::Volume(id) = object else { continue };
        let host = tx.find::<VolumeRecord>(ALL, *id)?.and_then(|record| record.volume.host);
        copied = copied + host.and_then(|host| fleet.copied_for(host, *id)).unwrap_or_default();
    }
    record.replica.copied_of_disks = record.replica.copied_of_disks.max(copied);
    Ok(())
}

/// Reports may have said so already.
fn mark_running(tx: &mut Tx<'_>, record: &ReplicaRecord) -> Result<(), Problem> {
    for id in record.duplicates() {
        let Some(mut duplicate) = tx.find::<InstanceRecord>(ALL, id)? else { continue };
        if duplicate.instance.state == InstanceState::Pending {
            duplicate.instance.state = InstanceState::Running;
            duplicate.instance.changed = tx.now();
            tx.put(&duplicate)?;
        }
    }
    Ok(())
}

/// What was copied whole draws on nothing any more; with nothing left that does, the cut is let go.
fn complete(tx: &Tx<'_>, record: &mut ReplicaRecord) -> Result<(), Problem> {
    record.draws_on = draws_on(tx, record)?;
    record.stage = if record.draws_on.is_empty() { Stage::LetGo } else { Stage::Holding };
    record.replica.state = ReplicaState::Available;
    Ok(())
}

/// What of the source a replica draws on once what is to be copied whole is there.
pub(crate) fn draws_on(tx: &Tx<'_>, record: &ReplicaRecord) -> Result<BTreeSet<ObjectId>, Problem> {
    let mut draws_on = BTreeSet::new();
    for (source, duplicate) in &record.replica.objects {
        let shallow = match duplicate {
            ObjectId::Instance(id) => tx
                .find::<InstanceRecord>(ALL, id)?
                .and_then(|one| one.duplicate)
                .is_some_and(|of| of.copy == CopyType::Shallow && of.memory == Some(MemoryCopy::Live)),
            ObjectId::Volume(id) => tx
                .find::<VolumeRecord>(ALL, id)?
                .is_some_and(|one| matches!(one.content, VolumeContent::Duplicate { copy: CopyType::Shallow, .. })),
            _ => false,
        };
        if shallow {
            draws_on.insert(*source);
        }
    }
    if !draws_on.is_empty() {
        draws_on.insert(record.replica.source.into());
    }
    Ok(draws_on)
}

fn shut_down(tx: &mut Tx<'_>, record: &ReplicaRecord) -> Result<Vec<InstanceId>, Problem> {
    // First, else they would replace what ends.
    scaling_groups::end_with(tx, record.replica.vpc)?;
    let mut ending = Vec::new();
    for one in tx.referring::<InstanceRecord>(ALL, record.replica.vpc)? {
        instances::terminate(tx, ALL, one.instance.id)?;
        ending.push(one.instance.id);
    }
    Ok(ending)
}
