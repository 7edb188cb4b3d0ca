//! The workflows' steps, and what is to be done next: the deciding half of launch, terminate and migrate.
//!
//! Owns the step tables and [`decide`]; what an attested launch waits for is in [`super::attested`]. Pure: what the store says of the job and its instance, what the host says, and
//! the time come in; one [`Decision`] comes out. [`super::effects`] carries it out, [`super::engine`] keeps at it.
//!
//! A linear table rather than a graph library such as `steno`: each step is one transaction on our own store, which holds
//! the step's effect and the job's position together, so that there is no log to replay and nothing to make idempotent
//! twice. What a host does is never a step's effect: it follows from the desired state, and a step waits for it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use lucarne_api::bodies::instance::{JobKind, JobState};
use lucarne_model::{
    ErrorCode, Moment,
    actual::{ActualInstance, ActualState},
    instance::{Instance, InstanceState, StateReason},
};

use super::{attested, replication};
use crate::records::JobRecord;

/// How long a host may take to start an instance, the download of its image included.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(600);

/// How long an instance may take to come to another host.
pub(crate) const MOVE_PATIENCE: Duration = Duration::from_secs(3600);

/// What a step waits for or changes. Done once, and undone in reverse when a later one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// The request itself made instance, interface and volumes, in the transaction that made the job.
    Admission,
    /// A host is chosen and room on it promised.
    Placement,
    /// The host holds it before its first instruction, and has proved what it is.
    Proof,
    /// Its owner has answered, or its policy has.
    Answer,
    /// The host runs it.
    Running,
    /// The host has nothing of it any more.
    Absence,
    /// The promised room is free again.
    Release,
    /// Interface and volumes are given up.
    Ending,
    /// The request itself chose a host to go to, and promised room there.
    Reservation,
    /// All of it is at the other host, which then becomes its own.
    Transfer,
    /// It goes on there.
    Continuation,
    /// The other host has nothing of it any more.
    Departure,
}

/// A step's name, as `job show` tells it, and its work.
#[derive(Clone, Copy, Debug)]
struct Step {
    name: &'static str,
    work: Work,
}

const LAUNCH: &[Step] = &[
    Step { name: "admit", work: Work::Admission },
    Step { name: "place", work: Work::Placement },
    Step { name: "start", work: Work::Running },
];

const ATTESTED_LAUNCH: &[Step] = &[
    Step { name: "admit", work: Work::Admission },
    Step { name: "place", work: Work::Placement },
    Step { name: "measure", work: Work::Proof },
    Step { name: "approve", work: Work::Answer },
    Step { name: "start", work: Work::Running },
];

const TERMINATE: &[Step] = &[
    Step { name: "shut-down", work: Work::Absence },
    Step { name: "release", work: Work::Release },
    Step { name: "end", work: Work::Ending },
];

const MIGRATE: &[Step] = &[
    Step { name: "reserve", work: Work::Reservation },
    Step { name: "transfer", work: Work::Transfer },
    Step { name: "switch", work: Work::Continuation },
    Step { name: "leave", work: Work::Departure },
];

const fn table(kind: JobKind) -> &'static [Step] {
    match kind {
        JobKind::Launch => LAUNCH,
        JobKind::AttestedLaunch => ATTESTED_LAUNCH,
        JobKind::Terminate => TERMINATE,
        JobKind::Migrate => MIGRATE,
        // A replica's steps are those of [`replication`].
        JobKind::Replicate | JobKind::EndReplica | JobKind::DeepenReplica => &[],
    }
}

/// What a termination is at, in place of its first step, while duplicates draw on the instance.
pub(crate) const AFTER_DUPLICATES: &str = "deepen-duplicates";

pub(crate) fn waits_for_duplicates(job: &JobRecord) -> bool {
    job.job.kind == JobKind::Terminate && job.job.step == AFTER_DUPLICATES
}

/// How many steps a job of this kind has.
const fn count(kind: JobKind) -> usize {
    if is_of_replica(kind) { replication::table(kind).len() } else { table(kind).len() }
}

