//! Loads: requests that are made up, asked inside duplicates.
//!
//! Owns who may ask what of whom, from which addresses, and what hosts tell of it. Asking itself is the business of the room
//! `replica`, at the host of the instance that is asked; what its clients make of the network is [`LoadRecord::join`]'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{ListQuery, NoQuery, Page, load::StartLoad},
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, Cidr, ErrorCode, HostId, LoadId, MacAddress, VpcId,
    instance::{InstanceState, StateReason},
    load::{
        ActualLoad, DesiredLoad, DesiredLoadState, Load, LoadFrom, LoadKind, LoadReport, LoadStage, LoadState,
        LoadTarget, LoadTerms,
    },
    network::{NetworkInterface, Subnet, Vpc},
    replay::ReplayPort,
    replication::{Replica, ReplicaState},
};

use super::{
    addresses,
    checks::{check_tags, refuse},
    replays::fresh_mac,
};
use crate::{
    Caller, Controller,
    fleet::Fleet,
    load_records::LoadRecord,
    random,
    records::InstanceRecord,
    replay_records::ReplayRecord,
    replica_records::ReplicaRecord,
    store::{Scope, Tx},
    visitors::Outside,
};

const ALL: Scope = Scope::Everything;
const LOADS_OF_AN_ACCOUNT: usize = 100;
/// Loads that go on in one duplicate at a time.
const AT_A_TIME: usize = 4;
/// Addresses that the clients of one load have together: each is an interface.
const MOST_SOURCES: usize = 16;
/// For how long it is asked where nobody says.
const SECONDS: u32 = 10;
/// What is in a datagram where nobody says.
const DATAGRAM: u32 = 32;
/// Addresses of measurements (RFC 2544): nothing on the internet has one.
const OF_MEASUREMENTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const BITS_OF_MEASUREMENTS: u8 = 15;

pub(crate) async fn start_load(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<StartLoad>>,
) -> Result<Created<Load>, Problem> {
    let (account, request, fleet) = (call.caller.account, call.body.0.clone(), controller.fleet.clone());
    controller.change(&call, move |tx| start(tx, &fleet, account, request)).await.map(Created)
}

fn start(tx: &mut Tx<'_>, fleet: &Fleet, account: AccountId, request: StartLoad) -> Result<Load, Problem> {
    let scope = Scope::Account(account);
    check_tags(&request.tags)?;
    let (replica, tags) = (request.replica, request.tags.clone());
    let terms = terms(request);
    check_terms(&terms)?;
    let replica = tx.get::<ReplicaRecord>(scope, replica)?.replica;
    if !matches!(replica.state, ReplicaState::Copying | ReplicaState::Available) {
        return Err(Problem::new(ErrorCode::IncorrectState, format!("{} is no duplicate that runs", replica.id)));
    }
    check_count(tx, scope, &replica)?;
    // Whether an instance is the account's comes before where it is.
    if let Some(LoadFrom::Instance(id)) = terms.from {
        tx.get::<InstanceRecord>(scope, id)?;
    }
    let asked = member(tx, scope, &replica, terms.to)?;
    let host = host(fleet, &asked, tx)?;
    let interface: NetworkInterface = tx.get(scope, asked.instance.interface)?;
    let beside = match terms.from {
        None => Some(interface),
        Some(LoadFrom::Internet) => None,
        Some(LoadFrom::Instance(id)) => {
            let beside = member(tx, scope, &replica, LoadTarget::Instance(id))?;
            Some(tx.get(scope, beside.instance.interface)?)
        }
    };
    let wanted = (terms.clients as usize).min(MOST_SOURCES);
    let sources = match &beside {
        Some(beside) => inside(tx, beside, wanted)?,
        None => outside(tx, &replica, wanted)?,
    };
    let ports = ports(tx, replica.vpc, &sources)?;
    let load = Load {
        id: random::id(),
        account,
        replica: replica.id,
        vpc: replica.vpc,
        terms,
        instance: asked.instance.id,
        address: asked.instance.address,
        sources,
        state: LoadState::Preparing,
        state_reason: None,
        report: None,
        created: tx.now(),
        began: None,
        ended: None,
        tags,
    };
    let groups = beside.map(|beside| beside.groups).unwrap_or_default();
    tx.insert(&LoadRecord { load: load.clone(), host, ports, outside: Outside::new(), groups })?;
    Ok(load)
}

