//! Questions about flows, in SQL and by name, put to the collector.
//!
//! Owns whose records a question is asked of: the caller's own account, whatever the text says. Only operators may ask for
//! another account's, or for all. What the named questions are is the matter of [`crate::named_questions`].

use std::collections::BTreeSet;

use lucarne_api::{
    Call, Problem,
    bodies::{
        NoQuery,
        flow_question::{AskSql, NamedQuestion, QuestionQuery, TablesQuery},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, InstanceId, RuleId, VpcId,
    flow_sql::{SqlAnswer, SqlColumn, SqlProgress, SqlQuestion, SqlTable},
    network::{NetworkInterface, Vpc},
    network_acl::NetworkAcl,
    security_group::SecurityGroup,
};
use serde_json::{Value, json};

use super::{
    checks::refuse,
    flows::{DEFAULT_SPAN, problem},
};
use crate::{
    Caller, Controller, clock,
    named_questions::{Asked, Computation, QUESTIONS, Question, unused},
    store::Scope,
};

const DEFAULT_LIMIT: u32 = 100;
const MOST_LIMIT: u32 = 10_000;
const LONGEST_NAME: usize = 64;

pub(crate) async fn query_flows(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<AskSql>>,
) -> Result<Json<SqlAnswer>, Problem> {
    let (caller, AskSql { sql, max_rows, all_accounts, progress }) = (call.caller, call.body.0);
    if max_rows.is_some_and(|rows| !(1..=SqlQuestion::MAX_ROWS).contains(&rows)) {
        return Err(refuse(format!("`max_rows` is a number from 1 to {}", SqlQuestion::MAX_ROWS)));
    }
    let account = reach(&caller, all_accounts)?;
    let progress = progress.map(|name| progress_name(&caller, &name)).transpose()?;
    let question = SqlQuestion { max_rows, progress, ..SqlQuestion::new(account, sql) };
    controller.collector.sql(&question).await.map(Json).map_err(problem)
}

/// Whose records: the caller's own account's, or for an operator who asks for it, everybody's.
fn reach(caller: &Caller, all_accounts: bool) -> Result<Option<AccountId>, Problem> {
    match (all_accounts, caller.operator) {
        (false, _) => Ok(Some(caller.account)),
        (true, true) => Ok(None),
        (true, false) => Err(operators_only("all accounts")),
    }
}

fn operators_only(what: &str) -> Problem {
    Problem::new(ErrorCode::UnauthorizedOperation, format!("flows of {what} are for operators"))
}

/// The collector knows the name with the account before it, so that nobody finds another's.
fn progress_name(caller: &Caller, name: &str) -> Result<String, Problem> {
    let is_plain = name.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    if name.is_empty() || name.len() > LONGEST_NAME || !is_plain {
        return Err(refuse(format!("a question's name has 1 to {LONGEST_NAME} letters, digits and dashes")));
    }
    Ok(format!("{}-{name}", caller.account))
}

pub(crate) async fn get_flow_progress(
    controller: &Controller,
    call: Call<Caller, (String,), NoQuery, Nothing>,
) -> Result<Json<SqlProgress>, Problem> {
    let name = progress_name(&call.caller, &call.path.0)?;
    let progress = controller.collector.sql_progress(&name).await.map_err(problem)?;
    let gone = || Problem::new(ErrorCode::InvalidQuestionNotFound, "no question of that name is being answered");
    progress.map(Json).ok_or_else(gone)
}

pub(crate) async fn list_flow_tables(
    controller: &Controller,
    call: Call<Caller, (), TablesQuery, Nothing>,
) -> Result<Json<Vec<SqlTable>>, Problem> {
    let account = reach(&call.caller, call.query.all_accounts.unwrap_or(false))?;
    controller.collector.sql_tables(account).await.map(Json).map_err(problem)
}

pub(crate) async fn list_flow_questions(
    _: &Controller,
    _: Call<Caller, (), NoQuery, Nothing>,
) -> Result<Json<Vec<NamedQuestion>>, Problem> {
    let shown = |question: &Question| NamedQuestion {
        name: question.name.to_owned(),
        meaning: question.meaning.to_owned(),
        parameters: question.takes.iter().map(|parameter| parameter.name().to_owned()).collect(),
    };
    Ok(Json(QUESTIONS.iter().map(shown).collect()))
}

pub(crate) async fn ask_flows(
    controller: &Controller,
    call: Call<Caller, (String,), QuestionQuery, Nothing>,
) -> Result<Json<SqlAnswer>, Problem> {
    let (caller, (name,), query) = (call.caller, call.path, call.query);
    let unknown = || {
        let names: Vec<&str> = QUESTIONS.iter().map(|question| question.name).collect();
        let detail = format!("there is no such question; there are {}", names.join(", "));
        Problem::new(ErrorCode::InvalidQuestionNotFound, detail)
    };
    let question = Question::of_name(&name).ok_or_else(unknown)?;
    let account = query.account.unwrap_or(caller.account);
    if account != caller.account && !caller.operator {
        return Err(operators_only("other accounts"));
    }
    if let Some(vpc) = query.vpc {
        controller.store.read(move |tx| tx.get::<Vpc>(Scope::Account(account), vpc)).await?;
    }
    let asked = asked(&query)?;
    let limit = limit(query.limit)?;
    let sql = question.sql(&asked).map_err(|error| refuse(error.to_string()))?;
    let progress = query.progress.map(|name| progress_name(&caller, &name)).transpose()?;
    let sql = SqlQuestion { progress, max_rows: Some(limit), ..SqlQuestion::new(Some(account), sql) };
    let answer = match question.computation {
        Computation::Sql(_) => controller.collector.sql(&sql).await.map_err(problem)?,
        Computation::SqlWithInstances(_, address, column) => {
            let mut answer = controller.collector.sql(&sql).await.map_err(problem)?;
            let interfaces = controller.store.read(move |tx| tx.list(Scope::Account(account))).await?;
            name_instances(&mut answer, &interfaces, address, column);
            answer
        }
        Computation::UnusedRules(_) => unused_rules(controller, sql, &asked, limit).await?,
    };
    Ok(Json(answer))
}

fn asked(query: &QuestionQuery) -> Result<Asked, Problem> {
    let now = clock::now();
    let until = query.until.unwrap_or(now);
    let since = query.since.unwrap_or(now.minus(DEFAULT_SPAN));
    if until <= since {
        return Err(refuse("`until` is not after `since`"));
    }
    Ok(Asked { since, until, instance: query.instance, vpc: query.vpc, by: query.by })
}

fn limit(wanted: Option<u32>) -> Result<u32, Problem> {
    let limit = wanted.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MOST_LIMIT).contains(&limit) {
        return Err(refuse(format!("`limit` is a number from 1 to {MOST_LIMIT}; it was {limit}")));
    }
    Ok(limit)
}

