//! Shallow replicas made deep while they and their sources run.
//!
//! Owns when that may be asked, and that what is to end waits for it. It is the workflow's work in [`crate::workflow::replication`],
//! and that of hosts.

use std::fmt::Display;

use lucarne_api::{
    Problem,
    bodies::instance::{JobKind, JobState},
};
use lucarne_model::{
    ErrorCode, ReplicaId,
    instance::StateReason,
    replication::{ObjectId, Replica, ReplicaState},
};

use crate::{
    random,
    records::JobRecord,
    replica_records::{ReplicaRecord, Stage},
    store::{Scope, Tx},
    workflow::{engine, replication_effects, steps},
};

const ALL: Scope = Scope::Everything;

/// Has those made deep that draw on what is to end; gives them. What is being ended, or copied whole, is waited for.
pub(crate) fn begin_for(
    tx: &mut Tx<'_>,
    source: impl Into<ObjectId> + Display + Copy,
) -> Result<Vec<ReplicaId>, Problem> {
    let mut drawing = Vec::new();
    for record in tx.referring::<ReplicaRecord>(ALL, source)? {
        if !record.draws_on.contains(&source.into()) {
            continue;
        }
        let id = record.replica.id;
        drawing.push(id);
        let state = record.replica.state;
        let will_be_deep = state == ReplicaState::Copying && replication_effects::draws_on(tx, &record)?.is_empty();
        if state != ReplicaState::Deleting && !will_be_deep {
            begin(tx, ALL, id)?;
        }
    }
    Ok(drawing)
}

/// One that draws on nothing stays as it is, and so does one of which this was asked before.
pub(super) fn begin(tx: &mut Tx<'_>, scope: Scope, id: ReplicaId) -> Result<Replica, Problem> {
    let mut record: ReplicaRecord = tx.get(scope, id)?;
    match record.replica.state {
        ReplicaState::Promoted => return Ok(record.replica),
        ReplicaState::Available if record.stage == Stage::LetGo => return Ok(record.replica),
        ReplicaState::Available => {}
        ReplicaState::Copying if is_deepening(tx, id)? => return Ok(record.replica),
        ReplicaState::Preparing | ReplicaState::Copying => {
            let detail = format!("{id} is still being made; make it deep when it is available");
            return Err(Problem::new(ErrorCode::IncorrectState, detail));
        }
        ReplicaState::Deleting | ReplicaState::Deleted | ReplicaState::Failed => {
            let detail = format!("{id} is no network that runs; it must be available");
            return Err(Problem::new(ErrorCode::IncorrectState, detail));
        }
    }
    let (account, job) = (record.replica.account, random::id());
    engine::begin_for_replica(tx, JobKind::DeepenReplica, (account, id), job)?;
    record.replica.state = ReplicaState::Copying;
    record.replica.job = job;
    record.replica.changed = tx.now();
    tx.put(&record)?;
    Ok(record.replica)
}

fn is_deepening(tx: &Tx<'_>, id: ReplicaId) -> Result<bool, Problem> {
    let jobs = tx.referring::<JobRecord>(Scope::Everything, id)?;
    Ok(jobs.iter().any(|job| !job.is_finished() && job.job.kind == JobKind::DeepenReplica))
}

/// Ends the job if it is of this kind: a replica that is to go need not become whole. Gives it back if it is of another.
pub(super) fn give_up(tx: &mut Tx<'_>, job: Option<JobRecord>) -> Result<Option<JobRecord>, Problem> {
    let Some(mut job) = job else { return Ok(None) };
    if job.job.kind != JobKind::DeepenReplica {
        return Ok(Some(job));
    }
    let message = "the replica was deleted before it was whole".into();
    job.job.reason = Some(StateReason { code: ErrorCode::IncorrectState, message });
    job.job.state = JobState::Undoing;
    steps::finish(&mut job, tx.now());
    tx.put(&job)?;
    Ok(None)
}
