//! The deciding half of replicas' jobs against hosts that answer anything, in any order, and may be killed with the controller.

use lucarne_api::bodies::instance::{Job, JobKind, JobState};
use lucarne_model::{
    AccountId, ErrorCode, JobId, Moment, ReplicaId,
    actual::ActualState,
    instance::{InstanceState, StateReason},
    replica::CutProgress,
};
use proptest::prelude::*;

use super::{
    replication::{self, CUT_PATIENCE, CutSeen, DuplicateSeen, Effect, PREPARE_PATIENCE, Sight},
    steps::{self, Decision, Observed, START_PATIENCE},
    tests,
};
use crate::records::JobRecord;

fn job(kind: JobKind) -> JobRecord {
    let position = steps::first_position(kind);
    let job = Job {
        id: JobId::from_bits(1),
        account: AccountId::from_bits(1),
        kind,
        instance: None,
        replica: Some(ReplicaId::from_bits(1)),
        state: JobState::Running,
        step: steps::step_name(kind, position).into(),
        reason: None,
        cause: None,
        moved: None,
        progress: None,
        created: Moment::EPOCH,
        changed: Moment::EPOCH,
        tags: Default::default(),
    };
    let mut record = JobRecord { job, position, deadline: None };
    record.deadline = steps::deadline(&record, Moment::EPOCH);
    record
}

fn taken() -> CutProgress {
    CutProgress::Taken { at: Moment::EPOCH, instances: Default::default(), frames: 0 }
}

fn failed() -> CutProgress {
    let reason = StateReason { code: ErrorCode::HypervisorFailed, message: "it did not stop".into() };
    CutProgress::Failed { reason }
}

fn seen(state: ActualState) -> DuplicateSeen {
    let observed = said_of(state);
    DuplicateSeen { state: InstanceState::Pending, generation: 1, observed, runs: true, whole: false }
}

/// What a job changes, as far as its decisions depend on it: all of it is in the store.
struct World {
    job: JobRecord,
    sight: Sight,
    now: Moment,
    effects: Vec<Effect>,
}

impl World {
    fn new(kind: JobKind, hosts: usize, duplicates: usize) -> Self {
        let sight = Sight {
            cuts: vec![CutSeen::Unknown; hosts],
            duplicates: vec![seen(ActualState::Preparing); duplicates],
            inhabitants: vec![InstanceState::Pending; duplicates],
            disks_are_whole: true,
        };
        Self { job: job(kind), sight, now: Moment::EPOCH, effects: Vec::new() }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ShutDown => self.sight.inhabitants.fill(InstanceState::ShuttingDown),
            Effect::Remove => self.sight.inhabitants.clear(),
            Effect::MarkRunning => self.sight.inhabitants.fill(InstanceState::Running),
            Effect::Take | Effect::Duplicate | Effect::Begin => {}
            Effect::Deepen | Effect::Complete | Effect::Nothing => {}
        }
        if effect != Effect::Nothing {
            self.effects.push(effect);
        }
    }

    fn look(&mut self) -> Decision<Effect> {
        let decision = replication::decide(&self.job, &self.sight, self.now);
        match decision.clone() {
            Decision::Wait { .. } => {}
            Decision::Finish => steps::finish(&mut self.job, self.now),
            Decision::Fail(reason) => steps::turn_round(&mut self.job, reason, self.now),
            Decision::Stay(effect) => self.perform(effect),
            Decision::Step(effect) => {
                self.perform(effect);
                steps::advance(&mut self.job, self.now);
            }
        }
        decision
    }

    /// Looks until there is something to wait for, or nothing left to do.
    fn settle(&mut self) {
        for _ in 0..50 {
            let waits = matches!(self.look(), Decision::Wait { .. } | Decision::Finish);
            if waits {
                return;
            }
        }
        panic!("it goes round in circles at {} {:?}", self.job.job.step, self.job.job.state);
    }

    fn cut(&mut self, progress: &CutProgress) {
        self.sight.cuts.fill(CutSeen::Said(progress.clone()));
        self.settle();
    }

    fn duplicates(&mut self, state: ActualState) {
        self.sight.duplicates.fill(seen(state));
        self.settle();
    }

    fn end_inhabitants(&mut self) {
        self.sight.inhabitants.fill(InstanceState::Terminated);
        self.settle();
    }
}