pub(crate) const fn is_of_replica(kind: JobKind) -> bool {
    matches!(kind, JobKind::Replicate | JobKind::EndReplica | JobKind::DeepenReplica)
}

/// What a new job of this kind begins with: the first step of a launch, a migration or a replica is done by the request.
pub(crate) const fn first_position(kind: JobKind) -> usize {
    match kind {
        JobKind::Launch | JobKind::AttestedLaunch | JobKind::Migrate | JobKind::Replicate => 1,
        JobKind::Terminate | JobKind::EndReplica | JobKind::DeepenReplica => 0,
    }
}

/// The step that a job is at: `place`, or the last one when all are done.
pub(crate) fn step_name(kind: JobKind, position: usize) -> &'static str {
    if is_of_replica(kind) {
        return replication::step_name(kind, position);
    }
    let steps = table(kind);
    steps.get(position).or(steps.last()).map_or("", |step| step.name)
}

/// What is known of the instance's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    /// The instance has no host.
    Unplaced,
    /// Nothing has been heard of the host yet, or not of the instance.
    Unknown,
    /// The host is silent for longer than its heartbeats allow.
    HostDown,
    Said(ActualInstance),
}

/// What is known of an instance's own host, and of the other one while it migrates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) own: Observed,
    pub(crate) other: Observed,
    /// Duplicates draw on it, and its end is to wait for them.
    pub(crate) is_drawn_on: bool,
}

/// A change to the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Place,
    /// What the host proved is held against what is wanted.
    Judge,
    /// Nobody answered in time.
    Expire,
    /// The instance runs.
    MarkRunning,
    /// From now on the host is told to end it.
    ShutDown,
    /// `confirmed`: the host has nothing of it. Otherwise the instance keeps its host as a reminder to tell it so.
    GiveRoomBack {
        confirmed: bool,
    },
    /// Interface and volumes are given up, and the instance is terminated.
    End,
    /// The other host is the instance's own from now on, and what is left at this one must go.
    Switch,
    /// It has gone on at its new host, which says for how long it stood still.
    NoteStandstill {
        millis: Option<u64>,
    },
    /// It stays where it is: what came to the other host must go.
    TurnBack,
    /// The other host has nothing of it, or is down: its room is free.
    Leave,
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision<E = Effect> {
    /// Nothing to do until the host says something new, or until then.
    Wait { until: Option<Moment> },
    /// Do this and, in the same transaction, go one step on.
    Step(E),
    /// Do this and stay.
    Stay(E),
    /// Begin to undo.
    Fail(StateReason),
    /// The job is over.
    Finish,
}

/// What the job does next.
pub(crate) fn decide(job: &JobRecord, instance: &Instance, sight: &Sight, now: Moment) -> Decision {
    let steps = table(job.job.kind);
    match job.job.state {
        JobState::Done | JobState::Failed => Decision::Finish,
        JobState::Running => match steps.get(job.position) {
            Some(step) => forward(step.work, job, instance, sight, now),
            None => Decision::Finish,
        },
        // The step at the position may be half done, so it is undone too.
        JobState::Undoing => match job.position.checked_sub(1).and_then(|last| steps.get(last)) {
            Some(step) => backward(step.work, instance, sight),
            None => Decision::Finish,
        },
    }
}

fn forward(work: Work, job: &JobRecord, instance: &Instance, sight: &Sight, now: Moment) -> Decision {
    let observed = &sight.own;
    match work {
        Work::Admission => Decision::Step(Effect::Nothing),
        Work::Placement => Decision::Step(Effect::Place),
        Work::Proof => attested::await_proof(job, instance, observed, now),
        Work::Answer => attested::await_answer(instance, observed, now),
        Work::Running => await_running(job, instance, observed, now),
        Work::Absence if sight.is_drawn_on => Decision::Wait { until: None },
        Work::Absence => await_absence(instance, observed),
        Work::Release => Decision::Step(give_room_back(observed)),
        Work::Ending => Decision::Step(Effect::End),
        Work::Reservation => Decision::Step(Effect::Nothing),
        Work::Transfer => await_arrival(job, instance, sight, now),
        Work::Continuation => await_continuation(instance, observed),
        Work::Departure => await_departure(&sight.other),
    }
}

