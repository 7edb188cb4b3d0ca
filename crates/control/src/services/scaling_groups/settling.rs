//! The rounds in which scaling groups are looked at, and what is done with what was decided.
//!
//! Owns the transaction: what was decided, the launches, the ends and the group's record are kept together or not at all, so that
//! nothing is launched twice and no instance is lost however often the controller is killed. The jobs of launches and ends are taken
//! up again like any others.

use std::collections::BTreeMap;

use lucarne_api::{Problem, bodies::instance::LaunchInstances};
use lucarne_model::{
    ErrorCode, Event, EventKind, InstanceId, ScalingGroupId, SubnetId,
    instance::{Instance, InstanceState, Placement, PlacementStrategy, StateReason},
    replication::ReplicaState,
    scaling::{LaunchTemplate, ScalingCause, ScalingDecision, ScalingGroup, ScalingWait},
};

use super::super::{instances, launch as launching, replicas};
use crate::{
    Controller,
    fleet::Fleet,
    records::InstanceRecord,
    replica_records::ReplicaRecord,
    scaling::{self, Life, Member, Plan, Sample},
    scaling_records::ScalingGroupRecord,
    store::{Scope, Tx},
    workflow::engine,
};

const ALL: Scope = Scope::Everything;

/// One round over all groups. What fails of one is logged, and tried again at the next.
pub(crate) async fn settle(controller: &Controller) -> Result<(), Problem> {
    let fleet = controller.fleet.clone();
    let due = move |tx: &Tx<'_>| {
        let mut due = Vec::new();
        for record in tx.list::<ScalingGroupRecord>(ALL)? {
            if !look(tx, &fleet, &record)?.is_idle() {
                due.push(record.group.id);
            }
        }
        Ok(due)
    };
    for group in controller.store.read(due).await? {
        if let Err(problem) = step(controller, group).await {
            tracing::warn!(%group, %problem, "a scaling group could not be brought to its size; it is at the next round");
        }
    }
    Ok(())
}

async fn step(controller: &Controller, id: ScalingGroupId) -> Result<(), Problem> {
    let fleet = controller.fleet.clone();
    match controller.store.write(move |tx| carry_out(tx, &fleet, id)).await {
        Ok(changed) => {
            engine::hold_at("scale.decide.after").await;
            for instance in changed {
                controller.workflows.resume_at(instance).await?;
            }
            Ok(())
        }
        Err(problem) if is_of_the_store(problem.code) => Err(problem),
        Err(problem) => {
            let fleet = controller.fleet.clone();
            controller.store.write(move |tx| note_refusal(tx, &fleet, id, problem)).await
        }
    }
}

/// What says nothing of the group: it is tried again.
const fn is_of_the_store(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::StoreUnavailable | ErrorCode::DiskFull | ErrorCode::Internal)
}

fn look(tx: &Tx<'_>, fleet: &Fleet, record: &ScalingGroupRecord) -> Result<Plan, Problem> {
    let members = members(tx, fleet, &record.group)?;
    decide(tx, record, &members)
}

/// What is to be done with the group now. Nothing, while its network is itself being made or ended.
pub(super) fn decide(tx: &Tx<'_>, record: &ScalingGroupRecord, members: &[Member]) -> Result<Plan, Problem> {
    let vpc = record.group.vpc;
    let passing = |state| matches!(state, ReplicaState::Preparing | ReplicaState::Deleting);
    let replicas = tx.referring::<ReplicaRecord>(ALL, vpc)?;
    if replicas.iter().any(|one| one.replica.vpc == vpc && passing(one.replica.state)) {
        return Ok(Plan { waits: Some(ScalingWait::Network), ..Plan::default() });
    }
    Ok(scaling::decide(&record.order(), &record.course(), members, tx.now()))
}

/// The group's instances as they are now, and as hosts told of them last.
pub(super) fn members(tx: &Tx<'_>, fleet: &Fleet, group: &ScalingGroup) -> Result<Vec<Member>, Problem> {
    let mut members = Vec::with_capacity(group.instances.len());
    for id in &group.instances {
        let instance = tx.find::<InstanceRecord>(ALL, id)?.map(|record| record.instance);
        let told = instance.as_ref().and_then(|instance| fleet.figures(instance.host?, *id));
        let sample = told.and_then(|(at, figures)| Some(Sample { at, figure: group.target.metric.of(&figures)? }));
        members.push(Member {
            instance: *id,
            life: instance.as_ref().map_or(Life::Gone { launch_failed: false }, life),
            launched: instance.map_or(group.created, |instance| instance.launched),
            may_end: replicas::check_free(tx, *id).is_ok(),
            sample,
        });
    }
    Ok(members)
}

fn life(instance: &Instance) -> Life {
    match instance.state {
        InstanceState::Pending | InstanceState::AwaitingApproval | InstanceState::Stopping => Life::Coming,
        InstanceState::Running => Life::Runs,
        InstanceState::Stopped => Life::Stopped,
        InstanceState::ShuttingDown => Life::Gone { launch_failed: false },
        InstanceState::Terminated => Life::Gone { launch_failed: instance.state_reason.is_some() },
    }
}