#[test]
fn a_network_is_cut_when_all_are_ready_and_goes_on_when_all_stand() {
    let mut world = World::new(JobKind::Replicate, 2, 2);
    world.sight.cuts[0] = CutSeen::Said(CutProgress::Ready);
    world.settle();
    assert_eq!(world.effects, []);
    world.cut(&CutProgress::Ready);
    assert_eq!(world.effects, [Effect::Take]);
    world.sight.cuts[0] = CutSeen::Said(taken());
    world.settle();
    assert_eq!(world.effects, [Effect::Take]);
    world.cut(&taken());
    world.sight.duplicates[0] = seen(ActualState::Ready);
    world.settle();
    assert_eq!(world.effects, [Effect::Take, Effect::Duplicate]);
    world.duplicates(ActualState::Ready);
    world.duplicates(ActualState::Running);
    assert_eq!(world.effects[2..], [Effect::Begin, Effect::MarkRunning]);
    assert_eq!((world.job.job.state, world.job.job.step.as_str()), (JobState::Running, "copy"));
    world.sight.duplicates.iter_mut().for_each(|one| one.whole = true);
    world.settle();
    assert_eq!(world.effects.last(), Some(&Effect::Complete));
    assert_eq!(world.job.job.state, JobState::Done);
}

/// A step, and what fails at it.
type Failing<'a> = (&'a str, &'a dyn Fn(&mut World));

/// A failure at any step is undone by one thing: the end of all that was made. No effect is about a source.
#[test]
fn whatever_fails_at_whichever_step_ends_all_that_was_made_and_then_removes_it() {
    let prepared = |world: &mut World| world.cut(&CutProgress::Ready);
    let cut = |world: &mut World| {
        prepared(world);
        world.cut(&taken());
    };
    let standing = |world: &mut World| {
        cut(world);
        world.duplicates(ActualState::Ready);
    };
    let cases: [Failing<'_>; 7] = [
        ("prepare", &|world| world.cut(&failed())),
        ("prepare", &|world| {
            world.sight.cuts[1] = CutSeen::HostDown;
            world.settle();
        }),
        ("cut", &|world| {
            prepared(world);
            world.sight.cuts[0] = CutSeen::Said(taken());
            world.sight.cuts[1] = CutSeen::Said(failed());
            world.settle();
        }),
        ("duplicate", &|world| {
            cut(world);
            world.duplicates(ActualState::Failed);
        }),
        ("duplicate", &|world| {
            cut(world);
            world.sight.duplicates[0].observed = Observed::HostDown;
            world.settle();
        }),
        ("begin", &|world| {
            standing(world);
            world.duplicates(ActualState::Failed);
        }),
        ("begin", &|world| {
            standing(world);
            world.now = world.now.plus(START_PATIENCE);
            world.settle();
        }),
    ];
    for (step, fail) in cases {
        let mut world = World::new(JobKind::Replicate, 2, 2);
        fail(&mut world);
        assert_eq!(world.job.job.state, JobState::Undoing, "{step}");
        assert!(world.job.job.reason.is_some());
        assert_eq!(world.effects.last(), Some(&Effect::ShutDown), "{step}");
        world.end_inhabitants();
        assert_eq!(world.effects.last(), Some(&Effect::Remove), "{step}");
        assert_eq!(world.job.job.state, JobState::Failed);
    }
}

#[test]
fn hosts_that_say_nothing_are_waited_for_so_long_and_no_longer() {
    let mut world = World::new(JobKind::Replicate, 2, 1);
    world.now = world.now.plus(PREPARE_PATIENCE).minus(std::time::Duration::from_secs(1));
    world.settle();
    assert_eq!(world.job.job.state, JobState::Running);
    world.cut(&CutProgress::Ready);
    world.now = world.now.plus(CUT_PATIENCE);
    world.settle();
    let reason = world.job.job.reason.clone().unwrap();
    assert_eq!(reason.code, ErrorCode::HostUnreachable);
    assert!(reason.message.contains("30 s"), "{}", reason.message);
}

#[test]
fn a_network_without_machines_is_duplicated_at_once() {
    let mut world = World::new(JobKind::Replicate, 0, 0);
    world.settle();
    assert_eq!(world.job.job.state, JobState::Done);
}

#[test]
fn what_is_copied_whole_is_waited_for_however_long_and_what_ended_is_not() {
    let mut world = World::new(JobKind::Replicate, 1, 2);
    world.cut(&CutProgress::Ready);
    world.cut(&taken());
    world.duplicates(ActualState::Ready);
    world.duplicates(ActualState::Running);
    world.sight.duplicates[0].observed = Observed::HostDown;
    world.now = world.now.plus(std::time::Duration::from_secs(1_000_000));
    world.settle();
    assert_eq!(world.job.job.state, JobState::Running);
    world.sight.duplicates[0].state = InstanceState::Terminated;
    world.sight.duplicates[1].whole = true;
    world.settle();
    assert_eq!(world.job.job.state, JobState::Done);
}

