//! The plan in the form in which packets ask for it: endpoints by number, address and MAC, ports with their rules.
//!
//! Owns the translation of a [`Plan`], and which [`PortIndex`] an interface has from one plan to the next. What follows
//! from it for a packet is decided in [`crate::routing`] and [`crate::groups`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{collections::HashMap, hash::Hash, net::Ipv4Addr, sync::Arc, time::Duration};

use lucarne_flows::{FlowKey, Owner};
use lucarne_model::{
    Cidr, EndReason, HostId, HostName, InstanceId, InterfaceId, Moment, SecurityGroupId, SubnetId, VpcId,
    desired::{self, DesiredNetwork},
    flow::{Direction, Location},
    mitigation::DesiredMitigation,
    network::RouteTarget,
    network_acl::AclEntry,
    security_group::Rule,
};

use crate::{
    counters::PortCounters,
    dns,
    keyed::{Keyed, KeyedMap},
    names::Names,
    output::PortIndex,
    plan::{Plan, PortPlan},
    routing::interface_index,
};

/// All networks, and the ports of this host.
#[derive(Debug)]
pub(crate) struct Fabric {
    host: HostId,
    location: Location,
    keyed: Keyed,
    /// Rises with each plan that differs from the one before; never 0.
    pub(crate) epoch: u32,
    plan: Plan,
    pub(crate) networks: Vec<Network>,
    pub(crate) endpoints: Vec<Endpoint>,
    by_vni: KeyedMap<u32, usize>,
    ports: Vec<Option<Port>>,
    by_interface: HashMap<InterfaceId, PortIndex>,
    /// Hosts that there is a key for, and where they stand.
    peers: HashMap<HostId, Location>,
}

/// A VPC.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) names: Names,
    /// By how much its clock lies behind the host's.
    pub(crate) clock_behind: Duration,
    /// Numbers of endpoints.
    pub(crate) by_address: KeyedMap<u32, u32>,
    by_mac: KeyedMap<u64, u32>,
}

#[derive(Debug)]
pub(crate) struct Subnet {
    pub(crate) id: SubnetId,
    pub(crate) cidr: Cidr,
    /// The lowest number first.
    pub(crate) acl: Vec<AclEntry>,
    /// The longest prefix first.
    pub(crate) routes: Vec<(Cidr, NextHop)>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextHop {
    /// To the destination itself.
    Local,
    /// To the endpoint of this number, whatever the destination.
    Endpoint(u32),
    Nowhere,
}

/// An interface of any host.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) mac: [u8; 6],
    pub(crate) place: Place,
    /// Whether its host stands at another location.
    pub(crate) elsewhere: bool,
    pub(crate) vni: u32,
    pub(crate) subnet: SubnetId,
    /// Of its subnet.
    pub(crate) prefix_length: u8,
    pub(crate) groups: Vec<SecurityGroupId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Here(PortIndex),
    There(HostId),
    /// On another host, for which no key is known: between hosts nothing goes unencrypted.
    Unsealed(HostId),
    /// Of this host, but without a port: its instance does not run.
    Nowhere,
}

/// A port: one guest's interface.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) mac: [u8; 6],
    /// In host order, as are the gateway's and the resolver's.
    pub(crate) address: u32,
    pub(crate) gateway: u32,
    pub(crate) resolver: u32,
    pub(crate) counters: PortCounters,
    pub(crate) counted_since: Moment,
    pub(crate) network: usize,
    pub(crate) subnet: usize,
    pub(crate) owner: Arc<Owner>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) host_name: HostName,
    /// Since when packets reach the guest here.
    pub(crate) appeared: Moment,
    /// Whether they do: a port may be here before its guest, which then still lives on another host, or longer than it.
    at_home: bool,
}

/// A port that a new plan takes away, and why its flows end.
pub(crate) type Gone = (PortIndex, EndReason);

impl Fabric {
    /// `secret` keys the hashes of what packets say.
    pub(crate) fn new(host: HostId, location: Location, secret: u64) -> Self {
        let (plan, networks, endpoints, ports, by_interface, peers) = Default::default();
        let keyed = Keyed::new(secret);
        let by_vni = KeyedMap::with_hasher(keyed);
        Self { host, location, epoch: 1, keyed, plan, networks, endpoints, by_vni, ports, by_interface, peers }
    }

