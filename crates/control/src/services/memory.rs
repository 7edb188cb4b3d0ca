//! Guest memory: how it is to be kept, where it is, and where it was.
//!
//! Owns what may be set in which state, and that the host's promises follow. Which settings are possible is said by
//! [`lucarne_memory::settings`]; moving pages is the host's.

use lucarne_api::{
    Call, Problem,
    bodies::{
        NoQuery,
        memory::{EditMemory, HistoryQuery, MemoryHistory, MemoryOverview, ShownHostMemory, ShownMemory},
    },
    input::{Json, Nothing},
};
use lucarne_memory::settings::{Keeping, check_agreed};
use lucarne_model::{
    AccountId, Bytes, ErrorCode, HostId, InstanceId, Moment,
    instance::{Instance, InstanceState},
    memory::MemorySettings,
    memory_move::MoveCause,
    price::Prices,
};

use super::{attachments::wrong_state, checks::refuse, instances, migration, price_books};
use crate::{
    Caller, Controller,
    fleet::Fleet,
    records::{HostRecord, InstanceRecord},
    store::{Scope, Tx},
    workflow::effects::Plan,
};

/// How an instance of this size is kept, if it can be kept so.
pub(crate) fn keeping(settings: &MemorySettings, memory: Bytes) -> Result<Keeping, Problem> {
    Keeping::new(settings, memory).map_err(|error| refuse(error.to_string()))
}

/// As [`keeping`], where an owner asks for it: if its price book allows it too.
pub(crate) fn check(
    tx: &Tx<'_>,
    account: AccountId,
    settings: &MemorySettings,
    memory: Bytes,
) -> Result<Keeping, Problem> {
    check_agreed(settings, &price_books::prices(tx, account)?).map_err(|error| refuse(error.to_string()))?;
    keeping(settings, memory)
}

/// The settings that a host is told: the owner's, and what is agreed where it says nothing.
pub(crate) fn told(settings: MemorySettings, memory: Bytes, prices: &Prices) -> MemorySettings {
    Keeping::new(&settings, memory).map_or(settings, |keeping| keeping.agreed(prices).told(&settings))
}

pub(crate) async fn set_memory(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Json<EditMemory>>,
) -> Result<Json<Instance>, Problem> {
    let (scope, id, edit) = (call.caller.scope(), call.path.0, call.body.0);
    let fleet = controller.fleet.clone();
    let record = controller.change(&call, move |tx| set(tx, &fleet, (scope, id), &edit)).await?;
    controller.workflows.resume_at(id).await?;
    Ok(instances::show(controller, &call.caller, record))
}

fn set(
    tx: &mut Tx<'_>,
    fleet: &Fleet,
    (scope, id): (Scope, InstanceId),
    edit: &EditMemory,
) -> Result<InstanceRecord, Problem> {
    let mut record: InstanceRecord = tx.get(scope, id)?;
    if matches!(record.instance.state, InstanceState::ShuttingDown | InstanceState::Terminated) {
        return Err(wrong_state(id, record.instance.state, "pending, running, stopping or stopped"));
    }
    if record.coming_to().is_some() {
        let detail = format!("{id} is on its way to another host; set its memory when it is there");
        return Err(Problem::new(ErrorCode::IncorrectState, detail));
    }
    if edit.thresholds.is_some() && edit.automatic_thresholds {
        return Err(refuse("thresholds are either given or automatic"));
    }
    let Instance { account, memory_settings, memory, host, .. } = record.instance;
    let settings = edit.applied_to(memory_settings);
    let keeping = check(tx, account, &settings, memory)?;
    if let Some(host) = host
        && let Err(lack) = exchange_promise(tx, host, &mut record, &keeping)?
    {
        return move_for(tx, fleet, id, settings, &lack);
    }
    record.instance.memory_settings = settings;
    tx.put(&record)?;
    Ok(record)
}

/// What a host could not promise.
struct Lack {
    needed: Bytes,
    free: Bytes,
}

