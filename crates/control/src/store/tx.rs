//! One transaction: resources read and written, their references and their account's usage kept with them.
//!
//! Owns the SQL over the resource tables. The rows of settings, uploads and idempotency keys are in
//! [`super::small_tables`], pages in [`super::page`].

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use lucarne_api::Problem;
use lucarne_model::{AccountId, ErrorCode, Moment, ResourceKind};
use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::{Item, Resource, Scope, decoded::Decoded};

/// Joins from left to right. SQLite takes it as the order to go in (and PostgreSQL as any other join): left to choose, it
/// walks through all resources of a kind, because they stand in the wanted order, and asks for the reference of each.
const FOLLOWED_BY: &str = "CROSS JOIN";

/// A transaction that reads, and in [`Store::write`](super::Store::write) also writes.
#[derive(Debug)]
pub(crate) struct Tx<'c> {
    pub(super) connection: &'c Connection,
    now: Moment,
    as_of: u64,
    touched: BTreeSet<String>,
    /// The writer's, in a transaction that writes.
    decoded: Option<&'c RefCell<Decoded>>,
}

impl<'c> Tx<'c> {
    /// A transaction that reads what was committed at least up to `as_of`.
    pub(super) fn reading(connection: &'c Connection, as_of: u64) -> Self {
        Self { connection, now: crate::clock::now(), as_of, touched: BTreeSet::new(), decoded: None }
    }

    pub(super) fn writing(connection: &'c Connection, as_of: u64, decoded: &'c RefCell<Decoded>) -> Self {
        Self { decoded: Some(decoded), ..Self::reading(connection, as_of) }
    }

    pub(super) fn into_touched(self) -> BTreeSet<String> {
        self.touched
    }

    /// What this transaction has changed so far, and what that points at.
    pub(crate) fn touched(&self) -> &BTreeSet<String> {
        &self.touched
    }

    /// When the transaction began.
    pub(crate) fn now(&self) -> Moment {
        self.now
    }

    /// A sequence number of [`Changes`](super::Changes) up to which this transaction sees everything; it may see more.
    pub(crate) fn as_of(&self) -> u64 {
        self.as_of
    }

    /// The resource, or the problem that its kind has for an id that does not exist: the same for another tenant's.
    pub(crate) fn get<R: Resource>(&self, scope: Scope, id: impl Display) -> Result<R, Problem> {
        let id = id.to_string();
        self.find(scope, &id)?.ok_or_else(|| not_found::<R>(&id))
    }

    pub(crate) fn find<R: Resource>(&self, scope: Scope, id: impl Display) -> Result<Option<R>, Problem> {
        let sql = format!("SELECT body FROM resource WHERE {} AND kind = $2 AND id = $3", scope.condition());
        let parameters = (scope.parameter(), R::KIND.name(), id.to_string());
        let body: Option<String> = self.row(&sql, parameters, |row| row.get(0))?;
        body.map(|body| decode(&body)).transpose()
    }

    /// All resources of a kind, oldest first.
    pub(crate) fn list<R: Resource>(&self, scope: Scope) -> Result<Vec<R>, Problem> {
        let condition = scope.condition();
        let sql = format!("SELECT body FROM resource WHERE {condition} AND kind = $2 ORDER BY created, id");
        self.bodies(&sql, (scope.parameter(), R::KIND.name()))
    }

    /// All resources of a kind whose references contain `to`, oldest first.
    pub(crate) fn referring<R: Resource>(&self, scope: Scope, to: impl Display) -> Result<Vec<R>, Problem> {
        self.bodies(&referring(scope), (scope.parameter(), R::KIND.name(), to.to_string()))
    }

    /// The steps in which SQLite answers [`Tx::referring`].
    #[cfg(test)]
    pub(super) fn plan_of_referring<R: Resource>(&self) -> Result<Vec<String>, Problem> {
        let sql = format!("EXPLAIN QUERY PLAN {}", referring(Scope::Everything));
        let mut statement = self.connection.prepare(&sql).map_err(unavailable)?;
        let steps = statement.query_map((Scope::Everything.parameter(), R::KIND.name(), ""), |row| row.get(3));
        steps.and_then(Iterator::collect).map_err(unavailable)
    }

    /// Looks at all resources of a kind, in no order. Where this transaction writes, the writer has them decoded already:
    /// for kinds that are few, and that many writes look at as a whole.
    pub(crate) fn with_all<R: Resource, T>(&self, look: impl FnOnce(Vec<&R>) -> T) -> Result<T, Problem> {
        let load = || self.list::<R>(Scope::Everything);
        match self.decoded {
            Some(decoded) => Ok(look(decoded.borrow_mut().all(load)?.collect())),
            None => Ok(look(load()?.iter().collect())),
        }
    }

