//! Keeps the workflows going: one task for each unfinished job, from the controller's start or the job's making to its end.
//!
//! Owns when a job is looked at: at once after a step, and when its instance changes, its host says something new, or its
//! deadline passes. What is then done is [`super::steps`]' word, carried out by [`super::effects`] in one transaction with
//! the job's new position: a kill at any instant leaves the job at a step's beginning or end.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Display,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use lucarne_api::{
    Problem,
    bodies::instance::{Job, JobKind, JobState},
};
use lucarne_model::{AccountId, InstanceId, JobId, Moment, ReplicaId, instance::StateReason, memory_move::MoveCause};

use super::{
    effects, replication, replication_effects,
    steps::{self, Decision, Effect, Observed, Sight},
};
use crate::{
    consultation::{Answers, Consultant},
    fleet::Fleet,
    records::{InstanceRecord, JobRecord},
    services::{judgements, replicas},
    store::{Scope, Store, Tx},
};

/// A job that waits is looked at this often even if nobody says anything, should a wake-up ever be missing.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How soon a step that could not be written is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A step at which this process stops working on jobs, such as `launch.place.after`, for tests that kill it there.
pub(crate) const HOLD_VARIABLE: &str = "LUCARNE_HOLD_AT";

/// The jobs that are being worked on. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Workflows {
    store: Store,
    fleet: Arc<Fleet>,
    consultant: Consultant,
    followed: Arc<Mutex<HashSet<JobId>>>,
}

impl Workflows {
    pub(crate) fn new(store: Store, fleet: Arc<Fleet>, consultant: Consultant) -> Self {
        Self { store, fleet, consultant, followed: Arc::default() }
    }

    /// Takes up all unfinished jobs; called once, when the controller starts.
    pub(crate) async fn resume(&self) -> Result<(), Problem> {
        let unfinished = self.store.read(|tx| {
            let jobs = tx.list::<JobRecord>(Scope::Everything)?;
            Ok(jobs.into_iter().filter(|job| !job.is_finished()).map(|job| job.job.id).collect::<Vec<_>>())
        });
        unfinished.await?.into_iter().for_each(|job| self.follow(job));
        Ok(())
    }

    /// Takes up what was begun for the instance, or the replica.
    pub(crate) async fn resume_at(&self, subject: impl Display) -> Result<(), Problem> {
        let subject = subject.to_string();
        let unfinished = self.store.read(move |tx| {
            let jobs = tx.referring::<JobRecord>(Scope::Everything, subject)?;
            Ok(jobs.into_iter().filter(|job| !job.is_finished()).map(|job| job.job.id).collect::<Vec<_>>())
        });
        unfinished.await?.into_iter().for_each(|job| self.follow(job));
        Ok(())
    }

    /// Takes up what was begun for each of these replicas.
    pub(crate) async fn resume_at_all(&self, replicas: &[ReplicaId]) -> Result<(), Problem> {
        for replica in replicas {
            self.resume_at(replica).await?;
        }
        Ok(())
    }

    /// Works on the job until it is over; does nothing if that is already done.
    pub(crate) fn follow(&self, job: JobId) {
        if !self.followed.lock().unwrap_or_else(PoisonError::into_inner).insert(job) {
            return;
        }
        let workflows = self.clone();
        tokio::spawn(async move {
            drive(&workflows, job).await;
            workflows.followed.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
        });
    }
}

/// A new job, at its first step.
pub(crate) fn begin(tx: &mut Tx<'_>, kind: JobKind, record: &InstanceRecord, id: JobId) -> Result<Job, Problem> {
    begin_because(tx, kind, None, (record, id))
}

/// As [`begin`]: a migration, and why it is made.
pub(crate) fn begin_move(
    tx: &mut Tx<'_>,
    cause: MoveCause,
    record: &InstanceRecord,
    id: JobId,
) -> Result<Job, Problem> {
    begin_because(tx, JobKind::Migrate, Some(cause), (record, id))
}

