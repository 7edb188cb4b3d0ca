//! Changes of the recorded network, asked of the duplicate that it is played into.
//!
//! Owns when each is due, with whose rights it is asked, and that it is asked once. It goes the way of every request, by the router, so
//! that it is allowed, limited and answered as if who began the replay had sent it; its idempotency key is made of the replay and
//! its number, so that a controller that is killed behind it hears the same answer again. What it is in the duplicate is decided by
//! `lucarne_replica::changes`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, header::CONTENT_TYPE},
};
use lucarne_api::{Problem, ROUTES, Route, input::Limits};
use lucarne_model::{
    ErrorCode, Moment, ReplayId, UserId,
    recorded_change::{ChangeOutcome, ReappliedChange, RecordedChange},
    replay::{ReplaySpeed, ReplayState},
    replication::Replica,
};
use lucarne_replica::{
    AddressMap,
    changes::{Ids, LeftOut, Names, learn},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::super::checks::refuse;
use crate::{
    Controller,
    auth::OnBehalf,
    change_recording::rules_of,
    clock,
    replay_records::{Reapplied, ReplayRecord},
    store::{Scope, Tx},
};

/// How late a change may be asked.
const EVERY: Duration = Duration::from_millis(200);
/// Of one replay, before the others have their turn.
const AT_ONCE: usize = 20;
const LONGEST_ANSWER: usize = 1 << 20;

/// What a replay begins with whose changes are asked too.
pub(super) fn begin(by: UserId, replica: &Replica) -> Reapplied {
    let ids = replica.objects.iter().map(|(source, duplicate)| (source.to_string(), duplicate.to_string()));
    Reapplied { by, first: None, ids: ids.collect(), done: 0 }
}

/// Asks what is due, until `shutdown`. What fails is logged, and tried again at the next time.
pub(crate) async fn run(controller: Arc<Controller>, shutdown: CancellationToken) {
    let router = lucarne_api::router(controller.clone(), Limits::default());
    let mut rounds = tokio::time::interval(EVERY);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = rounds.tick() => {}
        }
        if let Err(problem) = ask_all(&controller, &router).await {
            tracing::warn!(%problem, "changes of a recorded network could not be asked of its duplicate; they are again");
        }
    }
}

async fn ask_all(controller: &Controller, router: &Router) -> Result<(), Problem> {
    for id in controller.store.read(playing).await? {
        for _ in 0..AT_ONCE {
            let Some(next) = controller.store.read(move |tx| due(tx, id)).await? else { break };
            ask(controller, router, next).await?;
        }
    }
    Ok(())
}

/// Replays that are being played, with changes.
fn playing(tx: &Tx<'_>) -> Result<Vec<ReplayId>, Problem> {
    let plays = |record: &ReplayRecord| record.replay.state == ReplayState::Playing && record.reapplied.is_some();
    let all = tx.list::<ReplayRecord>(Scope::Everything)?;
    Ok(all.into_iter().filter(plays).map(|record| record.replay.id).collect())
}

/// The next change of a replay.
struct Next {
    replay: ReplayId,
    number: usize,
    by: UserId,
    ids: Ids,
    change: RecordedChange,
    /// What is to be asked of the duplicate.
    request: Result<ToAsk, ChangeOutcome>,
}

