//! Snapshots: asked for here, taken and uploaded by the volume's host.
//!
//! Owns of which volumes a snapshot can be taken.

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{ListQuery, NoQuery, Page, storage::CreateSnapshot},
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, SnapshotId,
    storage::{Snapshot, SnapshotState, VolumeState},
};

use super::checks::check_tags;
use crate::{
    Caller, Controller, quota, random,
    records::VolumeRecord,
    store::{Item, Scope, Tx},
};

pub(crate) async fn create_snapshot(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateSnapshot>>,
) -> Result<Created<Snapshot>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    controller.change(&call, move |tx| create(tx, account, request)).await.map(Created)
}

fn create(tx: &mut Tx<'_>, account: AccountId, request: CreateSnapshot) -> Result<Snapshot, Problem> {
    check_tags(&request.tags)?;
    let record: VolumeRecord = tx.get(Scope::Account(account), request.volume)?;
    let refuse = |why: &str| Err(Problem::new(ErrorCode::IncorrectState, format!("{} {why}", request.volume)));
    if !matches!(record.volume.state, VolumeState::Available | VolumeState::InUse) {
        return refuse("is neither available nor in use");
    }
    let Some(host) = record.volume.host else {
        return refuse("has no bytes yet: it was never attached");
    };
    quota::check_one(tx, account, Item::Snapshots)?;
    let snapshot = Snapshot {
        id: random::id(),
        account,
        volume: record.volume.id,
        size: record.volume.size,
        state: SnapshotState::Pending,
        state_reason: None,
        blob: None,
        created: tx.now(),
        tags: request.tags,
    };
    tx.insert(&snapshot)?;
    // The host waits for changes of itself.
    tx.touch(host);
    Ok(snapshot)
}

pub(crate) async fn list_snapshots(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Snapshot>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_snapshot(
    controller: &Controller,
    call: Call<Caller, (SnapshotId,), NoQuery, Nothing>,
) -> Result<Json<Snapshot>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}

pub(crate) async fn delete_snapshot(
    controller: &Controller,
    call: Call<Caller, (SnapshotId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.change(&call, move |tx| delete(tx, scope, id)).await.map(|()| Done)
}

/// A snapshot that is still being taken may go too; what its host uploads then belongs to nobody, and is collected.
fn delete(tx: &mut Tx<'_>, scope: Scope, id: SnapshotId) -> Result<(), Problem> {
    let snapshot: Snapshot = tx.get(scope, id)?;
    if snapshot.state == SnapshotState::Pending
        && let Some(record) = tx.find::<VolumeRecord>(Scope::Everything, snapshot.volume)?
        && let Some(host) = record.volume.host
    {
        tx.touch(host);
    }
    tx.delete(&snapshot)
}
