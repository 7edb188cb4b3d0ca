//! Findings, and what else is known from watching records arrive: scanners, and who had a port closed to whom.
//!
//! Owns who is shown what: tenants what concerns them alone and no hosts, operators everything. What is found is the
//! collector's work.

use std::time::Duration;

use lucarne_api::{
    Call, Problem,
    bodies::{
        NoQuery, Page,
        finding::{ClosedPorts, ClosedPortsQuery, FindingsQuery, ScannersQuery, ShownClosedPort, ShownFinding},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, FindingId, Moment,
    finding::{ClosedPort, ClosedPortQuery, Finding, FindingQuery, ScannerQuery, Scanners},
};

use super::{checks::refuse, flows::problem};
use crate::{
    Caller, Controller, clock,
    store::{page_limit, read_token, write_token},
};

const KIND: &str = "finding";
const DEFAULT_MIN_ACCOUNTS: u64 = 1000;
const DEFAULT_WINDOW: Duration = Duration::from_secs(300);
/// How far back a question without `since` looks.
const DEFAULT_SPAN: Duration = Duration::from_secs(3600);

/// Whose things a caller is shown: a tenant's own, an operator's choice or all.
pub(super) fn whose(caller: &Caller, asked: Option<AccountId>) -> Result<Option<AccountId>, Problem> {
    match asked {
        asked if caller.operator => Ok(asked),
        Some(account) if account != caller.account => {
            Err(Problem::new(ErrorCode::InvalidAccountNotFound, format!("there is no account {account}")))
        }
        _ => Ok(Some(caller.account)),
    }
}

pub(crate) async fn list_findings(
    controller: &Controller,
    call: Call<Caller, (), FindingsQuery, Nothing>,
) -> Result<Json<Page<ShownFinding>>, Problem> {
    let query = call.query;
    let limit = page_limit(query.limit)?;
    let behind = query.page_token.as_deref().map(behind).transpose()?;
    let question = FindingQuery {
        account: whose(&call.caller, query.account)?,
        id: None,
        kind: query.kind,
        instance: query.instance,
        since: query.since,
        behind_seen: behind.map(|(seen, _)| seen),
        behind_id: behind.map(|(_, id)| id),
        // One more tells whether there is a next page.
        limit: Some(limit as u32 + 1),
    };
    let mut found = controller.collector.findings(&question).await.map_err(problem)?;
    let is_last = found.len() <= limit;
    found.truncate(limit);
    let next = found.last().filter(|_| !is_last).map(token);
    Ok(Json(Page { items: found.into_iter().map(ShownFinding::from).collect(), next }))
}

fn token(finding: &Finding) -> String {
    let (seen, id) = finding.place();
    write_token(KIND, seen.as_micros() as i64, id.to_string())
}

fn behind(token: &str) -> Result<(Moment, FindingId), Problem> {
    let (seen, id) = read_token(token, KIND)?;
    let place = u64::try_from(seen).ok().map(Moment).zip(id.parse().ok());
    place.ok_or_else(|| Problem::new(ErrorCode::InvalidPageToken, "the page token names no finding"))
}

pub(crate) async fn get_finding(
    controller: &Controller,
    call: Call<Caller, (FindingId,), NoQuery, Nothing>,
) -> Result<Json<ShownFinding>, Problem> {
    let id = call.path.0;
    let account = whose(&call.caller, None)?;
    let question = FindingQuery { account, id: Some(id), ..FindingQuery::default() };
    let found = controller.collector.findings(&question).await.map_err(problem)?.into_iter().next();
    let missing = || Problem::new(ErrorCode::InvalidFindingNotFound, format!("there is no finding {id}"));
    found.map(|finding| Json(finding.into())).ok_or_else(missing)
}

pub(crate) async fn list_scanners(
    controller: &Controller,
    call: Call<Caller, (), ScannersQuery, Nothing>,
) -> Result<Json<Scanners>, Problem> {
    let question = scanner_question(call.query)?;
    controller.collector.scanners(&question).await.map(Json).map_err(problem)
}

fn scanner_question(query: ScannersQuery) -> Result<ScannerQuery, Problem> {
    let min_accounts = query.min_accounts.unwrap_or(DEFAULT_MIN_ACCOUNTS);
    let window_seconds = query.window_seconds.unwrap_or(DEFAULT_WINDOW.as_secs());
    let [shortest, longest] = [ScannerQuery::SHORTEST, ScannerQuery::LONGEST].map(|window| window.as_secs());
    if min_accounts < 2 {
        return Err(refuse("`min_accounts` is at least 2: who tries one customer only is no scanner across customers"));
    }
    if !(shortest..=longest).contains(&window_seconds) {
        let detail = format!(
            "`window_seconds` is {shortest} to {longest}, as long as it is remembered who tried whom; it was \
             {window_seconds}"
        );
        return Err(refuse(detail));
    }
    Ok(ScannerQuery { min_accounts, window_seconds })
}

pub(crate) async fn list_closed_ports(
    controller: &Controller,
    call: Call<Caller, (), ClosedPortsQuery, Nothing>,
) -> Result<Json<ClosedPorts>, Problem> {
    let ClosedPortsQuery { source, port, since } = call.query;
    let since = since.unwrap_or(clock::now().minus(DEFAULT_SPAN));
    let question = ClosedPortQuery { source, port, since };
    let found = controller.collector.closed_ports(whose(&call.caller, None)?, &question).await.map_err(problem)?;
    let items = found.items.into_iter().map(|closed| shown(&call.caller, closed)).collect();
    Ok(Json(ClosedPorts { complete_since: found.since, items }))
}

fn shown(caller: &Caller, closed: ClosedPort) -> ShownClosedPort {
    let ClosedPort { account, instance, host, protocol, end_reason, last_seen } = closed;
    let host = caller.operator.then_some(host);
    ShownClosedPort { account, instance, host, protocol, end_reason, last_seen }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_is_not_remembered_is_refused_with_the_range_that_is() {
        let asked = |min_accounts, window_seconds| {
            scanner_question(ScannersQuery { min_accounts: Some(min_accounts), window_seconds: Some(window_seconds) })
        };
        assert!(asked(1000, 60).is_ok() && asked(2, 3600).is_ok());
        for window in [0, 59, 3601] {
            assert!(asked(1000, window).unwrap_err().detail.contains("60 to 3600"));
        }
        assert!(asked(1, 300).is_err());
    }

    #[test]
    fn a_page_token_of_another_list_is_refused() {
        let token = write_token("vpc", 1, "vpc-00000000000000001".into());
        assert_eq!(behind(&token).unwrap_err().code, ErrorCode::InvalidPageToken);
    }
}
