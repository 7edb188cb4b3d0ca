//! Scaling groups: alike instances of a network, as many as they need to be.
//!
//! Owns what may be ordered, and the end of a group. How many there should be is decided in [`crate::scaling`]; [`settling`] looks
//! again and again, and launches and ends instances by the same services as users do.

pub(crate) mod settling;

use std::collections::BTreeSet;

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{
        ListQuery, NoQuery, Page,
        scaling_group::{CreateScalingGroup, DeleteScalingGroupQuery, EditScalingGroup},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, InstanceId, ScalingGroupId, SubnetId, VpcId,
    instance::InstanceState,
    network::Subnet,
    scaling::{ScalingCause, ScalingDecision, ScalingGroup},
};

use super::{
    checks::{check_name, check_tags, refuse},
    instances, launch, replicas,
};
use crate::{
    Caller, Controller,
    fleet::Fleet,
    random,
    records::InstanceRecord,
    scaling,
    scaling_records::ScalingGroupRecord,
    store::{Scope, Tx},
    workflow::engine,
};

/// Each is looked at every second.
const GROUPS_OF_AN_ACCOUNT: usize = 20;
const MOST_INSTANCES: u32 = 100;
const MOST_SUBNETS: usize = 16;
const DEFAULT_COOL_DOWN: u64 = 60;
const LONGEST_COOL_DOWN: u64 = 24 * 3600;

pub(crate) async fn create_scaling_group(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateScalingGroup>>,
) -> Result<Created<ScalingGroup>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    let group = controller.change(&call, move |tx| create(tx, account, request)).await?;
    engine::hold_at("scale.create.after").await;
    for instance in &group.instances {
        controller.workflows.resume_at(instance).await?;
    }
    Ok(Created(group))
}

/// With its first instances, or not at all.
fn create(tx: &mut Tx<'_>, account: AccountId, request: CreateScalingGroup) -> Result<ScalingGroup, Problem> {
    let CreateScalingGroup { name, subnets, template, min, max, target, cool_down_seconds, tags } = request;
    check_name(&name)?;
    check_tags(&tags)?;
    let vpc = network_of(tx, account, &subnets)?;
    let group = ScalingGroup {
        id: random::id(),
        account,
        name,
        vpc,
        subnets,
        template,
        min,
        max,
        target,
        cool_down_seconds: cool_down_seconds.unwrap_or(DEFAULT_COOL_DOWN),
        desired: min,
        instances: Vec::new(),
        changed: tx.now(),
        decisions: Vec::new(),
        value: None,
        waits: None,
        created: tx.now(),
        tags,
    };
    check_order(&group)?;
    for subnet in &group.subnets {
        launch::check(tx, account, &settling::request(&group, *subnet))?;
    }
    check_room(tx, &group)?;
    let mut record = ScalingGroupRecord::new(group);
    let launched = settling::launch(tx, &mut record, min)?;
    let (at, cause) = (tx.now(), ScalingCause::Bounds);
    record.note(ScalingDecision { at, from: 0, to: min, cause, launched, ended: Vec::new(), refused: None });
    tx.insert(&record)?;
    Ok(record.group)
}

/// The network that all of the subnets are of.
fn network_of(tx: &Tx<'_>, account: AccountId, subnets: &[SubnetId]) -> Result<VpcId, Problem> {
    let distinct: BTreeSet<_> = subnets.iter().collect();
    if !(1..=MOST_SUBNETS).contains(&subnets.len()) || distinct.len() != subnets.len() {
        return Err(refuse(format!("a scaling group has 1 to {MOST_SUBNETS} subnets, each once")));
    }
    let all = subnets.iter().map(|id| tx.get::<Subnet>(Scope::Account(account), id));
    let all = all.collect::<Result<Vec<_>, _>>()?;
    let vpc = all[0].vpc;
    match all.iter().find(|subnet| subnet.vpc != vpc) {
        Some(other) => Err(refuse(format!("{} belongs to {}, {} to {vpc}", other.id, other.vpc, all[0].id))),
        None => Ok(vpc),
    }
}

fn check_order(group: &ScalingGroup) -> Result<(), Problem> {
    let ScalingGroup { min, max, cool_down_seconds, .. } = group;
    if min > max || *max > MOST_INSTANCES {
        return Err(refuse(format!("min is {min} and max {max}; 0 to max, and at most {MOST_INSTANCES}")));
    }
    if *cool_down_seconds > LONGEST_COOL_DOWN {
        return Err(refuse(format!("cool_down_seconds is {cool_down_seconds}; it can be 0 to {LONGEST_COOL_DOWN}")));
    }
    Ok(())
}

