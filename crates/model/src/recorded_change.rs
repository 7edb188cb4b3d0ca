//! What was asked of a network while it was recorded, and what came of asking it of a duplicate again.
//!
//! Owns the shapes. What of a network is noted so is decided by the controller; how a change of the source becomes one of the duplicate,
//! by the room `replica`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ErrorCode, Moment};

/// A request that changed something of a network while it was recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedChange {
    pub at: Moment,
    /// The operation, as the API's document names it.
    pub operation: String,
    /// The parameters of its path, in order.
    pub path: Vec<String>,
    /// Null where it has none.
    pub body: Value,
    /// What was taken away, where the path names it by an id that a duplicate has another one for.
    pub taken: Value,
    pub answer: Value,
}

/// A change of the recorded network that was asked of its duplicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReappliedChange {
    /// When the network was changed, and when its duplicate.
    pub recorded: Moment,
    pub at: Moment,
    /// The operation, as the API's document names it.
    pub operation: String,
    pub outcome: ChangeOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ChangeOutcome {
    Applied,
    /// What it concerns is not in the duplicate.
    LeftOut {
        id: String,
    },
    Refused {
        code: ErrorCode,
        detail: String,
    },
}
