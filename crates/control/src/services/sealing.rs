//! Errands to hosts' offices of sealed operations: requests in, receipts and results out.
//!
//! Owns the carrying: whom a caller may reach, and passing octets on as they are. It reads nothing of requests and results,
//! keeps none, and cannot change any without being found out: it is told which host is meant, and tells the host which account
//! asks. A tenant reaches the hosts that have an instance of it.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::ws::{Message, WebSocket},
};
use futures::stream;
use http_body_util::{BodyExt, Limited};
use lucarne_api::{
    Call, Problem,
    answer::{Done, Download},
    bodies::sealing::{LookQuery, ResultQuery, SealHostQuery, SealLogQuery, SealedAtQuery},
    input::{Json, Nothing, Upload},
};
use lucarne_model::{
    ErrorCode, HostId, InstanceId, Octets,
    sealing::{SealAnswer, SealErrand, SealHost, SealLog, SealQuestion, SealStanding},
    storage::Digest,
};
use lucarne_seal::trust::MOST_OCTETS;

use super::{
    attachments::wrong_state,
    checks::refuse,
    streams::{Wanted, meet_host},
};
use crate::{
    Caller, Controller,
    idempotency::end_dry_run,
    records::{HostRecord, InstanceRecord},
    store::{Scope, Tx},
};

/// How long a request may take to arrive here.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How long a host may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest that a host is asked to wait for the end of a request.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// What a sealed request may be longer than a plain one.
const SEALING: usize = 16 << 10;

/// A host's answer, and what has come of the result behind it.
struct Answered {
    answer: SealAnswer,
    begun: Bytes,
    host: WebSocket,
}

/// Asks a host's office in the name of the caller's account.
async fn ask(
    controller: &Controller,
    caller: &Caller,
    host: HostId,
    (question, patience): (SealQuestion, Duration),
) -> Result<Answered, Problem> {
    let mut end = meet_host(controller, host, &host.to_string(), Wanted::Errand(caller.account)).await?;
    let errand = SealErrand { account: caller.account, question };
    let errand = serde_json::to_vec(&errand).map_err(|error| broken(host, &error.to_string()))?;
    let answer = async {
        end.send(Message::Binary(errand.into())).await.map_err(|error| broken(host, &error.to_string()))?;
        read_answer(end, host).await
    };
    let answered = tokio::time::timeout(patience, answer).await;
    answered.map_err(|_| broken(host, "it did not answer in time"))?
}

async fn read_answer(mut end: WebSocket, host: HostId) -> Result<Answered, Problem> {
    let mut octets = Vec::new();
    loop {
        let found = SealAnswer::from_frame(&octets).map_err(|error| broken(host, &error.to_string()))?;
        if let Some((answer, length)) = found {
            let begun = Bytes::copy_from_slice(octets.get(length..).unwrap_or_default());
            return Ok(Answered { answer, begun, host: end });
        }
        match end.recv().await {
            Some(Ok(Message::Binary(more))) => octets.extend_from_slice(&more),
            Some(Ok(Message::Close(_))) | None => return Err(broken(host, "it broke off")),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(broken(host, &error.to_string())),
        }
    }
}

fn broken(host: HostId, why: &str) -> Problem {
    Problem::new(ErrorCode::HostUnreachable, format!("{host} gave no answer: {why}"))
}

/// What is no answer to the question.
fn told(answer: SealAnswer, host: HostId) -> Problem {
    match answer {
        SealAnswer::Unknown => Problem::new(
            ErrorCode::SealResultUnreadable,
            format!("{host} keeps nothing of such a request for this account"),
        ),
        SealAnswer::Busy => {
            Problem::new(ErrorCode::SealBusy, format!("{host} takes no more for now; nothing was taken"))
        }
        SealAnswer::Unavailable => Problem::new(
            ErrorCode::HostUnreachable,
            format!("{host} cannot write down what it must; nothing was taken"),
        ),
        _ => broken(host, "it answered another question"),
    }
}

/// Which host is meant: by itself, if the caller may reach it, or by an instance of the caller's.
async fn reach(
    controller: &Controller,
    caller: &Caller,
    host: Option<HostId>,
    instance: Option<InstanceId>,
) -> Result<HostId, Problem> {
    let (scope, operator, account) = (caller.scope(), caller.operator, caller.account);
    let find = move |tx: &Tx<'_>| match (host, instance) {
        (Some(host), _) => {
            let own = !operator && !tx.referring::<InstanceRecord>(Scope::Account(account), host)?.is_empty();
            let scope = if operator || own { Scope::Everything } else { Scope::Account(account) };
            tx.get::<HostRecord>(scope, host).map(|record| record.host.id)
        }
        (None, Some(instance)) => {
            let record = tx.get::<InstanceRecord>(scope, instance)?.instance;
            record.host.ok_or_else(|| wrong_state(instance, record.state, "on a host"))
        }
        (None, None) => Err(refuse("say which host, or which instance".to_owned())),
    };
    controller.store.read(find).await
}

