//! Replays: recordings played into duplicates of the networks that they are of.
//!
//! Owns who may have which, where one is played, and what hosts tell of it. What a replay makes of its network is
//! [`ReplayRecord::join`]'s, what the frames are worth the room `replica`'s, which plays them at the host.

pub(crate) mod changes;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done, Download},
    bodies::{ListQuery, NoQuery, Page, replay::StartReplay},
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, HostId, InstanceId, MacAddress, ReplayId, UserId, VpcId,
    instance::{InstanceState, StateReason},
    network::{NetworkInterface, Vpc},
    recording::{Recording, RecordingState},
    replay::{
        ActualReplay, DesiredReplay, DesiredReplayState, Replay, ReplayBystander, ReplayClient, ReplayFrom, ReplayPort,
        ReplayReport, ReplaySpeed, ReplayStage, ReplayState, ReplayTerms,
    },
    replication::{Replica, ReplicaState},
};
use lucarne_replica::AddressMap;

use super::{
    checks::{check_tags, refuse},
    recordings,
};
use crate::{
    Caller, Controller,
    fleet::Fleet,
    random,
    records::InstanceRecord,
    replay_records::ReplayRecord,
    replica_records::ReplicaRecord,
    store::{Scope, Tx},
    visitors::Outside,
};

const ALL: Scope = Scope::Everything;
const REPLAYS_OF_AN_ACCOUNT: usize = 100;
/// Clients that one replay plays: each has an interface of its own.
const MOST_CLIENTS: usize = 64;

pub(crate) async fn start_replay(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<StartReplay>>,
) -> Result<Created<Replay>, Problem> {
    let (by, request, fleet) =
        ((call.caller.account, call.caller.user()?), call.body.0.clone(), controller.fleet.clone());
    controller.change(&call, move |tx| start(tx, &fleet, by, request)).await.map(Created)
}

fn start(
    tx: &mut Tx<'_>,
    fleet: &Fleet,
    (account, by): (AccountId, UserId),
    request: StartReplay,
) -> Result<Replay, Problem> {
    let StartReplay { recording, replica, from, speed, times, amplify, changes, tags } = request;
    let scope = Scope::Account(account);
    check_tags(&tags)?;
    let speed = speed.unwrap_or(ReplaySpeed::AS_RECORDED);
    let terms = ReplayTerms { from, speed, times: times.unwrap_or(1), amplify: amplify.unwrap_or(1) };
    check_terms(&terms)?;
    let recording = tx.get::<Recording>(scope, recording)?.at(tx.now());
    let replica = tx.get::<ReplicaRecord>(scope, replica)?.replica;
    check_pair(&recording, &replica)?;
    if tx.list::<ReplayRecord>(scope)?.len() >= REPLAYS_OF_AN_ACCOUNT {
        let detail = format!("an account can have {REPLAYS_OF_AN_ACCOUNT} replays; delete some");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    if let Some(other) = tx.referring::<ReplayRecord>(ALL, replica.vpc)?.first() {
        let detail = format!("{} is played into {} and is not over", other.replay.id, replica.id);
        return Err(Problem::new(ErrorCode::IncorrectState, detail));
    }
    let source: Vpc = tx.get(scope, replica.source)?;
    let client = match from {
        ReplayFrom::Instance(id) => Some(client(tx, scope, &replica, id)?),
        ReplayFrom::Internet | ReplayFrom::Instances | ReplayFrom::All => None,
    };
    let host = host(tx, fleet, replica.vpc)?;
    let replay = Replay {
        id: random::id(),
        account,
        recording: recording.id,
        replica: replica.id,
        vpc: replica.vpc,
        terms,
        state: ReplayState::Preparing,
        state_reason: None,
        clients: Vec::new(),
        bystanders: Vec::new(),
        score: None,
        reports: Vec::new(),
        changes: changes.then(Vec::new),
        created: tx.now(),
        began: None,
        ended: None,
        tags,
    };
    let outside = Outside::new();
    let reapplied = changes.then(|| changes::begin(by, &replica));
    let (network, map) = (source.cidr, replica.terms.map);
    let ports = Vec::new();
    tx.insert(&ReplayRecord { replay: replay.clone(), host, network, client, map, ports, outside, reapplied })?;
    Ok(replay)
}

fn check_terms(terms: &ReplayTerms) -> Result<(), Problem> {
    let (times, amplify) = (1..=ReplayTerms::MOST_TIMES, 1..=ReplayTerms::MOST_AMPLIFIED);
    if times.contains(&terms.times) && amplify.contains(&terms.amplify) {
        return Ok(());
    }
    Err(refuse(format!(
        "a recording is played 1 to {} times, by 1 to {} clients for each that was recorded",
        times.end(),
        amplify.end()
    )))
}

fn check_pair(recording: &Recording, replica: &Replica) -> Result<(), Problem> {
    let wrong = |detail: String| Err(Problem::new(ErrorCode::IncorrectState, detail));
    if recording.state != RecordingState::Stopped {
        return wrong(format!("{} is still being recorded; stop it first", recording.id));
    }
    if !matches!(replica.state, ReplicaState::Copying | ReplicaState::Available) {
        return wrong(format!("{} is no duplicate that runs", replica.id));
    }
    if recording.vpc != replica.source {
        let detail =
            format!("{} is of {}, and {} a duplicate of {}", recording.id, recording.vpc, replica.id, replica.source);
        return Err(refuse(detail));
    }
    Ok(())
}

/// The address that the instance had in the recorded network.
fn client(tx: &Tx<'_>, scope: Scope, replica: &Replica, id: InstanceId) -> Result<Ipv4Addr, Problem> {
    let instance = tx.get::<InstanceRecord>(scope, id)?.instance;
    if instance.vpc != replica.source {
        return Err(refuse(format!("{id} is none of the recorded network, {}", replica.source)));
    }
    Ok(instance.address)
}

/// The host that has most of the duplicate: the fewest frames then leave it.
fn host(tx: &Tx<'_>, fleet: &Fleet, vpc: VpcId) -> Result<HostId, Problem> {
    let mut hosts: BTreeMap<HostId, usize> = BTreeMap::new();
    let runs = |record: &InstanceRecord| record.instance.state == InstanceState::Running;
    for record in tx.referring::<InstanceRecord>(ALL, vpc)?.into_iter().filter(runs) {
        if let Some(host) = record.instance.host.filter(|host| !fleet.is_down(*host, tx.now())) {
            *hosts.entry(host).or_default() += 1;
        }
    }
    let most = hosts.into_iter().max_by_key(|(host, instances)| (*instances, std::cmp::Reverse(*host)));
    most.map(|(host, _)| host)
        .ok_or_else(|| Problem::new(ErrorCode::IncorrectState, format!("nothing of {vpc} runs on a host that answers")))
}

pub(crate) async fn list_replays(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Replay>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    // A list tells no differences: there can be a thousand for each.
    let show = |_: &Tx<'_>, record: ReplayRecord| {
        let reports =
            record.replay.reports.into_iter().map(|report| ReplayReport { differences: Vec::new(), ..report });
        Ok(Replay { reports: reports.collect(), ..record.replay })
    };
    controller.store.read(move |tx| tx.page_shown(scope, &query, show)).await.map(Json)
}