/// What is asked, with what nobody said.
fn terms(request: StartLoad) -> LoadTerms {
    let StartLoad { to, port, kind, path, from, clients, rate, seconds, size, .. } = request;
    let size = size.unwrap_or(if kind == LoadKind::Udp { DATAGRAM } else { 0 });
    let path = if kind == LoadKind::Http { Some(path.unwrap_or_else(|| "/".into())) } else { path };
    LoadTerms {
        to,
        port,
        kind,
        path,
        from,
        clients: clients.unwrap_or(1),
        rate,
        seconds: seconds.unwrap_or(SECONDS),
        size,
    }
}

fn check_terms(terms: &LoadTerms) -> Result<(), Problem> {
    let most_octets = match terms.kind {
        LoadKind::Udp => LoadTerms::MOST_OCTETS_OF_A_DATAGRAM,
        LoadKind::Http | LoadKind::Tcp => LoadTerms::MOST_OCTETS,
    };
    let limits = [
        ("clients", Some(terms.clients), 1, LoadTerms::MOST_CLIENTS),
        ("requests in a second", terms.rate, 1, LoadTerms::MOST_RATE),
        ("seconds", Some(terms.seconds), 1, LoadTerms::MOST_SECONDS),
        ("octets with a request", Some(terms.size), 0, most_octets),
    ];
    for (what, asked, least, most) in limits {
        if asked.is_some_and(|asked| !(least..=most).contains(&asked)) {
            return Err(refuse(format!("a load has {least} to {most} {what}")));
        }
    }
    if terms.port == 0 {
        return Err(refuse("nobody listens at port 0"));
    }
    match (&terms.path, terms.kind) {
        (None, _) => Ok(()),
        (Some(path), LoadKind::Http) => check_path(path),
        (Some(_), LoadKind::Tcp | LoadKind::Udp) => Err(refuse("a path is asked for by HTTP alone")),
    }
}

/// It stands in a line of its own, which it must not end.
fn check_path(path: &str) -> Result<(), Problem> {
    let is_whole = path.starts_with('/') && path.bytes().all(|octet| octet.is_ascii_graphic());
    if is_whole && path.len() <= LoadTerms::LONGEST_PATH {
        return Ok(());
    }
    let longest = LoadTerms::LONGEST_PATH;
    Err(refuse(format!("a path begins with / and has at most {longest} characters of ASCII, none of them blank")))
}

fn check_count(tx: &Tx<'_>, scope: Scope, replica: &Replica) -> Result<(), Problem> {
    let exceeded = |detail: String| Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    if tx.list::<LoadRecord>(scope)?.len() >= LOADS_OF_AN_ACCOUNT {
        return exceeded(format!("an account can have {LOADS_OF_AN_ACCOUNT} loads; delete some"));
    }
    if tx.referring::<LoadRecord>(ALL, replica.vpc)?.len() >= AT_A_TIME {
        return exceeded(format!("{AT_A_TIME} loads go on in {} and are not over", replica.id));
    }
    Ok(())
}

/// The instance of the duplicate that is meant. One of the source, or of any other network, is none of it.
fn member(tx: &Tx<'_>, scope: Scope, replica: &Replica, target: LoadTarget) -> Result<InstanceRecord, Problem> {
    let found = match target {
        LoadTarget::Instance(id) => Some(tx.get::<InstanceRecord>(scope, id)?),
        LoadTarget::Address(address) => {
            let instances = tx.referring::<InstanceRecord>(scope, replica.vpc)?;
            instances.into_iter().find(|record| record.instance.address == address && has_interface(record))
        }
    };
    found.filter(|record| record.instance.vpc == replica.vpc && has_interface(record)).ok_or_else(|| {
        let detail = format!("{target} is not in {}, the network of {}", replica.vpc, replica.id);
        Problem::new(ErrorCode::LoadTargetNotInReplica, detail)
    })
}

fn has_interface(record: &InstanceRecord) -> bool {
    record.instance.state != InstanceState::Terminated
}

