//! Questions about flows, in SQL and by name. Owns their shape in the API; the answers' is
//! [`SqlAnswer`](lucarne_model::flow_sql::SqlAnswer), whoever computes them.

use lucarne_model::{AccountId, InstanceId, Moment, VpcId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A question in SQL over the caller's flow records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskSql {
    /// One `SELECT` in PostgreSQL's dialect, at most 8 KiB, over the tables that `/v1/flows/tables` lists.
    pub sql: String,
    /// Rows that are wanted at most, to 100000; 1000 if not given.
    #[serde(default)]
    pub max_rows: Option<u32>,
    /// The records of all accounts with the operator's own columns; for operators only.
    #[serde(default)]
    pub all_accounts: bool,
    /// A name of the caller's choice by which the progress can be asked for, 1 to 64 letters, digits and dashes.
    #[serde(default)]
    pub progress: Option<String>,
}

/// Which tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TablesQuery {
    /// Those of all accounts; for operators only.
    pub all_accounts: Option<bool>,
}

/// What a named question is about. Which parameters each takes, `/v1/flows/questions` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuestionQuery {
    /// Records that end at or after this, in microseconds since 1970; an hour ago if not given.
    pub since: Option<Moment>,
    /// Records that start before this; now if not given.
    pub until: Option<Moment>,
    /// Rows that are wanted at most, 1 to 10000; 100 if not given.
    pub limit: Option<u32>,
    /// Whose flows, for operators; the caller's own if not given.
    pub account: Option<AccountId>,
    pub instance: Option<InstanceId>,
    pub vpc: Option<VpcId>,
    /// What the first rows have the most of; bytes if not given.
    pub by: Option<Measure>,
    /// A name of the caller's choice by which the progress can be asked for, 1 to 64 letters, digits and dashes.
    pub progress: Option<String>,
}

/// What is counted of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    #[default]
    Bytes,
    Packets,
    /// Flows that ended; one that was rejected counts in each interval.
    Flows,
}

/// A question that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NamedQuestion {
    pub name: String,
    /// What it answers, in a sentence.
    pub meaning: String,
    /// Its parameters beside `since`, `until`, `limit`, `account` and `progress`, which all have; one that must be given
    /// ends in `!`.
    pub parameters: Vec<String>,
}
