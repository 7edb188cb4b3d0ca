//! The desired state of one host, computed from the records.
//!
//! Owns the derivation, and what a host must wait on to hear of changes. It is always the whole: what a host lost or never
//! got is told again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lucarne_api::Problem;
use lucarne_model::{
    HostId, InstanceId, VpcId,
    actual::HostDescription,
    desired::{
        Desired, DesiredGroup, DesiredInstance, DesiredNetwork, DesiredSnapshot, DesiredSubnet, DesiredVolume,
        Endpoint, Power, StreamRequest, TunnelPeer,
    },
    instance::InstanceState,
    network::{NetworkInterface, Route, RouteTable, Subnet, Vpc},
    security_group::SecurityGroup,
    storage::{Snapshot, SnapshotState, VolumeState},
};

use crate::{
    records::{HostRecord, InstanceRecord, VolumeRecord},
    store::{Scope, Stamp, Tx},
};

const ALL: Scope = Scope::Everything;

/// Everything that `host` should be, but for its version. `mentioned` are the instances that it speaks of.
pub(crate) fn compute(
    tx: &Tx<'_>,
    host: HostId,
    mentioned: &[InstanceId],
    streams: Vec<StreamRequest>,
    cache: &Networks,
) -> Result<Desired, Problem> {
    let placed = tx.referring::<InstanceRecord>(ALL, host)?;
    let volumes = tx.referring::<VolumeRecord>(ALL, host)?;
    let vpcs: BTreeSet<VpcId> =
        placed.iter().filter(|record| is_on(record)).map(|record| record.instance.vpc).collect();
    let networks = vpcs.into_iter().map(|vpc| cache.network(tx, vpc)).collect::<Result<Vec<_>, _>>()?;
    let strays = strays(tx, host, mentioned)?;
    Ok(Desired {
        version: 0,
        peers: peers(tx, host, &networks)?,
        instances: placed.into_iter().map(instance).chain(strays).collect(),
        snapshots: snapshots(tx, &volumes)?,
        volumes: volumes.into_iter().map(volume).collect(),
        networks,
        streams,
    })
}

/// Networks as they were computed last: a VPC on many hosts is read from the store once for each change, not once a host.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    known: Mutex<HashMap<VpcId, (Stamp, DesiredNetwork)>>,
}

impl Networks {
    fn network(&self, tx: &Tx<'_>, vpc: VpcId) -> Result<DesiredNetwork, Problem> {
        let stamp = tx.stamp(vpc)?;
        let known = |all: &HashMap<VpcId, (Stamp, DesiredNetwork)>| {
            all.get(&vpc).filter(|(of, _)| *of == stamp).map(|(_, network)| network.clone())
        };
        if let Some(network) = known(&self.lock()) {
            return Ok(network);
        }
        let network = network(tx, vpc)?;
        self.lock().insert(vpc, (stamp, network.clone()));
        Ok(network)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VpcId, (Stamp, DesiredNetwork)>> {
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
        InstanceState::Pending | InstanceState::Running => Power::Running,
        InstanceState::Stopping | InstanceState::Stopped => Power::Stopped,
        InstanceState::ShuttingDown | InstanceState::Terminated => Power::Absent,
    }
}

/// Whether its port must be there.
fn is_on(record: &InstanceRecord) -> bool {
    power(record) != Power::Absent
}

fn instance(record: InstanceRecord) -> DesiredInstance {
    let power = power(&record);
    let InstanceRecord { instance, boot, .. } = record;
    DesiredInstance {
        id: instance.id,
        account: instance.account,
        power,
        generation: instance.generation,
        image: instance.image,
        boot,
        vcpus: instance.vcpus,
        memory: instance.memory,
        interface: instance.interface,
        vpc: instance.vpc,
        user_data: instance.user_data,
        name: instance.tags.name().map(Into::into),
        volumes: instance.volumes,
    }
}

/// Instances that the host has though they are not its own: it was silent when they were ended, or it is a copy of another.
/// Instances that the store has never heard of are left alone: a store that was set back must not end machines.
fn strays(tx: &Tx<'_>, host: HostId, mentioned: &[InstanceId]) -> Result<Vec<DesiredInstance>, Problem> {
    let mut strays = Vec::new();
    for id in mentioned {
        if let Some(record) = tx.find::<InstanceRecord>(ALL, id)?
            && record.instance.host != Some(host)
        {
            strays.push(DesiredInstance { power: Power::Absent, ..instance(record) });
        }
    }
    Ok(strays)
}

fn volume(record: VolumeRecord) -> DesiredVolume {
    DesiredVolume {
        id: record.volume.id,
        size: record.volume.size,
        content: record.content,
        present: record.volume.state != VolumeState::Deleting,
    }
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
    let subnet = |subnet: Subnet| DesiredSubnet {
        id: subnet.id,
        cidr: subnet.cidr,
        routes: routes.get(&subnet.route_table).cloned().unwrap_or_default(),
    };
    let group = |group: SecurityGroup| DesiredGroup { id: group.id, rules: group.rules };
    Ok(DesiredNetwork {
        vpc: id,
        account: vpc.account,
        vni: vpc.vni,
        cidr: vpc.cidr,
        subnets: tx.referring::<Subnet>(ALL, id)?.into_iter().map(subnet).collect(),
        groups: tx.referring::<SecurityGroup>(ALL, id)?.into_iter().map(group).collect(),
        endpoints: endpoints(tx, id)?,
    })
}

/// The VPC's interfaces whose instances have a host.
fn endpoints(tx: &Tx<'_>, vpc: VpcId) -> Result<Vec<Endpoint>, Problem> {
    let instances = tx.referring::<InstanceRecord>(ALL, vpc)?;
    let placed = |record: InstanceRecord| record.instance.host.map(|host| (record.instance.id, host));
    let hosts: BTreeMap<InstanceId, HostId> = instances.into_iter().filter_map(placed).collect();
    let endpoint = |interface: NetworkInterface| {
        Some(Endpoint {
            interface: interface.id,
            instance: interface.instance,
            subnet: interface.subnet,
            address: interface.address,
            mac: interface.mac,
            groups: interface.groups,
            host: *hosts.get(&interface.instance)?,
        })
    };
    Ok(tx.referring::<NetworkInterface>(ALL, vpc)?.into_iter().filter_map(endpoint).collect())
}

fn peers(tx: &Tx<'_>, host: HostId, networks: &[DesiredNetwork]) -> Result<Vec<TunnelPeer>, Problem> {
    let others = networks.iter().flat_map(|network| &network.endpoints).map(|endpoint| endpoint.host);
    let others: BTreeSet<HostId> = others.filter(|other| *other != host).collect();
    others.into_iter().map(|other| tx.get(ALL, other).map(peer)).collect()
}

fn peer(record: HostRecord) -> TunnelPeer {
    let HostDescription { address, tunnel_port, public_key, .. } = record.host.description;
    TunnelPeer { host: record.host.id, address, port: tunnel_port, public_key }
}