#[test]
fn a_replica_is_marked_deep_and_let_go_when_memory_and_disks_are_whole() {
    let mut world = World::new(JobKind::DeepenReplica, 2, 2);
    world.sight.disks_are_whole = false;
    world.sight.duplicates.iter_mut().for_each(|one| one.observed = Observed::HostDown);
    world.now = world.now.plus(std::time::Duration::from_secs(1_000_000));
    world.settle();
    assert_eq!((&world.effects[..], world.job.job.state), (&[Effect::Deepen][..], JobState::Running));
    world.sight.duplicates.iter_mut().for_each(|one| one.whole = true);
    world.settle();
    assert_eq!(world.effects, [Effect::Deepen], "a disk is to come");
    world.sight.disks_are_whole = true;
    world.settle();
    assert_eq!(world.effects, [Effect::Deepen, Effect::Complete]);
    assert_eq!(world.job.job.state, JobState::Done);
}

#[test]
fn a_replica_ends_when_everything_in_it_has() {
    let mut world = World::new(JobKind::EndReplica, 1, 2);
    world.sight.inhabitants.push(InstanceState::Running);
    world.settle();
    assert_eq!(world.effects, [Effect::ShutDown]);
    world.sight.inhabitants[0] = InstanceState::Terminated;
    world.settle();
    assert_eq!(world.effects, [Effect::ShutDown], "others live");
    world.end_inhabitants();
    assert_eq!(world.effects, [Effect::ShutDown, Effect::Remove]);
    assert_eq!(world.job.job.state, JobState::Done);
}

fn cut_seen() -> impl Strategy<Value = CutSeen> {
    prop_oneof![
        1 => Just(CutSeen::Unknown),
        1 => Just(CutSeen::HostDown),
        1 => Just(CutSeen::Said(CutProgress::Preparing)),
        1 => Just(CutSeen::Said(failed())),
        4 => Just(CutSeen::Said(CutProgress::Ready)),
        4 => Just(CutSeen::Said(taken())),
    ]
}

fn duplicate_seen() -> impl Strategy<Value = DuplicateSeen> {
    use ActualState::{Failed, Preparing, Ready, Running, Stopped};
    let said = proptest::sample::select(vec![Preparing, Ready, Ready, Running, Running, Stopped, Failed]);
    (said, any::<bool>(), 0..8u8).prop_map(|(state, whole, silent)| {
        let observed = match silent {
            0 => Observed::HostDown,
            1 => Observed::Unknown,
            _ => said_of(state),
        };
        DuplicateSeen { observed, whole, ..seen(state) }
    })
}

fn said_of(state: ActualState) -> Observed {
    tests::said(state, 1)
}

proptest! {
    /// Whatever hosts say, a job that was killed between any two looks goes on as one that was not: a look depends on the store and
    /// on hosts' words alone. And the duplicates of a network go on together, or not at all.
    #[test]
    fn any_hosts_lead_to_a_duplicate_or_to_nothing(
        words in proptest::collection::vec((cut_seen(), cut_seen(), duplicate_seen(), duplicate_seen()), 1..40),
    ) {
        let mut world = World::new(JobKind::Replicate, 2, 2);
        for (one, other, first, second) in words {
            world.sight.cuts = vec![one, other];
            world.sight.duplicates = vec![first, second];
            let before = world.effects.len();
            let again = replication::decide(&world.job, &world.sight, world.now);
            prop_assert_eq!(world.look(), again);
            match world.effects.get(before) {
                Some(Effect::Take) => {
                    let ready = |cut: &CutSeen| matches!(cut, CutSeen::Said(CutProgress::Ready | CutProgress::Taken { .. }));
                    prop_assert!(world.sight.cuts.iter().all(ready));
                }
                Some(Effect::Duplicate) => {
                    let taken = |cut: &CutSeen| matches!(cut, CutSeen::Said(CutProgress::Taken { .. }));
                    prop_assert!(world.sight.cuts.iter().all(taken));
                }
                Some(Effect::Begin) => {
                    let stands = |one: &DuplicateSeen| {
                        let Observed::Said(actual) = &one.observed else { return false };
                        matches!(actual.state, ActualState::Ready | ActualState::Running)
                    };
                    prop_assert!(world.sight.duplicates.iter().all(stands));
                }
                _ => {}
            }
        }
        let order = [Effect::Take, Effect::Duplicate, Effect::Begin, Effect::MarkRunning, Effect::Complete];
        let forward: Vec<Effect> = world.effects.iter().copied().filter(|effect| order.contains(effect)).collect();
        prop_assert_eq!(&forward[..], &order[..forward.len()], "each once, and in order");
        if world.job.job.state == JobState::Undoing {
            for _ in 0..10 {
                world.look();
            }
            world.end_inhabitants();
            prop_assert_eq!(world.job.job.state, JobState::Failed);
        }
        let removed = world.effects.iter().filter(|effect| **effect == Effect::Remove).count();
        prop_assert_eq!(removed, usize::from(world.job.job.state == JobState::Failed));
    }
}
