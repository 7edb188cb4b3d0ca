//! Questions in SQL: what may be asked, how much one question may cost, and what comes back.
//!
//! Owns [`FlowStore`], the few calls behind which an engine stands, and the limits of one question. [`engine`] is the
//! one that is built in (DataFusion over the log's records and the parts); [`statement`] decides what is a question at
//! all, [`table`] what it can see. Who may ask for which account is decided by the controller.

mod bounded;
#[cfg(test)]
mod bounded_tests;
mod by_peer;
mod engine;
mod error;
mod foreign_table;
mod lopsided;
mod lopsided_table;
#[cfg(test)]
mod lopsided_tests;
mod mapped;
mod part_files;
mod progress;
mod pushdown;
mod rows;
mod statement;
mod sums_table;
#[cfg(test)]
mod sums_tests;
mod table;
#[cfg(test)]
mod tests;
mod turns;

use std::time::Duration;

use async_trait::async_trait;
use lucarne_model::{
    AccountId,
    flow_sql::{SqlAnswer, SqlProgress, SqlQuestion, SqlTable},
};

pub(crate) use engine::Engine;
pub use engine::EngineError;
pub use error::SqlError;

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
    /// Of these, questions of one account.
    pub(crate) of_one: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(20),
            wait: Duration::from_secs(5),
            memory: 128 << 20,
            answer: 16 << 20,
            at_once: 3,
            of_one: 2,
        }
    }
}

/// What answers questions in SQL, whatever engine it is.
#[async_trait]
pub(crate) trait FlowStore: Send + Sync {
    /// The tables that an account, or the operator, can ask.
    fn tables(&self, account: Option<AccountId>) -> Vec<SqlTable>;

    /// How far the question of that name is; none when it is not being worked on.
    fn progress(&self, name: &str) -> Option<SqlProgress>;

    /// Answers within the limits, or says which one was reached.
    async fn ask(&self, question: &SqlQuestion) -> Result<Answer, SqlError>;
}