/// A request to the duplicate: its route, the parameters of its path, and its body.
type ToAsk = (&'static Route, Vec<String>, Value);

/// None while there is none that is due.
fn due(tx: &Tx<'_>, id: ReplayId) -> Result<Option<Next>, Problem> {
    let Some(record) = tx.find::<ReplayRecord>(Scope::Everything, id)? else { return Ok(None) };
    let (Some(began), Some(reapplied)) = (record.replay.began, &record.reapplied) else { return Ok(None) };
    let Some(first) = reapplied.first.filter(|_| record.replay.state == ReplayState::Playing) else { return Ok(None) };
    let next = tx.recorded_changes(record.replay.recording, reapplied.done, 1)?.pop();
    let Some(change) = next.filter(|change| time(change.at, first, began, record.replay.terms.speed) <= tx.now())
    else {
        return Ok(None);
    };
    let request = request(tx, &record, reapplied, &change)?;
    let Reapplied { by, ref ids, done, .. } = *reapplied;
    Ok(Some(Next { replay: id, number: done, by, ids: ids.clone(), change, request }))
}

/// When a change is due: as far behind the beginning of the play as it was behind that of what is played.
fn time(at: Moment, first: Moment, began: Moment, speed: ReplaySpeed) -> Moment {
    match speed {
        ReplaySpeed::Max => began,
        ReplaySpeed::Permille(permille) => {
            let micros = u128::from(at.since(first).as_micros() as u64) * 1000 / u128::from(permille.max(1));
            began.plus(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
        }
    }
}

fn request(
    tx: &Tx<'_>,
    record: &ReplayRecord,
    reapplied: &Reapplied,
    change: &RecordedChange,
) -> Result<Result<ToAsk, ChangeOutcome>, Problem> {
    let Some(route) = ROUTES.iter().find(|route| route.name == change.operation) else {
        let detail = format!("there is no operation `{}` any more", change.operation);
        return Ok(Err(ChangeOutcome::Refused { code: ErrorCode::NoSuchRoute, detail }));
    };
    let map = AddressMap::new(&record.map).map_err(|error| refuse(error.to_string()))?;
    let names = Names { ids: &reapplied.ids, map: &map, network: record.network };
    let left_out = |LeftOut(id): LeftOut| ChangeOutcome::LeftOut { id };
    let translated = names.translate(change).and_then(|(path, body)| Ok((path, body, names.value(&change.taken)?)));
    let (mut path, body, taken) = match translated.map_err(left_out) {
        Ok(translated) => translated,
        Err(outcome) => return Ok(Err(outcome)),
    };
    if let ([holder, rule], false) = (&mut path[..], taken.is_null()) {
        let rules = rules_of(tx, Scope::Account(record.replay.account), &change.operation, holder)?;
        if !rules.iter().any(|(id, _)| id == rule) {
            let Some((own, _)) = rules.into_iter().find(|(_, says)| *says == taken) else {
                return Ok(Err(ChangeOutcome::LeftOut { id: rule.clone() }));
            };
            *rule = own;
        }
    }
    Ok(Ok((route, path, body)))
}

async fn ask(controller: &Controller, router: &Router, next: Next) -> Result<(), Problem> {
    let Next { replay, number, by, mut ids, change, request } = next;
    let outcome = match request {
        Ok((route, path, body)) => {
            let key = format!("{replay}-{number}");
            match send(router, route, &path, &body, (by, &key)).await {
                Ok(answer) => {
                    learn(&mut ids, &change.answer, &answer);
                    ChangeOutcome::Applied
                }
                Err(refused) if is_passing(refused.code) => return Ok(()),
                Err(Problem { code, detail, .. }) => ChangeOutcome::Refused { code, detail },
            }
        }
        Err(outcome) => outcome,
    };
    let asked = ReappliedChange { recorded: change.at, at: clock::now(), operation: change.operation, outcome };
    let note = move |tx: &mut Tx<'_>| {
        let Some(mut record) = tx.find::<ReplayRecord>(Scope::Everything, replay)? else { return Ok(()) };
        let Some(reapplied) = record.reapplied.as_mut().filter(|reapplied| reapplied.done == number) else {
            return Ok(());
        };
        (reapplied.done, reapplied.ids) = (number + 1, ids);
        record.replay.changes.get_or_insert_default().push(asked);
        tx.put(&record)
    };
    controller.store.write(note).await
}

/// What the account's limits hold up for a moment is asked again.
fn is_passing(code: ErrorCode) -> bool {
    code == ErrorCode::RequestLimitExceeded
}

/// Sends the request as the user would. What cannot even be sent or read is refused too: it would be the same the next time.
async fn send(
    router: &Router,
    route: &'static Route,
    path: &[String],
    body: &Value,
    (by, key): (UserId, &str),
) -> Result<Value, Problem> {
    let internal =
        |error: &dyn std::fmt::Display| Problem::new(ErrorCode::Internal, format!("{}: {error}", route.name));
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let request = Request::builder()
        .method(route.method.clone())
        .uri(filled(route.path, path))
        .header(CONTENT_TYPE, "application/json")
        .header("idempotency-key", key)
        .extension(OnBehalf(by))
        .body(body)
        .map_err(|error| internal(&error))?;
    let answer = router.clone().oneshot(request).await.map_err(|never| internal(&never))?;
    let is_success = answer.status().is_success();
    let octets = to_bytes(answer.into_body(), LONGEST_ANSWER).await.map_err(|error| internal(&error))?;
    let answer =
        if octets.is_empty() { Value::Null } else { serde_json::from_slice(&octets).map_err(|e| internal(&e))? };
    if is_success {
        return Ok(answer);
    }
    Err(serde_json::from_value(answer).unwrap_or_else(|error| internal(&error)))
}

/// The route's path with its parameters filled in, in order.
fn filled(path: &str, parameters: &[String]) -> String {
    let mut parameters = parameters.iter();
    let part = |part: &str| match part.starts_with('{') {
        true => parameters.next().cloned().unwrap_or_default(),
        false => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_due_as_far_behind_the_beginning_as_it_was_recorded() {
        let at = |speed| time(Moment::from_secs(14), Moment::from_secs(10), Moment::from_secs(100), speed);
        assert_eq!(at(ReplaySpeed::AS_RECORDED), Moment::from_secs(104));
        assert_eq!(at(ReplaySpeed::Permille(2000)), Moment::from_secs(102));
        assert_eq!(at(ReplaySpeed::Max), Moment::from_secs(100));
        let before =
            time(Moment::from_secs(9), Moment::from_secs(10), Moment::from_secs(100), ReplaySpeed::AS_RECORDED);
        assert_eq!(before, Moment::from_secs(100), "what came before the first session comes with it");
    }

    #[test]
    fn a_path_is_filled_in_order() {
        let parameters = ["sg-1".to_owned(), "sgr-2".to_owned()];
        assert_eq!(
            filled("/v1/security-groups/{security_group}/rules/{rule}", &parameters),
            "/v1/security-groups/sg-1/rules/sgr-2"
        );
        assert_eq!(filled("/v1/instances", &[]), "/v1/instances");
    }
}