/// Puts a new promise in the place of the one that the instance has at its host, if there is room for it.
fn exchange_promise(
    tx: &mut Tx<'_>,
    host: HostId,
    record: &mut InstanceRecord,
    keeping: &Keeping,
) -> Result<Result<(), Lack>, Problem> {
    let mut there: HostRecord = tx.get(Scope::Everything, host)?;
    there.release(&record.promised());
    record.claimed = Some(there.claim(keeping).firm);
    let (needed, free) = (record.promised().memory, there.host.description.capacity.memory - there.host.used.memory);
    if needed > free {
        return Ok(Err(Lack { needed, free }));
    }
    there.promise(&record.promised());
    tx.put(&there)?;
    Ok(Ok(()))
}

/// Has the instance moved to a host that can keep it so. It is kept as before until it is there, and stays so if it cannot come.
fn move_for(
    tx: &mut Tx<'_>,
    fleet: &Fleet,
    id: InstanceId,
    settings: MemorySettings,
    Lack { needed, free }: &Lack,
) -> Result<InstanceRecord, Problem> {
    let plan = Plan { wished: None, cause: MoveCause::NewSettings, settings: Some(settings) };
    match migration::begin(tx, fleet, (Scope::Everything, id), plan) {
        Ok(_) => tx.get(Scope::Everything, id),
        Err(refusal) => {
            let detail = format!(
                "kept so it needs {needed} of its host, which has {free} left for it; and it cannot move: {}",
                refusal.detail
            );
            Err(Problem::new(ErrorCode::InsufficientInstanceCapacity, detail))
        }
    }
}

pub(crate) async fn get_memory(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Nothing>,
) -> Result<Json<ShownMemory>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let record = controller.store.read(move |tx| tx.get::<InstanceRecord>(scope, id)).await?;
    Ok(Json(shown(&controller.fleet, record.instance)))
}

fn shown(fleet: &Fleet, instance: Instance) -> ShownMemory {
    ShownMemory {
        actual: instance.host.and_then(|host| fleet.memory_of(host, instance.id)),
        instance: instance.id,
        account: instance.account,
        name: instance.tags.name().map(Into::into),
        memory: instance.memory,
        settings: instance.memory_settings,
    }
}

pub(crate) async fn list_memory(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Nothing>,
) -> Result<Json<MemoryOverview>, Problem> {
    let (scope, operator) = (call.caller.scope(), call.caller.operator);
    let read = move |tx: &Tx<'_>| {
        let hosts = if operator { tx.list::<HostRecord>(Scope::Everything)? } else { Vec::new() };
        Ok((hosts, tx.list::<InstanceRecord>(scope)?))
    };
    let (hosts, instances) = controller.store.read(read).await?;
    let fleet = &controller.fleet;
    let ended = |record: &InstanceRecord| record.instance.state == InstanceState::Terminated;
    Ok(Json(MemoryOverview {
        hosts: hosts.into_iter().filter_map(|record| shown_host(fleet, record)).collect(),
        instances: instances.into_iter().filter(|one| !ended(one)).map(|one| shown(fleet, one.instance)).collect(),
    }))
}

fn shown_host(fleet: &Fleet, record: HostRecord) -> Option<ShownHostMemory> {
    let host = record.host;
    Some(ShownHostMemory {
        memory: fleet.host_memory(host.id)?,
        host: host.id,
        name: host.description.name,
        claimed: host.used.memory,
        claimable: host.description.capacity.memory,
        oversubscription: host.description.oversubscription,
    })
}

pub(crate) async fn get_memory_history(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), HistoryQuery, Nothing>,
) -> Result<Json<MemoryHistory>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let record = controller.store.read(move |tx| tx.get::<InstanceRecord>(scope, id)).await?;
    let instance = record.instance.id;
    let points = controller.memory_histories.since(instance, call.query.since.unwrap_or(Moment::EPOCH));
    Ok(Json(MemoryHistory { instance, points }))
}
