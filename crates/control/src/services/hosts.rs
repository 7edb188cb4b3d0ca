//! Hosts: enrolled, heard, told what to be, and drained by operators.
//!
//! Owns a host's record and key, and what its report changes in the records of instances, volumes and snapshots: decided in
//! [`crate::settle`], done here in one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{
        ListQuery, NoQuery, Page,
        host::{DesiredAnswer, DesiredQuery, EnrolHost, Enrolled, HostSettings, JoinToken},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, HostId, InstanceId, Moment, ReplicaId,
    actual::{
        ActualInstance, ActualSnapshot, ActualState, AskedStart, Capacity, DeployedVersion, Host, HostDescription,
        HostState, Report,
    },
    desired::Desired,
    instance::{InstanceState, StateReason},
    storage::{Snapshot, VolumeState},
};
use subtle::ConstantTimeEq;

use super::{checks::refuse, instances, loads, rechecks::ASKED, replays, tpms};
use crate::{
    Caller, Controller,
    auth::secret,
    desired,
    fleet::Fleet,
    instructions, random,
    records::{HostRecord, InstanceRecord, RemovedHost, VolumeRecord},
    settle::{self, VolumeChange},
    store::{Scope, Tx},
    workflow::{effects, engine},
};

/// The longest that a host may wait for a newer desired state.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Changes that come together are told together.
const GATHER: Duration = Duration::from_millis(10);
/// The setting under which the join token is kept.
pub(crate) const JOIN_TOKEN: &str = "join-token";
/// What stands before id and secret in a host's key.
const KEY_PREFIX: &str = "lucarne-host";

/// Host id and secret of a host's key; none of another kind of token.
pub(crate) fn parse_key(token: &str) -> Option<(HostId, &str)> {
    let (prefix, rest) = token.split_once('.')?;
    let (host, secret) = rest.split_once('.')?;
    (prefix == KEY_PREFIX).then_some(())?;
    Some((host.parse().ok()?, secret))
}

/// The host whose secret this is.
pub(crate) async fn authenticate(controller: &Controller, host: HostId, key: &str) -> Result<HostId, Problem> {
    let refused = || Problem::new(ErrorCode::AuthFailure, "the host's key is not valid; enrol the host again");
    let record = controller.store.read(move |tx| tx.find::<HostRecord>(Scope::Everything, host)).await?;
    let record = record.ok_or_else(refused)?;
    if secret::matches(key, &record.key_digest) { Ok(host) } else { Err(refused()) }
}

pub(crate) async fn enrol_host(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<EnrolHost>>,
) -> Result<Created<Enrolled>, Problem> {
    let EnrolHost { join_token, host } = call.body.0;
    let secret = random::secret();
    let key_digest = secret::digest_of(secret.as_bytes());
    let enrol = move |tx: &mut Tx<'_>| {
        let known = tx.setting(JOIN_TOKEN)?.unwrap_or_default();
        let same: bool = known.as_bytes().ct_eq(join_token.as_bytes()).into();
        if known.is_empty() || !same {
            let detail = "the join token is not valid; the controller's operator file has the right one";
            return Err(Problem::new(ErrorCode::AuthFailure, detail));
        }
        enrol(tx, host, key_digest)
    };
    let host = controller.store.write(enrol).await?;
    controller.fleet.heard(host, crate::clock::now());
    tracing::info!(%host, "a host enrolled");
    Ok(Created(Enrolled { host, host_key: format!("{KEY_PREFIX}.{host}.{secret}") }))
}

/// A host that was killed before it kept its key comes again with the same tunnel key, and is given a new one. Once it has
/// spoken with its key, nobody else is taken for it: its public key is known to many.
fn enrol(tx: &mut Tx<'_>, description: HostDescription, key_digest: String) -> Result<HostId, Problem> {
    let same_machine = |record: &&HostRecord| record.host.description.public_key == description.public_key;
    if let Some(mut record) = tx.with_all(|hosts| hosts.into_iter().find(same_machine).cloned())? {
        if record.has_spoken {
            let detail = format!("{} has this tunnel key; enrol with an empty state folder", record.host.id);
            return Err(Problem::new(ErrorCode::IncorrectState, detail));
        }
        record.host.description = description;
        record.key_digest = key_digest;
        tx.put(&record)?;
        return Ok(record.host.id);
    }
    let removed = tx.list::<RemovedHost>(Scope::Everything)?;
    if let Some(removed) = removed.iter().find(|removed| removed.public_key == description.public_key) {
        let detail = format!(
            "this tunnel key was that of {}, which was removed; enrol with an empty state folder",
            removed.host
        );
        return Err(Problem::new(ErrorCode::IncorrectState, detail));
    }
    let mut host = Host {
        id: random::id(),
        account: AccountId::OPERATOR,
        description,
        state: HostState::Up,
        used: Capacity::default(),
        instances: 0,
        dropped_frames: BTreeMap::new(),
        versions: Vec::new(),
        tpm: None,
        memory: None,
        enrolled: tx.now(),
        last_heard: tx.now(),
        tags: Default::default(),
    };
    note_versions(&mut host, tx.now());
    tx.insert(&HostRecord { host: host.clone(), key_digest, draining: false, has_spoken: false, began: None })?;
    Ok(host.id)
}

