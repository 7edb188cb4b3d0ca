//! Questions in SQL: what may be asked, how much one question may cost, and what comes back.
//!
//! Owns [`FlowStore`], the few calls behind which an engine stands, and the shapes on both sides of it. [`engine`] is the
//! one that is built in (DataFusion over the log's records and the parts); [`statement`] decides what is a question at
//! all, [`table`] what it can see. Who may ask for which account is decided by the controller.

mod engine;
mod error;
mod foreign_table;
mod pushdown;
mod rows;
mod statement;
mod table;
#[cfg(test)]
mod tests;
mod unfold;

use std::time::Duration;

use async_trait::async_trait;
use lucarne_model::AccountId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use engine::Engine;
pub use engine::EngineError;
pub use error::{SqlError, SqlRefusal};

/// A question in SQL: one `SELECT` over the table `flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlQuestion {
    /// Whose records `flows` holds, with a tenant's columns; `null`, which must be written out, means those of all
    /// accounts with the operator's columns, and the table `foreign_flows` beside it.
    #[serde(deserialize_with = "Option::deserialize")]
    pub account: Option<AccountId>,
    /// In the dialect of PostgreSQL, at most [`SqlQuestion::MAX_LENGTH`] octets.
    pub sql: String,
    /// Rows that are wanted at most; none means [`SqlQuestion::DEFAULT_ROWS`], and more than
    /// [`SqlQuestion::MAX_ROWS`] means those.
    #[serde(default)]
    pub max_rows: Option<u32>,
    /// How the rows come back.
    #[serde(default)]
    pub format: SqlFormat,
}

impl SqlQuestion {
    /// Octets of the text; also what keeps the work of parsing and planning small.
    pub const MAX_LENGTH: usize = 8 * 1024;
    pub const DEFAULT_ROWS: u32 = 1000;
    pub const MAX_ROWS: u32 = 100_000;

    fn rows(&self) -> usize {
        self.max_rows.unwrap_or(Self::DEFAULT_ROWS).min(Self::MAX_ROWS) as usize
    }
}

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SqlFormat {
    /// A [`SqlAnswer`].
    #[default]
    Json,
    /// An Arrow IPC stream; the header `lucarne-truncated` says whether rows were left out.
    Arrow,
}

/// What a question in SQL gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SqlAnswer {
    pub columns: Vec<SqlColumn>,
    /// Each an object with its values by the columns' names; a value that is null is left out.
    pub rows: Vec<Value>,
    /// There were more rows than were asked for, or than may be given at once.
    pub truncated: bool,
}

/// A column of an answer, with its type as Arrow names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: String,
}

/// The rows of an answer, written in the wanted format.
#[derive(Debug)]
pub(crate) enum Answer {
    Json(SqlAnswer),
    Arrow { octets: Vec<u8>, truncated: bool },
}

/// What one question may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the start of the work to the last row.
    pub(crate) time: Duration,
    /// Until the work may start, while others are worked on.
    pub(crate) wait: Duration,
    /// Octets that sorting, grouping and joining may hold.
    pub(crate) memory: usize,
    /// Octets of the answer.
    pub(crate) answer: usize,
    /// Questions that are worked on at once.
    pub(crate) at_once: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(20),
            wait: Duration::from_secs(5),
            memory: 128 << 20,
            answer: 16 << 20,
            at_once: 2,
        }
    }
}

/// What answers questions in SQL, whatever engine it is.
#[async_trait]
pub(crate) trait FlowStore: Send + Sync {
    /// The columns of the table `flows` for an account, or for the operator.
    fn columns(&self, account: Option<AccountId>) -> Vec<SqlColumn>;

    /// Answers within the limits, or says which one was reached.
    async fn ask(&self, question: &SqlQuestion) -> Result<Answer, SqlError>;
}
