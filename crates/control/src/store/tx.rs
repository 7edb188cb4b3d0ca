//! One transaction: resources read and written, their references and their account's usage kept with them.
//!
//! Owns the SQL over the resource tables. The rows of settings, uploads and idempotency keys are in
//! [`super::small_tables`], pages in [`super::page`].

use std::{collections::BTreeSet, fmt::Display};

use lucarne_api::Problem;
use lucarne_model::{AccountId, ErrorCode, Moment};
use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::{Item, Resource, Scope};

/// See [`Tx::stamp`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp(i64, i64, i64);

/// A transaction that reads, and in [`Store::write`](super::Store::write) also writes.
#[derive(Debug)]
pub(crate) struct Tx<'c> {
    pub(super) connection: &'c Connection,
    now: Moment,
    touched: BTreeSet<String>,
}

impl<'c> Tx<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection, now: crate::clock::now(), touched: BTreeSet::new() }
    }
    pub(super) fn into_touched(self) -> BTreeSet<String> {
        self.touched
    }

    /// When the transaction began.
    pub(crate) fn now(&self) -> Moment {
        self.now
    }

    /// The resource, or the problem that its kind has for an id that does not exist: the same for another tenant's.
    pub(crate) fn get<R: Resource>(&self, scope: Scope, id: impl Display) -> Result<R, Problem> {
        let id = id.to_string();
        self.find(scope, &id)?.ok_or_else(|| not_found::<R>(&id))
    }

    pub(crate) fn find<R: Resource>(&self, scope: Scope, id: impl Display) -> Result<Option<R>, Problem> {
        let sql = format!("SELECT body FROM resource WHERE {} AND kind = $2 AND id = $3", scope.condition());
        let parameters = (scope.parameter(), R::KIND, id.to_string());
        let body: Option<String> = self.row(&sql, parameters, |row| row.get(0))?;
        body.map(|body| decode(&body)).transpose()
    }

    /// All resources of a kind, oldest first.
    pub(crate) fn list<R: Resource>(&self, scope: Scope) -> Result<Vec<R>, Problem> {
        let condition = scope.condition();
        let sql = format!("SELECT body FROM resource WHERE {condition} AND kind = $2 ORDER BY created, id");
        self.bodies(&sql, (scope.parameter(), R::KIND))
    }

    /// All resources of a kind whose references contain `to`, oldest first.
    pub(crate) fn referring<R: Resource>(&self, scope: Scope, to: impl Display) -> Result<Vec<R>, Problem> {
        let sql = format!(
            "SELECT resource.body FROM reference JOIN resource ON kind = from_kind AND id = from_id \
             WHERE {} AND from_kind = $2 AND to_id = $3 ORDER BY created, id",
            scope.condition()
        );
        self.bodies(&sql, (scope.parameter(), R::KIND, to.to_string()))
    }

    /// Changes with every change of any resource that points at `to`: how many there are, how often they were changed, and
    /// when the last of them was made.
    pub(crate) fn stamp(&self, to: impl Display) -> Result<Stamp, Problem> {
        let sql = "SELECT COUNT(*), COALESCE(SUM(version), 0), COALESCE(MAX(created), 0) \
                   FROM reference JOIN resource ON kind = from_kind AND id = from_id WHERE to_id = $1";
        let stamp = self.row(sql, [to.to_string()], |row| Ok(Stamp(row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(stamp.unwrap_or_default())
    }

    /// How many resources of a kind point at `to`.
    pub(crate) fn count_referring<R: Resource>(&self, to: impl Display) -> Result<u32, Problem> {
        let sql = "SELECT COUNT(*) FROM reference WHERE from_kind = $1 AND to_id = $2";
        Ok(self.row(sql, (R::KIND, to.to_string()), |row| row.get(0))?.unwrap_or_default())
    }

    /// Kind and id of something that the account owns, other than kinds that `aside` names.
    pub(crate) fn any_of_account(&self, account: AccountId, aside: &[&str]) -> Result<Option<String>, Problem> {
        let sql = "SELECT kind, id FROM resource WHERE account = $1 ORDER BY kind, created";
        let mut statement = self.connection.prepare_cached(sql).map_err(unavailable)?;
        let mut rows = statement.query([account.to_string()]).map_err(unavailable)?;
        while let Some(row) = rows.next().map_err(unavailable)? {
            let kind: String = row.get(0).map_err(unavailable)?;
            if !aside.contains(&kind.as_str()) {
                return row.get(1).map(Some).map_err(unavailable);
            }
        }
        Ok(None)
    }

    pub(crate) fn insert<R: Resource>(&mut self, resource: &R) -> Result<(), Problem> {
        let sql = "INSERT INTO resource (kind, id, account, public, body, version, created) \
                   VALUES ($1, $2, $3, $4, $5, 1, $6)";
        let (id, account) = (resource.id().to_string(), resource.account().to_string());
        let created = self.now.as_micros() as i64;
        self.execute(sql, (R::KIND, &id, account, resource.public(), encode(resource)?, created))?;
        self.refer::<R>(&id, &resource.references())?;
        self.count(resource, 1)?;
        self.note(resource);
        Ok(())
    }

    /// Replaces the resource of the same id. One that is as it was is left alone, and nobody is woken.
    pub(crate) fn put<R: Resource>(&mut self, resource: &R) -> Result<(), Problem> {
        let id = resource.id().to_string();
        let old: R = self.get(Scope::Everything, &id)?;
        let body = encode(resource)?;
        if encode(&old)? == body {
            return Ok(());
        }
        let sql = "UPDATE resource SET body = $1, public = $2, version = version + 1 WHERE kind = $3 AND id = $4";
        self.execute(sql, (body, resource.public(), R::KIND, &id))?;
        if old.references() != resource.references() {
            self.refer::<R>(&id, &resource.references())?;
        }
        if old.uses() != resource.uses() {
            self.count(&old, -1)?;
            self.count(resource, 1)?;
        }
        self.note(&old);
        self.note(resource);
        Ok(())
    }

    /// Takes the resource away, or refuses with `DependencyViolation` naming one that still points at it.
    pub(crate) fn delete<R: Resource>(&mut self, resource: &R) -> Result<(), Problem> {
        let id = resource.id().to_string();
        let old: R = self.get(Scope::Everything, &id)?;
        if let Some(referrer) = self.referrer::<R>(&id)? {
            let detail = format!("{id} is still used by {referrer}");
            return Err(Problem::new(ErrorCode::DependencyViolation, detail));
        }
        self.execute("DELETE FROM resource WHERE kind = $1 AND id = $2", (R::KIND, &id))?;
        self.refer::<R>(&id, &[])?;
        self.count(&old, -1)?;
        self.note(&old);
        Ok(())
    }

    /// Wakes who waits for `topic` when this transaction is committed, beside those whom its writes wake.
    pub(crate) fn touch(&mut self, topic: impl Display) {
        self.touched.insert(topic.to_string());
    }

    /// How much of a quota's item the account has in use.
    pub(crate) fn used(&self, account: AccountId, item: Item) -> Result<u64, Problem> {
        let sql = "SELECT amount FROM usage WHERE account = $1 AND item = $2";
        let amount: Option<i64> = self.row(sql, (account.to_string(), item.name()), |row| row.get(0))?;
        Ok(amount.map_or(0, |amount| amount.max(0) as u64))
    }

    fn referrer<R: Resource>(&self, id: &str) -> Result<Option<String>, Problem> {
        let sql = "SELECT from_id FROM reference WHERE to_id = $1 AND NOT (from_kind = $2 AND from_id = $1) LIMIT 1";
        self.row(sql, (id, R::KIND), |row| row.get(0))
    }

    fn refer<R: Resource>(&mut self, id: &str, references: &[String]) -> Result<(), Problem> {
        self.execute("DELETE FROM reference WHERE from_kind = $1 AND from_id = $2", (R::KIND, id))?;
        for to in references.iter().collect::<BTreeSet<_>>() {
            let sql = "INSERT INTO reference (from_kind, from_id, to_id) VALUES ($1, $2, $3)";
            self.execute(sql, (R::KIND, id, to))?;
        }
        Ok(())
    }

    fn count<R: Resource>(&mut self, resource: &R, sign: i64) -> Result<(), Problem> {
        let account = resource.account().to_string();
        for (item, amount) in resource.uses() {
            let amount = sign * i64::try_from(amount).unwrap_or(i64::MAX);
            let sql = "INSERT INTO usage (account, item, amount) VALUES ($1, $2, $3) \
                       ON CONFLICT (account, item) DO UPDATE SET amount = usage.amount + excluded.amount";
            self.execute(sql, (&account, item.name(), amount))?;
        }
        Ok(())
    }

    fn note<R: Resource>(&mut self, resource: &R) {
        self.touched.insert(resource.id().to_string());
        self.touched.extend(resource.references());
    }

    pub(super) fn execute(&self, sql: &str, parameters: impl Params) -> Result<usize, Problem> {
        let mut statement = self.connection.prepare_cached(sql).map_err(unavailable)?;
        statement.execute(parameters).map_err(unavailable)
    }

    pub(super) fn row<T>(
        &self,
        sql: &str,
        parameters: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Problem> {
        let mut statement = self.connection.prepare_cached(sql).map_err(unavailable)?;
        statement.query_row(parameters, read).optional().map_err(unavailable)
    }

    fn bodies<R: Resource>(&self, sql: &str, parameters: impl Params) -> Result<Vec<R>, Problem> {
        let mut statement = self.connection.prepare_cached(sql).map_err(unavailable)?;
        let mut rows = statement.query(parameters).map_err(unavailable)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(unavailable)? {
            all.push(decode(row.get_ref(0).and_then(|body| Ok(body.as_str()?)).map_err(unavailable)?)?);
        }
        Ok(all)
    }
}

pub(crate) fn not_found<R: Resource>(id: &str) -> Problem {
    let shown: String = id.chars().take(64).collect();
    Problem::new(R::NOT_FOUND, format!("there is no {} {shown}", R::KIND.replace('-', " ")))
}

pub(super) fn encode<R: Resource>(resource: &R) -> Result<String, Problem> {
    serde_json::to_string(resource).map_err(|error| unreadable(R::KIND, &error))
}

pub(super) fn decode<R: Resource>(body: &str) -> Result<R, Problem> {
    serde_json::from_str(body).map_err(|error| unreadable(R::KIND, &error))
}

fn unreadable(kind: &str, error: &serde_json::Error) -> Problem {
    tracing::error!(kind, %error, "a document of the store does not have its kind's shape");
    Problem::new(ErrorCode::Internal, format!("a stored {kind} could not be read"))
}

/// What a failure of the database means to who asked; the cause is logged, not told.
pub(super) fn unavailable(error: rusqlite::Error) -> Problem {
    tracing::error!(%error, "the store failed");
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => Problem::new(ErrorCode::DiskFull, "the controller's disk is full"),
        _ => Problem::new(ErrorCode::StoreUnavailable, "the store failed; nothing was changed"),
    }
}
