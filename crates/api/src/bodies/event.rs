//! Events as they are asked for.

use lucarne_model::{AccountId, EventKind, Moment};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which events; all that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Whom they concern: for operators, who are shown all accounts' if it is not given.
    pub account: Option<AccountId>,
    pub kind: Option<EventKind>,
    /// The id of what it happened to.
    pub resource: Option<String>,
    /// At this time or later, in microseconds since 1970.
    pub since: Option<Moment>,
    /// At most this many, 1 to 1000; 100 if not given.
    pub limit: Option<u32>,
    pub page_token: Option<String>,
}
