//! Volumes at instances: attached and detached, running or stopped.
//!
//! Owns the records' changes that a request makes; the host does it, and its report settles the rest.

use std::collections::BTreeSet;

use lucarne_api::{
    Call, Problem,
    bodies::NoQuery,
    bodies::storage::AttachVolume,
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, HostId, InstanceId, VolumeId,
    instance::{Attachment, InstanceState},
    storage::{Volume, VolumeState},
};

use crate::{
    Caller, Controller,
    placement::Demand,
    records::{HostRecord, InstanceRecord, VolumeRecord},
    store::{Scope, Tx},
};

/// Slots of an instance's bus.
const SLOTS: u8 = 8;

pub(crate) async fn attach_volume(
    controller: &Controller,
    call: Call<Caller, (VolumeId,), NoQuery, Json<AttachVolume>>,
) -> Result<Json<Volume>, Problem> {
    let (volume, instance, account) = (call.path.0, call.body.0.instance, call.caller.account);
    let change = move |tx: &mut Tx<'_>| {
        let mut record: InstanceRecord = tx.get(Scope::Account(account), instance)?;
        if !matches!(record.instance.state, InstanceState::Running | InstanceState::Stopped) {
            return Err(wrong_state(instance, record.instance.state, "running or stopped"));
        }
        if record.passage.is_some() {
            let detail = format!("{instance} is on its way to another host; attach the volume when it is there");
            return Err(Problem::new(ErrorCode::IncorrectState, detail));
        }
        attach(tx, account, volume, &mut record)
    };
    controller.change(&call, change).await.map(|record| Json(record.volume))
}

pub(crate) async fn detach_volume(
    controller: &Controller,
    call: Call<Caller, (VolumeId,), NoQuery, Nothing>,
) -> Result<Json<Volume>, Problem> {
    let (volume, account) = (call.path.0, call.caller.account);
    let change = move |tx: &mut Tx<'_>| detach(tx, account, volume);
    controller.change(&call, change).await.map(|record| Json(record.volume))
}

pub(super) fn wrong_state(instance: InstanceId, is: InstanceState, must_be: &str) -> Problem {
    Problem::new(ErrorCode::IncorrectState, format!("{instance} is {is}; it must be {must_be}"))
}

/// Connects a free volume to the instance, which is in the store already.
pub(super) fn attach(
    tx: &mut Tx<'_>,
    account: AccountId,
    volume: VolumeId,
    record: &mut InstanceRecord,
) -> Result<VolumeRecord, Problem> {
    let mut attached: VolumeRecord = tx.get(Scope::Account(account), volume)?;
    check_free(&attached.volume)?;
    let slot = free_slot(record)?;
    if let Some(host) = record.instance.host {
        bind(tx, &mut attached, host)?;
    }
    attached.volume.instance = Some(record.instance.id);
    // A stopped instance finds the volume when it starts; a running one has it when its host says so.
    let stopped = record.instance.state == InstanceState::Stopped;
    attached.volume.state = if stopped { VolumeState::InUse } else { VolumeState::Attaching };
    record.instance.volumes.push(Attachment { volume, slot });
    tx.put(record)?;
    tx.put(&attached)?;
    Ok(attached)
}

fn check_free(volume: &Volume) -> Result<(), Problem> {
    match (volume.instance, volume.state) {
        (None, VolumeState::Available) => Ok(()),
        (Some(instance), _) => {
            Err(Problem::new(ErrorCode::VolumeInUse, format!("{} is attached to {instance}", volume.id)))
        }
        (None, _) => Err(Problem::new(ErrorCode::IncorrectState, format!("{} is not available", volume.id))),
    }
}

/// Slot 0 is the boot volume's.
fn free_slot(record: &InstanceRecord) -> Result<u8, Problem> {
    let taken: BTreeSet<u8> = record.instance.volumes.iter().map(|attachment| attachment.slot).collect();
    (1..SLOTS).find(|slot| !taken.contains(slot)).ok_or_else(|| {
        let detail = format!("{} has {} data volumes, the most that it can", record.instance.id, SLOTS - 1);
        Problem::new(ErrorCode::AttachmentLimitExceeded, detail)
    })
}

/// A volume lives on the host to which it is first attached.
fn bind(tx: &mut Tx<'_>, record: &mut VolumeRecord, host: HostId) -> Result<(), Problem> {
    let volume = &mut record.volume;
    match volume.host {
        Some(bound) if bound == host => Ok(()),
        Some(_) => {
            let detail = format!(
                "the bytes of {} are on another host; take a snapshot and make a volume of it, or launch with `volumes`",
                volume.id
            );
            Err(Problem::new(ErrorCode::VolumeElsewhere, detail))
        }
        None => {
            let mut chosen: HostRecord = tx.get(Scope::Everything, host)?;
            let free = chosen.host.description.capacity.disk - chosen.host.used.disk;
            if free < volume.size {
                let detail =
                    format!("the instance's host has {free} of disk left, {} needs {}", volume.id, volume.size);
                return Err(Problem::new(ErrorCode::InsufficientInstanceCapacity, detail));
            }
            chosen.promise(&Demand { disk: volume.size, ..Demand::default() });
            tx.put(&chosen)?;
            volume.host = Some(host);
            Ok(())
        }
    }
}

fn detach(tx: &mut Tx<'_>, account: AccountId, volume: VolumeId) -> Result<VolumeRecord, Problem> {
    let mut record: VolumeRecord = tx.get(Scope::Account(account), volume)?;
    let attached =
        record.volume.instance.filter(|_| matches!(record.volume.state, VolumeState::InUse | VolumeState::Error));
    let instance = attached.ok_or_else(|| {
        Problem::new(ErrorCode::IncorrectState, format!("{volume} is not attached, or is on its way"))
    })?;
    let mut holder: InstanceRecord = tx.get(Scope::Account(account), instance)?;
    let boots = holder.instance.volumes.iter().any(|attachment| attachment.volume == volume && attachment.slot == 0);
    if boots {
        let detail = format!("{volume} is what {instance} boots from; it ends with it");
        return Err(Problem::new(ErrorCode::IncorrectState, detail));
    }
    if holder.passage.is_some() {
        let detail = format!("{instance} is on its way to another host; detach the volume when it is there");
        return Err(Problem::new(ErrorCode::IncorrectState, detail));
    }
    holder.instance.volumes.retain(|attachment| attachment.volume != volume);
    tx.put(&holder)?;
    if holder.instance.state == InstanceState::Stopped {
        record.volume.state = VolumeState::Available;
        record.volume.instance = None;
    } else {
        record.volume.state = VolumeState::Detaching;
    }
    tx.put(&record)?;
    Ok(record)
}
