//! Bodies of recordings. Owns their shapes.

use lucarne_model::{
    Tags, VpcId,
    recording::{RecordingFilter, RecordingRoom},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRecording {
    pub vpc: VpcId,
    /// All frames if not given.
    #[serde(default)]
    pub filter: RecordingFilter,
    /// On each host; a ring of 64 MiB if not given.
    #[serde(default)]
    pub room: Option<RecordingRoom>,
    /// For how long, in seconds, at most a day; until it is stopped if not given.
    #[serde(default)]
    pub seconds: Option<u64>,
    /// After how long it and its files are deleted by themselves, in seconds, at most a year; never if not given.
    #[serde(default)]
    pub lasts_seconds: Option<u64>,
    #[serde(default)]
    pub tags: Tags,
}
