//! Instances that move by themselves, to where there is memory for them.
//!
//! Owns the round in which the wishes of all hosts are looked at. Which move is made is decided in the room `memory`
//! ([`lucarne_memory::moves`]); the move is the same workflow as one that somebody asks for, and as durable. Hosts wish again
//! what still holds, so nothing is queued here.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use lucarne_api::{Problem, bodies::instance::JobKind};
use lucarne_memory::moves::{Lodger, Move, Moves, Standing};
use lucarne_model::{
    HostId, InstanceId, Moment, Pages, actual::HostState, instance::InstanceState, memory::MemoryMode,
};

use crate::{
    Controller,
    fleet::Fleet,
    records::{HostRecord, InstanceRecord, JobRecord},
    services::migration,
    store::{Scope, Tx},
    workflow::effects::{self, Plan},
};

#[derive(Debug, Default)]
pub(crate) struct Mover(Mutex<Moves>);

impl Mover {
    fn step(&self, now: Moment, hosts: &[Standing], lodgers: &[Lodger]) -> Vec<Move> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).step(now, hosts, lodgers)
    }
}

/// One round: what helps is begun.
pub(crate) async fn settle(controller: &Controller) -> Result<(), Problem> {
    if !controller.fleet.anybody_wishes() {
        return Ok(());
    }
    let fleet = controller.fleet.clone();
    let (hosts, lodgers) = controller.store.read(move |tx| look(tx, &fleet)).await?;
    for one in controller.mover.step(crate::clock::now(), &hosts, &lodgers) {
        begin(controller, one).await?;
    }
    Ok(())
}

/// A move that is refused after all is no failure of the round: what it was decided on has changed since.
async fn begin(controller: &Controller, Move { instance, from, to, cause }: Move) -> Result<(), Problem> {
    let fleet = controller.fleet.clone();
    let plan = Plan { wished: Some(to), cause, settings: None };
    let begun =
        controller.store.write(move |tx| migration::begin(tx, &fleet, (Scope::Everything, instance), plan)).await;
    match begun {
        Ok(job) => tracing::info!(%instance, %from, %to, ?cause, job = %job.id, "an instance moves by itself"),
        Err(problem) => tracing::warn!(%instance, %from, %to, ?cause, %problem, "an instance does not move by itself"),
    }
    controller.workflows.resume_at(instance).await
}

/// All hosts that are up, and the instances of those that wish anything; nothing while none does.
fn look(tx: &Tx<'_>, fleet: &Fleet) -> Result<(Vec<Standing>, Vec<Lodger>), Problem> {
    let up = |host: &HostRecord| fleet.state(host.host.id, host.draining, tx.now()) != HostState::Down;
    let up: Vec<HostId> = tx.with_all(|hosts: Vec<&HostRecord>| {
        hosts.into_iter().filter(|host| up(host)).map(|host| host.host.id).collect()
    })?;
    let wishing: BTreeSet<HostId> = up.iter().copied().filter(|host| !fleet.wishes(*host).is_empty()).collect();
    if wishing.is_empty() {
        return Ok(Default::default());
    }
    let mut lodgers = Vec::new();
    for host in &wishing {
        for record in tx.referring::<InstanceRecord>(Scope::Everything, host)? {
            if record.instance.host == Some(*host) && record.instance.state == InstanceState::Running {
                lodgers.push(lodger(tx, fleet, *host, &record)?);
            }
        }
    }
    let hosts = up.into_iter().map(|host| standing(tx, fleet, host)).collect::<Result<Vec<_>, _>>()?;
    Ok((hosts.into_iter().flatten().collect(), lodgers))
}

/// None of a host that has not told of its memory yet.
fn standing(tx: &Tx<'_>, fleet: &Fleet, host: HostId) -> Result<Option<Standing>, Problem> {
    let Some(memory) = fleet.host_memory(host) else { return Ok(None) };
    let here = tx.referring::<InstanceRecord>(Scope::Everything, host)?;
    let busy = here.iter().any(|record| record.passage.is_some());
    let free = Pages(memory.free.0 / Pages::SIZE);
    Ok(Some(Standing { host, free, wishes: fleet.wishes(host), busy }))
}

fn lodger(tx: &Tx<'_>, fleet: &Fleet, host: HostId, record: &InstanceRecord) -> Result<Lodger, Problem> {
    let settings = record.instance.memory_settings;
    let claim = match settings.mode {
        MemoryMode::Generic => Pages::covering(record.promised().memory),
        MemoryMode::Soaker => Pages::ZERO,
    };
    let can_move = migration::check(tx, fleet, record).is_ok();
    Ok(Lodger {
        instance: record.instance.id,
        host,
        claim,
        pinned: settings.pinned,
        cost: effects::pages_that_go(fleet, record) + Pages::covering(effects::disk_of(tx, record)?),
        tried: tried(tx, record.instance.id)?,
        ways: if can_move { effects::ways(tx, fleet, record)? } else { BTreeSet::new() },
    })
}

/// When the instance was moved last, or was to be.
fn tried(tx: &Tx<'_>, instance: InstanceId) -> Result<Option<Moment>, Problem> {
    let jobs = tx.referring::<JobRecord>(Scope::Everything, instance)?;
    Ok(jobs.into_iter().filter(|job| job.job.kind == JobKind::Migrate).map(|job| job.job.changed).max())
}
