//! The desired state of one host, computed from the records.
//!
//! Owns the derivation, and what a host must wait on to hear of changes. It is always the whole: what a host lost or never
//! got is told again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lucarne_api::Problem;
use lucarne_model::{
    DesiredLease, HostId, HostName, InstanceId, InterfaceId, LoadId, RecordingId, ReplayId, SubnetId, VolumeId, VpcId,
    actual::HostDescription,
    desired::{
        Desired, DesiredAttestation, DesiredGroup, DesiredInstance, DesiredMigration, DesiredNetwork, DesiredSnapshot,
        DesiredSubnet, DesiredVolume, Endpoint, Power, StreamRequest, TunnelPeer,
    },
    flow_log::FlowLog,
    instance::InstanceState,
    network::{NetworkInterface, Route, RouteTable, Subnet, Vpc},
    network_acl::{AclEntry, NetworkAcl},
    security_group::SecurityGroup,
    storage::{Snapshot, SnapshotState, VolumeState},
    tpm::DesiredChallenge,
};
use serde::Serialize;

use crate::{
    load_records::LoadRecord,
    records::{HostRecord, InstanceRecord, VolumeRecord},
    replay_records::ReplayRecord,
    services::{
        flow_logs, images, loads, memory, mitigations, network_acls::enforced, price_books, recordings, replays,
        replicas, seal_policy,
    },
    store::{Changes, Scope, Tx},
};

const ALL: Scope = Scope::Everything;

/// What a host is told that is in no record: it is asked for now, and nobody waits for it tomorrow.
#[derive(Debug)]
pub(crate) struct Passing {
    pub(crate) streams: Vec<StreamRequest>,
    pub(crate) challenges: Vec<DesiredChallenge>,
    pub(crate) leases: Vec<DesiredLease>,
    pub(crate) seal_errands: Vec<String>,
    pub(crate) recordings: BTreeMap<RecordingId, Vec<String>>,
}

/// What a host says that it has, wanted or not.
#[derive(Debug, Default)]
pub(crate) struct Mentioned {
    pub(crate) instances: Vec<InstanceId>,
    pub(crate) volumes: Vec<VolumeId>,
    pub(crate) recordings: Vec<RecordingId>,
    pub(crate) replays: Vec<ReplayId>,
    pub(crate) loads: Vec<LoadId>,
}

/// Everything that `host` should be, but for its version, and a fingerprint of it. `mentioned` is what it speaks of.
pub(crate) fn compute(
    tx: &Tx<'_>,
    host: HostId,
    mentioned: &Mentioned,
    Passing { streams, challenges, leases, seal_errands, recordings }: Passing,
    cache: &Networks,
) -> Result<(Desired, Fingerprint), Problem> {
    let mut placed = tx.referring::<InstanceRecord>(ALL, host)?;
    let mut volumes = tx.referring::<VolumeRecord>(ALL, host)?;
    let replicas = replicas::Stages::of(tx, &placed, &volumes)?;
    // What is to be made of a cut begins when the cut is there.
    placed.retain(|record| replicas.tells_of(record) || power(record) == Power::Absent);
    volumes.retain(|record| replicas.tells_of_volume(record) || record.volume.state == VolumeState::Deleting);
    let played = tx.referring::<ReplayRecord>(ALL, host)?;
    let asked = tx.referring::<LoadRecord>(ALL, host)?;
    let of_visitors = played.iter().map(|record| record.replay.vpc).chain(asked.iter().map(|record| record.load.vpc));
    let of_instances = placed.iter().filter(|record| is_on(record)).map(|record| record.instance.vpc);
    let vpcs: BTreeSet<VpcId> = of_instances.chain(of_visitors).collect();
    let networks = vpcs.into_iter().map(|vpc| cache.network(tx, vpc)).collect::<Result<Vec<_>, _>>()?;
    let named: Vec<InstanceId> = placed.iter().map(|record| record.instance.id).collect();
    let strays = strays(tx, host, &named, &mentioned.instances)?;
    let stray_volumes = stray_volumes(tx, host, &placed, &mentioned.volumes)?;
    let mut instances = placed.into_iter().map(|record| part(tx, host, record)).collect::<Result<Vec<_>, _>>()?;
    let books = price_books::books(tx)?;
    for one in &mut instances {
        one.duplicate = replicas.duplicate(one);
        one.origin = replicas.origin(one);
        one.memory_settings = memory::told(one.memory_settings, one.memory, books.at(one.account, tx.now()));
    }
    log_flows(tx, &networks, &mut instances)?;
    let mitigations = mitigations::desired(tx, &instances)?;
    let vpcs = networks.iter().map(|known| known.network.vpc);
    let recordings = recordings::desired(tx, vpcs, &mentioned.recordings, &recordings)?;
    instances.extend(strays);
    let mut desired = Desired {
        instances,
        mitigations,
        recordings,
        replays: replays::desired(&played, &mentioned.replays),
        loads: loads::desired(&asked, &mentioned.loads),
        warm_states: images::desired_warm_states(tx)?,
        snapshots: snapshots(tx, &volumes)?,
        volumes: volumes.into_iter().map(|record| kept(tx, volume(record))).chain(stray_volumes).collect(),
        streams,
        challenges,
        leases,
        seal_policy: seal_policy::digest(tx)?,
        seal_errands,
        cuts: replicas::desired_cuts(tx, host)?,
        ..Desired::default()
    };
    // The networks' own are known: they are most of it.
    let fingerprint = networks.iter().fold(Fingerprint::of(&desired), |all, known| all.and(known.fingerprint));
    let peers: BTreeMap<HostId, &TunnelPeer> =
        networks.iter().flat_map(|known| &known.peers).map(|peer| (peer.host, peer)).collect();
    desired.peers = peers.into_values().filter(|peer| peer.host != host).cloned().collect();
    desired.networks = networks.iter().map(|known| known.network.clone()).collect();
    Ok((desired, fingerprint))
}

