//! What the controller does by the clock: notes which hosts fell silent or came back, and tells whom it concerns; has idle
//! memory lent and instances moved to where there is some, brings scaling groups to their size, asks hosts to prove their TPMs, ends mitigations,
//! recordings and replicas whose time is over, and forgets what is long over.
//!
//! Owns the rounds and how long ended instances are shown.

use std::{fmt::Display, sync::Arc, time::Duration};

use lucarne_api::Problem;
use lucarne_model::{
    AccountId, ErrorCode, Event, EventKind, HostId,
    actual::HostState,
    instance::{Instance, InstanceState},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Controller, lending, moves,
    records::{HostRecord, InstanceRecord, JobRecord},
    services::{self, judgements},
    store::{Scope, Tx},
};

const HOSTS_EVERY: Duration = Duration::from_secs(1);
/// How often what instances hold is charged.
const METER_EVERY: Duration = Duration::from_secs(10);
/// How often hosts whose TPM has not proved its keys are asked again.
const ASK_EVERY: Duration = Duration::from_secs(10);
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// How long a terminated instance and its jobs are still shown.
const SHOW_ENDED: Duration = Duration::from_secs(3600);
/// How long an event is shown, if not so many come after it that it goes before.
const KEEP_EVENTS: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long the answer to a request with an idempotency key is kept.
const REMEMBER_REQUESTS: Duration = Duration::from_secs(24 * 3600);

/// Makes the rounds until `shutdown`. A round that fails is logged, and made again at its next time.
pub(crate) async fn run(controller: Arc<Controller>, shutdown: CancellationToken) {
    let mut hosts = tokio::time::interval(HOSTS_EVERY);
    let mut meter = tokio::time::interval(METER_EVERY);
    let mut forget = tokio::time::interval(FORGET_EVERY);
    let mut ask = tokio::time::interval(ASK_EVERY);
    loop {
        let round = tokio::select! {
            () = shutdown.cancelled() => return,
            _ = hosts.tick() => look_at_hosts(&controller).await,
            _ = meter.tick() => services::usage::meter(&controller).await,
            _ = ask.tick() => services::tpms::ask_all(&controller).await,
            _ = forget.tick() => {
                controller.memory_histories.forget(crate::clock::now());
                match controller.store.write(forget_ended).await {
                    Ok(()) => services::tpms::look_again(&controller).await,
                    failed => failed,
                }
            }
        };
        if let Err(problem) = round {
            tracing::warn!(%problem, "a round of upkeep failed");
        }
    }
}

async fn look_at_hosts(controller: &Controller) -> Result<(), Problem> {
    note_hosts(controller).await?;
    lending::settle(controller).await?;
    moves::settle(controller).await?;
    services::mitigations::end_expired(controller).await?;
    services::scaling_groups::settling::settle(controller).await?;
    services::replays::end_lost(controller).await?;
    services::loads::end_lost(controller).await?;
    services::recordings::end_expired(controller).await?;
    services::replicas::end_expired(controller).await
}

/// Brings the state that is kept of each host up to what is heard of it.
async fn note_hosts(controller: &Controller) -> Result<(), Problem> {
    let fleet = controller.fleet.clone();
    let changed = move |tx: &Tx<'_>| {
        let is = |record: &HostRecord| fleet.state(record.host.id, record.draining, tx.now());
        let hosts = tx.list::<HostRecord>(Scope::Everything)?;
        let changed = hosts.into_iter().filter(|record| is(record) != record.host.state);
        Ok(changed.map(|record| (record.host.id, is(&record))).collect::<Vec<(HostId, HostState)>>())
    };
    let changed = controller.store.read(changed).await?;
    if changed.is_empty() {
        return Ok(());
    }
    controller.store.write(move |tx| changed.into_iter().try_for_each(|(host, state)| note_host(tx, host, state))).await
}

fn note_host(tx: &mut Tx<'_>, host: HostId, state: HostState) -> Result<(), Problem> {
    let mut record: HostRecord = tx.get(Scope::Everything, host)?;
    tracing::info!(%host, name = record.host.description.name, ?state, "a host's state changed");
    let happened = happened(record.host.state, state);
    record.host.state = state;
    tx.put(&record)?;
    let name = &record.host.description.name;
    if let Some(kind) = happened {
        tell(tx, AccountId::OPERATOR, kind, host, &format!("host {name}"))?;
    }
    // Workflows wait for what their host says, or for its silence.
    for placed in tx.referring::<InstanceRecord>(Scope::Everything, host)? {
        let Instance { id, account, host: own, state, .. } = placed.instance;
        tx.touch(id);
        // A tenant is told of the instance, and not which machine its host is.
        if let Some(kind) = happened.filter(|_| own == Some(host) && state != InstanceState::Terminated) {
            tell(tx, account, kind, id, "the instance's host")?;
        }
    }
    Ok(())
}

/// What a change of a host's state is to those who have something there.
const fn happened(before: HostState, now: HostState) -> Option<EventKind> {
    match (before, now) {
        (HostState::Down, HostState::Down) => None,
        (_, HostState::Down) => Some(EventKind::HostLost),
        (HostState::Down, _) => Some(EventKind::HostBack),
        _ => None,
    }
}

fn tell(
    tx: &mut Tx<'_>,
    account: AccountId,
    kind: EventKind,
    resource: impl Display,
    who: &str,
) -> Result<(), Problem> {
    let (code, message) = match kind {
        EventKind::HostLost => {
            (Some(ErrorCode::HostUnreachable), format!("{who} does not answer; what is shown is what was last known"))
        }
        _ => (None, format!("{who} answers again")),
    };
    tx.note_event(Event { at: tx.now(), account, kind, resource: resource.to_string(), code, message })
}

/// An instance that still has a host is kept: that host has yet to confirm that nothing of it is left.
fn forget_ended(tx: &mut Tx<'_>) -> Result<(), Problem> {
    let now = tx.now();
    let over = |record: &InstanceRecord| {
        let instance = &record.instance;
        instance.state == InstanceState::Terminated
            && instance.host.is_none()
            && now.since(instance.changed) > SHOW_ENDED
    };
    for record in tx.list::<InstanceRecord>(Scope::Everything)?.into_iter().filter(over) {
        let jobs = tx.referring::<JobRecord>(Scope::Everything, record.instance.id)?;
        if jobs.iter().all(JobRecord::is_finished) {
            jobs.iter().try_for_each(|job| tx.delete(job))?;
            judgements::forget(tx, record.instance.id)?;
            tx.delete(&record)?;
        }
    }
    services::replicas::forget_ended(tx, Scope::Everything, SHOW_ENDED)?;
    tx.forget_events_before(now.minus(KEEP_EVENTS))?;
    tx.forget_requests_before(now.minus(REMEMBER_REQUESTS))
}