/// Does what is decided now, and gives the instances that something was begun with.
fn carry_out(tx: &mut Tx<'_>, fleet: &Fleet, id: ScalingGroupId) -> Result<Vec<InstanceId>, Problem> {
    // It may have been deleted since it was read.
    let Some(mut record) = tx.find::<ScalingGroupRecord>(ALL, id)? else { return Ok(Vec::new()) };
    let plan = look(tx, fleet, &record)?;
    for ended in &plan.end {
        instances::terminate(tx, ALL, *ended)?;
        record.group.changed = tx.now();
    }
    record.group.instances.retain(|one| !plan.gone.contains(one) && !plan.end.contains(one));
    if plan.settled {
        record.failures = 0;
    }
    if plan.failures > 0 {
        (record.failures, record.failed) = (record.failures.saturating_add(plan.failures), tx.now());
    }
    let launched = launch(tx, &mut record, plan.launch)?;
    let changed = launched.iter().chain(&plan.end).copied().collect();
    if let Some((to, cause)) = plan.change {
        let (at, from, ended) = (tx.now(), record.group.desired, plan.end);
        tracing::info!(group = %id, from, to, ?cause, ?launched, ?ended, "a scaling group changes");
        let decision = ScalingDecision { at, from, to, cause, launched, ended, refused: None };
        tell(tx, &record.group, &decision)?;
        record.note(decision);
        record.group.desired = to;
    }
    tx.put(&record)?;
    Ok(changed)
}

/// Launches so many as users would, each into the subnet that has the fewest of the group.
pub(super) fn launch(tx: &mut Tx<'_>, record: &mut ScalingGroupRecord, count: u32) -> Result<Vec<InstanceId>, Problem> {
    let group = &mut record.group;
    let mut of_subnets: BTreeMap<SubnetId, usize> = BTreeMap::new();
    for id in &group.instances {
        let subnet = tx.find::<InstanceRecord>(ALL, id)?.map(|record| record.instance.subnet);
        subnet.into_iter().for_each(|subnet| *of_subnets.entry(subnet).or_default() += 1);
    }
    let mut launched = Vec::new();
    for _ in 0..count {
        let fewest = group.subnets.iter().min_by_key(|subnet| of_subnets.get(subnet).copied().unwrap_or_default());
        let Some(subnet) = fewest.copied() else { break };
        let made = launching::admit(tx, group.account, &request(group, subnet))?;
        launched.extend(made.instances.iter().map(|instance| instance.id));
        *of_subnets.entry(subnet).or_default() += 1;
    }
    group.instances.extend(&launched);
    if !launched.is_empty() {
        group.changed = tx.now();
    }
    Ok(launched)
}

/// A launch by the group's template, on another host than the group's others if that can be.
pub(super) fn request(group: &ScalingGroup, subnet: SubnetId) -> LaunchInstances {
    let LaunchTemplate { image, vcpus, memory, memory_settings, security_groups, user_data, cold, mut tags } =
        group.template.clone();
    tags.0.insert(ScalingGroup::TAG.to_owned(), group.id.to_string());
    LaunchInstances {
        image,
        subnet,
        memory,
        memory_settings,
        vcpus,
        count: None,
        security_groups,
        address: None,
        user_data,
        cold,
        virtual_tpm: false,
        attestation: None,
        volumes: Vec::new(),
        placement: Placement { host: None, strategy: PlacementStrategy::Spread, group: Some(group.id.to_string()) },
        tags,
    }
}

/// Remembers that nothing could be launched, and why: another launch is tried later.
fn note_refusal(tx: &mut Tx<'_>, fleet: &Fleet, id: ScalingGroupId, problem: Problem) -> Result<(), Problem> {
    let Some(mut record) = tx.find::<ScalingGroupRecord>(ALL, id)? else { return Ok(()) };
    let Some((to, cause)) = look(tx, fleet, &record)?.change else { return Ok(()) };
    tracing::info!(group = %id, to, ?cause, %problem, "a scaling group cannot launch what it needs");
    (record.failures, record.failed) = (record.failures.saturating_add(1), tx.now());
    let (at, from) = (tx.now(), record.group.desired);
    let refused = Some(StateReason { code: problem.code, message: problem.detail });
    let decision = ScalingDecision { at, from, to, cause, launched: Vec::new(), ended: Vec::new(), refused };
    if record.note(decision.clone()) {
        tell(tx, &record.group, &decision)?;
    }
    record.group.desired = to;
    tx.put(&record)
}

/// Tells the account, and with it whoever records the network, what became of the group by itself.
fn tell(tx: &mut Tx<'_>, group: &ScalingGroup, decision: &ScalingDecision) -> Result<(), Problem> {
    let ScalingDecision { at, from, to, cause, launched, ended, refused } = decision;
    let why = match cause {
        ScalingCause::Bounds => "its bounds are others".to_owned(),
        ScalingCause::Figure { value, target } => format!("each has {value} on the average, and is to have {target}"),
        ScalingCause::Replacement { instances } => format!("{} do not run any more", listed(instances)),
        ScalingCause::Unfinished => "it had fewer or more than it should".to_owned(),
    };
    let size = format!("scaling group {}: {from} to {to} instances, because {why}", group.name);
    let (kind, code, message) = match refused {
        Some(reason) => {
            let message = format!("{size}; they cannot be launched: {}", reason.message);
            (EventKind::ScalingGroupRefused, Some(reason.code), message)
        }
        None => {
            let message = format!("{size}; launched: {}; ended: {}", listed(launched), listed(ended));
            (EventKind::ScalingGroupChanged, None, message)
        }
    };
    tx.note_event(Event { at: *at, account: group.account, kind, resource: group.id.to_string(), code, message })
}

fn listed(instances: &[InstanceId]) -> String {
    let all: Vec<String> = instances.iter().map(ToString::to_string).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}
