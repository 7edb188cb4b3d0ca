//! A host's end in the cloud: its key, its certificate and its tunnel identity no longer count.
//!
//! Owns when a host may be removed, and what becomes of what a lost one still had. That its certificate is refused from then
//! on is told to the collector by [`crate::instructions`]; that peers drop its tunnel key follows from their desired state.

use lucarne_api::{Call, Problem, answer::Done, bodies::host::DeleteHostQuery, input::Nothing};
use lucarne_model::{
    AccountId, ErrorCode, HostId, InstanceId,
    actual::HostState,
    instance::StateReason,
    storage::{Snapshot, SnapshotState, VolumeState},
};

use super::{instances, tpms};
use crate::{
    Caller, Controller,
    fleet::Fleet,
    instructions::REMOVED_HOSTS,
    records::{HostRecord, InstanceRecord, RemovedHost, VolumeRecord},
    replica_records::ReplicaRecord,
    store::{Scope, Tx},
};

const ALL: Scope = Scope::Everything;

pub(crate) async fn delete_host(
    controller: &Controller,
    call: Call<Caller, (HostId,), DeleteHostQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id, force) = (call.caller.scope(), call.path.0, call.query.force.unwrap_or(false));
    let fleet = controller.fleet.clone();
    let ending = controller.change(&call, move |tx| remove(tx, &fleet, scope, id, force)).await?;
    controller.fleet.forget(id);
    for instance in ending {
        controller.workflows.resume_at(instance).await?;
    }
    tracing::info!(host = %id, "a host was removed");
    Ok(Done)
}

/// Gives the instances whose end has begun with it.
fn remove(tx: &mut Tx<'_>, fleet: &Fleet, scope: Scope, id: HostId, force: bool) -> Result<Vec<InstanceId>, Problem> {
    let record: HostRecord = tx.get(scope, id)?;
    let is_down = fleet.state(id, record.draining, tx.now()) == HostState::Down;
    if force && !is_down {
        let detail = format!("{id} answers: drain it, end what is on it, and delete it without force");
        return Err(Problem::new(ErrorCode::IncorrectState, detail));
    }
    let ending = if force { give_up(tx, id)? } else { Vec::new() };
    if let Some(detail) = occupied(tx, id, is_down)? {
        return Err(Problem::new(ErrorCode::DependencyViolation, detail));
    }
    let public_key = record.host.description.public_key.clone();
    // Read again: giving up may have changed it.
    let record: HostRecord = tx.get(ALL, id)?;
    tpms::forget(tx, id)?;
    tx.delete(&record)?;
    tx.insert(&RemovedHost { host: id, account: AccountId::OPERATOR, public_key, at: tx.now() })?;
    tx.touch(REMOVED_HOSTS);
    Ok(ending)
}

/// What keeps the host, and what to do about it.
fn occupied(tx: &Tx<'_>, host: HostId, is_down: bool) -> Result<Option<String>, Problem> {
    let instances = tx.count_referring::<InstanceRecord>(host)?;
    let volumes = tx.referring::<VolumeRecord>(ALL, host)?;
    let mut snapshots = 0;
    for record in &volumes {
        snapshots += tx.count_referring::<Snapshot>(record.volume.id)?;
    }
    if instances == 0 && volumes.is_empty() {
        return Ok(None);
    }
    let remedy = match is_down {
        true => "wait until it is back, or give them up with it by force",
        false => "drain it, terminate the instances, delete the volumes, and try again when it has confirmed",
    };
    let volumes = volumes.len();
    Ok(Some(format!(
        "{host} still has {instances} instances, {volumes} volumes and {snapshots} snapshots under way; {remedy}"
    )))
}

/// A machine that is lost took its instances and its volumes' bytes with it.
fn give_up(tx: &mut Tx<'_>, host: HostId) -> Result<Vec<InstanceId>, Problem> {
    let mut ending = Vec::new();
    for mut record in tx.referring::<InstanceRecord>(ALL, host)? {
        let id = record.instance.id;
        if record.instance.host != Some(host) {
            // It was on its way here, or had not gone for good: it is its own host's.
            record.passage = None;
            tx.put(&record)?;
            continue;
        }
        record.instance.host = None;
        record.instance.volumes.clear();
        tx.put(&record)?;
        instances::terminate(tx, ALL, id)?;
        ending.push(id);
    }
    for mut record in tx.referring::<ReplicaRecord>(ALL, host)? {
        // Its cut was lost with it.
        let lost = record.cuts.remove(&host).unwrap_or_default();
        record.draws_on.retain(|drawn| !lost.has(*drawn));
        tx.put(&record)?;
    }
    for record in tx.referring::<VolumeRecord>(ALL, host)? {
        lose_volume(tx, record)?;
    }
    Ok(ending)
}

/// Its record stays, for its owner to see what became of it; not where it was to end anyhow.
fn lose_volume(tx: &mut Tx<'_>, mut record: VolumeRecord) -> Result<(), Problem> {
    let lost = StateReason { code: ErrorCode::HostUnreachable, message: "the host that had its bytes was lost".into() };
    for mut snapshot in tx.referring::<Snapshot>(ALL, record.volume.id)? {
        snapshot.state = SnapshotState::Error;
        snapshot.state_reason = Some(lost.clone());
        tx.put(&snapshot)?;
    }
    let volume = &mut record.volume;
    let ends = volume.state == VolumeState::Deleting || (volume.instance.is_some() && volume.delete_on_termination);
    (volume.host, volume.instance) = (None, None);
    (volume.state, volume.state_reason) = (VolumeState::Error, Some(lost));
    tx.put(&record)?;
    if ends { tx.delete(&record) } else { Ok(()) }
}