fn backward(work: Work, instance: &Instance, sight: &Sight) -> Decision {
    let observed = &sight.own;
    match work {
        Work::Admission | Work::Ending => Decision::Step(Effect::End),
        Work::Placement | Work::Release => Decision::Step(give_room_back(observed)),
        Work::Proof | Work::Answer | Work::Running | Work::Absence => await_absence(instance, observed),
        Work::Transfer => Decision::Step(Effect::TurnBack),
        Work::Reservation => await_departure(&sight.other),
        // From the switch on nothing fails.
        Work::Continuation | Work::Departure => Decision::Step(Effect::Nothing),
    }
}

/// Until this step is done the instance is its own host's, whatever the other one has of it: at any failure it goes on there.
fn await_arrival(job: &JobRecord, instance: &Instance, sight: &Sight, now: Moment) -> Decision {
    let fail = |code, message: &str| Decision::Fail(StateReason { code, message: message.into() });
    if instance.state != InstanceState::Running {
        return fail(ErrorCode::IncorrectState, "the instance did not run on while it was moved");
    }
    if sight.own == Observed::HostDown {
        return fail(ErrorCode::HostUnreachable, "its host stopped answering while the instance was moved");
    }
    match &sight.other {
        Observed::HostDown | Observed::Unplaced => {
            fail(ErrorCode::HostUnreachable, "the host that it was moved to stopped answering")
        }
        Observed::Said(actual) if actual.generation == instance.generation => match actual.state {
            ActualState::Arrived => Decision::Step(Effect::Switch),
            ActualState::Failed => Decision::Fail(actual.reason.clone().unwrap_or_else(|| StateReason {
                code: ErrorCode::HypervisorFailed,
                message: "the other host could not take the instance in".into(),
            })),
            _ => wait_for_arrival(job, now),
        },
        _ => wait_for_arrival(job, now),
    }
}

fn wait_for_arrival(job: &JobRecord, now: Moment) -> Decision {
    match job.deadline {
        Some(deadline) if now >= deadline => Decision::Fail(StateReason {
            code: ErrorCode::HostUnreachable,
            message: format!("the instance did not arrive within {} s", MOVE_PATIENCE.as_secs()),
        }),
        deadline => Decision::Wait { until: deadline },
    }
}

/// What ends at its new host has ended as it could anywhere. A host that is down will let it go on when it is back.
fn await_continuation(instance: &Instance, observed: &Observed) -> Decision {
    match observed {
        Observed::Said(actual) if actual.generation == instance.generation => match actual.state {
            ActualState::Arrived | ActualState::Preparing => Decision::Wait { until: None },
            _ => Decision::Step(Effect::NoteStandstill { millis: actual.stood_still_millis }),
        },
        // It was started anew, or ended, meanwhile.
        Observed::Said(_) | Observed::HostDown | Observed::Unplaced => Decision::Step(Effect::Nothing),
        Observed::Unknown => Decision::Wait { until: None },
    }
}

/// A host that is down is told when it comes back: it must not keep what is not its own.
fn await_departure(other: &Observed) -> Decision {
    let gone = match other {
        Observed::Unplaced | Observed::HostDown => true,
        Observed::Said(actual) => actual.state == ActualState::Absent,
        Observed::Unknown => false,
    };
    if gone { Decision::Step(Effect::Leave) } else { Decision::Wait { until: None } }
}

