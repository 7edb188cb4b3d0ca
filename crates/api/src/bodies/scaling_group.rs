//! Bodies of scaling groups. Owns their shapes; what scaling groups are is `lucarne_model::scaling`'s.

use lucarne_model::{
    SubnetId, Tags,
    scaling::{LaunchTemplate, ScalingTarget},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateScalingGroup {
    /// Unlike those of the network's other groups.
    pub name: String,
    /// 1 to 16, all of one network.
    pub subnets: Vec<SubnetId>,
    pub template: LaunchTemplate,
    /// So many are launched at once; 0 to 100.
    pub min: u32,
    pub max: u32,
    pub target: ScalingTarget,
    /// 60 if not given; at most a day.
    #[serde(default)]
    pub cool_down_seconds: Option<u64>,
    #[serde(default)]
    pub tags: Tags,
}

/// What is given is changed, and the rest left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditScalingGroup {
    #[serde(default)]
    pub min: Option<u32>,
    #[serde(default)]
    pub max: Option<u32>,
    #[serde(default)]
    pub target: Option<ScalingTarget>,
    #[serde(default)]
    pub cool_down_seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteScalingGroupQuery {
    /// Terminates its instances with it.
    pub force: Option<bool>,
}
