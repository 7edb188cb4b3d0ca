//! Bodies of flow logs. Owns their shapes.

use lucarne_model::{
    Tags,
    flow_log::{Destination, FlowLogTarget, LoggedTraffic, StoreCredentials},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateFlowLog {
    pub target: FlowLogTarget,
    #[serde(default)]
    pub traffic: LoggedTraffic,
    /// 1000 to 600000; 10000 if not given.
    #[serde(default)]
    pub interval_millis: Option<u64>,
    /// Of files: `default` or fields as in `${srcaddr} ${dstaddr} ${end-reason}` for AWS's text, or `parquet`.
    #[serde(default)]
    pub format: Option<String>,
    /// `store` if not given.
    #[serde(default)]
    pub to: Option<Destination>,
    /// For `s3://` alone, which needs them; they are never shown.
    #[serde(default)]
    pub credentials: Option<StoreCredentials>,
    #[serde(default)]
    pub tags: Tags,
}

/// What is to be different; what is not given stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditFlowLog {
    #[serde(default)]
    pub traffic: Option<LoggedTraffic>,
    #[serde(default)]
    pub interval_millis: Option<u64>,
    #[serde(default)]
    pub format: Option<String>,
    /// Records that were not delivered before go to the new destination.
    #[serde(default)]
    pub to: Option<Destination>,
    /// For `s3://` alone; those that were given before stay otherwise.
    #[serde(default)]
    pub credentials: Option<StoreCredentials>,
}
