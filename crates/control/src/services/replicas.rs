//! Replicas: networks duplicated while they run.
//!
//! Owns what may be asked, and when. What a duplicate consists of is decided in the room `replica`; it is made in [`making`] and
//! [`admission`], removed in [`removal`], and the workflow in [`crate::workflow::replication`] brings it to life. What else must not
//! happen meanwhile is refused by [`standing`], which also says what hosts are told.

mod admission;
pub(crate) mod deepening;
mod flows;
mod making;
pub(crate) mod removal;
mod source;
mod standing;

use std::time::Duration;

use lucarne_api::{
    Call, Problem,
    answer::Created,
    bodies::{
        ListQuery, NoQuery, Page,
        instance::JobKind,
        replica::{CreateReplica, PlanReplica, ReplicaDifferences},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, Pages, ReplicaId, VpcId,
    instance::StateReason,
    network::Vpc,
    replication::{ObjectId, Replica, ReplicaPlan, ReplicaState, ReplicaTerms},
};
use lucarne_replica::{
    AddressMap,
    difference::{Correspondence, differences},
};

use self::source::Source;
use super::{checks::refuse, loads, replays};
use crate::{
    Caller, Controller,
    fleet::Fleet,
    random,
    records::JobRecord,
    replica_records::{ReplicaRecord, Stage},
    store::{Scope, Tx},
    workflow::{engine, steps},
};

pub(super) use self::admission::{LONGEST, admit};
pub(crate) use self::flows::compare_replica_flows;
pub(crate) use self::standing::{FIRST, Stages, check_free, check_rooted, desired_cuts};

pub(crate) async fn plan_replica(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<PlanReplica>>,
) -> Result<Json<ReplicaPlan>, Problem> {
    let (account, PlanReplica { vpc, terms }) = (call.caller.account, call.body.0);
    controller.store.read(move |tx| plan(tx, account, vpc, &terms)).await.map(Json)
}

pub(super) fn plan(tx: &Tx<'_>, account: AccountId, vpc: VpcId, terms: &ReplicaTerms) -> Result<ReplicaPlan, Problem> {
    let source = Source::load(tx, account, vpc)?;
    admission::plan(tx, account, &source, terms)
}

pub(crate) async fn create_replica(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateReplica>>,
) -> Result<Created<Replica>, Problem> {
    let (account, request, fleet) = (call.caller.account, call.body.0.clone(), controller.fleet.clone());
    let replica = controller.change(&call, move |tx| admit(tx, &fleet, account, &request)).await?;
    engine::hold_at("replicate.admit.after").await;
    controller.workflows.follow(replica.job);
    Ok(Created(replica))
}

pub(crate) async fn list_replicas(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Replica>>, Problem> {
    let (scope, query, fleet) = (call.caller.scope(), call.query, controller.fleet.clone());
    let page = move |tx: &Tx<'_>| tx.page_shown(scope, &query, |_, record| Ok(shown(&fleet, record)));
    controller.store.read(page).await.map(Json)
}

pub(crate) async fn get_replica(
    controller: &Controller,
    call: Call<Caller, (ReplicaId,), NoQuery, Nothing>,
) -> Result<Json<Replica>, Problem> {
    let (scope, id, fleet) = (call.caller.scope(), call.path.0, controller.fleet.clone());
    controller.store.read(move |tx| tx.get(scope, id).map(|record| Json(shown(&fleet, record)))).await
}

/// With what duplicates have of memory by now, which hosts tell and nobody writes down at each word.
fn shown(fleet: &Fleet, record: ReplicaRecord) -> Replica {
    let mut replica = record.replica;
    for (source, one) in &mut replica.instances {
        let Some(ObjectId::Instance(duplicate)) = replica.objects.get(&ObjectId::Instance(*source)) else { continue };
        let own = fleet.memory_wherever(*duplicate).map(|told| told.pages).map(|pages| {
            [pages.resident, pages.compressed, pages.ssd, pages.remote].map(Pages::bytes).into_iter().sum()
        });
        one.copied = own.unwrap_or_default();
    }
    replica.copied = replica.instances.values().map(|one| one.copied).sum();
    replica
}

pub(crate) async fn delete_replica(
    controller: &Controller,
    call: Call<Caller, (ReplicaId,), NoQuery, Nothing>,
) -> Result<Json<Replica>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let replica = controller.change(&call, move |tx| end(tx, scope, id)).await?;
    controller.workflows.resume_at(id).await?;
    Ok(Json(replica))
}

/// One that is ending or has ended stays as it is: to ask again is no error. One that is being made is undone.
fn end(tx: &mut Tx<'_>, scope: Scope, id: ReplicaId) -> Result<Replica, Problem> {
    let mut record: ReplicaRecord = tx.get(scope, id)?;
    if !record.replica.state.lives() || record.replica.state == ReplicaState::Deleting {
        return Ok(record.replica);
    }
    standing::check_may_end(tx, &record)?;
    replays::end_with(tx, &record.replica, ErrorCode::InvalidReplicaNotFound, "deleted")?;
    loads::end_with(tx, &record.replica, ErrorCode::InvalidReplicaNotFound, "deleted")?;
    record.replica.changed = tx.now();
    let message = "it was deleted while it was being made";
    let unfinished = tx.referring::<JobRecord>(Scope::Everything, id)?.into_iter().find(|job| !job.is_finished());
    let unfinished = deepening::give_up(tx, unfinished)?;
    if let Some(mut making) = unfinished {
        let reason = StateReason { code: ErrorCode::IncorrectState, message: message.into() };
        record.replica.state_reason.get_or_insert(reason.clone());
        steps::turn_round(&mut making, reason, tx.now());
        tx.put(&making)?;
    } else {
        record.replica.state = ReplicaState::Deleting;
        record.replica.job = random::id();
        let (account, job) = (record.replica.account, record.replica.job);
        engine::begin_for_replica(tx, JobKind::EndReplica, (account, id), job)?;
    }
    tx.put(&record)?;
    Ok(record.replica)
}

pub(crate) async fn deepen_replica(
    controller: &Controller,
    call: Call<Caller, (ReplicaId,), NoQuery, Nothing>,
) -> Result<Json<Replica>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let replica = controller.change(&call, move |tx| deepening::begin(tx, scope, id)).await?;
    controller.workflows.resume_at(id).await?;
    Ok(Json(replica))
}

