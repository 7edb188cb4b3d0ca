//! Flow records of the caller's account, asked of the collector.
//!
//! Owns how the API's question becomes the collector's, always with the caller's own account: operators too see only the
//! flows of theirs, and of these what any tenant would.

use std::time::Duration;

use axum::body::Body;
use lucarne_api::{
    Call, Problem,
    answer::{Download, Lines},
    bodies::{
        Page,
        flow::{ExportQuery, FlowsQuery},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, FlowFilter, FlowQuery, Moment, TenantFlowRecord, flow_log::ExportQuestion, network::Vpc,
};

use super::checks::refuse;
use crate::{Caller, Controller, clock, collector_client::CollectorError, store::Scope};

/// How far back a question without `since` looks.
const DEFAULT_SPAN: Duration = Duration::from_secs(3600);

pub(crate) async fn list_flows(
    controller: &Controller,
    call: Call<Caller, (), FlowsQuery, Nothing>,
) -> Result<Json<Page<TenantFlowRecord>>, Problem> {
    let account = call.caller.account;
    let question = question(account, call.query, clock::now())?;
    let page = controller.collector.list(account, question).await.map_err(problem)?;
    if page.unreadable > 0 {
        // Records may be missing; an answer that hides this would be taken for the whole truth.
        tracing::warn!(%account, unreadable = page.unreadable, "the collector could not read some of its files");
    }
    Ok(Json(Page { items: page.records.iter().map(TenantFlowRecord::from).collect(), next: page.next }))
}

pub(crate) async fn watch_flows(
    controller: &Controller,
    call: Call<Caller, (), FlowsQuery, Nothing>,
) -> Result<Lines, Problem> {
    let (account, query) = (call.caller.account, call.query);
    if query.since.is_some() || query.until.is_some() || query.limit.is_some() || query.page_token.is_some() {
        return Err(refuse("a watch is of flows from now on: it takes no times, limit or page token"));
    }
    let records = controller.collector.watch(account, filter(&query)).await.map_err(problem)?;
    Ok(Lines(Body::from_stream(records)))
}

pub(crate) async fn export_flows(
    controller: &Controller,
    call: Call<Caller, (), ExportQuery, Nothing>,
) -> Result<Download, Problem> {
    let (account, query, now) = (call.caller.account, call.query, clock::now());
    controller.store.read(move |tx| tx.get::<Vpc>(Scope::Account(account), query.vpc)).await?;
    let (since, until) = (query.since.unwrap_or(now.minus(DEFAULT_SPAN)), query.until.unwrap_or(now));
    if until <= since {
        return Err(refuse("`until` is not after `since`"));
    }
    let question = ExportQuestion {
        account,
        vpc: query.vpc,
        since,
        until,
        format: query.format.unwrap_or_default(),
        fields: query.fields,
        by_instance: query.by_instance.unwrap_or(false),
    };
    let octets = controller.collector.export(&question).await.map_err(|error| match error {
        CollectorError::Question(detail) => refuse(detail),
        other => problem(other),
    })?;
    Ok(Download(Body::from_stream(octets)))
}

fn question(account: AccountId, query: FlowsQuery, now: Moment) -> Result<FlowQuery, Problem> {
    let limit = query.limit.unwrap_or(FlowQuery::DEFAULT_LIMIT);
    if !(1..=FlowQuery::MAX_LIMIT).contains(&limit) {
        return Err(refuse(format!("`limit` is a number from 1 to {}; it was {limit}", FlowQuery::MAX_LIMIT)));
    }
    let since = query.since.unwrap_or(now.minus(DEFAULT_SPAN));
    if query.until.is_some_and(|until| until <= since) {
        return Err(refuse("`until` is not after `since`"));
    }
    let filter = filter(&query);
    Ok(FlowQuery { account, since, until: query.until, filter, limit, cursor: query.page_token })
}

fn filter(query: &FlowsQuery) -> FlowFilter {
    FlowFilter {
        instance: query.instance,
        interface: query.interface,
        vpc: query.vpc,
        subnet: query.subnet,
        verdict: query.verdict,
        end_reason: query.end_reason,
        direction: query.direction,
        source: query.source,
        destination: query.destination,
        peer: query.peer,
        port: query.port,
        protocol: query.protocol,
    }
}

/// Callers are told that it does not answer; why is for the log.
pub(super) fn problem(error: CollectorError) -> Problem {
    if let CollectorError::Question(detail) = error {
        return Problem::new(ErrorCode::InvalidPageToken, detail);
    }
    tracing::warn!(error = &error as &dyn std::error::Error, "the collector gave no answer");
    let problem = Problem::new(ErrorCode::CollectorUnavailable, "the flow collector does not answer");
    Problem { retry_after: Some(1), ..problem }
}
