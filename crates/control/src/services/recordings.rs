//! Recordings of networks: who may have which, what hosts are told of them, and their files as one.
//!
//! Owns their rules and the fetching. Frames are recorded by hosts, which keep their files until they are told that the
//! recording is no more; the order of frames in the one file is [`Merge`]'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::ws::{Message, WebSocket},
};
use futures::{
    SinkExt,
    future::try_join_all,
    stream::{self, Stream},
};
use lucarne_api::{
    Call, Problem,
    answer::{Created, Done, Download},
    bodies::{ListQuery, NoQuery, Page, event::EventsQuery, recording::StartRecording},
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, Bytes as Octets, ErrorCode, HostId, Moment, RecordingId, VpcId,
    network::{Subnet, Vpc},
    pcapng::{self, merge::Merge},
    recording::{
        DesiredRecording, DesiredRecordingState, Recorded, Recording, RecordingFilter, RecordingRoom, RecordingState,
    },
};
use serde::Serialize;

use super::{
    checks::{check_tags, refuse},
    shown,
    streams::{Wanted, meet_host},
};
use crate::{
    Caller, Controller,
    fleet::Fleet,
    random,
    records::{InstanceRecord, JobRecord},
    scaling_records::ScalingGroupRecord,
    store::{Scope, Tx},
};

const RECORDINGS_OF_AN_ACCOUNT: usize = 20;
const DEFAULT_ROOM: RecordingRoom = RecordingRoom::Ring { size: Octets::mib(64) };
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3600);
const LONGEST_KEPT: Duration = Duration::from_secs(365 * 24 * 3600);
/// Events that go into a file.
const MOST_EVENTS: usize = 1000;
/// As many as are kept.
const MOST_CHANGES: usize = 10_000;

pub(crate) async fn start_recording(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<StartRecording>>,
) -> Result<Created<Recording>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    controller.change(&call, move |tx| start(tx, account, request)).await.map(Created)
}

pub(super) fn start(tx: &mut Tx<'_>, account: AccountId, request: StartRecording) -> Result<Recording, Problem> {
    let StartRecording { vpc, filter, room, seconds, lasts_seconds, tags } = request;
    let scope = Scope::Account(account);
    check_tags(&tags)?;
    tx.get::<Vpc>(scope, vpc)?;
    check_filter(tx, scope, &filter)?;
    let room = room.unwrap_or(DEFAULT_ROOM);
    if !(RecordingRoom::SMALLEST..=RecordingRoom::LARGEST).contains(&room.size()) {
        return Err(refuse(format!("a recording has room for 1 MiB to 4096 MiB; it was {} octets", room.size().0)));
    }
    let span = seconds.map(Duration::from_secs);
    if span.is_some_and(|span| span.is_zero() || span > LONGEST) {
        return Err(refuse("a recording that stops by itself does within a second and a day"));
    }
    let lasts = lasts_seconds.map(Duration::from_secs);
    if lasts.is_some_and(|lasts| lasts.is_zero() || lasts > LONGEST_KEPT) {
        return Err(refuse("a recording that is deleted by itself is within a second and a year"));
    }
    if tx.list::<Recording>(scope)?.len() >= RECORDINGS_OF_AN_ACCOUNT {
        let detail = format!("an account can have {RECORDINGS_OF_AN_ACCOUNT} recordings");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    let recording = Recording {
        id: random::id(),
        account,
        vpc,
        filter,
        room,
        state: RecordingState::Recording,
        started: tx.now(),
        until: span.map(|span| tx.now().plus(span)),
        expires: lasts.map(|lasts| tx.now().plus(lasts)),
        recorded: Recorded::default(),
        tags,
    };
    tx.insert(&recording)?;
    Ok(recording)
}

/// What it names must be the account's own.
fn check_filter(tx: &Tx<'_>, scope: Scope, filter: &RecordingFilter) -> Result<(), Problem> {
    let RecordingFilter { instances, subnets, addresses, ports, protocols, direction: _ } = filter;
    let longest = [instances.len(), subnets.len(), addresses.len(), ports.len(), protocols.len()].into_iter().max();
    if longest.is_some_and(|longest| longest > RecordingFilter::MOST) {
        return Err(refuse(format!("a filter names at most {} of a kind", RecordingFilter::MOST)));
    }
    for instance in instances {
        tx.get::<InstanceRecord>(scope, *instance)?;
    }
    subnets.iter().try_for_each(|subnet| tx.get::<Subnet>(scope, *subnet).map(drop))
}

/// With what hosts told of it last.
fn told(fleet: &Fleet, recording: Recording, now: Moment) -> Recording {
    let recorded = fleet.recorded(recording.id).into_values().fold(Recorded::default(), Recorded::and);
    Recording { recorded, ..recording }.at(now)
}

pub(crate) async fn list_recordings(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Recording>>, Problem> {
    let (scope, query, fleet) = (call.caller.scope(), call.query, controller.fleet.clone());
    let show = move |tx: &Tx<'_>, recording| Ok(told(&fleet, recording, tx.now()));
    controller.store.read(move |tx| tx.page_shown(scope, &query, show)).await.map(Json)
}

pub(crate) async fn get_recording(
    controller: &Controller,
    call: Call<Caller, (RecordingId,), NoQuery, Nothing>,
) -> Result<Json<Recording>, Problem> {
    let (scope, id, fleet) = (call.caller.scope(), call.path.0, controller.fleet.clone());
    controller.store.read(move |tx| Ok(told(&fleet, tx.get(scope, id)?, tx.now()))).await.map(Json)
}

pub(crate) async fn stop_recording(
    controller: &Controller,
    call: Call<Caller, (RecordingId,), NoQuery, Nothing>,
) -> Result<Json<Recording>, Problem> {
    let (scope, id, fleet) = (call.caller.scope(), call.path.0, controller.fleet.clone());
    let stop = move |tx: &mut Tx<'_>| {
        let mut recording: Recording = tx.get(scope, id)?;
        if recording.clone().at(tx.now()).state == RecordingState::Recording {
            (recording.state, recording.until) = (RecordingState::Stopped, Some(tx.now()));
            tx.put(&recording)?;
        }
        Ok(told(&fleet, recording, tx.now()))
    };
    controller.change(&call, stop).await.map(Json)
}

pub(crate) async fn delete_recording(
    controller: &Controller,
    call: Call<Caller, (RecordingId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let recording: Recording = tx.get(scope, id)?;
        forget(tx, &recording)
    };
    controller.change(&call, delete).await.map(|()| Done)
}

/// Deletes those whose time is over.
pub(crate) async fn end_expired(controller: &Controller) -> Result<(), Problem> {
    if controller.store.read(expired).await?.is_empty() {
        return Ok(());
    }
    let end = |tx: &mut Tx<'_>| {
        for recording in expired(tx)? {
            tracing::info!(recording = %recording.id, "a recording's time is over");
            forget(tx, &recording)?;
        }
        Ok(())
    };
    controller.store.write(end).await
}

