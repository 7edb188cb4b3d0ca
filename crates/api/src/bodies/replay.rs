//! Bodies of replays. Owns their shapes; what a replay and its report are is `lucarne_model::replay`'s.

use lucarne_model::{
    RecordingId, ReplicaId, Tags,
    replay::{ReplayFrom, ReplaySpeed},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartReplay {
    /// Of the network that was duplicated; it has stopped.
    pub recording: RecordingId,
    /// The duplicate that it is played into.
    pub replica: ReplicaId,
    /// `internet`, `instances`, `all`, or the id of one instance of the recorded network; `internet` if not given.
    #[serde(default)]
    pub from: ReplayFrom,
    /// From 0.1 to 10, or `max`; as recorded if not given.
    #[serde(default)]
    pub speed: Option<ReplaySpeed>,
    /// How often it is played, one after the other; at most 100, once if not given.
    #[serde(default)]
    pub times: Option<u32>,
    /// By how many clients for each that was recorded, from ports of their own; at most 1000, one if not given.
    #[serde(default)]
    pub amplify: Option<u32>,
    /// Whether what was changed of the network while it was recorded is asked of the duplicate too, with the caller's rights, when it
    /// was in the recording; once, whatever `times` says.
    #[serde(default)]
    pub changes: bool,
    #[serde(default)]
    pub tags: Tags,
}
