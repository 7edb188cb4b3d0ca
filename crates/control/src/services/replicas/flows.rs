//! The flows of a replica and of its source, put beside each other.
//!
//! Owns of which time they are compared, and who is asked. What is a difference is decided by `lucarne_replica::flow_difference`.

use lucarne_api::{
    Call, Problem,
    bodies::replica::FlowDifferenceQuery,
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, Moment, ReplicaId, VpcId,
    flow_sql::SqlQuestion,
    replica_flows::{Conversation, ConversationTally, FlowDifferences},
    replication::Replica,
};
use lucarne_replica::{
    AddressMap,
    difference::Correspondence,
    flow_difference::{Conversations, flow_differences},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::{checks::refuse, flows::problem};
use crate::{
    Caller, Controller, clock,
    named_questions::{Asked, conversations},
    replica_records::ReplicaRecord,
};

const DEFAULT_LIMIT: u32 = 1000;
const MOST_LIMIT: u32 = 10_000;
/// Of one side: a network that talks to more is compared for a shorter time.
const MOST_CONVERSATIONS: u32 = 50_000;

pub(crate) async fn compare_replica_flows(
    controller: &Controller,
    call: Call<Caller, (ReplicaId,), FlowDifferenceQuery, Nothing>,
) -> Result<Json<FlowDifferences>, Problem> {
    let (scope, (id,), query) = (call.caller.scope(), call.path, call.query);
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MOST_LIMIT).contains(&limit) {
        return Err(refuse(format!("`limit` is a number from 1 to {MOST_LIMIT}; it was {limit}")));
    }
    let replica = controller.store.read(move |tx| tx.get::<ReplicaRecord>(scope, id)).await?.replica;
    let (since, until) = span(&replica, &query, clock::now())?;
    let of = async |vpc: VpcId| had(controller, (replica.account, vpc), (since, until)).await;
    let (source, duplicate) = tokio::try_join!(of(replica.source), of(replica.vpc))?;
    let map = AddressMap::new(&replica.terms.map).map_err(|error| refuse(error.to_string()))?;
    let by = Correspondence { objects: &replica.objects, map: &map, left_out: &replica.left_out };
    let mut compared = flow_differences(&source, &duplicate, by);
    let more = compared.differences.len().saturating_sub(limit as usize) as u64;
    compared.differences.truncate(limit as usize);
    Ok(Json(FlowDifferences { since, until, differences: compared.differences, more, alike: compared.alike }))
}

/// The time that is asked for, as far as both ran.
fn span(replica: &Replica, query: &FlowDifferenceQuery, now: Moment) -> Result<(Moment, Moment), Problem> {
    let id = replica.id;
    let incorrect = |detail: String| Problem::new(ErrorCode::IncorrectState, detail);
    let Some(taken) = replica.taken.filter(|_| replica.state.lives()) else {
        return Err(incorrect(format!(
            "{id} does not run, so that there are no flows of it to compare; see `replica show`"
        )));
    };
    let (since, until) = (query.since.unwrap_or(taken).max(taken), query.until.unwrap_or(now));
    if until <= since {
        return Err(refuse("`until` is not after `since`, or not after the moment in which the replica was taken"));
    }
    Ok((since, until))
}

async fn had(
    controller: &Controller,
    (account, vpc): (AccountId, VpcId),
    (since, until): (Moment, Moment),
) -> Result<Conversations, Problem> {
    let asked = Asked { since, until, instance: None, vpc: Some(vpc), by: None };
    let question =
        SqlQuestion { max_rows: Some(MOST_CONVERSATIONS), ..SqlQuestion::new(Some(account), conversations(&asked)) };
    let answer = controller.collector.sql(&question).await.map_err(problem)?;
    if answer.truncated {
        let detail = format!(
            "the instances of {vpc} had more than {MOST_CONVERSATIONS} conversations; compare a shorter time, by `since`"
        );
        return Err(Problem::new(ErrorCode::SqlTooLarge, detail));
    }
    answer.rows.into_iter().map(read).collect()
}

/// One row of the collector's answer.
#[derive(Deserialize)]
struct Row {
    #[serde(flatten)]
    conversation: Conversation,
    #[serde(flatten)]
    tally: ConversationTally,
}

fn read(row: Map<String, Value>) -> Result<(Conversation, ConversationTally), Problem> {
    let unread =
        |error| Problem::new(ErrorCode::Internal, format!("the collector's answer is not understood: {error}"));
    serde_json::from_value(Value::Object(row)).map(|Row { conversation, tally }| (conversation, tally)).map_err(unread)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_of_the_answer_is_a_conversation() {
        let row = json!({"instance": "i-00000000000000007", "peer": "10.0.1.5", "side": "responder", "protocol": 6, "port": 80,
            "accepted": 4, "rejected": 0, "packets": 12, "bytes": 900});
        let (conversation, tally) = read(row.as_object().unwrap().clone()).unwrap();
        assert_eq!((conversation.port, conversation.peer), (80, "10.0.1.5".parse().unwrap()));
        assert_eq!((tally.accepted, tally.packets, tally.bytes), (4, 12, 900));
        let short = json!({"instance": "i-00000000000000007"});
        assert_eq!(read(short.as_object().unwrap().clone()).unwrap_err().code, ErrorCode::Internal);
    }
}