    /// Makes `plan` hold; returns the ports that it takes away.
    pub(crate) fn apply(&mut self, plan: &Plan, now: Moment) -> Vec<Gone> {
        if self.plan == *plan {
            return Vec::new();
        }
        self.epoch = self.epoch.wrapping_add(1).max(1);
        let gone = self.remove_ports(plan);
        self.plan = plan.clone();
        self.peers = plan.peers.iter().map(|peer| (peer.host, peer.location.clone())).collect();
        self.networks.clear();
        self.endpoints.clear();
        self.by_vni = self.map(plan.networks.iter().enumerate().map(|(at, network)| (network.vni, at)));
        for network in &plan.networks {
            self.add_network(network);
        }
        for port in &plan.ports {
            self.set_port(port, now);
        }
        self.place_endpoints();
        gone
    }

    #[inline]
    pub(crate) fn port(&self, index: PortIndex) -> Option<&Port> {
        self.ports.get(index.as_usize())?.as_ref()
    }

    #[inline]
    pub(crate) fn port_mut(&mut self, index: PortIndex) -> Option<&mut Port> {
        self.ports.get_mut(index.as_usize())?.as_mut()
    }

    /// The ports whose guests are here, by number.
    pub(crate) fn at_home(&self) -> impl Iterator<Item = (u32, &Port)> {
        let ports = (0..).zip(&self.ports).filter_map(|(at, port)| Some((at, port.as_ref()?)));
        ports.filter(|(_, port)| port.at_home)
    }

    /// The operator's orders; the first that is meant for a flow holds.
    pub(crate) fn mitigations(&self) -> &[DesiredMitigation] {
        &self.plan.mitigations
    }

    /// The port under which a flow is kept.
    pub(crate) fn port_of(&self, key: FlowKey) -> Option<&Port> {
        self.port(PortIndex(key.port()))
    }

    pub(crate) fn index(&self, interface: InterfaceId) -> Option<PortIndex> {
        self.by_interface.get(&interface).copied()
    }

    /// The number of a network in the tunnel.
    pub(crate) fn vni(&self, vpc: VpcId) -> Option<u32> {
        self.plan.networks.iter().find(|network| network.vpc == vpc).map(|network| network.vni)
    }

    /// The endpoint with this address in the port's network.
    pub(crate) fn neighbour(&self, port: &Port, address: u32) -> Option<&Endpoint> {
        let number = self.networks[port.network].by_address.get(&address)?;
        Some(&self.endpoints[*number as usize])
    }

    /// The port of the interface with this MAC.
    pub(crate) fn arrival(&self, vni: u32, mac: [u8; 6]) -> Option<PortIndex> {
        let network = &self.networks[*self.by_vni.get(&vni)?];
        match self.endpoints[*network.by_mac.get(&number(mac))? as usize].place {
            Place::Here(port) => Some(port),
            _ => None,
        }
    }

    /// Whether the address is that of an interface on the host.
    pub(crate) fn lives_on(&self, vni: u32, address: u32, host: HostId) -> bool {
        let number = self.by_vni.get(&vni).and_then(|at| self.networks[*at].by_address.get(&address));
        number.is_some_and(|number| self.endpoints[*number as usize].place == Place::There(host))
    }

    /// Where the interfaces of a host are, as long as no port says more.
    fn place(&self, host: HostId) -> Place {
        match self.peers.contains_key(&host) {
            _ if host == self.host => Place::Nowhere,
            true => Place::There(host),
            false => Place::Unsealed(host),
        }
    }

    fn map<K: Eq + Hash, V>(&self, pairs: impl Iterator<Item = (K, V)>) -> KeyedMap<K, V> {
        let mut map = KeyedMap::with_hasher(self.keyed);
        map.extend(pairs);
        map
    }

