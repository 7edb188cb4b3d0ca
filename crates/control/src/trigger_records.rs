//! What the store keeps of triggers beyond what the API shows.
//!
//! Owns the record, and how many firings are remembered. What a watch remembers is the room's.

use lucarne_model::{
    AccountId, ErrorCode, ResourceKind, Tags, TriggerId,
    trigger::{Firing, FiringOutcome, Trigger},
};
use lucarne_replica::trigger::Watch;
use serde::{Deserialize, Serialize};

use crate::store::Resource;

/// Firings that are shown, of those that made something and of those that did not.
const SHOWN: usize = 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TriggerRecord {
    #[serde(flatten)]
    pub(crate) trigger: Trigger,
    pub(crate) watch: Watch,
}

impl Resource for TriggerRecord {
    const KIND: ResourceKind = ResourceKind::Trigger;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidTriggerNotFound;
    type Id = TriggerId;
    fn id(&self) -> TriggerId {
        self.trigger.id
    }
    fn account(&self) -> AccountId {
        self.trigger.account
    }
    /// Not what it made, which comes and goes without it.
    fn references(&self) -> Vec<String> {
        vec![self.trigger.vpc.to_string()]
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        Some(&mut self.trigger.tags)
    }
}

const fn made_something(outcome: &FiringOutcome) -> bool {
    match outcome {
        FiringOutcome::Made { .. } | FiringOutcome::Failed { .. } => true,
        FiringOutcome::LimitReached | FiringOutcome::Refused { .. } => false,
    }
}

impl TriggerRecord {
    /// Writes down what came of a cause that was decided on. A flood of firings that made nothing hides none that did.
    pub(crate) fn note(&mut self, firing: Firing) {
        let trigger = &mut self.trigger;
        let made = made_something(&firing.outcome);
        *(if made { &mut trigger.made } else { &mut trigger.not_made }) += 1;
        trigger.firings.insert(0, firing);
        let mut of_its_kind =
            trigger.firings.iter().enumerate().filter(|(_, one)| made_something(&one.outcome) == made);
        if let Some((oldest, _)) = of_its_kind.nth(SHOWN) {
            trigger.firings.remove(oldest);
        }
        trigger.due = self.watch.due();
    }
}

#[cfg(test)]
mod tests {
    use lucarne_model::{
        Moment, ReplicaId, VpcId,
        trigger::{FiringCause, FiringLimit, TriggerOn, TriggerOrder},
    };

    use super::*;

    fn record() -> TriggerRecord {
        let on = TriggerOn::Every { seconds: 60 };
        let trigger = Trigger {
            id: TriggerId::from_bits(1),
            account: AccountId::OPERATOR,
            name: "nightly".into(),
            vpc: VpcId::from_bits(1),
            on,
            order: TriggerOrder::default(),
            limit: FiringLimit::default(),
            made: 0,
            not_made: 0,
            firings: Vec::new(),
            due: None,
            created: Moment::EPOCH,
            tags: Tags::default(),
        };
        TriggerRecord { trigger, watch: Watch::new(on, Moment::EPOCH) }
    }

    #[test]
    fn firings_that_made_nothing_hide_none_that_did() {
        let mut record = record();
        let firing = |second, outcome| {
            let at = Moment::from_secs(second);
            Firing { at, cause: FiringCause::Due { at }, outcome }
        };
        record.note(firing(0, FiringOutcome::Made { replica: ReplicaId::from_bits(1), recording: None }));
        (1..100).for_each(|second| record.note(firing(second, FiringOutcome::LimitReached)));
        let Trigger { made, not_made, firings, due, .. } = record.trigger;
        assert_eq!((made, not_made, firings.len()), (1, 99, SHOWN + 1));
        assert_eq!((firings[0].at, firings[SHOWN].at), (Moment::from_secs(99), Moment::EPOCH));
        assert_eq!(due, Some(Moment::from_secs(60)));
    }
}
