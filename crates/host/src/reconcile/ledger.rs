//! What must outlive the agent about instances: which generations have had their life, and since when each is here.
//!
//! Owns the shape on disk (`instances.json`, version 1). Without it a VM that failed, or whose guest shut itself down, would
//! be started again by an agent that starts anew.

use std::collections::BTreeMap;

use lucarne_model::{InstanceId, Moment, instance::StateReason};
use serde::{Deserialize, Serialize};

/// The book of instances on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    version: u32,
    instances: BTreeMap<InstanceId, Entry>,
}

/// One instance's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When this host first heard of it: the launch time that the metadata service tells.
    pub since: Moment,
    /// The newest generation that is over.
    pub ended: Option<Ended>,
}

/// A generation that is over and is not started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub generation: u64,
    /// Why it failed; none when it was stopped, or its guest shut down.
    pub failure: Option<StateReason>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { version: Self::VERSION, instances: BTreeMap::new() }
    }
}

impl Ledger {
    pub const VERSION: u32 = 1;

    /// Whether this build can read it.
    pub fn is_readable(&self) -> bool {
        self.version == Self::VERSION
    }
    pub fn entry(&self, instance: InstanceId) -> Option<&Entry> {
        self.instances.get(&instance)
    }
    pub fn ended(&self, instance: InstanceId) -> Option<&Ended> {
        self.entry(instance)?.ended.as_ref()
    }
    /// Whether `generation` may not be started any more.
    pub fn is_over(&self, instance: InstanceId, generation: u64) -> bool {
        self.ended(instance).is_some_and(|ended| ended.generation >= generation)
    }

    /// Opens a line for an instance that has none.
    pub fn open(&mut self, instance: InstanceId, now: Moment) {
        self.instances.entry(instance).or_insert(Entry { since: now, ended: None });
    }
    /// Writes that a generation is over. What was written first of a generation, or of a newer one, stays.
    pub fn close(&mut self, instance: InstanceId, generation: u64, failure: Option<StateReason>) {
        if self.is_over(instance, generation) {
            return;
        }
        if let Some(entry) = self.instances.get_mut(&instance) {
            entry.ended = Some(Ended { generation, failure });
        }
    }
    pub fn strike(&mut self, instance: InstanceId) {
        self.instances.remove(&instance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden form: a ledger that version 1 wrote opens for ever.
    #[test]
    fn a_ledger_of_version_1_still_opens() {
        let text = r#"{"version":1,"instances":{"i-00000000000000007":{"since":5,
            "ended":{"generation":2,"failure":{"code":"HypervisorFailed","message":"gone"}}}}}"#;
        let ledger: Ledger = serde_json::from_str(text).unwrap();
        assert!(ledger.is_readable());
        let instance = InstanceId::from_bits(7);
        assert!(ledger.is_over(instance, 2) && !ledger.is_over(instance, 3));
        assert_eq!(ledger.entry(instance).unwrap().since, Moment(5));
    }

    #[test]
    fn the_first_word_about_a_generation_stays() {
        let (mut ledger, instance) = (Ledger::default(), InstanceId::from_bits(1));
        ledger.open(instance, Moment(1));
        ledger.close(instance, 3, None);
        let failure = StateReason { code: lucarne_model::ErrorCode::Internal, message: String::new() };
        ledger.close(instance, 3, Some(failure.clone()));
        ledger.close(instance, 2, Some(failure));
        assert_eq!(ledger.ended(instance), Some(&Ended { generation: 3, failure: None }));
    }
}