fn begin_because(
    tx: &mut Tx<'_>,
    kind: JobKind,
    cause: Option<MoveCause>,
    (record, id): (&InstanceRecord, JobId),
) -> Result<Job, Problem> {
    let position = steps::first_position(kind);
    let job = Job {
        id,
        account: record.instance.account,
        kind,
        instance: Some(record.instance.id),
        replica: None,
        state: JobState::Running,
        step: steps::step_name(kind, position).into(),
        reason: None,
        cause,
        progress: None,
        moved: None,
        created: tx.now(),
        changed: tx.now(),
        tags: Default::default(),
    };
    let mut record = JobRecord { job: job.clone(), position, deadline: None };
    record.deadline = steps::deadline(&record, tx.now());
    tx.insert(&record)?;
    Ok(job)
}

/// A new job that works on a replica, at its first step.
pub(crate) fn begin_for_replica(
    tx: &mut Tx<'_>,
    kind: JobKind,
    (account, replica): (AccountId, ReplicaId),
    id: JobId,
) -> Result<(), Problem> {
    let position = steps::first_position(kind);
    let job = Job {
        id,
        account,
        kind,
        instance: None,
        replica: Some(replica),
        state: JobState::Running,
        step: steps::step_name(kind, position).into(),
        reason: None,
        cause: None,
        moved: None,
        progress: None,
        created: tx.now(),
        changed: tx.now(),
        tags: Default::default(),
    };
    let mut record = JobRecord { job, position, deadline: None };
    record.deadline = steps::deadline(&record, tx.now());
    tx.insert(&record)
}

/// The termination of an instance on which duplicates draw: it begins when none does any more.
pub(crate) fn begin_end_after_duplicates(tx: &mut Tx<'_>, record: &InstanceRecord, id: JobId) -> Result<(), Problem> {
    begin(tx, JobKind::Terminate, record, id)?;
    let mut job: JobRecord = tx.get(Scope::Everything, id)?;
    job.job.step = steps::AFTER_DUPLICATES.into();
    tx.put(&job)
}

/// The launch or termination of the instance that is not over, if there is one. Neither a migration is meant nor an end that waits for
/// duplicates: an instance of these is as running as any other.
pub(crate) fn unfinished(tx: &Tx<'_>, instance: InstanceId) -> Result<Option<JobRecord>, Problem> {
    let jobs = tx.referring::<JobRecord>(Scope::Everything, instance)?;
    let counts = |job: &JobRecord| job.job.kind != JobKind::Migrate && !steps::waits_for_duplicates(job);
    Ok(jobs.into_iter().find(|job| !job.is_finished() && counts(job)))
}

/// Whether the instance is to end once no duplicate draws on it any more.
pub(crate) fn ends_after_duplicates(tx: &Tx<'_>, instance: InstanceId) -> Result<bool, Problem> {
    let jobs = tx.referring::<JobRecord>(Scope::Everything, instance)?;
    Ok(jobs.iter().any(|job| !job.is_finished() && steps::waits_for_duplicates(job)))
}

/// What came of one look at a job.
enum Look {
    /// A step was made, the name of which was given: look again.
    Moved,
    Waiting {
        until: Option<Moment>,
    },
    Over,
}

