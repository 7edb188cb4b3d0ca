//! Bodies of replicas. Owns their shapes; what terms, plans and replicas are is `lucarne_model::replication`'s.

use lucarne_model::{
    Moment, Tags, VpcId,
    replication::{Difference, ReplicaTerms},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanReplica {
    pub vpc: VpcId,
    #[serde(default)]
    pub terms: ReplicaTerms,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateReplica {
    /// The network to duplicate.
    pub vpc: VpcId,
    /// Unlike those of the account's other replicas; the replica's id if not given.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub terms: ReplicaTerms,
    /// After how long it and all in it is deleted by itself; never if not given.
    #[serde(default)]
    pub lasts_seconds: Option<u64>,
    #[serde(default)]
    pub tags: Tags,
}

/// What becomes of duplicates that draw on what is to be ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndSourceQuery {
    /// They are made deep, and once they are it ends by itself; without this it is refused.
    pub deepen_duplicates: Option<bool>,
}

/// What differs between a replica and its source now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaDifferences {
    pub differences: Vec<Difference>,
}

/// Of which time the flows of a replica and of its source are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowDifferenceQuery {
    /// Records that end at or after this, in microseconds since 1970; since the replica was taken if not given, and not before.
    pub since: Option<Moment>,
    /// Records that start before this; now if not given.
    pub until: Option<Moment>,
    /// Differences that are wanted at most, 1 to 10000; 1000 if not given.
    pub limit: Option<u32>,
}