pub(crate) async fn get_replay(
    controller: &Controller,
    call: Call<Caller, (ReplayId,), NoQuery, Nothing>,
) -> Result<Json<Replay>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get::<ReplayRecord>(scope, id)).await.map(|record| Json(record.replay))
}

pub(crate) async fn stop_replay(
    controller: &Controller,
    call: Call<Caller, (ReplayId,), NoQuery, Nothing>,
) -> Result<Json<Replay>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let stop = move |tx: &mut Tx<'_>| {
        let mut record: ReplayRecord = tx.get(scope, id)?;
        if !record.replay.state.is_over() {
            end(tx, &mut record, ReplayState::Stopped, None)?;
        }
        Ok(record.replay)
    };
    controller.change(&call, stop).await.map(Json)
}

pub(crate) async fn delete_replay(
    controller: &Controller,
    call: Call<Caller, (ReplayId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let record: ReplayRecord = tx.get(scope, id)?;
        tx.delete(&record)
    };
    controller.change(&call, delete).await.map(|()| Done)
}

/// Gives the host that plays it the recording.
pub(crate) async fn fetch_replayed_frames(
    controller: &Controller,
    call: Call<Caller, (ReplayId,), NoQuery, Nothing>,
) -> Result<Download, Problem> {
    let (host, id) = (call.caller.host()?, call.path.0);
    let look = move |tx: &Tx<'_>| {
        let record = tx.find::<ReplayRecord>(ALL, id)?.filter(|record| record.host == host);
        let record = record.filter(|record| !record.replay.state.is_over());
        let gone = || Problem::new(ErrorCode::InvalidReplayNotFound, format!("{id} is not to be played here"));
        let replay = record.ok_or_else(gone)?.replay;
        let recording: Recording = tx.get(Scope::Account(replay.account), replay.recording)?;
        recordings::without_events(tx, &recording)
    };
    let found = controller.store.read(look).await?;
    recordings::fetch(controller, found).await
}

/// What a host is told: of the replays that it is to play, and of those of which it says that it has something.
pub(crate) fn desired(own: &[ReplayRecord], mentioned: &[ReplayId]) -> Vec<DesiredReplay> {
    let mut told: BTreeMap<ReplayId, DesiredReplayState> =
        own.iter().map(|record| (record.replay.id, record.desired())).collect();
    for id in mentioned {
        told.entry(*id).or_insert(DesiredReplayState::Absent);
    }
    told.into_iter().map(|(id, state)| DesiredReplay { id, state }).collect()
}