fn await_running(job: &JobRecord, instance: &Instance, observed: &Observed, now: Moment) -> Decision {
    let fail = |code, message: String| Decision::Fail(StateReason { code, message });
    match observed {
        Observed::HostDown => {
            fail(ErrorCode::HostUnreachable, "the host stopped answering while it started the instance".into())
        }
        Observed::Said(actual) if actual.generation == instance.generation => match actual.state {
            ActualState::Running => Decision::Step(Effect::MarkRunning),
            ActualState::Failed => fail_with(actual),
            // It ran so shortly that nobody saw it: a guest that shuts down at once has still been launched.
            ActualState::Stopped => Decision::Step(Effect::MarkRunning),
            // It was let go and could not be: what was measured has changed.
            ActualState::Held if actual.reason.is_some() => fail_with(actual),
            ActualState::Held
            | ActualState::Preparing
            | ActualState::Ready
            | ActualState::Arrived
            | ActualState::Stopping
            | ActualState::Absent => wait_for_start(job, now),
        },
        _ => wait_for_start(job, now),
    }
}

/// With the reason that the host gave.
pub(super) fn fail_with<E>(actual: &ActualInstance) -> Decision<E> {
    Decision::Fail(actual.reason.clone().unwrap_or_else(|| StateReason {
        code: ErrorCode::HypervisorFailed,
        message: "the host could not start the instance".into(),
    }))
}

pub(super) fn wait_for_start(job: &JobRecord, now: Moment) -> Decision {
    match job.deadline {
        Some(deadline) if now >= deadline => Decision::Fail(StateReason {
            code: ErrorCode::HostUnreachable,
            message: format!("the host did not start the instance in {} s", START_PATIENCE.as_secs()),
        }),
        deadline => Decision::Wait { until: deadline },
    }
}

/// A host that is down cannot confirm: it is told when it comes back.
fn await_absence(instance: &Instance, observed: &Observed) -> Decision {
    if instance.state != InstanceState::ShuttingDown {
        return Decision::Stay(Effect::ShutDown);
    }
    let gone = match observed {
        Observed::Unplaced | Observed::HostDown => true,
        Observed::Said(actual) => actual.state == ActualState::Absent,
        Observed::Unknown => false,
    };
    if gone { Decision::Step(Effect::Nothing) } else { Decision::Wait { until: None } }
}

fn give_room_back(observed: &Observed) -> Effect {
    let confirmed = match observed {
        Observed::Said(actual) => actual.state == ActualState::Absent,
        Observed::Unplaced => true,
        Observed::HostDown | Observed::Unknown => false,
    };
    Effect::GiveRoomBack { confirmed }
}

/// Moves the job past a step that was done or undone.
pub(crate) fn advance(job: &mut JobRecord, now: Moment) {
    match job.job.state {
        JobState::Running => job.position += 1,
        JobState::Undoing => job.position = job.position.saturating_sub(1),
        JobState::Done | JobState::Failed => return,
    }
    job.deadline = None;
    note_step(job, now);
}

/// Turns the job round: the step at its position may be half done, and is the first to be undone.
pub(crate) fn turn_round(job: &mut JobRecord, reason: StateReason, now: Moment) {
    if job.job.state == JobState::Running {
        job.job.state = JobState::Undoing;
        job.job.reason = Some(reason);
        job.position = (job.position + 1).min(count(job.job.kind));
        job.deadline = None;
        note_step(job, now);
    }
}

pub(crate) fn finish(job: &mut JobRecord, now: Moment) {
    job.job.state = match job.job.state {
        JobState::Running | JobState::Done => JobState::Done,
        JobState::Undoing | JobState::Failed => JobState::Failed,
    };
    job.job.changed = now;
}

fn note_step(job: &mut JobRecord, now: Moment) {
    let shown = if job.job.state == JobState::Undoing { job.position.saturating_sub(1) } else { job.position };
    job.job.step = step_name(job.job.kind, shown).into();
    job.job.changed = now;
    job.deadline = deadline(job, now);
}

/// When the step that a job is at gives up.
pub(crate) fn deadline(job: &JobRecord, now: Moment) -> Option<Moment> {
    if is_of_replica(job.job.kind) {
        return replication::patience(job).map(|patience| now.plus(patience));
    }
    let step = table(job.job.kind).get(job.position).filter(|_| job.job.state == JobState::Running)?;
    match step.work {
        Work::Proof | Work::Running => Some(now.plus(START_PATIENCE)),
        Work::Transfer => Some(now.plus(MOVE_PATIENCE)),
        _ => None,
    }
}
