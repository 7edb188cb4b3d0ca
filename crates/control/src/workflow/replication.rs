//! The steps of replicas' jobs, and the deciding half of them.
//!
//! Owns the two tables and what each step waits for. Pure: a job, what is seen of hosts and duplicates, and a time go in, a
//! decision comes out; [`super::replication_effects`] looks and changes the records.
//!
//! All that a duplicate consists of is made by the request, in one transaction; what hosts are told of it follows from the
//! replica's [`Stage`](crate::replica_records::Stage). A source is never changed, so that undoing is the ending of what was made.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use lucarne_api::bodies::instance::{JobKind, JobState};
use lucarne_model::{
    ErrorCode, Moment,
    actual::ActualState,
    instance::{InstanceState, StateReason},
    replica::CutProgress,
};

use super::steps::{Decision, Observed, START_PATIENCE, fail_with};
use crate::records::JobRecord;

/// How long hosts may take to make a running network ready to be cut.
pub(crate) const PREPARE_PATIENCE: Duration = Duration::from_secs(120);
/// How long they may take to cut it, which takes milliseconds: what is longer is a host that hears nothing.
pub(crate) const CUT_PATIENCE: Duration = Duration::from_secs(30);

/// What a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// The request itself made the duplicate's records and promised the room.
    Admission,
    /// All hosts can take the cut at once.
    Readiness,
    /// All have taken it.
    Cut,
    /// All duplicates stand where their sources were.
    Standing,
    /// All go on.
    Going,
    /// All of it is to be copied whole.
    Marking,
    /// What is copied whole is there.
    Copying,
    /// Everything in the duplicate has ended.
    Absence,
    /// Its records go.
    Removal,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    name: &'static str,
    work: Work,
}

const REPLICATE: &[Step] = &[
    Step { name: "admit", work: Work::Admission },
    Step { name: "prepare", work: Work::Readiness },
    Step { name: "cut", work: Work::Cut },
    Step { name: "duplicate", work: Work::Standing },
    Step { name: "begin", work: Work::Going },
    Step { name: "copy", work: Work::Copying },
];

const END: &[Step] = &[Step { name: "shut-down", work: Work::Absence }, Step { name: "end", work: Work::Removal }];

const DEEPEN: &[Step] = &[Step { name: "mark", work: Work::Marking }, Step { name: "copy", work: Work::Copying }];

pub(super) const fn table(kind: JobKind) -> &'static [Step] {
    match kind {
        JobKind::Replicate => REPLICATE,
        JobKind::EndReplica => END,
        JobKind::DeepenReplica => DEEPEN,
        JobKind::Launch | JobKind::AttestedLaunch | JobKind::Terminate | JobKind::Migrate => &[],
    }
}

pub(super) fn step_name(kind: JobKind, position: usize) -> &'static str {
    let steps = table(kind);
    steps.get(position).or(steps.last()).map_or("", |step| step.name)
}

/// How long the step that a job is at may take.
pub(super) fn patience(job: &JobRecord) -> Option<Duration> {
    let step = table(job.job.kind).get(job.position).filter(|_| job.job.state == JobState::Running)?;
    match step.work {
        Work::Readiness => Some(PREPARE_PATIENCE),
        Work::Cut => Some(CUT_PATIENCE),
        Work::Standing | Work::Going => Some(START_PATIENCE),
        Work::Admission | Work::Marking | Work::Copying | Work::Absence | Work::Removal => None,
    }
}

/// What is known of a host's part in the cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CutSeen {
    Unknown,
    HostDown,
    Said(CutProgress),
}

/// What is known of a duplicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DuplicateSeen {
    pub(crate) state: InstanceState,
    pub(crate) generation: u64,
    pub(crate) observed: Observed,
    /// Whether it is to run: its source did.
    pub(crate) runs: bool,
    /// Whether all of its memory that is copied whole is there.
    pub(crate) whole: bool,
}

/// What is known of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Of each host that takes part.
    pub(crate) cuts: Vec<CutSeen>,
    pub(crate) duplicates: Vec<DuplicateSeen>,
    /// States of all instances in the duplicate, of the replica's making or not.
    pub(crate) inhabitants: Vec<InstanceState>,
    /// Whether all volumes that are copied whole are there, and draw on nothing.
    pub(crate) disks_are_whole: bool,
}

/// A change to the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// From now on hosts are told to take the cut.
    Take,
    /// What hosts told of the cut is noted, and from now on they are told of the duplicates.
    Duplicate,
    /// From now on the duplicates may go on.
    Begin,
    /// They run.
    MarkRunning,
    /// Hosts are told to copy all of it.
    Deepen,
    /// What draws on nothing is let go.
    Complete,
    /// Everything in the duplicate is terminated.
    ShutDown,
    /// The duplicate's records go, and the cut with them.
    Remove,
    Nothing,
}

