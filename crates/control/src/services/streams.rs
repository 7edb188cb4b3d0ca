//! Streams between a user and a host: an instance's serial console and its log, errands to the office of sealed operations,
//! and recordings.
//!
//! Owns the meeting of the two ends; what is said in an errand is [`super::sealing`]'s, what is recorded
//! [`super::recordings`]'. Nothing dials a host: the user's request waits under a token that stands in the host's
//! desired state, the host opens its end with that token, and the bytes are passed on, a few at a time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::ws::{Message, WebSocket},
};
use futures::{SinkExt, StreamExt, stream};
use lucarne_api::{
    Call, Problem,
    answer::{Download, Upgraded},
    bodies::NoQuery,
    input::{Nothing, Socket},
};
use lucarne_model::{
    AccountId, ErrorCode, HostId, InstanceId, RecordingId,
    desired::{StreamKind, StreamRequest},
    instance::InstanceState,
};
use tokio::sync::oneshot;

use super::attachments::wrong_state;
use crate::{Caller, Controller, random, records::InstanceRecord};

/// How long a host may take to open its end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Errands of one account that wait for one host.
const MOST_ERRANDS: usize = 16;
/// The largest message that is passed on.
pub(crate) const MESSAGE_BYTES: usize = 64 << 10;

/// More of an account's errands wait for a host than it fetches at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_ERRANDS} errands of this account wait for the host; try again in a moment")]
struct Busy;

/// Requests whose host has not come yet.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    waiting: Mutex<HashMap<String, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    host: HostId,
    wanted: Wanted,
    meet: oneshot::Sender<WebSocket>,
}

/// What the two ends meet for.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    Serial(InstanceId, StreamKind),
    /// A question of somebody of this account.
    Errand(AccountId),
    /// What the host has of a recording.
    Recording(RecordingId),
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the host should open now.
    pub(crate) fn of(&self, host: HostId) -> Vec<StreamRequest> {
        let all = self.lock();
        let mut requests: Vec<_> = all.iter().filter(|(_, one)| one.host == host).filter_map(request).collect();
        requests.sort_by(|a, b| a.token.cmp(&b.token));
        requests
    }

    /// The tokens of the errands that the host should fetch now.
    pub(crate) fn errands_of(&self, host: HostId) -> Vec<String> {
        let all = self.lock();
        let errands = all.iter().filter(|(_, one)| one.host == host && matches!(one.wanted, Wanted::Errand(_)));
        let mut tokens: Vec<_> = errands.map(|(token, _)| token.clone()).collect();
        tokens.sort();
        tokens
    }

    /// The tokens by which the host should send recordings now.
    pub(crate) fn recordings_of(&self, host: HostId) -> BTreeMap<RecordingId, Vec<String>> {
        let mut wanted: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for (token, waiting) in self.lock().iter().filter(|(_, waiting)| waiting.host == host) {
            if let Wanted::Recording(recording) = waiting.wanted {
                wanted.entry(recording).or_default().push(token.clone());
            }
        }
        wanted.values_mut().for_each(|tokens| tokens.sort());
        wanted
    }

    fn ask(&self, host: HostId, wanted: Wanted) -> Result<(String, oneshot::Receiver<WebSocket>), Busy> {
        let (meet, met) = oneshot::channel();
        let token = random::secret();
        let mut all = self.lock();
        if let Wanted::Errand(account) = wanted {
            let same = |one: &&Waiting| one.host == host && matches!(one.wanted, Wanted::Errand(of) if of == account);
            if all.values().filter(same).count() >= MOST_ERRANDS {
                return Err(Busy);
            }
        }
        all.insert(token.clone(), Waiting { host, wanted, meet });
        Ok((token, met))
    }

    fn take(&self, host: HostId, token: &str) -> Option<oneshot::Sender<WebSocket>> {
        let mut all = self.lock();
        let is_its_own = all.get(token).is_some_and(|waiting| waiting.host == host);
        if is_its_own { all.remove(token).map(|waiting| waiting.meet) } else { None }
    }

    fn give_up(&self, token: &str) {
        self.lock().remove(token);
    }
}

/// A serial line for the host to open; the others are told elsewhere.
fn request((token, waiting): (&String, &Waiting)) -> Option<StreamRequest> {
    match waiting.wanted {
        Wanted::Serial(instance, kind) => Some(StreamRequest { token: token.clone(), instance, kind }),
        Wanted::Errand(_) | Wanted::Recording(_) => None,
    }
}