async fn drive(workflows: &Workflows, id: JobId) {
    let Ok(first) = workflows.store.read(move |tx| tx.get::<JobRecord>(Scope::Everything, id)).await else {
        return tracing::error!(%id, "a workflow vanished");
    };
    let topics = match first.job.replica {
        Some(replica) => match workflows.store.read(move |tx| replication_effects::topics(tx, replica)).await {
            Ok(topics) => topics,
            Err(problem) => return tracing::error!(%id, %problem, "a workflow's replica vanished"),
        },
        None => vec![first.subject()],
    };
    let mut changes = workflows.store.changes().subscribe(topics);
    loop {
        let seen = match steps::is_of_replica(first.job.kind) {
            true => look_at_replica(workflows, id).await,
            false => look(workflows, id).await,
        };
        match seen {
            Ok(Look::Moved) => {}
            Ok(Look::Over) => return,
            Ok(Look::Waiting { until }) => {
                let left = until.map_or(LOOK_AGAIN, |until| until.since(crate::clock::now()).min(LOOK_AGAIN));
                let _ = tokio::time::timeout(left, changes.changed()).await;
            }
            Err(problem) => {
                tracing::warn!(%id, %problem, "a workflow's step could not be written; it is tried again");
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// Looks first without writing, because most looks find nothing to do.
async fn look(workflows: &Workflows, id: JobId) -> Result<Look, Problem> {
    let fleet = workflows.fleet.clone();
    let consider = move |tx: &Tx<'_>| {
        let (decision, job, record) = consider(tx, &fleet, id)?;
        let judges = decision == Decision::Step(Effect::Judge);
        let asks = if judges { judgements::publishers(tx, &record.instance)? } else { BTreeSet::new() };
        Ok((decision, job, asks))
    };
    let (decision, job, asks) = workflows.store.read(consider).await?;
    if let Decision::Wait { until } = decision {
        return Ok(Look::Waiting { until });
    }
    hold(&job, "before").await;
    // Others' answers are waited for here, and never in a transaction.
    let answers = workflows.consultant.ask(job.job.account, asks).await?;
    let fleet = workflows.fleet.clone();
    let look = workflows.store.write(move |tx| carry_out(tx, (&fleet, &answers), id)).await?;
    hold(&job, "after").await;
    Ok(look)
}

fn consider(tx: &Tx<'_>, fleet: &Fleet, id: JobId) -> Result<(Decision, JobRecord, InstanceRecord), Problem> {
    let job: JobRecord = tx.get(Scope::Everything, id)?;
    let record: InstanceRecord = tx.get(Scope::Everything, job.subject())?;
    let observe = |host| fleet.observe(host, record.instance.id, tx.now());
    let other = record.passage.map_or(Observed::Unplaced, |passage| observe(Some(passage.host)));
    let is_drawn_on = steps::waits_for_duplicates(&job) && replicas::check_free(tx, record.instance.id).is_err();
    let sight = Sight { own: observe(record.instance.host), other, is_drawn_on };
    Ok((steps::decide(&job, &record.instance, &sight, tx.now()), job, record))
}

fn carry_out(tx: &mut Tx<'_>, (fleet, answers): (&Fleet, &Answers), id: JobId) -> Result<Look, Problem> {
    let (decision, mut job, mut record) = consider(tx, fleet, id)?;
    if decision == Decision::Step(Effect::Judge) && !are_asked(tx, answers, &record)? {
        return Ok(Look::Moved);
    }
    let now = tx.now();
    match decision {
        Decision::Wait { until } => return Ok(Look::Waiting { until }),
        Decision::Finish => {
            steps::finish(&mut job, now);
            tx.put(&job)?;
            return Ok(Look::Over);
        }
        Decision::Fail(reason) => steps::turn_round(&mut job, reason, now),
        Decision::Stay(effect) => effects::perform(tx, (fleet, answers), (&mut record, &mut job), effect)?,
        Decision::Step(effect) => match effects::perform(tx, (fleet, answers), (&mut record, &mut job), effect) {
            Ok(()) => steps::advance(&mut job, now),
            Err(problem) if is_final(&problem, &job) => {
                let reason = StateReason { code: problem.code, message: problem.detail };
                steps::turn_round(&mut job, reason, now);
            }
            Err(problem) => return Err(problem),
        },
    }
    tx.put(&job)?;
    Ok(Look::Moved)
}

/// As [`look`], of a job that works on a replica.
async fn look_at_replica(workflows: &Workflows, id: JobId) -> Result<Look, Problem> {
    let fleet = workflows.fleet.clone();
    let (decision, job) = workflows.store.read(move |tx| consider_replica(tx, &fleet, id)).await?;
    if let Decision::Wait { until } = decision {
        return Ok(Look::Waiting { until });
    }
    hold(&job, "before").await;
    let fleet = workflows.fleet.clone();
    let (look, ending) = workflows.store.write(move |tx| carry_out_of_replica(tx, &fleet, id)).await?;
    hold(&job, "after").await;
    for instance in ending {
        workflows.resume_at(instance).await?;
    }
    Ok(look)
}

fn consider_replica(
    tx: &Tx<'_>,
    fleet: &Fleet,
    id: JobId,
) -> Result<(Decision<replication::Effect>, JobRecord), Problem> {
    let job: JobRecord = tx.get(Scope::Everything, id)?;
    let sight = replication_effects::look(tx, fleet, &job.subject())?;
    Ok((replication::decide(&job, &sight, tx.now()), job))
}

/// Gives the instances whose end has begun with it too.
fn carry_out_of_replica(tx: &mut Tx<'_>, fleet: &Fleet, id: JobId) -> Result<(Look, Vec<InstanceId>), Problem> {
    let (decision, mut job) = consider_replica(tx, fleet, id)?;
    let now = tx.now();
    let mut ending = Vec::new();
    match decision {
        Decision::Wait { until } => return Ok((Look::Waiting { until }, ending)),
        Decision::Finish => {
            steps::finish(&mut job, now);
            tx.put(&job)?;
            return Ok((Look::Over, ending));
        }
        Decision::Fail(reason) => {
            replication_effects::note_failure(tx, &job.subject(), &reason)?;
            steps::turn_round(&mut job, reason, now);
        }
        Decision::Stay(effect) => ending = replication_effects::perform(tx, fleet, &job, effect)?,
        Decision::Step(effect) => {
            ending = replication_effects::perform(tx, fleet, &job, effect)?;
            steps::advance(&mut job, now);
        }
    }
    tx.put(&job)?;
    Ok((Look::Moved, ending))
}

/// Whether all whose word it takes were asked: the proof, or what is wanted, may be newer than the look before.
fn are_asked(tx: &Tx<'_>, answers: &Answers, record: &InstanceRecord) -> Result<bool, Problem> {
    Ok(judgements::publishers(tx, &record.instance)?.iter().all(|publisher| answers.contains_key(publisher)))
}

/// A store that cannot be written is tried again; a refusal ends a launch or a migration. Nothing ends a termination.
fn is_final(problem: &Problem, job: &JobRecord) -> bool {
    use lucarne_model::ErrorCode as Code;
    let passing = matches!(problem.code, Code::StoreUnavailable | Code::DiskFull | Code::Internal);
    !passing && job.job.kind != JobKind::Terminate && job.job.state == JobState::Running
}

async fn hold(job: &JobRecord, edge: &str) {
    let kind = match job.job.kind {
        JobKind::Launch => "launch",
        JobKind::AttestedLaunch => "attested-launch",
        JobKind::Terminate => "terminate",
        JobKind::Migrate => "migrate",
        JobKind::Replicate => "replicate",
        JobKind::EndReplica => "end-replica",
        JobKind::DeepenReplica => "deepen-replica",
    };
    let undo = if job.job.state == JobState::Undoing { "undo-" } else { "" };
    hold_at(&format!("{kind}.{}.{undo}{edge}", job.job.step)).await;
}

/// Says where it is and stays there, if this is where it was told to.
pub(crate) async fn hold_at(here: &str) {
    static HOLD: OnceLock<Option<String>> = OnceLock::new();
    let point = HOLD.get_or_init(|| std::env::var(HOLD_VARIABLE).ok());
    if point.as_deref() == Some(here) {
        tracing::warn!("holding at {here}");
        std::future::pending::<()>().await;
    }
}
