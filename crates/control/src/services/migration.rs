//! Moving a running instance to another host: what may be asked for, and the job that is made of it.
//!
//! Owns which instances can move. The room at the other host is promised in the request's own transaction, so that a move that
//! cannot be is refused at once; the rest is the workflow's work. In the order of its steps: the other host prepares and takes
//! the instance in, with its volumes, while it runs on ([`crate::workflow::steps`]); one transaction makes that host its own;
//! what is left at the old one goes.

use lucarne_api::{
    Call, Problem,
    bodies::{
        NoQuery,
        instance::{Job, MigrateInstance},
    },
    input::Json,
};
use lucarne_model::{
    ErrorCode, InstanceId, instance::InstanceState, memory_move::MoveCause, memory_report::MemoryState,
    storage::VolumeState,
};

use super::{attachments::wrong_state, replicas};
use crate::{
    Caller, Controller,
    fleet::Fleet,
    random,
    records::{InstanceRecord, JobRecord, VolumeRecord},
    store::{Scope, Tx},
    workflow::{
        effects::{self, Plan},
        engine,
    },
};

pub(crate) async fn migrate_instance(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Json<MigrateInstance>>,
) -> Result<Json<Job>, Problem> {
    let (id, wished) = (call.path.0, call.body.0.host);
    // Where an instance is concerns the operators of its host as much as its owner.
    let scope = if call.caller.operator { Scope::Everything } else { call.caller.scope() };
    let fleet = controller.fleet.clone();
    let plan = Plan { wished, cause: MoveCause::Asked, settings: None };
    let job = controller.change(&call, move |tx| begin(tx, &fleet, (scope, id), plan)).await?;
    controller.workflows.resume_at(id).await?;
    Ok(Json(job))
}

/// Promises the room and makes the job, or refuses.
pub(crate) fn begin(
    tx: &mut Tx<'_>,
    fleet: &Fleet,
    (scope, id): (Scope, InstanceId),
    plan: Plan,
) -> Result<Job, Problem> {
    let mut record: InstanceRecord = tx.get(scope, id)?;
    check(tx, fleet, &record)?;
    effects::reserve(tx, fleet, &mut record, plan)?;
    engine::begin_move(tx, plan.cause, &record, random::id())
}

/// Whether the instance can move at all, whatever room there is.
pub(crate) fn check(tx: &Tx<'_>, fleet: &Fleet, record: &InstanceRecord) -> Result<(), Problem> {
    let id = record.instance.id;
    let refuse = |code, detail: String| Err(Problem::new(code, detail));
    if record.instance.state != InstanceState::Running {
        return Err(wrong_state(id, record.instance.state, "running"));
    }
    let jobs = tx.referring::<JobRecord>(Scope::Everything, id)?;
    if record.passage.is_some() || jobs.iter().any(|job| !job.is_finished()) {
        return refuse(ErrorCode::IncorrectState, format!("another job works on {id}; `lucarne job list` shows it"));
    }
    // One that is being detached is the instance's no more, and still at its machine.
    let volumes = tx.referring::<VolumeRecord>(Scope::Everything, id)?;
    if let Some(VolumeRecord { volume, .. }) = volumes.iter().find(|one| one.volume.state != VolumeState::InUse) {
        let detail = format!("{} is being attached to {id} or detached, or could not be; it can move then", volume.id);
        return refuse(ErrorCode::IncorrectState, detail);
    }
    replicas::check_rooted(tx, record)?;
    if record.instance.virtual_tpm {
        let detail = format!(
            "{id} has a TPM of its own, whose keys do not leave its host; launch another there, and terminate this one"
        );
        return refuse(ErrorCode::InstanceBoundToHost, detail);
    }
    if record.instance.attestation.is_some() {
        let detail = format!(
            "what {id} runs was proved on its host, and whatever another one proved would not be of the memory that is brought \
             to it; launch another there, and terminate this one"
        );
        return refuse(ErrorCode::InstanceBoundToHost, detail);
    }
    let Some(host) = record.instance.host.filter(|host| !fleet.is_down(*host, tx.now())) else {
        return refuse(ErrorCode::HostUnreachable, format!("the host of {id} does not answer"));
    };
    match fleet.memory_of(host, id).map(|memory| memory.state) {
        None | Some(MemoryState::Active | MemoryState::Hibernated) => Ok(()),
        Some(MemoryState::Paused) => {
            let detail = format!("{id} is paused for want of memory; it can move when it goes on, or is hibernated");
            refuse(ErrorCode::IncorrectState, detail)
        }
    }
}
