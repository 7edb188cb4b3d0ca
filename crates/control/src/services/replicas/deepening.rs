//! Shallow replicas made deep while they and their sources run.
//!
//! Owns when that may be asked. It is the workflow's work in [`crate::workflow::replication`], and that of hosts.

use lucarne_api::{
    Problem,
    bodies::instance::{JobKind, JobState},
};
use lucarne_model::{
    ErrorCode, ReplicaId,
    instance::StateReason,
    replication::{Replica, ReplicaState},
};

use crate::{
    random,
    records::JobRecord,
    replica_records::{ReplicaRecord, Stage},
    store::{Scope, Tx},
    workflow::{engine, steps},
};

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
    let Some(mut job) = job.filter(|job| job.job.kind == JobKind::DeepenReplica) else { return Ok(job) };
    let message = "the replica was deleted before it was whole".into();
    job.job.reason = Some(StateReason { code: ErrorCode::IncorrectState, message });
    job.job.state = JobState::Undoing;
    steps::finish(&mut job, tx.now());
    tx.put(&job)?;
    Ok(None)
}