pub(crate) fn decide(job: &JobRecord, sight: &Sight, now: Moment) -> Decision<Effect> {
    let steps = table(job.job.kind);
    match job.job.state {
        JobState::Done | JobState::Failed => Decision::Finish,
        JobState::Running => match steps.get(job.position) {
            Some(step) => forward(step.work, job, sight, now),
            None => Decision::Finish,
        },
        JobState::Undoing => match job.position.checked_sub(1).and_then(|last| steps.get(last)) {
            Some(step) => backward(step.work, sight),
            None => Decision::Finish,
        },
    }
}

fn forward(work: Work, job: &JobRecord, sight: &Sight, now: Moment) -> Decision<Effect> {
    match work {
        Work::Admission => Decision::Step(Effect::Nothing),
        Work::Readiness => {
            let ready = |progress: &CutProgress| matches!(progress, CutProgress::Ready | CutProgress::Taken { .. });
            await_cuts(job, sight, now, ready, Effect::Take)
        }
        Work::Cut => {
            let taken = |progress: &CutProgress| matches!(progress, CutProgress::Taken { .. });
            await_cuts(job, sight, now, taken, Effect::Duplicate)
        }
        Work::Standing => {
            // One that boots has nowhere to stand.
            let stands = |state| matches!(state, ActualState::Ready | ActualState::Running);
            await_duplicates(job, sight, now, stands, Effect::Begin)
        }
        Work::Going => {
            // A guest that shut itself down at once has still gone on.
            let goes = |state| matches!(state, ActualState::Running | ActualState::Stopped);
            await_duplicates(job, sight, now, goes, Effect::MarkRunning)
        }
        Work::Marking => Decision::Step(Effect::Deepen),
        Work::Copying => await_copies(sight),
        Work::Absence => await_absence(sight, Effect::Nothing),
        Work::Removal => Decision::Step(Effect::Remove),
    }
}

/// A cut that was not taken, or that nobody needs any more, goes with the records; so there is one thing to undo.
fn backward(work: Work, sight: &Sight) -> Decision<Effect> {
    match work {
        Work::Admission => await_absence(sight, Effect::Remove),
        _ => Decision::Step(Effect::Nothing),
    }
}

fn unreachable(message: &str) -> Decision<Effect> {
    Decision::Fail(StateReason { code: ErrorCode::HostUnreachable, message: message.into() })
}

fn wait(job: &JobRecord, now: Moment, what: &str) -> Decision<Effect> {
    match job.deadline {
        Some(deadline) if now >= deadline => {
            let within = patience(job).unwrap_or_default().as_secs();
            unreachable(&format!("{what} within {within} s"))
        }
        deadline => Decision::Wait { until: deadline },
    }
}

fn await_cuts(
    job: &JobRecord,
    sight: &Sight,
    now: Moment,
    is_there: impl Fn(&CutProgress) -> bool,
    then: Effect,
) -> Decision<Effect> {
    let mut waits = false;
    for cut in &sight.cuts {
        match cut {
            CutSeen::HostDown => return unreachable("a host of the network stopped answering while it was cut"),
            CutSeen::Said(CutProgress::Failed { reason }) => return Decision::Fail(reason.clone()),
            CutSeen::Said(progress) if is_there(progress) => {}
            CutSeen::Said(_) | CutSeen::Unknown => waits = true,
        }
    }
    if waits { wait(job, now, "not all hosts of the network could cut it") } else { Decision::Step(then) }
}

fn await_duplicates(
    job: &JobRecord,
    sight: &Sight,
    now: Moment,
    is_there: impl Fn(ActualState) -> bool,
    then: Effect,
) -> Decision<Effect> {
    let mut waits = false;
    for one in sight.duplicates.iter().filter(|one| one.runs) {
        match &one.observed {
            Observed::HostDown | Observed::Unplaced => {
                return unreachable("a host of the network stopped answering while the duplicates began");
            }
            Observed::Said(actual) if actual.generation == one.generation => match actual.state {
                state if is_there(state) => {}
                ActualState::Failed | ActualState::Stopped => return fail_with(actual),
                _ => waits = true,
            },
            Observed::Said(_) | Observed::Unknown => waits = true,
        }
    }
    if waits { wait(job, now, "not all duplicates began") } else { Decision::Step(then) }
}

/// From the beginning of the duplicates on nothing fails: what a host that is down had is copied when it is back, and what has
/// ended meanwhile has nothing to be copied any more.
fn await_copies(sight: &Sight) -> Decision<Effect> {
    let ended = |state| matches!(state, InstanceState::ShuttingDown | InstanceState::Terminated);
    let whole = sight.duplicates.iter().all(|one| one.whole || ended(one.state));
    if whole && sight.disks_are_whole { Decision::Step(Effect::Complete) } else { Decision::Wait { until: None } }
}

fn await_absence(sight: &Sight, then: Effect) -> Decision<Effect> {
    let lives = |state: &InstanceState| !matches!(state, InstanceState::ShuttingDown | InstanceState::Terminated);
    if sight.inhabitants.iter().any(lives) {
        return Decision::Stay(Effect::ShutDown);
    }
    let ended = sight.inhabitants.iter().all(|state| *state == InstanceState::Terminated);
    if ended { Decision::Step(then) } else { Decision::Wait { until: None } }
}
