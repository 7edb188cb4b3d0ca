//! What the store keeps of scaling groups beyond what the API shows.
//!
//! Owns the record, and how many decisions are remembered. Which instances are a group's is in its record alone, so that it changes
//! in one transaction with their launch and their end.

use lucarne_model::{
    AccountId, ErrorCode, Moment, ResourceKind, ScalingGroupId, Tags,
    scaling::{ScalingDecision, ScalingGroup},
};
use serde::{Deserialize, Serialize};

use crate::{
    scaling::{Course, Order},
    store::Resource,
};

/// Decisions that are shown.
const SHOWN: usize = 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ScalingGroupRecord {
    #[serde(flatten)]
    pub(crate) group: ScalingGroup,
    /// Launches that failed one after another, and when the last one did.
    pub(crate) failures: u32,
    pub(crate) failed: Moment,
}

impl Resource for ScalingGroupRecord {
    const KIND: ResourceKind = ResourceKind::ScalingGroup;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidScalingGroupNotFound;
    type Id = ScalingGroupId;
    fn id(&self) -> ScalingGroupId {
        self.group.id
    }
    fn account(&self) -> AccountId {
        self.group.account
    }
    /// What it needs to launch an instance. Not its instances, which come and go, nor its image, which may be another account's.
    fn references(&self) -> Vec<String> {
        let subnets = self.group.subnets.iter().map(ToString::to_string);
        let groups = self.group.template.security_groups.iter().map(ToString::to_string);
        subnets.chain(groups).chain([self.group.vpc.to_string()]).collect()
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        Some(&mut self.group.tags)
    }
}

impl ScalingGroupRecord {
    pub(crate) const fn new(group: ScalingGroup) -> Self {
        Self { group, failures: 0, failed: Moment::EPOCH }
    }

    pub(crate) fn order(&self) -> Order {
        let ScalingGroup { min, max, target, cool_down_seconds, .. } = self.group;
        Order { min, max, target, cool_down: std::time::Duration::from_secs(cool_down_seconds) }
    }

    pub(crate) fn course(&self) -> Course {
        let ScalingGroup { desired, changed, .. } = self.group;
        Course { desired, changed, failures: self.failures, failed: self.failed }
    }

    /// Writes a decision down, and says whether it is news: what is refused again and again is told once, with the last time.
    pub(crate) fn note(&mut self, decision: ScalingDecision) -> bool {
        let decisions = &mut self.group.decisions;
        let again = decisions.first().is_some_and(|last| last.refused.is_some() && last.refused == decision.refused);
        if again {
            decisions.remove(0);
        }
        decisions.insert(0, decision);
        decisions.truncate(SHOWN);
        !again
    }
}
