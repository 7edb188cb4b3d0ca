//! Bodies of replicas. Owns their shapes; what terms, plans and replicas are is `lucarne_model::replication`'s.

use lucarne_model::{
    Tags, VpcId,
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

/// What differs between a replica and its source now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaDifferences {
    pub differences: Vec<Difference>,
}
