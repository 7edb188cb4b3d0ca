//! The deciding half of a migration against two hosts that answer anything, in any order.

use lucarne_api::bodies::instance::{JobKind, JobState};
use lucarne_model::{HostId, actual::ActualState, instance::InstanceState};
use proptest::prelude::*;

use super::{
    steps::{self, Decision, Effect, MOVE_PATIENCE, Observed, Sight},
    tests::{instance, job, said},
};
use crate::records::Leg;

/// What a migration changes, and every effect that it had.
struct Passage {
    world: (lucarne_model::instance::Instance, crate::records::JobRecord),
    leg: Option<Leg>,
    now: lucarne_model::Moment,
    effects: Vec<Effect>,
}

impl Passage {
    fn new() -> Self {
        let mut instance = instance();
        (instance.host, instance.state) = (Some(HostId::from_bits(1)), InstanceState::Running);
        let now = lucarne_model::Moment::EPOCH;
        let mut job = job(JobKind::Migrate);
        job.deadline = steps::deadline(&job, now);
        Self { world: (instance, job), leg: Some(Leg::Coming), now, effects: Vec::new() }
    }

    fn perform(&mut self, effect: Effect) {
        self.leg = match effect {
            Effect::Switch | Effect::TurnBack => Some(Leg::Leaving),
            Effect::Leave => None,
            _ => self.leg,
        };
        self.effects.push(effect);
    }

    /// One look, as the engine makes it.
    fn look(&mut self, own: &Observed, other: &Observed) -> Decision {
        let other = if self.leg.is_none() { Observed::Unplaced } else { other.clone() };
        let sight = Sight { own: own.clone(), other, is_drawn_on: false };
        let decision = steps::decide(&self.world.1, &self.world.0, &sight, self.now);
        match decision.clone() {
            Decision::Wait { .. } => {}
            Decision::Finish => steps::finish(&mut self.world.1, self.now),
            Decision::Fail(reason) => steps::turn_round(&mut self.world.1, reason, self.now),
            Decision::Stay(effect) => self.perform(effect),
            Decision::Step(effect) => {
                self.perform(effect);
                steps::advance(&mut self.world.1, self.now);
            }
        }
        decision
    }

    fn count(&self, wanted: Effect) -> usize {
        self.effects.iter().filter(|effect| **effect == wanted).count()
    }
}

fn observed() -> impl Strategy<Value = Observed> {
    use ActualState as Is;
    let states = [Is::Preparing, Is::Running, Is::Arrived, Is::Stopping, Is::Stopped, Is::Absent, Is::Failed];
    prop_oneof![
        2 => Just(Observed::Unknown),
        1 => Just(Observed::HostDown),
        8 => (prop::sample::select(states.to_vec()), 0..3u64).prop_map(|(state, generation)| said(state, generation)),
    ]
}

proptest! {
    /// The instance changes its host once or never, and only after all of it had arrived; then, and only then, one host's
    /// room is given back.
    #[test]
    fn a_migration_switches_after_the_arrival_or_turns_back_and_frees_one_room(
        answers in prop::collection::vec((observed(), observed()), 0..30),
        stops_at in 0..60usize,
    ) {
        let mut passage = Passage::new();
        for (turn, (own, other)) in answers.iter().enumerate() {
            if turn == stops_at {
                passage.world.0.state = InstanceState::Stopping;
            }
            let before = passage.count(Effect::Switch);
            passage.look(own, other);
            if passage.count(Effect::Switch) > before {
                prop_assert_eq!(other, &said(ActualState::Arrived, passage.world.0.generation));
                prop_assert_eq!(passage.world.0.state, InstanceState::Running);
            }
        }
        // Whatever happened, hosts that do as they are told let it end.
        passage.now = passage.now.plus(MOVE_PATIENCE);
        for _ in 0..8 {
            passage.look(&said(ActualState::Running, 1), &said(ActualState::Absent, 1));
        }
        let (switched, turned) = (passage.count(Effect::Switch), passage.count(Effect::TurnBack));
        prop_assert_eq!(switched + turned, 1);
        prop_assert_eq!(passage.count(Effect::Leave), 1);
        let expected = if switched == 1 { JobState::Done } else { JobState::Failed };
        prop_assert_eq!(passage.world.1.job.state, expected);
        prop_assert_eq!(passage.leg, None);
    }
}

#[test]
fn an_instance_that_keeps_away_stays_where_it_is() {
    let mut passage = Passage::new();
    let (own, other) = (said(ActualState::Running, 1), said(ActualState::Preparing, 1));
    assert!(matches!(passage.look(&own, &other), Decision::Wait { until: Some(_) }));
    passage.now = passage.now.plus(MOVE_PATIENCE);
    assert!(matches!(passage.look(&own, &other), Decision::Fail(_)));
    passage.look(&own, &other);
    assert_eq!((passage.effects.as_slice(), passage.leg), (&[Effect::TurnBack][..], Some(Leg::Leaving)));
}