/// Says of addresses which instance of the account has them, where it has had them since the row's last packet.
fn name_instances(answer: &mut SqlAnswer, interfaces: &[NetworkInterface], address: &str, column: &str) {
    for row in &mut answer.rows {
        let (Some(vpc), Some(at)) = (text(row.get("vpc")), text(row.get(address))) else { continue };
        let (vpc, at, last) = (vpc.parse::<VpcId>().ok(), at.parse().ok(), micros(row.get("last_seen")));
        let has = |interface: &&NetworkInterface| {
            Some(interface.vpc) == vpc && Some(interface.address) == at && interface.created.as_micros() <= last
        };
        let instance: Option<InstanceId> = interfaces.iter().find(has).map(|interface| interface.instance);
        row.extend(instance.map(|instance| (column.to_owned(), json!(instance))));
    }
    let behind = answer.columns.iter().position(|known| known.name == address).map_or(0, |at| at + 1);
    answer.columns.insert(behind, SqlColumn::new(column, "Utf8"));
}

fn text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str)
}

/// Microseconds since 1970 of a time in a row; 0 where there is none.
fn micros(value: Option<&Value>) -> u64 {
    let time = text(value).and_then(|text| text.parse::<jiff::Timestamp>().ok());
    time.and_then(|time| u64::try_from(time.as_microsecond()).ok()).unwrap_or(0)
}

async fn unused_rules(
    controller: &Controller,
    sql: SqlQuestion,
    asked: &Asked,
    limit: u32,
) -> Result<SqlAnswer, Problem> {
    let Some(account) = sql.account else { return Err(refuse("unused rules are those of one account")) };
    let sql = SqlQuestion { max_rows: Some(SqlQuestion::MAX_ROWS), ..sql };
    let decided = controller.collector.sql(&sql).await.map_err(problem)?;
    if decided.truncated {
        return Err(refuse("more rules decided than can be compared; ask for a shorter time or one VPC"));
    }
    let used: BTreeSet<RuleId> = decided.rows.iter().filter_map(|row| text(row.get("rule"))?.parse().ok()).collect();
    let (since, vpc) = (asked.since, asked.vpc);
    let is_meant = move |of: VpcId| vpc.is_none_or(|vpc| vpc == of);
    let mut rows = controller
        .store
        .read(move |tx| {
            let mut groups = tx.list::<SecurityGroup>(Scope::Account(account))?;
            groups.retain(|group| is_meant(group.vpc));
            let mut acls = tx.list::<NetworkAcl>(Scope::Account(account))?;
            acls.retain(|acl| is_meant(acl.vpc));
            Ok(unused::unused(&groups, &acls, &used, since))
        })
        .await?;
    let truncated = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    Ok(SqlAnswer { columns: unused::columns(), rows, truncated })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lucarne_model::{InterfaceId, MacAddress, Moment, SubnetId, Tags};
    use serde_json::Map;

    use super::*;

    fn interface(number: u8, created: Moment) -> NetworkInterface {
        NetworkInterface {
            id: InterfaceId::from_bits(number.into()),
            account: AccountId::OPERATOR,
            vpc: VpcId::from_bits(1),
            subnet: SubnetId::from_bits(1),
            instance: InstanceId::from_bits(number.into()),
            address: Ipv4Addr::new(10, 0, 0, number),
            mac: MacAddress::from_bits(number.into()),
            groups: Vec::new(),
            created,
            counters: None,
            tags: Tags::default(),
        }
    }

    fn row(vpc: u128, peer: &str) -> Map<String, Value> {
        let row = json!({"vpc": VpcId::from_bits(vpc), "peer": peer, "last_seen": "1970-01-01T00:01:00Z"});
        row.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn an_address_is_the_instance_that_had_it_at_the_last_packet_in_the_same_network() {
        let rows = vec![row(1, "10.0.0.4"), row(2, "10.0.0.4"), row(1, "10.0.0.5"), row(1, "192.0.2.1")];
        let columns = vec![SqlColumn::new("vpc", "Utf8"), SqlColumn::new("peer", "Utf8")];
        let mut answer = SqlAnswer { columns, rows, truncated: false };
        let interfaces = [interface(4, Moment::from_secs(59)), interface(5, Moment::from_secs(61))];
        name_instances(&mut answer, &interfaces, "peer", "peer_instance");
        let named: Vec<_> = answer.rows.iter().map(|row| row.get("peer_instance").cloned()).collect();
        assert_eq!(named, [Some(json!(InstanceId::from_bits(4))), None, None, None]);
        let columns: Vec<_> = answer.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(columns, ["vpc", "peer", "peer_instance"]);
    }
}