    fn add_network(&mut self, network: &DesiredNetwork) {
        let first = self.endpoints.len() as u32;
        let numbered = || network.endpoints.iter().zip(first..);
        let by_interface: HashMap<_, _> = numbered().map(|(endpoint, number)| (endpoint.interface, number)).collect();
        let subnet = |subnet: &desired::DesiredSubnet| Subnet {
            id: subnet.id,
            cidr: subnet.cidr,
            acl: subnet.acl.clone(),
            routes: compile_routes(subnet, &by_interface),
        };
        self.networks.push(Network {
            subnets: network.subnets.iter().map(subnet).collect(),
            names: Names::of(network),
            clock_behind: Duration::from_micros(network.clock_behind_micros),
            by_address: self.map(numbered().map(|(endpoint, number)| (endpoint.address.to_bits(), number))),
            by_mac: self.map(numbered().map(|(endpoint, at)| (number(endpoint.mac.0), at))),
        });
        let prefix_of = |id: SubnetId| {
            let subnet = network.subnets.iter().find(|subnet| subnet.id == id);
            subnet.map_or(0, |subnet| subnet.cidr.prefix())
        };
        let endpoints = network.endpoints.iter().map(|endpoint| Endpoint {
            mac: endpoint.mac.0,
            place: self.place(endpoint.host),
            elsewhere: self.peers.get(&endpoint.host).is_some_and(|location| *location != self.location),
            vni: network.vni,
            subnet: endpoint.subnet,
            prefix_length: prefix_of(endpoint.subnet),
            groups: endpoint.groups.clone(),
        });
        let endpoints: Vec<_> = endpoints.collect();
        self.endpoints.extend(endpoints);
    }

    /// A port whose interface or subnet stands in no network is left out until a plan says more.
    fn set_port(&mut self, plan: &PortPlan, now: Moment) {
        let found = self.plan.networks.iter().enumerate().find_map(|(at, network)| {
            let endpoint = network.endpoints.iter().find(|endpoint| endpoint.interface == plan.interface)?;
            let subnet = self.networks[at].subnets.iter().position(|subnet| subnet.id == endpoint.subnet)?;
            Some((at, network, endpoint, subnet))
        });
        let Some((at, network, endpoint, subnet)) = found.filter(|(_, network, ..)| network.vpc == plan.vpc) else {
            return;
        };
        let index = self.by_interface.get(&plan.interface).copied().unwrap_or_else(|| self.vacancy());
        let owner = Owner {
            account: plan.account,
            instance: plan.instance,
            interface: plan.interface,
            subnet: endpoint.subnet,
            vpc: plan.vpc,
            host: self.host,
            location: self.location.clone(),
            groups: endpoint.groups.clone(),
            prefix_length: self.networks[at].subnets[subnet].cidr.prefix(),
            interface_index: interface_index(index),
            interval: plan.flow_interval,
            next_hops: next_hops(network, endpoint.subnet),
        };
        let of_port = network.groups.iter().filter(|group| endpoint.groups.contains(&group.id));
        let mut port = Port {
            mac: endpoint.mac.0,
            address: endpoint.address.to_bits(),
            gateway: self.networks[at].subnets[subnet].cidr.gateway().to_bits(),
            resolver: network.cidr.resolver().to_bits(),
            counters: PortCounters::default(),
            counted_since: now,
            network: at,
            subnet,
            owner: Arc::new(owner),
            rules: of_port.flat_map(|group| &group.rules).cloned().collect(),
            host_name: endpoint.host_name(),
            appeared: now,
            at_home: endpoint.host == self.host,
        };
        if let Some(old) = self.port(index) {
            (port.counters, port.counted_since) = (old.counters, old.counted_since);
            if old.at_home {
                port.appeared = old.appeared;
            }
        }
        self.by_interface.insert(plan.interface, index);
        if index.as_usize() == self.ports.len() {
            self.ports.push(None);
        }
        self.ports[index.as_usize()] = Some(port);
    }

    /// The lowest number without a port.
    fn vacancy(&self) -> PortIndex {
        PortIndex(self.ports.iter().position(Option::is_none).unwrap_or(self.ports.len()) as u32)
    }