/// What runs on the host by now, and since when: what is as it was keeps its time.
fn note_versions(host: &mut Host, now: Moment) {
    let told = host.description.versions().into_iter().filter(|(_, version)| !version.is_empty());
    let noted = told.map(|(component, version)| {
        let known = host.versions.iter().find(|known| known.component == component && known.version == version);
        known.cloned().unwrap_or_else(|| DeployedVersion { component, version: version.to_owned(), since: now })
    });
    host.versions = noted.collect();
}

pub(crate) async fn hello_host(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<HostDescription>>,
) -> Result<Json<HostSettings>, Problem> {
    let (host, description) = (call.caller.host()?, call.body.0);
    controller.fleet.heard(host, crate::clock::now());
    let signed = controller.host_ca.sign(host, &description.export_key, crate::clock::now());
    let signed = signed.map_err(|error| refuse(error.to_string()))?;
    let describe = move |tx: &mut Tx<'_>| {
        let mut record: HostRecord = tx.get(Scope::Everything, host)?;
        // Hosts say hello again while the collector is away: that alone is nothing to write down.
        if record.has_spoken && record.host.description == description {
            return Ok(());
        }
        if record.host.description.started != description.started {
            record.began = Some(tx.now());
            tx.touch(ASKED);
        }
        record.host.description = description;
        record.host.last_heard = tx.now();
        record.has_spoken = true;
        note_versions(&mut record.host, tx.now());
        tx.put(&record)?;
        tpms::judge_again(tx, host)?;
        // Where it is reached may be new: the other hosts of its networks hear of it.
        for placed in tx.referring::<InstanceRecord>(Scope::Everything, host)? {
            tx.touch(placed.instance.vpc);
        }
        Ok(())
    };
    controller.store.write(describe).await?;
    let collector = controller.collector.connection().await.map_err(|error| {
        let detail = format!("the collector's address is not known yet: {error}");
        Problem::new(ErrorCode::CollectorUnavailable, detail)
    })?;
    // The collector keeps it, so this is news only to a new one; to one that is away it is told at a later hello.
    if let Err(error) = instructions::tell_hosts(controller).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the collector was not told which hosts are let in");
    }
    Ok(Json(HostSettings {
        host,
        collector: collector.ipfix,
        collector_certificate: collector.certificate,
        certificate: signed.certificate,
        host_authority: Some(controller.host_ca.certificate().to_owned()),
        renew_certificate: signed.renew,
        heartbeat_millis: controller.settings.heartbeat.as_millis() as u64,
    }))
}

pub(crate) async fn report_host(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<Report>>,
) -> Result<Done, Problem> {
    let (host, report) = (call.caller.host()?, call.body.0);
    controller.fleet.heard(host, crate::clock::now());
    controller.fleet.note_figures(host, &report.figures, crate::clock::now());
    if let Some(memory) = &report.memory {
        controller.memory_histories.note(&memory.instances);
    }
    let cut = controller.fleet.take_cuts(host, &report.cuts);
    let wake = |replica: &ReplicaId| controller.store.changes().touch(&replica.to_string());
    if !controller.fleet.is_news(host, &report) {
        cut.iter().for_each(wake);
        return Ok(Done);
    }
    let told = report.clone();
    // The records first: should they fail, the same report is news again.
    controller.store.write(move |tx| settle_report(tx, host, &told)).await?;
    let proves = report.instances.iter().any(|actual| actual.evidence.is_some());
    for instance in controller.fleet.take(host, report) {
        controller.store.changes().touch(&instance.to_string());
    }
    cut.iter().for_each(wake);
    if proves {
        controller.store.changes().touch(ASKED);
    }
    Ok(Done)
}

fn settle_report(tx: &mut Tx<'_>, host: HostId, report: &Report) -> Result<(), Problem> {
    let mut record: HostRecord = tx.get(Scope::Everything, host)?;
    record.host.description.capacity = report.capacity;
    tx.put(&record)?;
    let actual: BTreeMap<InstanceId, &ActualInstance> = report.instances.iter().map(|a| (a.id, a)).collect();
    for record in tx.referring::<InstanceRecord>(Scope::Everything, host)? {
        // One that is on its way here or from here is its own host's to tell of.
        if record.instance.host == Some(host)
            && let Some(actual) = actual.get(&record.instance.id)
        {
            settle_instance(tx, record, actual)?;
        }
    }
    for asked in &report.starts {
        start_as_asked(tx, host, asked)?;
    }
    settle_volumes(tx, host, report, &actual)?;
    for actual in &report.snapshots {
        settle_snapshot(tx, host, actual)?;
    }
    replays::settle(tx, host, &report.replays)?;
    loads::settle(tx, host, &report.loads)
}