/// Gives instances the interval at which the flow logs of their VPC want their flows reported.
fn log_flows(tx: &Tx<'_>, networks: &[Arc<KnownNetwork>], instances: &mut [DesiredInstance]) -> Result<(), Problem> {
    for KnownNetwork { network, .. } in networks.iter().map(Arc::as_ref) {
        let logs = tx.referring::<FlowLog>(ALL, network.vpc)?;
        if logs.is_empty() {
            continue;
        }
        let subnets: HashMap<InterfaceId, SubnetId> =
            network.endpoints.iter().map(|endpoint| (endpoint.interface, endpoint.subnet)).collect();
        for instance in instances.iter_mut().filter(|instance| instance.vpc == network.vpc) {
            let subnet = subnets.get(&instance.interface);
            instance.flow_interval_millis =
                subnet.and_then(|subnet| flow_logs::interval_millis(&logs, instance, *subnet));
        }
    }
    Ok(())
}

/// Equal contents have equal fingerprints within one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) fn of(content: &impl Serialize) -> Self {
        let mut hasher = DefaultHasher::new();
        serde_json::to_vec(content).unwrap_or_default().hash(&mut hasher);
        Self(hasher.finish())
    }

    fn and(self, other: Self) -> Self {
        let mut hasher = DefaultHasher::new();
        (self.0, other.0).hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// A network, and the hosts that it is on.
#[derive(Debug)]
struct KnownNetwork {
    network: DesiredNetwork,
    peers: Vec<TunnelPeer>,
    fingerprint: Fingerprint,
    as_of: u64,
}

/// Networks as they were computed last: a VPC on many hosts is read from the store once for each change, not once a host.
#[derive(Debug)]
pub(crate) struct Networks {
    changes: Arc<Changes>,
    known: Mutex<HashMap<VpcId, Arc<KnownNetwork>>>,
}

impl Networks {
    pub(crate) fn new(changes: Arc<Changes>) -> Self {
        Self { changes, known: Mutex::default() }
    }

    fn network(&self, tx: &Tx<'_>, vpc: VpcId) -> Result<Arc<KnownNetwork>, Problem> {
        let known = self.lock().get(&vpc).cloned();
        if let Some(known) = known.filter(|known| self.changes.is_unchanged_since(&vpc.to_string(), known.as_of)) {
            return Ok(known);
        }
        let network = network(tx, vpc)?;
        let peers = peers(tx, &network)?;
        let fingerprint = Fingerprint::of(&(&network, &peers));
        let computed = Arc::new(KnownNetwork { network, peers, fingerprint, as_of: tx.as_of() });
        self.lock().insert(vpc, computed.clone());
        Ok(computed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VpcId, Arc<KnownNetwork>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a host must be woken for beside itself: every VPC of which it has an interface.
pub(crate) fn topics(desired: &Desired) -> BTreeSet<String> {
    desired.networks.iter().map(|network| network.vpc.to_string()).collect()
}

/// How long changes elsewhere in its VPCs are gathered before a host is told: in a large network they are many, and each
/// concerns every host. What concerns the host itself does not wait.
pub(crate) fn gather(desired: &Desired) -> Duration {
    const FOR_EACH: Duration = Duration::from_millis(2);
    const LONGEST: Duration = Duration::from_secs(1);
    let endpoints: usize = desired.networks.iter().map(|network| network.endpoints.len()).sum();
    (FOR_EACH * u32::try_from(endpoints).unwrap_or(u32::MAX)).min(LONGEST)
}

fn power(record: &InstanceRecord) -> Power {
    match record.instance.state {
        InstanceState::Stopping if record.forced => Power::Off,
        InstanceState::Pending | InstanceState::AwaitingApproval | InstanceState::Running => Power::Running,
        InstanceState::Stopping | InstanceState::Stopped => Power::Stopped,
        InstanceState::ShuttingDown | InstanceState::Terminated => Power::Absent,
    }
}

/// Whether its port must be there.
fn is_on(record: &InstanceRecord) -> bool {
    power(record) != Power::Absent
}

/// The host's part in an instance that is its own, or on its way here, or has something left here.
fn part(tx: &Tx<'_>, host: HostId, record: InstanceRecord) -> Result<DesiredInstance, Problem> {
    let (own, coming_to) = (record.instance.host, record.coming_to());
    let wanted = instance(record);
    Ok(match (own, coming_to) {
        (Some(own), Some(to)) if own == host && wanted.power == Power::Running => {
            let HostDescription { address, peer_port, .. } = tx.get::<HostRecord>(ALL, to)?.host.description;
            let address = SocketAddr::new(address, peer_port);
            DesiredInstance { migration: Some(DesiredMigration::To { host: to, address }), ..wanted }
        }
        (Some(from), Some(to)) if to == host && wanted.power == Power::Running => {
            let volumes = volumes_of(tx, &wanted)?.into_iter().map(volume).collect();
            DesiredInstance { migration: Some(DesiredMigration::From { host: from, volumes }), ..wanted }
        }
        (own, _) if own == Some(host) => wanted,
        _ => DesiredInstance { power: Power::Absent, ..wanted },
    })
}

fn instance(record: InstanceRecord) -> DesiredInstance {
    let power = power(&record);
    let InstanceRecord { instance, boot, .. } = record;
    DesiredInstance {
        id: instance.id,
        account: instance.account,
        power,
        migration: None,
        generation: instance.generation,
        image: instance.image,
        boot,
        cold: instance.cold,
        virtual_tpm: instance.virtual_tpm,
        attestation: instance.attestation.map(|attestation| DesiredAttestation {
            begin: attestation.state.may_begin(),
            heard: !attestation.awaits_evidence(),
            nonce: attestation.nonce,
        }),
        duplicate: None,
        origin: None,
        mac: Some(instance.mac),
        vcpus: instance.vcpus,
        memory: instance.memory,
        memory_settings: instance.memory_settings,
        interface: instance.interface,
        vpc: instance.vpc,
        user_data: instance.user_data,
        flow_interval_millis: None,
        volumes: instance.volumes,
    }
}

/// Instances that the host has though they are not its own: it was silent when they were ended, or it is a copy of another.
/// Instances that the store has never heard of are left alone: a store that was set back must not end machines.
fn strays(
    tx: &Tx<'_>,
    host: HostId,
    placed: &[InstanceId],
    mentioned: &[InstanceId],
) -> Result<Vec<DesiredInstance>, Problem> {
    let own: BTreeSet<InstanceId> = placed.iter().copied().collect();
    let mut strays = Vec::new();
    for id in mentioned.iter().filter(|id| !own.contains(id)) {
        if let Some(record) = tx.find::<InstanceRecord>(ALL, id)?
            && record.instance.host != Some(host)
        {
            strays.push(DesiredInstance { power: Power::Absent, ..instance(record) });
        }
    }
    Ok(strays)
}

/// Volumes that the host has, or may have by half, though their bytes are another's: they went with an instance, or were to
/// come with one. Those that the store has never heard of are left alone.
fn stray_volumes(
    tx: &Tx<'_>,
    host: HostId,
    placed: &[InstanceRecord],
    mentioned: &[VolumeId],
) -> Result<Vec<DesiredVolume>, Problem> {
    let coming_here = |record: &&InstanceRecord| record.coming_to() == Some(host);
    let left_here = |record: &&InstanceRecord| record.instance.host != Some(host);
    let volumes = |record: &InstanceRecord| record.instance.volumes.iter().map(|one| one.volume).collect::<Vec<_>>();
    let coming: BTreeSet<VolumeId> = placed.iter().filter(coming_here).flat_map(volumes).collect();
    let left = placed.iter().filter(left_here).flat_map(volumes);
    let suspects: BTreeSet<VolumeId> = left.chain(mentioned.iter().copied()).collect();
    let mut strays = Vec::new();
    for id in suspects.difference(&coming) {
        if let Some(record) = tx.find::<VolumeRecord>(ALL, id)?
            && record.volume.host.is_some_and(|own| own != host)
        {
            strays.push(DesiredVolume { present: false, ..volume(record) });
        }
    }
    Ok(strays)
}

fn volumes_of(tx: &Tx<'_>, instance: &DesiredInstance) -> Result<Vec<VolumeRecord>, Problem> {
    instance.volumes.iter().map(|attachment| tx.get(ALL, attachment.volume)).collect()
}

fn volume(record: VolumeRecord) -> DesiredVolume {
    DesiredVolume {
        id: record.volume.id,
        size: record.volume.size,
        content: record.content,
        present: record.volume.state != VolumeState::Deleting,
    }
}

/// One that is to be deleted stays as long as duplicates draw on it.
fn kept(tx: &Tx<'_>, volume: DesiredVolume) -> DesiredVolume {
    let present = volume.present || replicas::check_free(tx, volume.id).is_err();
    DesiredVolume { present, ..volume }
}

fn snapshots(tx: &Tx<'_>, volumes: &[VolumeRecord]) -> Result<Vec<DesiredSnapshot>, Problem> {
    let mut desired = Vec::new();
    for record in volumes {
        let snapshots = tx.referring::<Snapshot>(ALL, record.volume.id)?;
        let pending = snapshots.into_iter().filter(|snapshot| snapshot.state == SnapshotState::Pending);
        desired.extend(pending.map(|snapshot| DesiredSnapshot { id: snapshot.id, volume: snapshot.volume }));
    }
    Ok(desired)
}

fn network(tx: &Tx<'_>, id: VpcId) -> Result<DesiredNetwork, Problem> {
    let vpc: Vpc = tx.get(ALL, id)?;
    let tables = tx.referring::<RouteTable>(ALL, id)?;
    let routes: BTreeMap<_, Vec<Route>> = tables.into_iter().map(|table| (table.id, table.routes)).collect();
    let acls = tx.referring::<NetworkAcl>(ALL, id)?;
    let acls: BTreeMap<_, Vec<AclEntry>> = acls.into_iter().map(|acl| (acl.id, enforced(acl))).collect();
    let subnet = |subnet: Subnet| DesiredSubnet {
        id: subnet.id,
        cidr: subnet.cidr,
        routes: routes.get(&subnet.route_table).cloned().unwrap_or_default(),
        acl: acls.get(&subnet.network_acl).cloned().unwrap_or_default(),
    };
    let group = |group: SecurityGroup| DesiredGroup { id: group.id, rules: group.rules };
    let mut network = DesiredNetwork {
        vpc: id,
        account: vpc.account,
        vni: vpc.vni,
        cidr: vpc.cidr,
        subnets: tx.referring::<Subnet>(ALL, id)?.into_iter().map(subnet).collect(),
        groups: tx.referring::<SecurityGroup>(ALL, id)?.into_iter().map(group).collect(),
        endpoints: endpoints(tx, id)?,
        clock_behind_micros: vpc.clock_behind_micros,
    };
    tx.referring::<ReplayRecord>(ALL, id)?.iter().for_each(|replay| replay.join(&mut network));
    tx.referring::<LoadRecord>(ALL, id)?.iter().for_each(|load| load.join(&mut network));
    Ok(network)
}

/// The VPC's interfaces whose instances have a host and are let in: no host takes a frame from any other, nor brings it one.
fn endpoints(tx: &Tx<'_>, vpc: VpcId) -> Result<Vec<Endpoint>, Problem> {
    let instances = tx.referring::<InstanceRecord>(ALL, vpc)?;
    let placed = |record: InstanceRecord| {
        let host = record.instance.host.filter(|_| record.joins())?;
        Some((record.instance.id, (host, name(&record))))
    };
    let placed: BTreeMap<InstanceId, (HostId, Option<HostName>)> = instances.into_iter().filter_map(placed).collect();
    let endpoint = |interface: NetworkInterface| {
        let (host, name) = placed.get(&interface.instance)?.clone();
        Some(Endpoint {
            interface: interface.id,
            instance: interface.instance,
            subnet: interface.subnet,
            address: interface.address,
            mac: interface.mac,
            groups: interface.groups,
            host,
            name,
        })
    };
    Ok(tx.referring::<NetworkInterface>(ALL, vpc)?.into_iter().filter_map(endpoint).collect())
}

/// What the instance is called in its network. One that is being ended gives its name up: another may have taken its place.
fn name(record: &InstanceRecord) -> Option<HostName> {
    record.instance.tags.name().filter(|_| is_on(record)).and_then(HostName::from_tag)
}

fn peers(tx: &Tx<'_>, network: &DesiredNetwork) -> Result<Vec<TunnelPeer>, Problem> {
    let hosts: BTreeSet<HostId> = network.endpoints.iter().map(|endpoint| endpoint.host).collect();
    hosts.into_iter().map(|host| tx.get(ALL, host).map(peer)).collect()
}

fn peer(record: HostRecord) -> TunnelPeer {
    let HostDescription { address, tunnel_port, public_key, location, .. } = record.host.description;
    TunnelPeer { host: record.host.id, address, port: tunnel_port, public_key, location }
}
