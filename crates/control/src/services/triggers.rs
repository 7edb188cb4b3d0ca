//! Triggers: standing orders to duplicate and record a network when something happens to it.
//!
//! Owns what may be ordered. Whether one fires is decided in the room `replica`; [`firing`] looks again and again and has it made, by
//! the same services as users do.

mod figures;
pub(crate) mod firing;

use std::time::Duration;

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{ListQuery, NoQuery, Page, trigger::CreateTrigger},
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, TriggerId,
    trigger::{FiringLimit, Trigger, TriggerOn, TriggerOrder},
};
use lucarne_replica::trigger::Watch;

use super::{
    checks::{check_name, check_tags, refuse},
    recordings, replicas,
};
use crate::{
    Caller, Controller, random,
    store::{Scope, Tx},
    trigger_records::TriggerRecord,
};

/// Each is looked at every few seconds, and may ask the collector.
const TRIGGERS_OF_AN_ACCOUNT: usize = 20;
const MOST_FIRINGS: u32 = 100;

pub(crate) async fn create_trigger(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateTrigger>>,
) -> Result<Created<Trigger>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    controller.change(&call, move |tx| create(tx, account, request)).await.map(Created)
}

fn create(tx: &mut Tx<'_>, account: AccountId, request: CreateTrigger) -> Result<Trigger, Problem> {
    let CreateTrigger { name, vpc, on, order, limit, tags } = request;
    check_name(&name)?;
    check_tags(&tags)?;
    replicas::plan(tx, account, vpc, &order.terms)?;
    check_order(&order)?;
    let limit = limit.unwrap_or_default();
    check_limit(limit)?;
    let all = tx.list::<TriggerRecord>(Scope::Account(account))?;
    if let Some(other) = all.iter().find(|record| record.trigger.name == name) {
        let detail = format!("{} is called `{name}`; give another name, or delete that first", other.trigger.id);
        return Err(Problem::new(ErrorCode::TriggerDuplicate, detail));
    }
    if all.len() >= TRIGGERS_OF_AN_ACCOUNT {
        let detail = format!("an account can have {TRIGGERS_OF_AN_ACCOUNT} triggers");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    let watch = Watch::new(on, tx.now());
    let trigger = Trigger {
        id: random::id(),
        account,
        name,
        vpc,
        on,
        order,
        limit,
        made: 0,
        not_made: 0,
        firings: Vec::new(),
        due: watch.due(),
        created: tx.now(),
        tags,
    };
    tx.insert(&TriggerRecord { trigger: trigger.clone(), watch })?;
    Ok(trigger)
}

fn check_order(order: &TriggerOrder) -> Result<(), Problem> {
    let spans = [
        ("record_seconds", order.record_seconds, recordings::LONGEST),
        ("lasts_seconds", order.lasts_seconds, replicas::LONGEST),
    ];
    for (name, seconds, longest) in spans {
        if seconds.is_some_and(|seconds| !(1..=longest.as_secs()).contains(&seconds)) {
            return Err(refuse(format!("{name} is 1 to {}", longest.as_secs())));
        }
    }
    Ok(())
}

fn check_limit(limit: FiringLimit) -> Result<(), Problem> {
    let FiringLimit { most, seconds } = limit;
    if !(1..=MOST_FIRINGS).contains(&most) || !(1..=TriggerOn::LONGEST).contains(&seconds) {
        let days = Duration::from_secs(TriggerOn::LONGEST).as_secs() / (24 * 3600);
        return Err(refuse(format!("a trigger makes something 1 to {MOST_FIRINGS} times in a second to {days} days")));
    }
    Ok(())
}

pub(crate) async fn list_triggers(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Trigger>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    let show = |_: &Tx<'_>, record: TriggerRecord| Ok(record.trigger);
    controller.store.read(move |tx| tx.page_shown(scope, &query, show)).await.map(Json)
}

pub(crate) async fn get_trigger(
    controller: &Controller,
    call: Call<Caller, (TriggerId,), NoQuery, Nothing>,
) -> Result<Json<Trigger>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id).map(|record: TriggerRecord| Json(record.trigger))).await
}

pub(crate) async fn delete_trigger(
    controller: &Controller,
    call: Call<Caller, (TriggerId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let record: TriggerRecord = tx.get(scope, id)?;
        tx.delete(&record)
    };
    controller.change(&call, delete).await.map(|()| Done)
}
