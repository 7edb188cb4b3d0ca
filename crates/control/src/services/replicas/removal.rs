//! The end of a duplicate's records, and of what ties a promoted one to its source.
//!
//! Owns the order in which they go. Its instances have ended before, each by a job of its own.

use std::collections::BTreeSet;

use lucarne_api::Problem;
use lucarne_model::{
    Tags, VolumeId, VpcId,
    flow_log::FlowLog,
    network::{NetworkInterface, RouteTable, Subnet, Vpc},
    network_acl::NetworkAcl,
    recording::Recording,
    replication::{ObjectId, Replica, ReplicaState},
    security_group::{Peer, SecurityGroup},
    storage::VolumeState,
};

use super::{super::vpcs, standing};
use crate::{
    instructions::FLOW_LOGS,
    records::{FlowLogCredentials, InstanceRecord, VolumeRecord},
    replica_records::{ReplicaRecord, Stage},
    scaling_records::ScalingGroupRecord,
    services::recordings,
    store::{Resource, Scope, Tx},
    trigger_records::TriggerRecord,
};

const ALL: Scope = Scope::Everything;

/// Takes the duplicate's network away. Before it ended it was seen to that no other network has a volume of it.
pub(crate) fn remove(tx: &mut Tx<'_>, mut record: ReplicaRecord, end: ReplicaState) -> Result<(), Problem> {
    record.replica.state = end;
    record.replica.changed = tx.now();
    record.stage = Stage::LetGo;
    tx.put(&record)?;
    end_source(tx, &record)?;
    for duplicate in record.replica.objects.values() {
        if let ObjectId::Volume(id) = duplicate {
            remove_volume(tx, *id)?;
        }
    }
    remove_network(tx, record.replica.vpc)
}

/// Deletes the network that was duplicated, if that was asked for and nothing draws on it any more.
pub(crate) fn end_source(tx: &mut Tx<'_>, record: &ReplicaRecord) -> Result<(), Problem> {
    let source = record.replica.source;
    if !record.ends_source || standing::check_free(tx, source).is_err() {
        return Ok(());
    }
    match tx.find::<Vpc>(ALL, source)? {
        Some(vpc) if tx.referring::<Subnet>(ALL, source)?.is_empty() => vpcs::remove(tx, &vpc),
        // It was given something meanwhile.
        Some(_) => {
            tracing::info!(vpc = %source, "a network that was to be deleted is in use again and stays");
            Ok(())
        }
        None => Ok(()),
    }
}

fn remove_volume(tx: &mut Tx<'_>, id: VolumeId) -> Result<(), Problem> {
    let Some(mut record) = tx.find::<VolumeRecord>(ALL, id)? else { return Ok(()) };
    if record.volume.instance.is_some() || record.volume.state == VolumeState::Deleting {
        return Ok(());
    }
    if record.volume.host.is_none() {
        return tx.delete(&record);
    }
    record.volume.state = VolumeState::Deleting;
    tx.put(&record)
}

fn remove_network(tx: &mut Tx<'_>, id: VpcId) -> Result<(), Problem> {
    let Some(vpc) = tx.find::<Vpc>(ALL, id)? else { return Ok(()) };
    tx.touch(FLOW_LOGS);
    for log in tx.referring::<FlowLog>(ALL, id)? {
        if let Some(kept) = tx.find::<FlowLogCredentials>(ALL, log.id)? {
            tx.delete(&kept)?;
        }
    }
    delete_all::<TriggerRecord>(tx, id)?;
    delete_all::<ScalingGroupRecord>(tx, id)?;
    for recording in tx.referring::<Recording>(ALL, id)? {
        recordings::forget(tx, &recording)?;
    }
    delete_all::<FlowLog>(tx, id)?;
    delete_all::<NetworkInterface>(tx, id)?;
    delete_all::<Subnet>(tx, id)?;
    delete_all::<RouteTable>(tx, id)?;
    delete_all::<NetworkAcl>(tx, id)?;
    // They may name each other in a circle.
    for mut group in tx.referring::<SecurityGroup>(ALL, id)? {
        group.rules.retain(|rule| !matches!(rule.spec.peer, Peer::Group { .. }));
        tx.put(&group)?;
    }
    delete_all::<SecurityGroup>(tx, id)?;
    tx.delete(&vpc)
}

fn delete_all<R: Resource>(tx: &mut Tx<'_>, of: VpcId) -> Result<(), Problem> {
    tx.referring::<R>(ALL, of)?.iter().try_for_each(|one| tx.delete(one))
}

/// Takes from everything in the duplicate what says that it is one.
pub(super) fn unlink(tx: &mut Tx<'_>, record: &ReplicaRecord) -> Result<(), Problem> {
    for duplicate in record.replica.objects.values().collect::<BTreeSet<_>>() {
        match duplicate {
            ObjectId::Vpc(id) => untag::<Vpc>(tx, id.to_string())?,
            ObjectId::Subnet(id) => untag::<Subnet>(tx, id.to_string())?,
            ObjectId::RouteTable(id) => untag::<RouteTable>(tx, id.to_string())?,
            ObjectId::NetworkAcl(id) => untag::<NetworkAcl>(tx, id.to_string())?,
            ObjectId::SecurityGroup(id) => untag::<SecurityGroup>(tx, id.to_string())?,
            ObjectId::NetworkInterface(id) => untag::<NetworkInterface>(tx, id.to_string())?,
            ObjectId::Volume(id) => untag::<VolumeRecord>(tx, id.to_string())?,
            ObjectId::FlowLog(id) => untag::<FlowLog>(tx, id.to_string())?,
            ObjectId::Instance(id) => untag::<InstanceRecord>(tx, id.to_string())?,
            ObjectId::ScalingGroup(id) => untag::<ScalingGroupRecord>(tx, id.to_string())?,
        }
    }
    Ok(())
}

fn untag<R: Resource>(tx: &mut Tx<'_>, id: String) -> Result<(), Problem> {
    let Some(mut resource) = tx.find::<R>(ALL, id)? else { return Ok(()) };
    let Some(Tags(tags)) = resource.tags_mut() else { return Ok(()) };
    tags.remove(Replica::TAG);
    tags.remove(Replica::SOURCE_TAG);
    tx.put(&resource)
}
