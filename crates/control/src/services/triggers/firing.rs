//! The rounds in which triggers are looked at, and what happens when one fires.
//!
//! Owns the transaction: what was decided, the replica's records and the recording are kept together or not at all, so that a
//! firing is made once however often the controller is killed. The replica's job is taken up again like any other.

use std::{sync::Arc, time::Duration};

use lucarne_api::{
    Problem,
    bodies::{recording::StartRecording, replica::CreateReplica},
};
use lucarne_model::{
    ErrorCode, JobId, Moment, ReplicaId, Tags, TriggerId,
    instance::StateReason,
    recording::RecordingFilter,
    replication::ReplicaState,
    trigger::{Firing, FiringCause, FiringOutcome, Trigger, TriggerOrder},
};
use lucarne_replica::trigger::LimitReached;
use tokio_util::sync::CancellationToken;

use super::{
    super::{recordings, replicas},
    figures::{self, Seen},
};
use crate::{
    Controller,
    fleet::Fleet,
    replica_records::ReplicaRecord,
    store::{Scope, Tx},
    trigger_records::TriggerRecord,
    workflow::engine,
};

const EVERY: Duration = Duration::from_secs(2);
/// Causes that one trigger's look decides on; the rest waits for the next.
const DECIDED_AT_ONCE: usize = 50;
/// How long it is watched what becomes of a replica: as long as one that failed is shown.
const WATCHED: Duration = Duration::from_secs(3600);

/// Makes the rounds until `shutdown`. What fails of one is logged, and tried again at its next time.
pub(crate) async fn run(controller: Arc<Controller>, shutdown: CancellationToken) {
    let mut rounds = tokio::time::interval(EVERY);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = rounds.tick() => {}
        }
        let all = controller.store.read(|tx| tx.list::<TriggerRecord>(Scope::Everything)).await;
        match all {
            Ok(all) => {
                for record in all {
                    let trigger = record.trigger.id;
                    if let Err(problem) = look_at(&controller, record).await {
                        tracing::warn!(%trigger, %problem, "a trigger could not be looked at; it is at the next round");
                    }
                }
            }
            Err(problem) => tracing::warn!(%problem, "triggers could not be read"),
        }
    }
}

async fn look_at(controller: &Controller, record: TriggerRecord) -> Result<(), Problem> {
    note_failed(controller, &record.trigger).await?;
    let id = record.trigger.id;
    let seen = Arc::new(figures::look(controller, &record.trigger).await?);
    if !has_news(record, &seen, crate::clock::now()) {
        return Ok(());
    }
    for _ in 0..DECIDED_AT_ONCE {
        let (fleet, sight) = (controller.fleet.clone(), seen.clone());
        let decided = controller.store.write(move |tx| fire(tx, &fleet, id, &sight)).await;
        match decided {
            Ok(Decided::Nothing) => return Ok(()),
            Ok(Decided::Without) => {}
            Ok(Decided::Made(job)) => {
                engine::hold_at("trigger.fire.after").await;
                controller.workflows.follow(job);
            }
            Err(problem) if is_of_the_store(problem.code) => return Err(problem),
            Err(problem) => {
                let sight = seen.clone();
                controller.store.write(move |tx| note_refusal(tx, id, &sight, problem)).await?;
            }
        }
    }
    Ok(())
}

/// Whether there is anything to write down, by what was read.
fn has_news(mut record: TriggerRecord, seen: &Seen, now: Moment) -> bool {
    let (on, before) = (record.trigger.on, record.watch.clone());
    record.watch.observe(on, seen.sight());
    record.watch != before || record.watch.cause(on, seen.sight(), now).is_some()
}

/// What says nothing of the network: it is tried again.
const fn is_of_the_store(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::StoreUnavailable | ErrorCode::DiskFull | ErrorCode::Internal)
}

enum Decided {
    Nothing,
    /// A cause was decided on, and nothing made.
    Without,
    /// The job that makes it.
    Made(JobId),
}

fn next_cause(
    tx: &Tx<'_>,
    id: TriggerId,
    seen: &Seen,
) -> Result<Option<(TriggerRecord, Option<FiringCause>)>, Problem> {
    // It may have been deleted since it was read.
    let Some(mut record) = tx.find::<TriggerRecord>(Scope::Everything, id)? else { return Ok(None) };
    let on = record.trigger.on;
    record.watch.observe(on, seen.sight());
    let cause = record.watch.cause(on, seen.sight(), tx.now());
    Ok(Some((record, cause)))
}

