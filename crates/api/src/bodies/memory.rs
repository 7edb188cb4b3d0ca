//! Bodies of guest memory: settings to change, what is shown of VMs and hosts, and their history. Owns their shapes.

use lucarne_model::{
    AccountId, Bytes, HostId, InstanceId, Moment, OversubscriptionFactor, Pages,
    memory::{EvictionPolicy, MemoryMode, MemorySettings, MemoryThresholds, PagesByPlace, Priority},
    memory_report::{HostMemory, InstanceMemory, MemoryState},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is to be different; what is not given stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditMemory {
    #[serde(default)]
    pub mode: Option<MemoryMode>,
    #[serde(default)]
    pub priority: Option<Priority>,
    #[serde(default)]
    pub minimum_operating: Option<Bytes>,
    #[serde(default)]
    pub minimum_starting: Option<Bytes>,
    #[serde(default)]
    pub pinned: Option<bool>,
    #[serde(default)]
    pub thresholds: Option<MemoryThresholds>,
    /// Thresholds that move with the host's pressure again; not together with `thresholds`.
    #[serde(default)]
    pub automatic_thresholds: bool,
    #[serde(default)]
    pub eviction: Option<EvictionPolicy>,
}

impl EditMemory {
    /// The settings with what is given in place of what was.
    pub fn applied_to(&self, settings: MemorySettings) -> MemorySettings {
        MemorySettings {
            mode: self.mode.unwrap_or(settings.mode),
            priority: self.priority.unwrap_or(settings.priority),
            minimum_operating: self.minimum_operating.or(settings.minimum_operating),
            minimum_starting: self.minimum_starting.or(settings.minimum_starting),
            pinned: self.pinned.unwrap_or(settings.pinned),
            thresholds: self.thresholds.or(settings.thresholds.filter(|_| !self.automatic_thresholds)),
            eviction: self.eviction.unwrap_or(settings.eviction),
        }
    }
}

/// How an instance's memory is to be kept, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShownMemory {
    pub instance: InstanceId,
    pub account: AccountId,
    /// The tag `Name`.
    pub name: Option<String>,
    pub memory: Bytes,
    pub settings: MemorySettings,
    /// What its host says; none while it does not run or its host pages nobody's memory.
    pub actual: Option<InstanceMemory>,
}

/// The memory of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShownHostMemory {
    pub host: HostId,
    pub name: String,
    /// What instances have a claim to, of its memory for guests' pages.
    pub claimed: Bytes,
    pub claimable: Bytes,
    /// A generic instance claims its memory divided by this, unless it is pinned.
    pub oversubscription: OversubscriptionFactor,
    #[serde(flatten)]
    pub memory: HostMemory,
}

/// Memory of all instances that the caller may see, and, for operators, of all hosts that have told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryOverview {
    pub hosts: Vec<ShownHostMemory>,
    pub instances: Vec<ShownMemory>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// Only what is not older; all that is kept, which is an hour, if not given.
    pub since: Option<Moment>,
}

/// An instance's memory at one moment of its past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryPoint {
    pub at: Moment,
    pub mode: MemoryMode,
    pub state: MemoryState,
    pub pages: PagesByPlace,
    pub target: Option<Pages>,
    /// In thousandths.
    pub bucket: u32,
    /// Until then, from all places.
    pub faults: u64,
    pub evictions: u64,
    pub refaults: u64,
}

impl From<&InstanceMemory> for MemoryPoint {
    fn from(memory: &InstanceMemory) -> Self {
        let InstanceMemory { at, mode, state, pages, target, bucket, evictions, refaults, .. } = *memory;
        let faults = memory.faults.iter().map(|from| from.count).sum();
        Self { at, mode, state, pages, target, bucket, faults, evictions, refaults }
    }
}

/// Points of an instance's past, oldest first; the controller that answers has seen them itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryHistory {
    pub instance: InstanceId,
    pub points: Vec<MemoryPoint>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_edit_does_not_give_stays() {
        let thresholds = MemoryThresholds { fill_above: Bytes::mib(2), drain_below: Bytes::mib(1) };
        let before = MemorySettings {
            mode: MemoryMode::Soaker,
            priority: Priority(7),
            minimum_operating: Some(Bytes::mib(1)),
            minimum_starting: Some(Bytes::mib(2)),
            pinned: true,
            thresholds: Some(thresholds),
            eviction: EvictionPolicy::Random,
        };
        assert_eq!(EditMemory::default().applied_to(before), before);
        let unpinned = EditMemory { pinned: Some(false), ..EditMemory::default() }.applied_to(before);
        assert_eq!(unpinned, MemorySettings { pinned: false, ..before });
        let automatic = EditMemory { automatic_thresholds: true, ..EditMemory::default() }.applied_to(before);
        assert_eq!(automatic, MemorySettings { thresholds: None, ..before });
    }
}