pub(super) fn forget(tx: &mut Tx<'_>, recording: &Recording) -> Result<(), Problem> {
    tx.forget_changes(recording.id)?;
    tx.delete(recording)
}

fn expired(tx: &Tx<'_>) -> Result<Vec<Recording>, Problem> {
    let mut all = tx.list::<Recording>(Scope::Everything)?;
    all.retain(|recording| recording.expires.is_some_and(|expires| expires <= tx.now()));
    Ok(all)
}

/// What a host is told: of the recordings of its networks, and of those of which it says that it has something. Those that are
/// no more are to go.
pub(crate) fn desired(
    tx: &Tx<'_>,
    networks: impl Iterator<Item = VpcId>,
    mentioned: &[RecordingId],
    streams: &BTreeMap<RecordingId, Vec<String>>,
) -> Result<Vec<DesiredRecording>, Problem> {
    let mut found = BTreeMap::new();
    for vpc in networks {
        let recordings = tx.referring::<Recording>(Scope::Everything, vpc)?;
        found.extend(recordings.into_iter().map(|recording| (recording.id, Some(recording))));
    }
    for id in mentioned {
        if !found.contains_key(id) {
            found.insert(*id, tx.find::<Recording>(Scope::Everything, *id)?);
        }
    }
    let part = |(id, recording): (RecordingId, Option<Recording>)| {
        let state = match recording {
            None => DesiredRecordingState::Absent,
            Some(Recording { state: RecordingState::Stopped, .. }) => DesiredRecordingState::Stopped,
            Some(Recording { vpc, filter, room, until, .. }) => {
                DesiredRecordingState::Recording { vpc, filter, room, until }
            }
        };
        DesiredRecording { id, state, streams: streams.get(&id).cloned().unwrap_or_default() }
    };
    Ok(found.into_iter().map(part).collect())
}

/// One thing that happened to the network while it was recorded.
#[derive(Serialize)]
struct Beside<T> {
    /// `workflow`, `event` or `change`.
    kind: &'static str,
    at: Moment,
    what: T,
}