fn fire(tx: &mut Tx<'_>, fleet: &Fleet, id: TriggerId, seen: &Seen) -> Result<Decided, Problem> {
    let Some((mut record, cause)) = next_cause(tx, id, seen)? else { return Ok(Decided::Nothing) };
    let Some(cause) = cause else {
        tx.put(&record)?;
        return Ok(Decided::Nothing);
    };
    let Trigger { on, limit, .. } = record.trigger;
    let (decided, outcome) = match record.watch.fire(on, limit, cause, tx.now()) {
        Ok(()) => make(tx, fleet, &record.trigger)?,
        Err(LimitReached) => (Decided::Without, FiringOutcome::LimitReached),
    };
    tracing::info!(trigger = %id, ?cause, ?outcome, "a trigger fired");
    record.note(Firing { at: tx.now(), cause, outcome });
    tx.put(&record)?;
    Ok(decided)
}

/// The duplicate, and the recording of what the network does from then on.
fn make(tx: &mut Tx<'_>, fleet: &Fleet, trigger: &Trigger) -> Result<(Decided, FiringOutcome), Problem> {
    let Trigger { account, vpc, .. } = *trigger;
    let TriggerOrder { terms, record_seconds, lasts_seconds } = trigger.order.clone();
    let mut tags = Tags::named(&trigger.name);
    tags.0.insert(Trigger::TAG.to_owned(), trigger.id.to_string());
    let request = CreateReplica { vpc, name: None, terms, lasts_seconds, tags: tags.clone() };
    let replica = replicas::admit(tx, fleet, account, &request)?;
    let mut recording = None;
    if let Some(seconds) = record_seconds {
        let (filter, seconds) = (RecordingFilter::default(), Some(seconds));
        let request = StartRecording { vpc, filter, room: None, seconds, lasts_seconds, tags };
        recording = Some(recordings::start(tx, account, request)?.id);
    }
    Ok((Decided::Made(replica.job), FiringOutcome::Made { replica: replica.id, recording }))
}

fn note_refusal(tx: &mut Tx<'_>, id: TriggerId, seen: &Seen, problem: Problem) -> Result<(), Problem> {
    let Some((mut record, Some(cause))) = next_cause(tx, id, seen)? else { return Ok(()) };
    tracing::info!(trigger = %id, ?cause, %problem, "a trigger fired, and nothing could be made");
    record.watch.pass_over(record.trigger.on, cause, tx.now());
    let reason = StateReason { code: problem.code, message: problem.detail };
    record.note(Firing { at: tx.now(), cause, outcome: FiringOutcome::Refused { reason } });
    tx.put(&record)
}

/// Writes down which replicas were admitted and then could not be brought to run.
async fn note_failed(controller: &Controller, trigger: &Trigger) -> Result<(), Problem> {
    let now = crate::clock::now();
    let watched: Vec<ReplicaId> = trigger
        .firings
        .iter()
        .filter(|firing| now.since(firing.at) < WATCHED)
        .filter_map(|firing| match firing.outcome {
            FiringOutcome::Made { replica, .. } => Some(replica),
            _ => None,
        })
        .collect();
    if watched.is_empty() {
        return Ok(());
    }
    let failed = move |tx: &Tx<'_>| {
        let mut failed = Vec::new();
        for id in watched {
            let record = tx.find::<ReplicaRecord>(Scope::Everything, id)?.map(|record| record.replica);
            failed.extend(record.filter(|replica| replica.state == ReplicaState::Failed));
        }
        Ok(failed)
    };
    let id = trigger.id;
    for replica in controller.store.read(failed).await? {
        let note = move |tx: &mut Tx<'_>| {
            let Some(mut record) = tx.find::<TriggerRecord>(Scope::Everything, id)? else { return Ok(()) };
            for firing in &mut record.trigger.firings {
                if let FiringOutcome::Made { replica: made, recording } = firing.outcome
                    && made == replica.id
                {
                    let reason = replica.state_reason.clone();
                    firing.outcome = FiringOutcome::Failed { replica: made, recording, reason };
                }
            }
            tx.put(&record)
        };
        controller.store.write(note).await?;
    }
    Ok(())
}
