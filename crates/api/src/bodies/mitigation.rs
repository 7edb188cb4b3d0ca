//! Mitigations as operators order and see them. Owns their shapes; what hosts are told is `lucarne_model`'s.

use lucarne_model::{
    AccountId, MitigationId, Moment, Tags,
    mitigation::{MitigationAction, MitigationTarget},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateMitigation {
    /// At least one criterion.
    pub target: MitigationTarget,
    pub action: MitigationAction,
    /// For the operator's own records: tenants never see it.
    pub reason: String,
    /// For how long, 1 to 31536000; until it is deleted if not given.
    #[serde(default)]
    pub lasts_seconds: Option<u64>,
    #[serde(default)]
    pub tags: Tags,
}

/// An order against traffic that harms others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Mitigation {
    pub id: MitigationId,
    /// The operator's.
    pub account: AccountId,
    pub target: MitigationTarget,
    pub action: MitigationAction,
    pub reason: String,
    /// When it ends by itself; none where it stays until it is deleted.
    pub expires: Option<Moment>,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}
