//! Questions about flow records in SQL, and rows that answer them.
//!
//! Owns the shapes that the collector, the controller and the API share. What may be asked is decided by the collector, and
//! by whom by the controller.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AccountId, ErrorCode};

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
    /// By which name its [`SqlProgress`] can be asked for while it is worked on.
    #[serde(default)]
    pub progress: Option<String>,
}

impl SqlQuestion {
    /// Octets of the text; also what keeps the work of parsing and planning small.
    pub const MAX_LENGTH: usize = 8 * 1024;
    pub const DEFAULT_ROWS: u32 = 1000;
    pub const MAX_ROWS: u32 = 100_000;

    /// With the rows and format that are the default.
    pub fn new(account: Option<AccountId>, sql: impl Into<String>) -> Self {
        Self { account, sql: sql.into(), max_rows: None, format: SqlFormat::Json, progress: None }
    }

    /// Rows that are answered with at most.
    pub fn rows(&self) -> usize {
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

/// What a question gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SqlAnswer {
    pub columns: Vec<SqlColumn>,
    /// Each an object with its values by the columns' names; a value that is null is left out.
    pub rows: Vec<Map<String, Value>>,
    /// There were more rows than were asked for.
    pub truncated: bool,
}

/// A column of a table or an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SqlColumn {
    pub name: String,
    /// The type as Arrow names it.
    #[serde(rename = "type")]
    pub data_type: String,
}

impl SqlColumn {
    pub fn new(name: impl Into<String>, data_type: impl Into<String>) -> Self {
        Self { name: name.into(), data_type: data_type.into() }
    }
}

/// A table that can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SqlTable {
    pub name: String,
    pub columns: Vec<SqlColumn>,
}

/// How far a question is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SqlProgress {
    /// Milliseconds since it came.
    pub elapsed: u64,
    /// It waits for its turn while others are worked on.
    pub waits: bool,
    /// Files that may hold what is asked for; a file that the question needs twice counts twice.
    pub files: u64,
    /// Files that have been read or left out.
    pub files_done: u64,
    /// Rows that were read so far.
    pub rows: u64,
}

/// Why a question was not answered, as a caller over HTTP is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlRefusal {
    pub code: ErrorCode,
    /// What is wrong and what can be done, in one line.
    pub message: String,
}
