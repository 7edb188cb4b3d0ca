//! The small tables beside the resources: settings, uploads, and answers kept for idempotency keys.
//!
//! Owns their SQL. What an idempotency key means is decided in [`crate::idempotency`], uploads in [`crate::blobs`].

use std::fmt::Display;

use lucarne_api::Problem;
use lucarne_model::{AccountId, Moment, storage::Digest};

use super::{Tx, tx::unavailable};

/// What is kept of a request that carried an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// A digest of the route and the parameters.
    pub(crate) request: String,
    /// The answer as JSON.
    pub(crate) answer: String,
}

impl Tx<'_> {
    /// A value that the controller keeps for itself.
    pub(crate) fn setting(&self, key: &str) -> Result<Option<String>, Problem> {
        self.row("SELECT value FROM setting WHERE key = $1", [key], |row| row.get(0))
    }

    pub(crate) fn set_setting(&mut self, key: &str, value: &str) -> Result<(), Problem> {
        let sql = "INSERT INTO setting (key, value) VALUES ($1, $2) \
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.execute(sql, (key, value)).map(|_| ())
    }

    pub(crate) fn forget_setting(&mut self, key: &str) -> Result<(), Problem> {
        self.execute("DELETE FROM setting WHERE key = $1", [key]).map(|_| ())
    }

    pub(crate) fn remembered(&self, account: AccountId, key: &str) -> Result<Option<Remembered>, Problem> {
        let sql = "SELECT request, answer FROM idempotency WHERE account = $1 AND key = $2";
        self.row(sql, (account.to_string(), key), |row| Ok(Remembered { request: row.get(0)?, answer: row.get(1)? }))
    }

    pub(crate) fn remember(&mut self, account: AccountId, key: &str, kept: &Remembered) -> Result<(), Problem> {
        let sql = "INSERT INTO idempotency (account, key, request, answer, created) VALUES ($1, $2, $3, $4, $5)";
        let created = self.now().as_micros() as i64;
        self.execute(sql, (account.to_string(), key, &kept.request, &kept.answer, created)).map(|_| ())
    }

    pub(crate) fn forget_requests_before(&mut self, moment: Moment) -> Result<(), Problem> {
        self.execute("DELETE FROM idempotency WHERE created < $1", [moment.as_micros() as i64]).map(|_| ())
    }

    /// Notes that an account, or a host, uploaded a blob itself.
    pub(crate) fn note_upload(&mut self, by: impl Display, digest: &Digest) -> Result<(), Problem> {
        let sql = "INSERT INTO upload (uploader, digest, created) VALUES ($1, $2, $3) \
                   ON CONFLICT (uploader, digest) DO UPDATE SET created = excluded.created";
        let created = self.now().as_micros() as i64;
        self.execute(sql, (by.to_string(), digest.as_str(), created)).map(|_| ())
    }

    pub(crate) fn has_uploaded(&self, by: impl Display, digest: &Digest) -> Result<bool, Problem> {
        let sql = "SELECT 1 FROM upload WHERE uploader = $1 AND digest = $2";
        let row: Option<i64> = self.row(sql, (by.to_string(), digest.as_str()), |row| row.get(0))?;
        Ok(row.is_some())
    }

    /// Digests of what the account uploaded and what was not forgotten since.
    pub(crate) fn uploads_of(&self, account: AccountId) -> Result<Vec<String>, Problem> {
        let sql = "SELECT digest FROM upload WHERE uploader = $1";
        let mut statement = self.connection.prepare_cached(sql).map_err(unavailable)?;
        let rows = statement.query_map([account.to_string()], |row| row.get(0)).map_err(unavailable)?;
        rows.collect::<Result<_, _>>().map_err(unavailable)
    }

    pub(crate) fn forget_uploads_of(&mut self, digest: &Digest) -> Result<(), Problem> {
        self.execute("DELETE FROM upload WHERE digest = $1", [digest.as_str()]).map(|_| ())
    }
}
