//! Volumes: made, shown and deleted. Attaching is in [`super::attachments`].
//!
//! Owns what size and content a volume may begin with. Its bytes come to be on the host to which it is first attached.

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{ListQuery, NoQuery, Page, replica::EndSourceQuery, storage::CreateVolume},
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, Bytes, ErrorCode, ReplicaId, SnapshotId, VolumeId,
    desired::VolumeContent,
    storage::{Snapshot, SnapshotState, Volume, VolumeState},
};

use super::{
    checks::{check_tags, refuse},
    replicas, shown,
};
use crate::{
    Caller, Controller, quota, random,
    records::VolumeRecord,
    store::{Scope, Tx},
};

const LARGEST: Bytes = Bytes::gib(16 << 10);

pub(crate) async fn create_volume(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateVolume>>,
) -> Result<Created<Volume>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    let record = controller.change(&call, move |tx| create(tx, account, request)).await?;
    Ok(Created(shown::volume(&call.caller, record)))
}

fn create(tx: &mut Tx<'_>, account: AccountId, request: CreateVolume) -> Result<VolumeRecord, Problem> {
    check_tags(&request.tags)?;
    let (content, least) = match request.snapshot {
        Some(snapshot) => content_of(tx, account, snapshot)?,
        None => (VolumeContent::Empty, Bytes::mib(1)),
    };
    let size = match (request.size, request.snapshot) {
        (Some(size), _) => size,
        (None, Some(_)) => least,
        (None, None) => return Err(refuse("a volume that is not made from a snapshot needs a size")),
    };
    if size < least || size > LARGEST || !size.0.is_multiple_of(512) {
        return Err(refuse(format!("size is {size}; it can be {least} to {LARGEST}, in whole sectors of 512 B")));
    }
    quota::check_volume(tx, account, size)?;
    let volume = Volume {
        id: random::id(),
        account,
        size,
        snapshot: request.snapshot,
        state: VolumeState::Available,
        state_reason: None,
        instance: None,
        host: None,
        delete_on_termination: false,
        created: tx.now(),
        tags: request.tags,
    };
    let record = VolumeRecord { volume, content };
    tx.insert(&record)?;
    Ok(record)
}

fn content_of(tx: &Tx<'_>, account: AccountId, id: SnapshotId) -> Result<(VolumeContent, Bytes), Problem> {
    let snapshot: Snapshot = tx.get(Scope::Account(account), id)?;
    match (snapshot.state, snapshot.blob) {
        (SnapshotState::Completed, Some(blob)) => Ok((VolumeContent::Snapshot { blob }, snapshot.size)),
        _ => Err(Problem::new(ErrorCode::IncorrectState, format!("{id} is not completed"))),
    }
}

pub(crate) async fn list_volumes(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Volume>>, Problem> {
    let (scope, query, caller) = (call.caller.scope(), call.query, call.caller);
    let page = move |tx: &Tx<'_>| tx.page_shown(scope, &query, |_, record| Ok(shown::volume(&caller, record)));
    controller.store.read(page).await.map(Json)
}

pub(crate) async fn get_volume(
    controller: &Controller,
    call: Call<Caller, (VolumeId,), NoQuery, Nothing>,
) -> Result<Json<Volume>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let record = controller.store.read(move |tx| tx.get(scope, id)).await?;
    Ok(Json(shown::volume(&call.caller, record)))
}

pub(crate) async fn delete_volume(
    controller: &Controller,
    call: Call<Caller, (VolumeId,), EndSourceQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id, deepens) = (call.caller.scope(), call.path.0, call.query.deepen_duplicates == Some(true));
    let deepening = controller.change(&call, move |tx| delete(tx, scope, id, deepens)).await?;
    controller.workflows.resume_at_all(&deepening).await.map(|()| Done)
}

/// Where a host has bytes of it, the record goes when the host says that they are gone, which it is told to do once no duplicate draws on
/// them. Gives those that are made deep for that.
fn delete(tx: &mut Tx<'_>, scope: Scope, id: VolumeId, deepens: bool) -> Result<Vec<ReplicaId>, Problem> {
    let mut record: VolumeRecord = tx.get(scope, id)?;
    if let Some(instance) = record.volume.instance {
        return Err(Problem::new(ErrorCode::VolumeInUse, format!("{id} is attached to {instance}")));
    }
    if record.volume.state == VolumeState::Deleting {
        return Ok(Vec::new());
    }
    if !deepens {
        replicas::check_free(tx, id)?;
    }
    if tx.count_referring::<Snapshot>(id)? > 0 {
        let detail = format!("a snapshot is being taken of {id}");
        return Err(Problem::new(ErrorCode::DependencyViolation, detail));
    }
    if record.volume.host.is_none() {
        return tx.delete(&record).map(|()| Vec::new());
    }
    record.volume.state = VolumeState::Deleting;
    tx.put(&record)?;
    replicas::deepening::begin_for(tx, id)
}
