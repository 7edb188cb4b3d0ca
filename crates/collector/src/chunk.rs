//! Records in memory: columns that became durable together, with their numbers.
//!
//! Owns how the hot table is looked into: the rows of an account, and single records as rows. What holds the chunks, and
//! until when, is the matter of the [`Catalog`](crate::catalog::Catalog).

use lucarne_flows::columns::FlowColumns;
use lucarne_model::AccountId;

use crate::{Kept, position::Position};

/// Neighbours of one log segment.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The number of the first record; the others' follow.
    pub(crate) first: u64,
    pub(crate) columns: FlowColumns,
}

impl Chunk {
    pub(crate) const fn len(&self) -> usize {
        self.columns.len()
    }

    /// The number behind the last record's.
    pub(crate) const fn end(&self) -> u64 {
        self.first + self.len() as u64
    }

    /// The rows of an account, or of all accounts.
    pub(crate) fn rows_of(&self, account: Option<AccountId>) -> Vec<u32> {
        let Some(account) = account else { return (0..self.len() as u32).collect() };
        let is_theirs: Vec<bool> =
            self.columns.identity.values().iter().map(|identity| identity.account == account).collect();
        let codes = self.columns.identity.codes().iter().zip(0..);
        codes.filter(|(code, _)| is_theirs[**code as usize]).map(|(_, row)| row).collect()
    }

    pub(crate) fn position(&self, row: u32) -> Position {
        Position { end: self.columns.ended(row as usize), serial: self.first + u64::from(row) }
    }

    pub(crate) fn kept(&self, row: u32) -> Kept {
        Kept { serial: self.first + u64::from(row), record: self.columns.row(row as usize) }
    }

    /// The records of an account, or of all accounts.
    pub(crate) fn records_of(&self, account: Option<AccountId>) -> impl Iterator<Item = Kept> {
        self.rows_of(account).into_iter().map(|row| self.kept(row))
    }
}

#[cfg(test)]
impl Chunk {
    /// Of these records, which are numbered one after the other.
    pub(crate) fn of(first: u64, records: &[lucarne_model::FlowRecord]) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self { first, columns: FlowColumns::of(records) })
    }
}