/// What a host was asked to start, and by its word may, its controller wants too, as if it had been asked itself.
fn start_as_asked(tx: &mut Tx<'_>, host: HostId, asked: &AskedStart) -> Result<(), Problem> {
    let Some(mut record) = tx.find::<InstanceRecord>(Scope::Everything, asked.instance)? else { return Ok(()) };
    if record.instance.host != Some(host)
        || !settle::is_to_start(&record.instance, asked)
        || engine::unfinished(tx, record.instance.id)?.is_some()
    {
        return Ok(());
    }
    tracing::info!(%host, instance = %asked.instance, "a host was asked by a sealed request to start this");
    match instances::start_again(tx, &mut record) {
        // What forbids it to everybody forbids it here, and is no fault of the report.
        Err(problem) if problem.code == ErrorCode::IncorrectState => {
            tracing::warn!(instance = %asked.instance, %problem, "it is not started");
            Ok(())
        }
        started => started,
    }
}

/// Only of a volume that is on this host, and only with bytes that this host has brought.
fn settle_snapshot(tx: &mut Tx<'_>, host: HostId, actual: &ActualSnapshot) -> Result<(), Problem> {
    let Some(snapshot) = tx.find::<Snapshot>(Scope::Everything, actual.id)? else { return Ok(()) };
    let Some(settled) = settle::snapshot(&snapshot, actual) else { return Ok(()) };
    let volume = tx.find::<VolumeRecord>(Scope::Everything, snapshot.volume)?;
    let is_here = volume.is_some_and(|record| record.volume.host == Some(host));
    let is_brought = match &settled.blob {
        Some(blob) => tx.has_uploaded(host, &blob.digest)?,
        None => true,
    };
    if is_here && is_brought {
        return tx.put(&settled);
    }
    tracing::warn!(%host, snapshot = %actual.id, "a host speaks of a snapshot that is not its own");
    Ok(())
}

/// An instance with a workflow is the workflow's.
fn settle_instance(tx: &mut Tx<'_>, mut record: InstanceRecord, actual: &ActualInstance) -> Result<(), Problem> {
    if record.instance.state == InstanceState::Terminated && actual.state == ActualState::Absent {
        record.instance.host = None;
        return tx.put(&record);
    }
    let Some((state, reason)) = settle::instance(&record.instance, actual) else { return Ok(()) };
    if engine::unfinished(tx, record.instance.id)?.is_some() {
        return Ok(());
    }
    record.instance.state = state;
    record.instance.state_reason = reason;
    record.instance.changed = tx.now();
    tx.put(&record)
}

fn settle_volumes(
    tx: &mut Tx<'_>,
    host: HostId,
    report: &Report,
    instances: &BTreeMap<InstanceId, &ActualInstance>,
) -> Result<(), Problem> {
    for mut record in tx.referring::<VolumeRecord>(Scope::Everything, host)? {
        let at = record.volume.instance.and_then(|instance| instances.get(&instance).copied());
        let actual = report.volumes.iter().find(|actual| actual.id == record.volume.id);
        match settle::volume(&record.volume, at, actual) {
            None => continue,
            Some(VolumeChange::Deleted) => {
                effects::forget_volume(tx, &record)?;
                continue;
            }
            Some(VolumeChange::Attached) => settle_volume(&mut record, VolumeState::InUse, None),
            Some(VolumeChange::Detached) => {
                record.volume.instance = None;
                settle_volume(&mut record, VolumeState::Available, None);
            }
            Some(VolumeChange::Failed(reason)) => settle_volume(&mut record, VolumeState::Error, Some(reason)),
        }
        tx.put(&record)?;
    }
    Ok(())
}

fn settle_volume(record: &mut VolumeRecord, state: VolumeState, reason: Option<StateReason>) {
    record.volume.state = state;
    record.volume.state_reason = reason;
}

pub(crate) async fn get_desired(
    controller: &Controller,
    call: Call<Caller, (), DesiredQuery, Nothing>,
) -> Result<Json<DesiredAnswer>, Problem> {
    let host = call.caller.host()?;
    controller.fleet.heard(host, crate::clock::now());
    let wait = match call.query.have {
        Some(_) => Duration::from_millis(call.query.wait_millis.unwrap_or(0)).clamp(GATHER, LONGEST_WAIT),
        // One that has none is told what there is, however long a busy controller takes for that.
        None => LONGEST_WAIT,
    };
    let newer = newer_than(controller, host, call.query.have);
    let desired = match tokio::time::timeout(wait, newer).await {
        Ok(newer) => Some(newer?),
        Err(_) => None,
    };
    Ok(Json(DesiredAnswer { desired }))
}

