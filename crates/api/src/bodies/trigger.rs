//! Bodies of triggers. Owns their shapes; what triggers are is `lucarne_model::trigger`'s.

use lucarne_model::{
    Tags, VpcId,
    trigger::{FiringLimit, TriggerOn, TriggerOrder},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTrigger {
    /// Unlike those of the account's other triggers.
    pub name: String,
    /// The network that is watched, and duplicated and recorded when the trigger fires.
    pub vpc: VpcId,
    pub on: TriggerOn,
    #[serde(default)]
    pub order: TriggerOrder,
    /// Once an hour if not given.
    #[serde(default)]
    pub limit: Option<FiringLimit>,
    #[serde(default)]
    pub tags: Tags,
}
