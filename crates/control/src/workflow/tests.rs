//! The deciding half of the workflows against hosts that answer anything, in any order.

use lucarne_api::bodies::instance::{Job, JobKind, JobState};
use lucarne_model::{
    AccountId, Bytes, ErrorCode, Evidence, HostId, ImageId, InstanceId, InterfaceId, JobId, MacAddress, Moment, Octets,
    SubnetId, Vcpus, VpcId,
    actual::{ActualInstance, ActualState},
    instance::{Instance, InstanceState, StateReason},
    storage::Digest,
};
use proptest::prelude::*;

use super::steps::{self, Decision, Effect, Observed, START_PATIENCE, Sight};
use crate::records::JobRecord;

pub(crate) fn instance() -> Instance {
    Instance {
        id: InstanceId::from_bits(1),
        account: AccountId::from_bits(1),
        image: ImageId::from_bits(1),
        vcpus: Vcpus(1),
        memory_settings: Default::default(),
        memory: Bytes::mib(64),
        vpc: VpcId::from_bits(1),
        subnet: SubnetId::from_bits(1),
        interface: InterfaceId::from_bits(1),
        address: [10, 0, 0, 4].into(),
        mac: MacAddress::from_bits(1),
        security_groups: Vec::new(),
        volumes: Vec::new(),
        state: InstanceState::Pending,
        state_reason: None,
        host: None,
        placement: Default::default(),
        generation: 1,
        user_data: None,
        cold: false,
        virtual_tpm: false,
        attestation: None,
        began: None,
        launched: Moment::EPOCH,
        changed: Moment::EPOCH,
        tags: Default::default(),
    }
}

pub(super) fn job(kind: JobKind) -> JobRecord {
    let position = steps::first_position(kind);
    let job = Job {
        id: JobId::from_bits(1),
        account: AccountId::from_bits(1),
        kind,
        instance: Some(InstanceId::from_bits(1)),
        replica: None,
        state: JobState::Running,
        step: steps::step_name(kind, position).into(),
        reason: None,
        cause: None,
        progress: None,
        moved: None,
        created: Moment::EPOCH,
        changed: Moment::EPOCH,
        tags: Default::default(),
    };
    JobRecord { job, position, deadline: None }
}

/// The records that a workflow changes, and every effect that it had.
struct World {
    instance: Instance,
    job: JobRecord,
    now: Moment,
    effects: Vec<Effect>,
    /// Whether there is room on a host.
    room: bool,
}

impl World {
    fn new(kind: JobKind) -> Self {
        let mut instance = instance();
        if kind == JobKind::Terminate {
            instance.host = Some(HostId::from_bits(1));
            instance.state = InstanceState::ShuttingDown;
        }
        Self { instance, job: job(kind), now: Moment::EPOCH, effects: Vec::new(), room: true }
    }

    fn perform(&mut self, effect: Effect) -> Result<(), StateReason> {
        match effect {
            Effect::Place if !self.room => {
                return Err(StateReason { code: ErrorCode::InsufficientInstanceCapacity, message: "full".into() });
            }
            Effect::Place => self.instance.host = Some(HostId::from_bits(1)),
            Effect::MarkRunning => self.instance.state = InstanceState::Running,
            Effect::ShutDown => self.instance.state = InstanceState::ShuttingDown,
            Effect::GiveRoomBack { confirmed: true } => self.instance.host = None,
            Effect::End => self.instance.state = InstanceState::Terminated,
            Effect::GiveRoomBack { confirmed: false } | Effect::Nothing => {}
            Effect::Judge | Effect::Expire => unreachable!("that is an attested launch's"),
            Effect::Switch | Effect::NoteStandstill { .. } | Effect::TurnBack | Effect::Leave => {
                unreachable!("that is a migration's")
            }
        }
        self.effects.push(effect);
        Ok(())
    }

    /// One look, as the engine makes it.
    fn look(&mut self, observed: &Observed) -> Decision {
        let observed = if self.instance.host.is_none() { &Observed::Unplaced } else { observed };
        let sight = Sight { own: observed.clone(), other: Observed::Unplaced, is_drawn_on: false };
        let decision = steps::decide(&self.job, &self.instance, &sight, self.now);
        match decision.clone() {
            Decision::Wait { .. } => {}
            Decision::Finish => steps::finish(&mut self.job, self.now),
            Decision::Fail(reason) => steps::turn_round(&mut self.job, reason, self.now),
            Decision::Stay(effect) => self.perform(effect).unwrap(),
            Decision::Step(effect) => match self.perform(effect) {
                Ok(()) => steps::advance(&mut self.job, self.now),
                Err(reason) => steps::turn_round(&mut self.job, reason, self.now),
            },
        }
        decision
    }

    fn count(&self, wanted: impl Fn(&Effect) -> bool) -> usize {
        self.effects.iter().filter(|effect| wanted(effect)).count()
    }
}

