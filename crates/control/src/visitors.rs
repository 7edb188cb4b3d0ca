//! What clients that are no machines make of the network that they are in.
//!
//! Owns their interfaces: each stands inside, or outside the network, from where the network is reached by a route to that one
//! address. Who they are and what they do is the business of replays and of loads.

use std::net::Ipv4Addr;

use lucarne_model::{
    Cidr, HostId, Moment, RuleId, SecurityGroupId, SubnetId,
    desired::{DesiredGroup, DesiredNetwork, DesiredSubnet, Endpoint},
    flow::Direction,
    network::{Route, RouteTarget},
    replay::ReplayPort,
    security_group::{Peer, Rule, RuleSpec, Traffic},
};
use serde::{Deserialize, Serialize};

use crate::random;

/// Where clients stand that are no instances of the duplicate.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Outside {
    pub(crate) subnet: SubnetId,
    pub(crate) group: SecurityGroupId,
    pub(crate) rule: RuleId,
}

/// Where the network has an instance with a client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The client stands in its place, with all its rights, and it has no network meanwhile.
    Replaces,
    /// The client has no network.
    Yields,
}

/// Clients and their ports.
#[derive(Debug)]
pub(crate) struct Visitors<'a> {
    pub(crate) host: HostId,
    pub(crate) ports: &'a [ReplayPort],
    pub(crate) outside: Outside,
    /// Of those that stand inside, and nobody's place; where there are none, that of `outside`.
    pub(crate) groups: &'a [SecurityGroupId],
    pub(crate) taken: Taken,
}

impl Outside {
    pub(crate) fn new() -> Self {
        Self { subnet: random::id(), group: random::id(), rule: random::id() }
    }
}

impl Visitors<'_> {
    /// Puts the clients into their network.
    pub(crate) fn join(&self, network: &mut DesiredNetwork) {
        let mut outside = Vec::new();
        for port in self.ports {
            if let Some(own) = network.endpoints.iter_mut().find(|endpoint| endpoint.address == port.address) {
                if self.taken == Taken::Replaces {
                    (own.interface, own.host) = (port.interface, self.host);
                }
                continue;
            }
            let around = network.subnets.iter().find(|subnet| subnet.cidr.contains(port.address));
            let has_own = around.is_some() && !self.groups.is_empty();
            network.endpoints.push(Endpoint {
                interface: port.interface,
                instance: port.instance,
                subnet: around.map_or(self.outside.subnet, |subnet| subnet.id),
                address: port.address,
                mac: port.mac,
                groups: if has_own { self.groups.to_vec() } else { vec![self.outside.group] },
                host: self.host,
                name: None,
            });
            outside.push(port.address);
        }
        if outside.is_empty() {
            return;
        }
        network.groups.push(self.group());
        let ways = outside.into_iter().filter(|address| !network.cidr.contains(*address));
        let ways: Vec<Route> = ways.filter_map(|address| Some(local(Cidr::around(address, 32)?))).collect();
        for subnet in &mut network.subnets {
            subnet.routes.extend(ways.iter().cloned());
        }
        if let Some(cidr) = Cidr::around(Ipv4Addr::UNSPECIFIED, 32) {
            let routes = vec![local(network.cidr)];
            network.subnets.push(DesiredSubnet { id: self.outside.subnet, cidr, routes, acl: Vec::new() });
        }
    }

    /// Whoever stands outside may ask anybody inside, as far as these let it.
    fn group(&self) -> DesiredGroup {
        let peer = Peer::Cidr { cidr: Cidr::ANY };
        let spec = RuleSpec { direction: Direction::Egress, traffic: Traffic::All, peer };
        let rule = Rule { id: self.outside.rule, created: Moment::EPOCH, spec };
        DesiredGroup { id: self.outside.group, rules: vec![rule] }
    }
}

pub(crate) const fn local(destination: Cidr) -> Route {
    Route { destination, target: RouteTarget::Local }
}