/// The host's desired state, as soon as it is another than that of the version `have`.
async fn newer_than(controller: &Controller, host: HostId, have: Option<u64>) -> Result<Desired, Problem> {
    // Heard of first and computed then, so that no change falls between.
    let changes = controller.store.changes();
    let mut own = changes.subscribe([host.to_string()]);
    let mut topics = BTreeSet::new();
    let mut others = changes.subscribe([]);
    loop {
        let desired = compute(controller, host).await?;
        if have != Some(desired.version) {
            return Ok(desired);
        }
        let concerned = desired::topics(&desired);
        if concerned != topics {
            others = changes.subscribe(concerned.clone());
            topics = concerned;
            continue;
        }
        tokio::select! {
            () = own.changed() => {}
            () = others.changed() => drop(tokio::time::timeout(desired::gather(&desired), own.changed()).await),
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn compute(controller: &Controller, host: HostId) -> Result<Desired, Problem> {
    let sequence = controller.store.changes().sequence();
    let mentioned = desired::Mentioned {
        instances: controller.fleet.mentioned(host),
        volumes: controller.fleet.volumes_at(host),
        recordings: controller.fleet.recordings_at(host),
        replays: controller.fleet.replays_at(host),
        loads: controller.fleet.loads_at(host),
    };
    let streams = controller.streams.of(host);
    let leases = controller.lending.of(host);
    let challenges = controller.challenges.of(host, crate::clock::now());
    let networks = controller.networks.clone();
    let seal_errands = controller.streams.errands_of(host);
    let recordings = controller.streams.recordings_of(host);
    let passing = desired::Passing { streams, challenges, leases, seal_errands, recordings };
    let compute = move |tx: &Tx<'_>| desired::compute(tx, host, &mentioned, passing, &networks);
    let (desired, fingerprint) = controller.store.read(compute).await?;
    Ok(Desired { version: controller.fleet.number(host, fingerprint, sequence), ..desired })
}

fn shown(fleet: &Fleet, record: HostRecord, now: Moment) -> Host {
    let HostRecord { mut host, draining, .. } = record;
    host.state = fleet.state(host.id, draining, now);
    host.dropped_frames = fleet.dropped_frames(host.id);
    host.memory = fleet.host_memory(host.id);
    host.last_heard = fleet.last_heard(host.id).unwrap_or(host.last_heard);
    host
}

pub(crate) async fn list_hosts(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Host>>, Problem> {
    let (scope, query, fleet) = (call.caller.scope(), call.query, controller.fleet.clone());
    let show = move |tx: &Tx<'_>, record| Ok(shown(&fleet, record, tx.now()));
    controller.store.read(move |tx| tx.page_shown(scope, &query, show)).await.map(Json)
}

pub(crate) async fn get_host(
    controller: &Controller,
    call: Call<Caller, (HostId,), NoQuery, Nothing>,
) -> Result<Json<Host>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let record = controller.store.read(move |tx| tx.get::<HostRecord>(scope, id)).await?;
    Ok(Json(shown(&controller.fleet, record, crate::clock::now())))
}

pub(crate) async fn tell_join_token(
    controller: &Controller,
    _: Call<Caller, (), NoQuery, Nothing>,
) -> Result<Json<JoinToken>, Problem> {
    let token = controller.store.read(|tx| tx.setting(JOIN_TOKEN)).await?;
    let none = || Problem::new(ErrorCode::Internal, "this controller has no join token");
    Ok(Json(JoinToken { join_token: token.ok_or_else(none)? }))
}

pub(crate) async fn drain_host(
    controller: &Controller,
    call: Call<Caller, (HostId,), NoQuery, Nothing>,
) -> Result<Json<Host>, Problem> {
    set_draining(controller, call, true).await
}

pub(crate) async fn resume_host(
    controller: &Controller,
    call: Call<Caller, (HostId,), NoQuery, Nothing>,
) -> Result<Json<Host>, Problem> {
    set_draining(controller, call, false).await
}

async fn set_draining(
    controller: &Controller,
    call: Call<Caller, (HostId,), NoQuery, Nothing>,
    draining: bool,
) -> Result<Json<Host>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let set = move |tx: &mut Tx<'_>| {
        let mut record: HostRecord = tx.get(scope, id)?;
        record.draining = draining;
        tx.put(&record)?;
        Ok(record)
    };
    let record = controller.change(&call, set).await?;
    Ok(Json(shown(&controller.fleet, record, crate::clock::now())))
}