pub(crate) async fn promote_replica(
    controller: &Controller,
    call: Call<Caller, (ReplicaId,), NoQuery, Nothing>,
) -> Result<Json<Replica>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.change(&call, move |tx| promote(tx, scope, id)).await.map(Json)
}

fn promote(tx: &mut Tx<'_>, scope: Scope, id: ReplicaId) -> Result<Replica, Problem> {
    let mut record: ReplicaRecord = tx.get(scope, id)?;
    match record.replica.state {
        ReplicaState::Promoted => return Ok(record.replica),
        ReplicaState::Available if record.stage == Stage::LetGo => {}
        ReplicaState::Available => {
            let detail = format!(
                "{id} still draws on its source; make it deep first (`lucarne replica deepen`) and promote it when it is available"
            );
            return Err(Problem::new(ErrorCode::ReplicaDependsOnSource, detail));
        }
        ReplicaState::Copying => {
            let detail = format!("{id} is still being copied; promote it when it is available");
            return Err(Problem::new(ErrorCode::IncorrectState, detail));
        }
        ReplicaState::Preparing | ReplicaState::Deleting | ReplicaState::Deleted | ReplicaState::Failed => {
            let detail = format!("{id} is no network that runs; it must be available");
            return Err(Problem::new(ErrorCode::IncorrectState, detail));
        }
    }
    replays::end_with(tx, &record.replica, ErrorCode::IncorrectState, "promoted")?;
    loads::end_with(tx, &record.replica, ErrorCode::IncorrectState, "promoted")?;
    removal::unlink(tx, &record)?;
    let mut vpc: Vpc = tx.get(scope, record.replica.vpc)?;
    vpc.clock_behind_micros = 0;
    tx.put(&vpc)?;
    record.replica.state = ReplicaState::Promoted;
    record.replica.expires = None;
    record.replica.changed = tx.now();
    tx.put(&record)?;
    Ok(record.replica)
}

pub(crate) async fn compare_replica(
    controller: &Controller,
    call: Call<Caller, (ReplicaId,), NoQuery, Nothing>,
) -> Result<Json<ReplicaDifferences>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let compare = move |tx: &Tx<'_>| {
        let Replica { account, source, vpc, objects, left_out, terms, state, .. } =
            tx.get::<ReplicaRecord>(scope, id)?.replica;
        if !state.lives() {
            return Err(Problem::new(ErrorCode::IncorrectState, format!("{id} is no duplicate any more")));
        }
        let (source, duplicate) = (Source::load(tx, account, source)?, Source::load(tx, account, vpc)?);
        let map = AddressMap::new(&terms.map).map_err(|error| refuse(error.to_string()))?;
        let by = Correspondence { objects: &objects, map: &map, left_out: &left_out };
        Ok(ReplicaDifferences { differences: differences(&source.network, &duplicate.network, by) })
    };
    controller.store.read(compare).await.map(Json)
}

/// Ends those whose time is over. One that something else draws on waits for that one's end.
pub(crate) async fn end_expired(controller: &Controller) -> Result<(), Problem> {
    for id in controller.store.read(expired).await? {
        controller.store.write(move |tx| end(tx, Scope::Everything, id)).await?;
        tracing::info!(replica = %id, "a replica's time is over");
        controller.workflows.resume_at(id).await?;
    }
    Ok(())
}

fn expired(tx: &Tx<'_>) -> Result<Vec<ReplicaId>, Problem> {
    let over = |replica: &Replica| {
        matches!(replica.state, ReplicaState::Copying | ReplicaState::Available)
            && replica.expires.is_some_and(|expires| expires <= tx.now())
    };
    let mut expired = Vec::new();
    for record in tx.list::<ReplicaRecord>(Scope::Everything)?.iter().filter(|record| over(&record.replica)) {
        if standing::check_may_end(tx, record).is_ok() {
            expired.push(record.replica.id);
        }
    }
    Ok(expired)
}

/// Forgets those that ended long ago, and their jobs.
pub(crate) fn forget_ended(tx: &mut Tx<'_>, scope: Scope, after: Duration) -> Result<(), Problem> {
    let now = tx.now();
    let over = |record: &ReplicaRecord| !record.replica.state.lives() && now.since(record.replica.changed) >= after;
    for record in tx.list::<ReplicaRecord>(scope)?.into_iter().filter(over) {
        let jobs = tx.referring::<JobRecord>(Scope::Everything, record.replica.id)?;
        if jobs.iter().all(JobRecord::is_finished) {
            jobs.iter().try_for_each(|job| tx.delete(job))?;
            tx.delete(&record)?;
        }
    }
    Ok(())
}
