//! Instances: launched, shown, stopped, started, rebooted and terminated.
//!
//! Owns in which state each may be asked. Launch and terminate go on as workflows; the others are a wish in the record that
//! the host carries out and its report settles.

use lucarne_api::{
    Call, Problem,
    answer::Created,
    bodies::{
        ListQuery, NoQuery, Page,
        instance::{JobKind, LaunchInstances, Launched, StopInstance},
        replica::EndSourceQuery,
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    ErrorCode, InstanceId, Moment,
    instance::{Instance, InstanceState, StateReason},
};

use super::{attachments::wrong_state, attest_policies, attestations, launch, replicas, shown};
use crate::{
    Caller, Controller, random,
    records::InstanceRecord,
    store::{Scope, Tx},
    workflow::{engine, steps},
};

pub(crate) async fn launch_instances(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<LaunchInstances>>,
) -> Result<Created<Launched>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    let launched = controller.change(&call, move |tx| launch::admit(tx, account, &request)).await?;
    engine::hold_at("launch.admit.after").await;
    launched.jobs.iter().for_each(|job| controller.workflows.follow(*job));
    Ok(Created(launched))
}

pub(crate) async fn list_instances(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Instance>>, Problem> {
    let (scope, query, caller, fleet) = (call.caller.scope(), call.query, call.caller, controller.fleet.clone());
    let show = move |tx: &Tx<'_>, record| Ok(shown::instance(&caller, &fleet, record, tx.now()));
    controller.store.read(move |tx| tx.page_shown(scope, &query, show)).await.map(Json)
}

pub(crate) async fn get_instance(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Nothing>,
) -> Result<Json<Instance>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let record = controller.store.read(move |tx| tx.get::<InstanceRecord>(scope, id)).await?;
    Ok(show(controller, &call.caller, record))
}

pub(super) fn show(controller: &Controller, caller: &Caller, record: InstanceRecord) -> Json<Instance> {
    Json(shown::instance(caller, &controller.fleet, record, crate::clock::now()))
}

pub(crate) async fn terminate_instance(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), EndSourceQuery, Nothing>,
) -> Result<Json<Instance>, Problem> {
    let (scope, id, deepens) = (call.caller.scope(), call.path.0, call.query.deepen_duplicates == Some(true));
    let end = move |tx: &mut Tx<'_>| {
        let record: InstanceRecord = tx.get(scope, id)?;
        if !deepens {
            replicas::check_free(tx, id)?;
        }
        let drawing = replicas::deepening::begin_for(tx, id)?;
        let record = if drawing.is_empty() { terminate(tx, scope, id)? } else { terminate_later(tx, record)? };
        Ok((record, drawing))
    };
    let (record, deepening) = controller.change(&call, end).await?;
    controller.workflows.resume_at_all(&deepening).await?;
    controller.workflows.resume_at(id).await?;
    Ok(show(controller, &call.caller, record))
}

/// An instance that is ending or ended stays as it is: to ask again is no error.
pub(crate) fn terminate(tx: &mut Tx<'_>, scope: Scope, id: InstanceId) -> Result<InstanceRecord, Problem> {
    let mut record: InstanceRecord = tx.get(scope, id)?;
    if matches!(record.instance.state, InstanceState::ShuttingDown | InstanceState::Terminated) {
        return Ok(record);
    }
    if let Some(mut launch) = engine::unfinished(tx, id)? {
        let message = "it was terminated while it was being launched".into();
        steps::turn_round(&mut launch, StateReason { code: ErrorCode::IncorrectState, message }, tx.now());
        tx.put(&launch)?;
        return Ok(record);
    }
    enter(&mut record, InstanceState::ShuttingDown, tx.now());
    tx.put(&record)?;
    if engine::ends_after_duplicates(tx, id)? {
        return Ok(record);
    }
    engine::begin(tx, JobKind::Terminate, &record, random::id())?;
    Ok(record)
}

/// Once no duplicate draws on it any more.
fn terminate_later(tx: &mut Tx<'_>, record: InstanceRecord) -> Result<InstanceRecord, Problem> {
    let ends = matches!(record.instance.state, InstanceState::ShuttingDown | InstanceState::Terminated);
    if !ends && !engine::ends_after_duplicates(tx, record.instance.id)? {
        engine::begin_end_after_duplicates(tx, &record, random::id())?;
    }
    Ok(record)
}

fn enter(record: &mut InstanceRecord, state: InstanceState, now: Moment) {
    record.instance.state = state;
    record.instance.state_reason = None;
    record.instance.changed = now;
}

pub(crate) async fn stop_instance(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Json<StopInstance>>,
) -> Result<Json<Instance>, Problem> {
    let (scope, id, force) = (call.caller.scope(), call.path.0, call.body.0.force);
    let stop = move |tx: &mut Tx<'_>| {
        let mut record: InstanceRecord = tx.get(scope, id)?;
        match record.instance.state {
            InstanceState::Stopped => return Ok(record),
            // A guest that takes its time may still be stopped by force.
            InstanceState::Stopping => record.forced |= force,
            InstanceState::Running => {
                record.forced = force;
                enter(&mut record, InstanceState::Stopping, tx.now());
            }
            other => return Err(wrong_state(id, other, "running")),
        }
        tx.put(&record)?;
        Ok(record)
    };
    let record = controller.change(&call, stop).await?;
    Ok(show(controller, &call.caller, record))
}

pub(crate) async fn start_instance(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Nothing>,
) -> Result<Json<Instance>, Problem> {
    begin_next_generation(controller, call, InstanceState::Stopped).await
}

pub(crate) async fn reboot_instance(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Nothing>,
) -> Result<Json<Instance>, Problem> {
    begin_next_generation(controller, call, InstanceState::Running).await
}

/// Asks the host for another start of the instance, which must be in the state `from`.
async fn begin_next_generation(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Nothing>,
    from: InstanceState,
) -> Result<Json<Instance>, Problem> {
    let (scope, id, fleet) = (call.caller.scope(), call.path.0, controller.fleet.clone());
    let begin = move |tx: &mut Tx<'_>| {
        let mut record: InstanceRecord = tx.get(scope, id)?;
        if record.instance.state != from {
            return Err(wrong_state(id, record.instance.state, &from.to_string()));
        }
        if record.instance.host.is_some_and(|host| fleet.is_down(host, tx.now())) {
            let detail = format!("the host of {id} does not answer; try again when it is back");
            return Err(Problem::new(ErrorCode::HostUnreachable, detail));
        }
        start_again(tx, &mut record)?;
        Ok(record)
    };
    let record = controller.change(&call, begin).await?;
    Ok(show(controller, &call.caller, record))
}

/// Wants another start of the instance.
pub(super) fn start_again(tx: &mut Tx<'_>, record: &mut InstanceRecord) -> Result<(), Problem> {
    attest_policies::check_start(tx, &record.instance)?;
    record.instance.generation += 1;
    attestations::begin_again(&mut record.instance, tx.now());
    enter(record, InstanceState::Pending, tx.now());
    tx.put(record)
}