/// Asks the instance's host for a stream and waits until it is there.
async fn meet_host_of(
    controller: &Controller,
    record: &InstanceRecord,
    kind: StreamKind,
) -> Result<WebSocket, Problem> {
    let id = record.instance.id;
    let host = record.instance.host.ok_or_else(|| wrong_state(id, record.instance.state, "on a host"))?;
    meet_host(controller, host, &format!("the host of {id}"), Wanted::Serial(id, kind)).await
}

/// Asks a host for a stream and waits until it is there. `named` is what it is called to who asked.
pub(super) async fn meet_host(
    controller: &Controller,
    host: HostId,
    named: &str,
    wanted: Wanted,
) -> Result<WebSocket, Problem> {
    let unreachable = |why: &str| Problem::new(ErrorCode::HostUnreachable, format!("{named} {why}"));
    if controller.fleet.is_down(host, crate::clock::now()) {
        return Err(unreachable("does not answer; try again when it is back"));
    }
    let asked = controller.streams.ask(host, wanted);
    let (token, met) = asked.map_err(|busy| Problem::new(ErrorCode::RequestLimitExceeded, busy.to_string()))?;
    controller.store.changes().touch(&host.to_string());
    let met = tokio::time::timeout(PATIENCE, met).await;
    controller.streams.give_up(&token);
    met.ok().and_then(Result::ok).ok_or_else(|| unreachable("did not open the stream in time"))
}

async fn find(controller: &Controller, caller: &Caller, id: InstanceId) -> Result<InstanceRecord, Problem> {
    let scope = caller.scope();
    controller.store.read(move |tx| tx.get(scope, id)).await
}

pub(crate) async fn open_console(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Socket>,
) -> Result<Upgraded, Problem> {
    let record = find(controller, &call.caller, call.path.0).await?;
    if record.instance.state != InstanceState::Running {
        return Err(wrong_state(record.instance.id, record.instance.state, "running"));
    }
    let host = meet_host_of(controller, &record, StreamKind::Console).await?;
    let upgrade = call.body.0.max_message_size(MESSAGE_BYTES);
    Ok(Upgraded(upgrade.on_upgrade(move |user| pass(user, host))))
}

/// Passes bytes both ways until either end is gone.
async fn pass(user: WebSocket, host: WebSocket) {
    let (to_user, from_user) = user.split();
    let (to_host, from_host) = host.split();
    let bytes = |message: Result<Message, axum::Error>| {
        std::future::ready(match message {
            Ok(message @ (Message::Binary(_) | Message::Text(_))) => Some(Ok(message)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
    };
    tokio::select! {
        _ = from_user.filter_map(bytes).forward(to_host) => {}
        _ = from_host.filter_map(bytes).forward(to_user) => {}
    }
}

pub(crate) async fn get_log(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Nothing>,
) -> Result<Download, Problem> {
    let record = find(controller, &call.caller, call.path.0).await?;
    if record.instance.state == InstanceState::Terminated {
        return Err(wrong_state(record.instance.id, record.instance.state, "on a host"));
    }
    let host = meet_host_of(controller, &record, StreamKind::Log).await?;
    Ok(Download(Body::from_stream(contents(host))))
}

/// What the host sends until it closes its end. A stream that breaks off is an error, not an end.
fn contents(host: WebSocket) -> impl stream::Stream<Item = Result<Bytes, axum::Error>> {
    stream::try_unfold(host, |mut host| async move {
        loop {
            match host.recv().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(Some((bytes, host))),
                Some(Ok(Message::Close(_))) | None => {
                    // Both sides have said that it is over; nobody reads the answer.
                    let _ = host.close().await;
                    return Ok(None);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            }
        }
    })
}

pub(crate) async fn open_stream(
    controller: &Controller,
    call: Call<Caller, (String,), NoQuery, Socket>,
) -> Result<Upgraded, Problem> {
    let host = call.caller.host()?;
    let gone = || Problem::new(ErrorCode::NoSuchRoute, "nobody waits for this stream any more");
    let meet = controller.streams.take(host, &call.path.0).ok_or_else(gone)?;
    let upgrade = call.body.0.max_message_size(MESSAGE_BYTES);
    // Who asked may have gone in the meantime: then the host's end closes.
    Ok(Upgraded(upgrade.on_upgrade(move |socket| async move { drop(meet.send(socket)) })))
}