pub(crate) async fn submit_sealed_request(
    controller: &Controller,
    call: Call<Caller, (), SealedAtQuery, Upload>,
) -> Result<Json<SealStanding>, Problem> {
    let host = reach(controller, &call.caller, Some(call.query.host), None).await?;
    let body = Limited::new(call.body.0, MOST_OCTETS + SEALING).collect();
    let body = tokio::time::timeout(BODY_TIME, body).await;
    let body = body.map_err(|_| Problem::new(ErrorCode::RequestTimeout, "the request did not arrive in time"))?;
    let request: Octets = body.map_err(|error| refuse(format!("the request: {error}")))?.to_bytes().to_vec().into();
    let question = (SealQuestion::Submit { request }, PATIENCE);
    match ask(controller, &call.caller, host, question).await?.answer {
        SealAnswer::Standing { standing } => Ok(Json(standing)),
        other => Err(told(other, host)),
    }
}

pub(crate) async fn get_sealed_request(
    controller: &Controller,
    call: Call<Caller, (Digest,), LookQuery, Nothing>,
) -> Result<Json<SealStanding>, Problem> {
    let host = reach(controller, &call.caller, Some(call.query.host), None).await?;
    let wait = Duration::from_millis(call.query.wait_millis.unwrap_or(0)).min(LONGEST_WAIT);
    let question = SealQuestion::Look { request: call.path.0, wait_millis: wait.as_millis() as u64 };
    match ask(controller, &call.caller, host, (question, PATIENCE + wait)).await?.answer {
        SealAnswer::Standing { standing } => Ok(Json(standing)),
        other => Err(told(other, host)),
    }
}

pub(crate) async fn get_sealed_result(
    controller: &Controller,
    call: Call<Caller, (Digest,), ResultQuery, Nothing>,
) -> Result<Download, Problem> {
    let host = reach(controller, &call.caller, Some(call.query.host), None).await?;
    let question = SealQuestion::Fetch { request: call.path.0, from: call.query.from.unwrap_or(0) };
    let answered = ask(controller, &call.caller, host, (question, PATIENCE)).await?;
    match answered.answer {
        SealAnswer::Result { length } => Ok(Download(Body::from_stream(rest(answered.begun, answered.host, length)))),
        other => Err(told(other, host)),
    }
}

/// The result as the host sends it, and not an octet less: one that breaks off is an error, not an end.
fn rest(begun: Bytes, host: WebSocket, length: u64) -> impl stream::Stream<Item = Result<Bytes, axum::Error>> {
    let broke_off = || axum::Error::new(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
    stream::try_unfold((begun, host, length), move |(begun, mut host, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let mut part = begun;
        while part.is_empty() {
            part = match host.recv().await {
                Some(Ok(Message::Binary(part))) => part,
                Some(Ok(Message::Close(_))) | None => return Err(broke_off()),
                Some(Ok(_)) => Bytes::new(),
                Some(Err(error)) => return Err(error),
            };
        }
        let left = left.checked_sub(part.len() as u64).ok_or_else(broke_off)?;
        Ok(Some((part, (Bytes::new(), host, left))))
    })
}

pub(crate) async fn forget_sealed_request(
    controller: &Controller,
    call: Call<Caller, (Digest,), SealedAtQuery, Nothing>,
) -> Result<Done, Problem> {
    let host = reach(controller, &call.caller, Some(call.query.host), None).await?;
    end_dry_run(&call.headers)?;
    let question = (SealQuestion::Forget { request: call.path.0 }, PATIENCE);
    match ask(controller, &call.caller, host, question).await?.answer {
        SealAnswer::Forgotten => Ok(Done),
        other => Err(told(other, host)),
    }
}

pub(crate) async fn get_seal_host(
    controller: &Controller,
    call: Call<Caller, (), SealHostQuery, Nothing>,
) -> Result<Json<SealHost>, Problem> {
    let host = reach(controller, &call.caller, call.query.host, call.query.instance).await?;
    match ask(controller, &call.caller, host, (SealQuestion::Describe, PATIENCE)).await?.answer {
        SealAnswer::Host { host } => Ok(Json(host)),
        other => Err(told(other, host)),
    }
}

pub(crate) async fn get_seal_log(
    controller: &Controller,
    call: Call<Caller, (), SealLogQuery, Nothing>,
) -> Result<Json<SealLog>, Problem> {
    let SealLogQuery { host, instance, first, seen } = call.query;
    let host = reach(controller, &call.caller, host, instance).await?;
    let question = SealQuestion::Log { first: first.unwrap_or(0), seen, instance };
    match ask(controller, &call.caller, host, (question, PATIENCE)).await?.answer {
        SealAnswer::Log { log } => Ok(Json(log)),
        other => Err(told(other, host)),
    }
}
