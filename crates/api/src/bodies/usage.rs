//! Bodies of usage: what memory was held by an account, and what it costs. Owns their shapes.

use lucarne_model::{AccountId, InstanceId, Moment, memory::Place};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    /// Whose, for operators; the caller's if not given.
    pub account: Option<AccountId>,
    /// Only what was used from then on; all of it if not given.
    pub since: Option<Moment>,
}

/// How memory is kept, as far as it is priced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PricedMode {
    /// Generic, and none of it leaves.
    Pinned,
    Generic,
    Soaker,
}

/// What an account used, and what that costs. Amounts are whole millionths of the currency's unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShownUsage {
    pub account: AccountId,
    pub currency: String,
    pub lines: Vec<UsageLine>,
    pub total_micros: u64,
    /// What the same would have cost, had all of it been kept in one mode.
    pub otherwise: Vec<OtherMode>,
    pub instances: Vec<InstanceUsage>,
}

/// One line of the bill: memory held, or something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "item", rename_all = "kebab-case")]
pub enum UsageLine {
    /// Pages of 4 KiB, times seconds.
    Held { mode: PricedMode, place: Place, page_seconds: u64, micros: u64 },
    /// Changes of mode.
    Conversions { count: u64, micros: u64 },
    /// Pages that moved to other hosts with their instance.
    PagesMoved { count: u64, micros: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OtherMode {
    pub mode: PricedMode,
    pub micros: u64,
}

/// What one instance used, whether it still is or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceUsage {
    pub instance: InstanceId,
    /// In all modes and places that are priced.
    pub page_seconds: u64,
    pub micros: u64,
}