/// Where the instance runs that is asked: its answers need not leave that host.
fn host(fleet: &Fleet, asked: &InstanceRecord, tx: &Tx<'_>) -> Result<HostId, Problem> {
    let runs = asked.instance.state == InstanceState::Running;
    let host = asked.instance.host.filter(|host| runs && !fleet.is_down(*host, tx.now()));
    host.ok_or_else(|| {
        let detail = format!("{} does not run on a host that answers", asked.instance.id);
        Problem::new(ErrorCode::IncorrectState, detail)
    })
}

/// Free addresses of the subnet, the highest first: new instances get the lowest.
fn inside(tx: &Tx<'_>, beside: &NetworkInterface, wanted: usize) -> Result<Vec<Ipv4Addr>, Problem> {
    let subnet: Subnet = tx.get(ALL, beside.subnet)?;
    let mut taken = addresses::taken(tx, &subnet)?;
    taken.extend(visiting(tx, beside.vpc)?);
    let mut free: Vec<Ipv4Addr> = subnet.cidr.assignable().filter(|address| !taken.contains(address)).collect();
    let sources = free.split_off(free.len().saturating_sub(wanted));
    if sources.is_empty() {
        let detail = format!("{} has no free address left in {}", subnet.id, subnet.cidr);
        return Err(Problem::new(ErrorCode::InsufficientFreeAddresses, detail));
    }
    Ok(sources.into_iter().rev().collect())
}

/// Addresses outside the network.
fn outside(tx: &Tx<'_>, replica: &Replica, wanted: usize) -> Result<Vec<Ipv4Addr>, Problem> {
    let (vpc, taken) = (tx.get::<Vpc>(ALL, replica.vpc)?, visiting(tx, replica.vpc)?);
    let all = Cidr::around(OF_MEASUREMENTS, BITS_OF_MEASUREMENTS);
    let all = all.into_iter().flat_map(|all| all.assignable());
    let sources: Vec<Ipv4Addr> =
        all.filter(|address| !vpc.cidr.contains(*address) && !taken.contains(address)).take(wanted).collect();
    if sources.is_empty() {
        let detail = format!("{} has all addresses of clients outside itself", vpc.id);
        return Err(Problem::new(ErrorCode::InsufficientFreeAddresses, detail));
    }
    Ok(sources)
}

/// Addresses of clients that are in the network already.
fn visiting(tx: &Tx<'_>, vpc: VpcId) -> Result<BTreeSet<Ipv4Addr>, Problem> {
    let of_loads = tx.referring::<LoadRecord>(ALL, vpc)?.into_iter().flat_map(|record| record.ports);
    let of_replays = tx.referring::<ReplayRecord>(ALL, vpc)?.into_iter().flat_map(|record| record.ports);
    Ok(of_loads.chain(of_replays).map(|port| port.address).collect())
}

fn ports(tx: &Tx<'_>, vpc: VpcId, sources: &[Ipv4Addr]) -> Result<Vec<ReplayPort>, Problem> {
    let interfaces = tx.referring::<NetworkInterface>(ALL, vpc)?;
    let mut macs: BTreeSet<MacAddress> = interfaces.iter().map(|interface| interface.mac).collect();
    macs.extend(tx.referring::<LoadRecord>(ALL, vpc)?.into_iter().flat_map(|record| record.ports).map(|port| port.mac));
    let port = |address: &Ipv4Addr| ReplayPort {
        interface: random::id(),
        instance: random::id(),
        address: *address,
        mac: fresh_mac(&mut macs),
    };
    Ok(sources.iter().map(port).collect())
}

pub(crate) async fn list_loads(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Load>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    // A list tells no series.
    let show = |_: &Tx<'_>, record: LoadRecord| {
        let report = record.load.report.map(|report| LoadReport { series: Vec::new(), ..report });
        Ok(Load { report, ..record.load })
    };
    controller.store.read(move |tx| tx.page_shown(scope, &query, show)).await.map(Json)
}

pub(crate) async fn get_load(
    controller: &Controller,
    call: Call<Caller, (LoadId,), NoQuery, Nothing>,
) -> Result<Json<Load>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get::<LoadRecord>(scope, id)).await.map(|record| Json(record.load))
}