    /// Takes away the ports that are not in `plan`, or whose guest is another one there.
    fn remove_ports(&mut self, plan: &Plan) -> Vec<Gone> {
        let mut gone = Vec::new();
        for (at, place) in self.ports.iter_mut().enumerate() {
            let stays = |port: &Port| {
                plan.ports.iter().any(|new| {
                    let same = new.interface == port.owner.interface && new.instance == port.owner.instance;
                    same && endpoint_of(plan, new.interface).is_some_and(|endpoint| endpoint.mac.0 == port.mac)
                })
            };
            if let Some(port) = place.take_if(|port| !stays(port)) {
                self.by_interface.remove(&port.owner.interface);
                let why = reason_of_removal(plan, self.host, port.owner.instance, port.owner.interface);
                gone.push((PortIndex(at as u32), why));
            }
        }
        gone
    }

    fn place_endpoints(&mut self) {
        for (index, port) in self.ports.iter().enumerate() {
            let Some(port) = port.as_ref().filter(|port| port.at_home) else { continue };
            if let Some(number) = self.networks[port.network].by_mac.get(&number(port.mac)) {
                self.endpoints[*number as usize].place = Place::Here(PortIndex(index as u32));
            }
        }
    }
}

/// A link address as a key.
fn number([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

impl Port {
    /// Whether the network's resolver is there.
    pub(crate) const fn is_resolver(&self, address: u32) -> bool {
        address == self.resolver || address == dns::LINK_LOCAL.to_bits()
    }

    pub(crate) const fn count(&mut self, direction: Direction, bytes: u32) {
        let sum = match direction {
            Direction::Egress => &mut self.counters.egress,
            Direction::Ingress => &mut self.counters.ingress,
        };
        sum.packets += 1;
        sum.bytes += bytes as u64;
    }
}

fn compile_routes(subnet: &desired::DesiredSubnet, by_interface: &HashMap<InterfaceId, u32>) -> Vec<(Cidr, NextHop)> {
    let next_hop = |target| match target {
        RouteTarget::Local => NextHop::Local,
        RouteTarget::Blackhole => NextHop::Nowhere,
        RouteTarget::Interface { interface } => {
            by_interface.get(&interface).map_or(NextHop::Nowhere, |number| NextHop::Endpoint(*number))
        }
    };
    let mut routes: Vec<_> = subnet.routes.iter().map(|route| (route.destination, next_hop(route.target))).collect();
    routes.sort_by_key(|(destination, _)| std::cmp::Reverse(destination.prefix()));
    routes
}

/// Over whom a subnet's routes lead, as records tell it; empty where none leads over an instance that forwards.
fn next_hops(network: &DesiredNetwork, subnet: SubnetId) -> Vec<(Cidr, Option<Ipv4Addr>)> {
    let Some(subnet) = network.subnets.iter().find(|known| known.id == subnet) else { return Vec::new() };
    let over = |target| match target {
        RouteTarget::Interface { interface } => {
            let endpoint = network.endpoints.iter().find(|endpoint| endpoint.interface == interface);
            endpoint.map(|endpoint| endpoint.address)
        }
        RouteTarget::Local | RouteTarget::Blackhole => None,
    };
    let mut hops: Vec<_> = subnet.routes.iter().map(|route| (route.destination, over(route.target))).collect();
    if hops.iter().all(|(_, over)| over.is_none()) {
        return Vec::new();
    }
    hops.sort_by_key(|(destination, _)| std::cmp::Reverse(destination.prefix()));
    // Between neighbours no route is asked.
    hops.insert(0, (subnet.cidr, None));
    hops
}

fn endpoint_of(plan: &Plan, interface: InterfaceId) -> Option<&desired::Endpoint> {
    plan.networks.iter().flat_map(|network| &network.endpoints).find(|endpoint| endpoint.interface == interface)
}

/// What the plan says of the removal. Else an instance whose interface is elsewhere now has moved, and one that keeps another
/// port here has lost this interface.
fn reason_of_removal(plan: &Plan, host: HostId, instance: InstanceId, interface: InterfaceId) -> EndReason {
    if let Some(removal) = plan.removals.iter().find(|removal| removal.interface == interface) {
        return removal.reason.end_reason();
    }
    let moved = endpoint_of(plan, interface).is_some_and(|endpoint| endpoint.host != host);
    match plan.ports.iter().any(|port| port.instance == instance) {
        _ if moved => EndReason::InstanceMigrated,
        true => EndReason::InterfaceDetached,
        false => EndReason::InstanceStopped,
    }
}