    /// What resources of a kind that point at `to` point at, and how many of them at each.
    pub(crate) fn references_beside<R: Resource>(&self, to: impl Display) -> Result<BTreeMap<String, u32>, Problem> {
        let sql = format!(
            "SELECT beside.to_id, COUNT(*) FROM reference AS wanted {FOLLOWED_BY} reference AS beside \
             WHERE wanted.from_kind = $1 AND wanted.to_id = $2 \
             AND beside.from_kind = wanted.from_kind AND beside.from_id = wanted.from_id GROUP BY beside.to_id"
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(unavailable)?;
        let counts = statement.query_map((R::KIND.name(), to.to_string()), |row| Ok((row.get(0)?, row.get(1)?)));
        counts.and_then(Iterator::collect).map_err(unavailable)
    }

    /// How many resources of a kind point at `to`.
    pub(crate) fn count_referring<R: Resource>(&self, to: impl Display) -> Result<u32, Problem> {
        let sql = "SELECT COUNT(*) FROM reference WHERE from_kind = $1 AND to_id = $2";
        Ok(self.row(sql, (R::KIND.name(), to.to_string()), |row| row.get(0))?.unwrap_or_default())
    }

    /// Kind and id of something that the account owns, other than kinds that `aside` names.
    pub(crate) fn any_of_account(&self, account: AccountId, aside: &[ResourceKind]) -> Result<Option<String>, Problem> {
        let sql = "SELECT kind, id FROM resource WHERE account = $1 ORDER BY kind, created";
        let mut statement = self.connection.prepare_cached(sql).map_err(unavailable)?;
        let mut rows = statement.query([account.to_string()]).map_err(unavailable)?;
        while let Some(row) = rows.next().map_err(unavailable)? {
            let kind: String = row.get(0).map_err(unavailable)?;
            if !aside.iter().any(|aside| aside.name() == kind) {
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
        self.execute(sql, (R::KIND.name(), &id, account, resource.public(), encode(resource)?, created))?;
        self.refer::<R>(&id, &resource.references())?;
        self.count(resource, 1)?;
        self.note(resource);
        self.decode_as(&id, Some(resource));
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
        self.execute(sql, (body, resource.public(), R::KIND.name(), &id))?;
        if old.references() != resource.references() {
            self.refer::<R>(&id, &resource.references())?;
        }
        if old.uses() != resource.uses() {
            self.count(&old, -1)?;
            self.count(resource, 1)?;
        }
        self.note(&old);
        self.note(resource);
        self.decode_as(&id, Some(resource));
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
        self.execute("DELETE FROM resource WHERE kind = $1 AND id = $2", (R::KIND.name(), &id))?;
        self.refer::<R>(&id, &[])?;
        self.count(&old, -1)?;
        self.note(&old);
        self.decode_as::<R>(&id, None);
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
        self.row(sql, (id, R::KIND.name()), |row| row.get(0))
    }

    fn refer<R: Resource>(&mut self, id: &str, references: &[String]) -> Result<(), Problem> {
        self.execute("DELETE FROM reference WHERE from_kind = $1 AND from_id = $2", (R::KIND.name(), id))?;
        for to in references.iter().collect::<BTreeSet<_>>() {
            let sql = "INSERT INTO reference (from_kind, from_id, to_id) VALUES ($1, $2, $3)";
            self.execute(sql, (R::KIND.name(), id, to))?;
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

    fn decode_as<R: Resource>(&self, id: &str, resource: Option<&R>) {
        if let Some(decoded) = self.decoded {
            decoded.borrow_mut().set(id, resource);
        }
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

fn referring(scope: Scope) -> String {
    format!(
        "SELECT resource.body FROM reference {FOLLOWED_BY} resource \
         WHERE {} AND from_kind = $2 AND to_id = $3 AND kind = from_kind AND id = from_id ORDER BY created, id",
        scope.condition()
    )
}

pub(crate) fn not_found<R: Resource>(id: &str) -> Problem {
    let shown: String = id.chars().take(64).collect();
    Problem::new(R::NOT_FOUND, format!("there is no {} {shown}", R::KIND.name().replace('-', " ")))
}

pub(super) fn encode<R: Resource>(resource: &R) -> Result<String, Problem> {
    serde_json::to_string(resource).map_err(|error| unreadable(R::KIND.name(), &error))
}

pub(super) fn decode<R: Resource>(body: &str) -> Result<R, Problem> {
    serde_json::from_str(body).map_err(|error| unreadable(R::KIND.name(), &error))
}

pub(super) fn unreadable(kind: &str, error: &serde_json::Error) -> Problem {
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