pub(crate) async fn stop_load(
    controller: &Controller,
    call: Call<Caller, (LoadId,), NoQuery, Nothing>,
) -> Result<Json<Load>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let stop = move |tx: &mut Tx<'_>| {
        let mut record: LoadRecord = tx.get(scope, id)?;
        if !record.load.state.is_over() {
            end(tx, &mut record, LoadState::Stopped, None)?;
        }
        Ok(record.load)
    };
    controller.change(&call, stop).await.map(Json)
}

pub(crate) async fn delete_load(
    controller: &Controller,
    call: Call<Caller, (LoadId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let record: LoadRecord = tx.get(scope, id)?;
        tx.delete(&record)
    };
    controller.change(&call, delete).await.map(|()| Done)
}

/// What a host is told: of the loads that it is to ask, and of those of which it says that it has something.
pub(crate) fn desired(own: &[LoadRecord], mentioned: &[LoadId]) -> Vec<DesiredLoad> {
    let mut told: BTreeMap<LoadId, DesiredLoadState> =
        own.iter().map(|record| (record.load.id, record.desired())).collect();
    for id in mentioned {
        told.entry(*id).or_insert(DesiredLoadState::Absent);
    }
    told.into_iter().map(|(id, state)| DesiredLoad { id, state }).collect()
}

/// Takes what a host tells of the loads that it asks.
pub(crate) fn settle(tx: &mut Tx<'_>, host: HostId, told: &[ActualLoad]) -> Result<(), Problem> {
    for ActualLoad { id, stage } in told {
        let own = |record: &LoadRecord| record.host == host && !record.load.state.is_over();
        let Some(mut record) = tx.find::<LoadRecord>(ALL, id)?.filter(own) else { continue };
        match stage {
            LoadStage::Preparing => {}
            LoadStage::Running { report } => {
                let load = &mut record.load;
                load.state = LoadState::Running;
                load.began.get_or_insert(tx.now());
                if load.report.as_ref() != Some(report) {
                    load.report = Some(report.clone());
                    tx.put(&record)?;
                }
            }
            LoadStage::Done { report } => {
                record.load.report = Some(report.clone());
                end(tx, &mut record, LoadState::Done, None)?;
            }
            LoadStage::Failed { reason } => end(tx, &mut record, LoadState::Failed, Some(reason.clone()))?,
        }
    }
    Ok(())
}

/// What was told last of it stays.
fn end(tx: &mut Tx<'_>, record: &mut LoadRecord, state: LoadState, reason: Option<StateReason>) -> Result<(), Problem> {
    record.load.state = state;
    record.load.state_reason = reason;
    record.load.ended = Some(tx.now());
    record.ports.clear();
    tx.put(record)
}

/// Ends what is asked in a duplicate that is none any more.
pub(super) fn end_with(tx: &mut Tx<'_>, replica: &Replica, code: ErrorCode, what: &str) -> Result<(), Problem> {
    for mut record in tx.referring::<LoadRecord>(ALL, replica.vpc)? {
        let message = format!("{} was {what} meanwhile", replica.id);
        let reason = StateReason { code, message };
        end(tx, &mut record, LoadState::Failed, Some(reason))?;
    }
    Ok(())
}

/// Ends those whose host does not answer any more.
pub(crate) async fn end_lost(controller: &Controller) -> Result<(), Problem> {
    let fleet = controller.fleet.clone();
    let lost = move |tx: &Tx<'_>| {
        let is_lost = |record: &LoadRecord| !record.load.state.is_over() && fleet.is_down(record.host, tx.now());
        Ok(tx.list::<LoadRecord>(ALL)?.into_iter().filter(is_lost).map(|record| record.load.id).collect::<Vec<_>>())
    };
    for id in controller.store.read(lost).await? {
        let fail = move |tx: &mut Tx<'_>| {
            let Some(mut record) = tx.find::<LoadRecord>(ALL, id)?.filter(|one| !one.load.state.is_over()) else {
                return Ok(());
            };
            let message = "the host that asked does not answer any more".into();
            let reason = StateReason { code: ErrorCode::HostUnreachable, message };
            end(tx, &mut record, LoadState::Failed, Some(reason))
        };
        controller.store.write(fail).await?;
    }
    Ok(())
}
