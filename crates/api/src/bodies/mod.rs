//! What requests carry and lists answer, by subject. Resources themselves are `lucarne_model`'s.
//!
//! Owns the bodies' shapes. Unknown fields are refused, so that a misspelt option is not silently ignored.

pub mod attestation;
pub mod event;
pub mod finding;
pub mod flow;
pub mod flow_log;
pub mod flow_question;
pub mod host;
pub mod identity;
pub mod instance;
pub mod load;
pub mod memory;
pub mod mitigation;
pub mod network;
pub mod price_book;
pub mod publisher;
pub mod receipt;
pub mod recording;
pub mod replay;
pub mod replica;
pub mod scaling_group;
pub mod sealing;
pub mod storage;
pub mod tpm;
pub mod trigger;
pub mod usage;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// No query parameters are taken.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
pub struct NoQuery {}

/// Which part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// At most this many, 1 to 1000; 100 if not given.
    pub limit: Option<u32>,
    /// The `next` of the page before.
    pub page_token: Option<String>,
    /// `field=pattern,pattern;tag:Key=pattern`: all fields must match one of their patterns; `*` and `?` stand for any text
    /// and any character. Fields are those of the JSON; dots lead inwards.
    pub filter: Option<String>,
}

/// Part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PageOf{T}")]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Gives the next part as `page_token`; none at the end.
    pub next: Option<String>,
}

/// A change of a resource's tags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeTags {
    /// Tags to set, in place of earlier values.
    #[serde(default)]
    pub add: lucarne_model::Tags,
    /// Keys to take away.
    #[serde(default)]
    pub remove: Vec<String>,
}
