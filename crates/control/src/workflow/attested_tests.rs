//! The deciding half of an attested launch: nothing begins without an answer, and what was not answered well is undone.

use lucarne_api::bodies::instance::{JobKind, JobState};
use lucarne_model::{
    HostId, Moment, Octets,
    actual::{ActualInstance, ActualState},
    attestation::{AttestMode, AttestPolicy, AttestState, InstanceAttestation, OnMismatch, PolicySource},
    instance::{Instance, InstanceState, StateReason},
};
use proptest::prelude::*;

use super::{
    steps::{self, Decision, Effect, Observed, Sight},
    tests::{evidence, instance, job, said},
};
use crate::records::JobRecord;

const NONCE: [u8; 16] = [3; 16];

/// What the workflow changes, and every effect that it had.
struct World {
    instance: Instance,
    job: JobRecord,
    now: Moment,
    effects: Vec<Effect>,
    /// What a judgement comes to.
    verdict: AttestState,
}

impl World {
    fn new(verdict: AttestState) -> Self {
        let mode = AttestMode::Prompt;
        let policy = AttestPolicy { mode, on_mismatch: OnMismatch::Rollback, approve_within_seconds: 60 };
        let nonce = Octets(NONCE.to_vec());
        let state = AttestState::Measuring;
        let attestation = Some(InstanceAttestation {
            policy,
            source: PolicySource::Launch,
            nonce,
            state,
            until: None,
            proved: None,
            asked: None,
            checked: None,
        });
        let instance = Instance { attestation, ..instance() };
        let job = job(JobKind::AttestedLaunch);
        Self { instance, job, now: Moment::EPOCH, effects: Vec::new(), verdict }
    }

    fn attest(&mut self, state: AttestState) {
        let attestation = self.instance.attestation.as_mut().unwrap();
        attestation.state = state;
        attestation.until =
            (state == AttestState::AwaitingApproval).then(|| self.now.plus(std::time::Duration::from_secs(60)));
    }

    fn state(&self) -> AttestState {
        self.instance.attestation.as_ref().unwrap().state
    }

    /// The owner answers, if it is asked.
    fn answer(&mut self, answer: AttestState) {
        if self.state() == AttestState::AwaitingApproval {
            self.attest(answer);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Place => self.instance.host = Some(HostId::from_bits(1)),
            Effect::Judge => self.attest(self.verdict),
            Effect::Expire => self.attest(AttestState::Expired),
            Effect::MarkRunning => self.instance.state = InstanceState::Running,
            Effect::ShutDown => self.instance.state = InstanceState::ShuttingDown,
            Effect::GiveRoomBack { .. } => self.instance.host = None,
            Effect::End => self.instance.state = InstanceState::Terminated,
            _ => {}
        }
        self.effects.push(effect);
    }

    /// One look, as the engine makes it.
    fn look(&mut self, observed: &Observed) -> Decision {
        let own = if self.instance.host.is_none() { Observed::Unplaced } else { observed.clone() };
        let sight = Sight { own, other: Observed::Unplaced, is_drawn_on: false };
        let decision = steps::decide(&self.job, &self.instance, &sight, self.now);
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

    fn count(&self, wanted: Effect) -> usize {
        self.effects.iter().filter(|effect| **effect == wanted).count()
    }
}

fn proof(nonce: [u8; 16]) -> Observed {
    let Observed::Said(held) = said(ActualState::Held, 1) else { unreachable!("that is what was said") };
    Observed::Said(ActualInstance { evidence: Some(Box::new(evidence(nonce))), ..held })
}

fn stuck() -> Observed {
    let Observed::Said(held) = said(ActualState::Held, 1) else { unreachable!("that is what was said") };
    let reason = StateReason { code: lucarne_model::ErrorCode::HostNotProved, message: "no TPM".into() };
    Observed::Said(ActualInstance { reason: Some(reason), ..held })
}

fn observed() -> impl Strategy<Value = Observed> {
    use ActualState as Is;
    let states = [Is::Preparing, Is::Held, Is::Running, Is::Stopped, Is::Absent, Is::Failed];
    prop_oneof![
        2 => Just(Observed::Unknown),
        1 => Just(Observed::HostDown),
        4 => (prop::sample::select(states.to_vec()), 0..3u64).prop_map(|(state, generation)| said(state, generation)),
        6 => Just(proof(NONCE)),
        1 => Just(proof([9; 16])),
        1 => Just(stuck()),
    ]
}

proptest! {
    /// It runs only after an answer or a judgement that lets it, and after any other everything is given back once.
    #[test]
    fn an_attested_launch_begins_by_a_good_answer_or_is_undone_as_a_whole(
        answers in prop::collection::vec((observed(), 0..4u8), 0..40),
        verdict in prop::sample::select(vec![
            AttestState::AwaitingApproval, AttestState::Matched, AttestState::Mismatched, AttestState::Quarantined,
        ]),
    ) {
        let mut world = World::new(verdict);
        for (observed, what) in &answers {
            match what {
                0 => world.answer(AttestState::Approved),
                1 => world.answer(AttestState::Denied),
                _ => world.now = world.now.plus(std::time::Duration::from_secs(7)),
            }
            let before = world.count(Effect::MarkRunning);
            world.look(observed);
            if world.count(Effect::MarkRunning) > before {
                prop_assert!(world.state().may_begin(), "{:?}", world.state());
                prop_assert_eq!(world.count(Effect::Judge), 1);
            }
        }
        // Whatever happened: a host that does as it is told and an owner who is silent let it end.
        for _ in 0..40 {
            world.now = world.now.plus(std::time::Duration::from_secs(61));
            for observed in [proof(NONCE), said(ActualState::Running, 1), said(ActualState::Absent, 1)] {
                world.look(&observed);
            }
        }
        match world.job.job.state {
            JobState::Done => {
                prop_assert_eq!(world.instance.state, InstanceState::Running);
                prop_assert!(world.state().may_begin());
                prop_assert_eq!(world.count(Effect::End), 0);
            }
            JobState::Failed => {
                prop_assert_eq!(world.instance.state, InstanceState::Terminated);
                prop_assert_eq!(world.count(Effect::End), 1);
                prop_assert_eq!(world.instance.host, None);
            }
            other => prop_assert!(false, "the launch is still {other:?} after {:?}", world.effects),
        }
    }
}

#[test]
fn a_proof_with_another_nonce_is_none_and_a_host_that_cannot_prove_ends_the_launch() {
    let mut world = World::new(AttestState::Matched);
    world.look(&Observed::Unplaced);
    assert!(matches!(world.look(&proof([9; 16])), Decision::Wait { .. }));
    let Decision::Fail(reason) = world.look(&stuck()) else { panic!("it waits for a host that cannot") };
    assert_eq!(reason.code, lucarne_model::ErrorCode::HostNotProved);
}

#[test]
fn silence_ends_at_the_time_that_was_given_and_not_before() {
    let mut world = World::new(AttestState::AwaitingApproval);
    world.look(&Observed::Unplaced);
    world.look(&proof(NONCE));
    let until = world.instance.attestation.as_ref().unwrap().until;
    assert_eq!(world.look(&said(ActualState::Held, 1)), Decision::Wait { until });
    world.now = until.unwrap();
    assert_eq!(world.look(&said(ActualState::Held, 1)), Decision::Stay(Effect::Expire));
    let Decision::Fail(reason) = world.look(&said(ActualState::Held, 1)) else { panic!("it waits on") };
    assert_eq!(reason.code, lucarne_model::ErrorCode::AttestationExpired);
}
