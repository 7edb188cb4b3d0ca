//! Lists a page at a time, in order of creation.
//!
//! Owns limits and the page token. A token names the last resource that was given, not a position, so that what is made
//! or deleted between two pages neither repeats nor hides another.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use lucarne_api::{
    Problem,
    bodies::{ListQuery, Page},
};
use lucarne_model::ErrorCode;
use serde::Serialize;

use super::{Filter, Resource, Scope, Tx, tx};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

impl Tx<'_> {
    /// Part of the list of a kind, as `query` asks.
    pub(crate) fn page<R: Resource>(&self, scope: Scope, query: &ListQuery) -> Result<Page<R>, Problem> {
        self.page_shown(scope, query, |_, resource: R| Ok(resource))
    }

    /// As [`Tx::page`], of what `show` makes of each resource. Filters see only what is shown: a filter over a hidden
    /// field would tell it, a character at a time.
    pub(crate) fn page_shown<R: Resource, S: Serialize>(
        &self,
        scope: Scope,
        query: &ListQuery,
        show: impl Fn(&Self, R) -> Result<S, Problem>,
    ) -> Result<Page<S>, Problem> {
        let (limit, filter) = (page_limit(query.limit)?, read_filter(query)?);
        let (created, id) = match &query.page_token {
            Some(token) => read_token(token, R::KIND.name())?,
            None => (i64::MIN, String::new()),
        };
        let sql = format!(
            "SELECT created, id, body FROM resource WHERE {} AND kind = $2 AND (created, id) > ($3, $4) \
             ORDER BY created, id",
            scope.condition()
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(tx::unavailable)?;
        let mut rows = statement.query((scope.parameter(), R::KIND.name(), created, id)).map_err(tx::unavailable)?;
        let mut page = Page { items: Vec::new(), next: None };
        let mut last = None;
        while let Some(row) = rows.next().map_err(tx::unavailable)? {
            let body = row.get_ref(2).and_then(|body| Ok(body.as_str()?)).map_err(tx::unavailable)?;
            let shown = show(self, tx::decode(body)?)?;
            if !filter.is_empty() && !matches(&filter, &shown)? {
                continue;
            }
            if page.items.len() == limit {
                page.next = last.map(|(created, id)| write_token(R::KIND.name(), created, id));
                break;
            }
            last = Some((row.get(0).map_err(tx::unavailable)?, row.get(1).map_err(tx::unavailable)?));
            page.items.push(shown);
        }
        Ok(page)
    }
}

/// How many a page may have.
pub(crate) fn page_limit(limit: Option<u32>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit as usize);
    }
    let detail = format!("`limit` is a number from 1 to {MAX_LIMIT}; it was {limit}");
    Err(Problem::new(ErrorCode::InvalidParameterValue, detail))
}

fn read_filter(query: &ListQuery) -> Result<Filter, Problem> {
    Filter::parse(query.filter.as_deref().unwrap_or_default())
        .map_err(|error| Problem::new(ErrorCode::InvalidParameterValue, error.to_string()))
}

fn matches(filter: &Filter, shown: &impl Serialize) -> Result<bool, Problem> {
    let document = serde_json::to_value(shown);
    document.map(|document| filter.matches(&document)).map_err(|error| {
        tracing::error!(%error, "a resource could not be written as JSON");
        Problem::new(ErrorCode::Internal, "a resource could not be shown")
    })
}

pub(crate) fn write_token(kind: &str, created: i64, id: String) -> String {
    URL_SAFE_NO_PAD.encode(format!("{kind} {created} {id}"))
}

pub(crate) fn read_token(token: &str, kind: &str) -> Result<(i64, String), Problem> {
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let mut parts = text.splitn(3, ' ');
        let of_kind = parts.next()? == kind;
        let created = parts.next()?.parse().ok()?;
        let id = parts.next()?.to_owned();
        of_kind.then_some((created, id))
    };
    read().ok_or_else(|| Problem::new(ErrorCode::InvalidPageToken, "the page token is not one that this list gave"))
}