fn beside<T: Serialize>(kind: &'static str, at: Moment, what: T) -> Option<(Moment, Vec<u8>)> {
    let json = serde_json::to_vec(&Beside { kind, at, what }).ok()?;
    Some((at, pcapng::custom(&json)))
}

/// A recording and what is needed to fetch it.
pub(super) struct Fetched {
    recording: RecordingId,
    vpc: VpcId,
    hosts: BTreeSet<HostId>,
    beside: Vec<(Moment, Vec<u8>)>,
}

fn look(tx: &Tx<'_>, caller: &Caller, fleet: &Fleet, id: RecordingId) -> Result<Fetched, Problem> {
    let recording: Recording = tx.get(caller.scope(), id)?;
    let (account, vpc) = (recording.account, recording.vpc);
    let time = recording.started..=recording.until.unwrap_or(tx.now());
    let of_network = tx.referring::<InstanceRecord>(Scope::Account(account), vpc)?;
    let hosts = of_network.iter().filter_map(|record| record.instance.host).collect();
    let instances: BTreeSet<_> = of_network.iter().map(|record| record.instance.id).collect();
    let groups = tx.referring::<ScalingGroupRecord>(Scope::Account(account), vpc)?;
    let groups = groups.iter().map(|record| record.group.id.to_string());
    let concerned: BTreeSet<String> = instances.iter().map(ToString::to_string).chain(groups).collect();
    let mut found = Vec::new();
    for record in tx.list::<JobRecord>(Scope::Account(account))? {
        if time.contains(&record.job.created) && record.job.instance.is_some_and(|one| instances.contains(&one)) {
            found.extend(beside("workflow", record.job.created, shown::job(caller, fleet, record)));
        }
    }
    let query = EventsQuery { account: Some(account), since: Some(recording.started), ..EventsQuery::default() };
    for event in tx.events(&query, None, MOST_EVENTS)? {
        if time.contains(&event.at) && concerned.contains(&event.resource) {
            found.extend(beside("event", event.at, event));
        }
    }
    for change in tx.recorded_changes(id, 0, MOST_CHANGES)? {
        found.extend(beside("change", change.at, change));
    }
    found.sort_by_key(|(at, _)| *at);
    Ok(Fetched { recording: id, vpc, hosts, beside: found })
}

/// A recording of which the frames alone are wanted.
pub(super) fn without_events(tx: &Tx<'_>, recording: &Recording) -> Result<Fetched, Problem> {
    let of_network = tx.referring::<InstanceRecord>(Scope::Account(recording.account), recording.vpc)?;
    let hosts = of_network.iter().filter_map(|record| record.instance.host).collect();
    Ok(Fetched { recording: recording.id, vpc: recording.vpc, hosts, beside: Vec::new() })
}

pub(crate) async fn export_recording(
    controller: &Controller,
    call: Call<Caller, (RecordingId,), NoQuery, Nothing>,
) -> Result<Download, Problem> {
    let (caller, id) = (call.caller, call.path.0);
    let fleet = controller.fleet.clone();
    let found = controller.store.read(move |tx| look(tx, &caller, &fleet, id)).await?;
    fetch(controller, found).await
}

/// Asks the hosts for their files, and gives them as one.
pub(super) async fn fetch(controller: &Controller, found: Fetched) -> Result<Download, Problem> {
    let Fetched { recording: id, vpc, mut hosts, beside } = found;
    hosts.extend(controller.fleet.recorded(id).into_keys());
    // A tenant does not hear how hosts are called.
    let named = format!("a host that has recorded {vpc}");
    let ends = hosts.iter().map(|host| meet_host(controller, *host, &named, Wanted::Recording(id)));
    let ends = try_join_all(ends).await?;
    let merge = Merge::new(ends.len(), beside);
    Ok(Download(Body::from_stream(merged(ends, merge))))
}

/// What hosts send, as one file. One that breaks off is an error, not an end.
fn merged(ends: Vec<WebSocket>, merge: Merge) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    stream::try_unfold((ends, merge), |(mut ends, mut merge)| async move {
        loop {
            let out = merge.take();
            if !out.is_empty() {
                return Ok(Some((Bytes::from(out), (ends, merge))));
            }
            let Some(file) = merge.wants() else { return Ok(None) };
            match ends[file].recv().await {
                Some(Ok(Message::Binary(octets))) => merge.push(file, &octets),
                Some(Ok(Message::Close(_))) | None => {
                    // Both sides have said that it is over; nobody reads the answer.
                    let _ = ends[file].close().await;
                    merge.end(file);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            }
        }
    })
}