/// Takes what a host tells of the replays that it plays.
pub(crate) fn settle(tx: &mut Tx<'_>, host: HostId, told: &[ActualReplay]) -> Result<(), Problem> {
    for ActualReplay { id, stage } in told {
        let own = |record: &ReplayRecord| record.host == host && !record.replay.state.is_over();
        let Some(mut record) = tx.find::<ReplayRecord>(ALL, id)?.filter(own) else { continue };
        match stage {
            ReplayStage::Fetching => {}
            ReplayStage::Read { clients, bystanders, first } => {
                if let Some(reapplied) = &mut record.reapplied {
                    reapplied.first = *first;
                }
                cast(tx, &mut record, clients, bystanders)?;
            }
            ReplayStage::Playing => {
                if record.replay.began.is_none() {
                    (record.replay.state, record.replay.began) = (ReplayState::Playing, Some(tx.now()));
                    tx.put(&record)?;
                }
            }
            ReplayStage::Played { reports } => {
                record.replay.score = reports.iter().filter_map(|report| report.score).min();
                record.replay.reports.clone_from(reports);
                end(tx, &mut record, ReplayState::Done, None)?;
            }
            ReplayStage::Failed { reason } => end(tx, &mut record, ReplayState::Failed, Some(reason.clone()))?,
        }
    }
    Ok(())
}

/// Gives the clients their interfaces, once.
fn cast(
    tx: &mut Tx<'_>,
    record: &mut ReplayRecord,
    clients: &[Ipv4Addr],
    bystanders: &[ReplayBystander],
) -> Result<(), Problem> {
    if !record.ports.is_empty() {
        return Ok(());
    }
    if clients.len() > MOST_CLIENTS {
        let message = format!("{} clients would be played, and {MOST_CLIENTS} can be at a time", clients.len());
        let reason = StateReason { code: ErrorCode::RecordingUnplayable, message };
        return end(tx, record, ReplayState::Failed, Some(reason));
    }
    let map = AddressMap::new(&record.map).map_err(|error| refuse(error.to_string()))?;
    let interfaces = tx.referring::<NetworkInterface>(ALL, record.replay.vpc)?;
    let mut macs: BTreeSet<MacAddress> = interfaces.iter().map(|interface| interface.mac).collect();
    for recorded in clients {
        let address = map.address(*recorded);
        let own = interfaces.iter().find(|interface| interface.address == address);
        let mac = own.map_or_else(|| fresh_mac(&mut macs), |own| own.mac);
        let instance = own.map(|own| own.instance);
        record.replay.clients.push(ReplayClient { recorded: *recorded, address, instance });
        let instance = instance.unwrap_or_else(random::id);
        record.ports.push(ReplayPort { interface: random::id(), instance, address, mac });
    }
    record.replay.bystanders = bystanders.to_vec();
    tx.put(record)
}

pub(super) fn fresh_mac(taken: &mut BTreeSet<MacAddress>) -> MacAddress {
    loop {
        let mac = MacAddress::from_bits(random::bits() as u64);
        if mac != MacAddress::ROUTER && taken.insert(mac) {
            return mac;
        }
    }
}

fn end(
    tx: &mut Tx<'_>,
    record: &mut ReplayRecord,
    state: ReplayState,
    reason: Option<StateReason>,
) -> Result<(), Problem> {
    record.replay.state = state;
    record.replay.state_reason = reason;
    record.replay.ended = Some(tx.now());
    record.ports.clear();
    tx.put(record)
}

/// Ends what is played into a duplicate that is being ended or promoted.
pub(super) fn end_with(tx: &mut Tx<'_>, replica: &Replica, code: ErrorCode, what: &str) -> Result<(), Problem> {
    for mut record in tx.referring::<ReplayRecord>(ALL, replica.vpc)? {
        let message = format!("{} was {what} meanwhile", replica.id);
        let reason = StateReason { code, message };
        end(tx, &mut record, ReplayState::Failed, Some(reason))?;
    }
    Ok(())
}

/// Ends those whose host does not answer any more, so that the duplicate gets its own interfaces back.
pub(crate) async fn end_lost(controller: &Controller) -> Result<(), Problem> {
    let fleet = controller.fleet.clone();
    let lost = move |tx: &Tx<'_>| {
        let is_lost = |record: &ReplayRecord| !record.replay.state.is_over() && fleet.is_down(record.host, tx.now());
        Ok(tx.list::<ReplayRecord>(ALL)?.into_iter().filter(is_lost).map(|record| record.replay.id).collect::<Vec<_>>())
    };
    for id in controller.store.read(lost).await? {
        let fail = move |tx: &mut Tx<'_>| {
            let Some(mut record) = tx.find::<ReplayRecord>(ALL, id)?.filter(|one| !one.replay.state.is_over()) else {
                return Ok(());
            };
            let message = "the host that played it does not answer any more".into();
            let reason = StateReason { code: ErrorCode::HostUnreachable, message };
            end(tx, &mut record, ReplayState::Failed, Some(reason))
        };
        controller.store.write(fail).await?;
    }
    Ok(())
}