/// A proof of nothing, with this nonce.
pub(crate) fn evidence(nonce: [u8; 16]) -> Evidence {
    let nothing = || Octets(Vec::new());
    Evidence {
        instance: instance().id,
        generation: 1,
        nonce: Octets(nonce.to_vec()),
        host_key: Digest::from_bytes([1; 32]),
        quote: nothing(),
        signature: nothing(),
        pcrs: Vec::new(),
        event_log: nothing(),
        ak_public: nothing(),
        ek_certificates: Vec::new(),
        credential: None,
        guest: None,
    }
}

pub(crate) fn said(state: ActualState, generation: u64) -> Observed {
    let id = InstanceId::from_bits(1);
    let (volumes, began, stood_still_millis, evidence) = (Vec::new(), None, None, None);
    Observed::Said(ActualInstance { id, generation, state, reason: None, volumes, began, stood_still_millis, evidence })
}

fn observed() -> impl Strategy<Value = Observed> {
    use ActualState as Is;
    let states = [Is::Preparing, Is::Running, Is::Stopping, Is::Stopped, Is::Absent, Is::Failed];
    prop_oneof![
        2 => Just(Observed::Unknown),
        1 => Just(Observed::HostDown),
        6 => (prop::sample::select(states.to_vec()), 0..3u64).prop_map(|(state, generation)| said(state, generation)),
    ]
}

/// Answers at random for a while, then ones that let any workflow end.
fn answers() -> impl Strategy<Value = Vec<Observed>> {
    prop::collection::vec(observed(), 0..30).prop_map(|mut answers| {
        answers.extend((0..20).flat_map(|_| [said(ActualState::Running, 1), said(ActualState::Absent, 1)]));
        answers
    })
}

proptest! {
    #[test]
    fn a_launch_ends_as_running_or_with_everything_given_back(answers in answers(), room: bool, cancel in 0..40usize) {
        let mut world = World::new(JobKind::Launch);
        world.room = room;
        for (turn, answer) in answers.iter().enumerate() {
            if turn == cancel {
                let reason = StateReason { code: ErrorCode::IncorrectState, message: "terminated".into() };
                steps::turn_round(&mut world.job, reason, world.now);
            }
            world.look(answer);
        }
        let placed = world.count(|effect| *effect == Effect::Place);
        let given_back = world.count(|effect| matches!(effect, Effect::GiveRoomBack { .. }));
        match world.job.job.state {
            JobState::Done => {
                prop_assert_eq!(world.instance.state, InstanceState::Running);
                prop_assert_eq!((placed, given_back, world.count(|e| *e == Effect::End)), (1, 0, 0));
            }
            JobState::Failed => {
                prop_assert_eq!(world.instance.state, InstanceState::Terminated);
                prop_assert!(placed <= given_back && given_back <= 1, "{:?}", world.effects);
                prop_assert_eq!(world.count(|effect| *effect == Effect::End), 1);
                prop_assert_eq!(world.effects.last(), Some(&Effect::End));
            }
            other => prop_assert!(false, "the launch is still {other:?} after {:?}", world.effects),
        }
    }

    #[test]
    fn a_termination_always_ends_and_gives_room_back_once(answers in answers()) {
        let mut world = World::new(JobKind::Terminate);
        answers.iter().for_each(|answer| drop(world.look(answer)));
        prop_assert_eq!(world.job.job.state, JobState::Done);
        prop_assert_eq!(world.instance.state, InstanceState::Terminated);
        prop_assert_eq!(world.count(|effect| matches!(effect, Effect::GiveRoomBack { .. })), 1);
    }

    #[test]
    fn the_room_of_a_machine_is_given_back_only_after_its_host_said_that_it_is_gone_or_fell_silent(
        answers in answers(),
    ) {
        let mut world = World::new(JobKind::Terminate);
        let mut gone = false;
        for answer in &answers {
            let before = world.effects.len();
            gone |= matches!(answer, Observed::HostDown)
                || matches!(answer, Observed::Said(actual) if actual.state == ActualState::Absent);
            world.look(answer);
            let gave = world.effects[before..].iter().any(|effect| matches!(effect, Effect::GiveRoomBack { .. }));
            prop_assert!(!gave || gone);
        }
    }
}

#[test]
fn a_launch_that_its_host_never_answers_gives_up_at_its_deadline() {
    let mut world = World::new(JobKind::Launch);
    world.look(&Observed::Unknown);
    assert_eq!(world.job.job.step, "start");
    assert!(matches!(world.look(&Observed::Unknown), Decision::Wait { until: Some(_) }));
    world.now = world.now.plus(START_PATIENCE);
    assert!(
        matches!(world.look(&Observed::Unknown), Decision::Fail(reason) if reason.code == ErrorCode::HostUnreachable)
    );
}

#[test]
fn a_machine_of_a_silent_host_is_ended_but_the_host_is_remembered() {
    let mut world = World::new(JobKind::Terminate);
    for _ in 0..4 {
        world.look(&Observed::HostDown);
    }
    assert_eq!(world.job.job.state, JobState::Done);
    assert_eq!(world.instance.state, InstanceState::Terminated);
    assert!(world.instance.host.is_some(), "it is told when it comes back");
}