/// Whether there may be another group, of this name.
fn check_room(tx: &Tx<'_>, group: &ScalingGroup) -> Result<(), Problem> {
    let all = tx.list::<ScalingGroupRecord>(Scope::Account(group.account))?;
    let same = |other: &&ScalingGroup| other.vpc == group.vpc && other.name == group.name;
    if let Some(other) = all.iter().map(|record| &record.group).find(same) {
        let detail = format!("{} is called `{}`; give another name, or delete that first", other.id, other.name);
        return Err(Problem::new(ErrorCode::ScalingGroupDuplicate, detail));
    }
    check_count(tx, group.account, 1)
}

/// Whether an account can have so many more.
pub(super) fn check_count(tx: &Tx<'_>, account: AccountId, more: usize) -> Result<(), Problem> {
    let has = tx.list::<ScalingGroupRecord>(Scope::Account(account))?.len();
    if more > 0 && has + more > GROUPS_OF_AN_ACCOUNT {
        let detail = format!(
            "an account can have {GROUPS_OF_AN_ACCOUNT} scaling groups; {has} are there, {more} more were asked for: delete \
             those that are not needed"
        );
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    Ok(())
}

pub(crate) async fn list_scaling_groups(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<ScalingGroup>>, Problem> {
    let (scope, query, fleet) = (call.caller.scope(), call.query, controller.fleet.clone());
    let page = move |tx: &Tx<'_>| tx.page_shown(scope, &query, |tx, record| shown(tx, &fleet, record));
    controller.store.read(page).await.map(Json)
}

pub(crate) async fn get_scaling_group(
    controller: &Controller,
    call: Call<Caller, (ScalingGroupId,), NoQuery, Nothing>,
) -> Result<Json<ScalingGroup>, Problem> {
    let (scope, id, fleet) = (call.caller.scope(), call.path.0, controller.fleet.clone());
    controller.store.read(move |tx| shown(tx, &fleet, tx.get(scope, id)?).map(Json)).await
}

/// With what follows from what hosts told last.
fn shown(tx: &Tx<'_>, fleet: &Fleet, record: ScalingGroupRecord) -> Result<ScalingGroup, Problem> {
    let members = settling::members(tx, fleet, &record.group)?;
    let waits = settling::decide(tx, &record, &members)?.waits;
    let value = scaling::average(&members, tx.now());
    Ok(ScalingGroup { value, waits, ..record.group })
}

pub(crate) async fn edit_scaling_group(
    controller: &Controller,
    call: Call<Caller, (ScalingGroupId,), NoQuery, Json<EditScalingGroup>>,
) -> Result<Json<ScalingGroup>, Problem> {
    let (scope, id, edit) = (call.caller.scope(), call.path.0, call.body.0.clone());
    let change = move |tx: &mut Tx<'_>| {
        let mut record: ScalingGroupRecord = tx.get(scope, id)?;
        let group = &mut record.group;
        let EditScalingGroup { min, max, target, cool_down_seconds } = edit;
        group.min = min.unwrap_or(group.min);
        group.max = max.unwrap_or(group.max);
        group.target = target.unwrap_or(group.target);
        group.cool_down_seconds = cool_down_seconds.unwrap_or(group.cool_down_seconds);
        check_order(group)?;
        tx.put(&record)?;
        Ok(record.group)
    };
    controller.change(&call, change).await.map(Json)
}

pub(crate) async fn delete_scaling_group(
    controller: &Controller,
    call: Call<Caller, (ScalingGroupId,), DeleteScalingGroupQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id, force) = (call.caller.scope(), call.path.0, call.query.force.unwrap_or(false));
    let ending = controller.change(&call, move |tx| delete(tx, scope, id, force)).await?;
    for instance in ending {
        controller.workflows.resume_at(instance).await?;
    }
    Ok(Done)
}

/// Gives the instances whose end has begun with it.
fn delete(tx: &mut Tx<'_>, scope: Scope, id: ScalingGroupId, force: bool) -> Result<Vec<InstanceId>, Problem> {
    let record: ScalingGroupRecord = tx.get(scope, id)?;
    let mut ending = Vec::new();
    for instance in &record.group.instances {
        let found = tx.find::<InstanceRecord>(Scope::Everything, instance)?;
        if found.is_some_and(|found| found.instance.state != InstanceState::Terminated) {
            ending.push(*instance);
        }
    }
    if !ending.is_empty() && !force {
        let detail = format!(
            "{id} has {} instances; delete it with `--force`, which terminates them, or set min and max to 0 before",
            ending.len()
        );
        return Err(Problem::new(ErrorCode::DependencyViolation, detail));
    }
    for instance in &ending {
        replicas::check_free(tx, *instance)?;
        instances::terminate(tx, scope, *instance)?;
    }
    tx.delete(&record)?;
    Ok(ending)
}

/// Takes away all groups of a network that ends, with which their instances end.
pub(crate) fn end_with(tx: &mut Tx<'_>, vpc: VpcId) -> Result<(), Problem> {
    tx.referring::<ScalingGroupRecord>(Scope::Everything, vpc)?.iter().try_for_each(|record| tx.delete(record))
}
