//! The names of one network: whose address a name is, and whose name an address has.
//!
//! Owns the look-up in both directions, for [`crate::dns`]. Names are what [`Endpoint::host_name`] says; beside it each
//! instance is known by its id and its address. As the network holds one VPC's endpoints, nobody finds another VPC's in it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::Ipv4Addr;

use lucarne_model::{
    Cidr, HostName, InstanceId,
    desired::{DesiredNetwork, Endpoint},
};

/// How many addresses of one name are told at a time; so many fit into any answer.
pub(crate) const MOST: usize = 8;

/// Who has which name. Made anew with each plan, so these are sorted lists: they cost less to make than maps.
#[derive(Debug)]
pub(crate) struct Names {
    cidr: Cidr,
    by_name: Vec<(HostName, Ipv4Addr)>,
    by_instance: Vec<(InstanceId, Ipv4Addr)>,
    by_address: Vec<(Ipv4Addr, HostName)>,
}

impl Names {
    pub(crate) fn of(network: &DesiredNetwork) -> Self {
        let endpoints = || network.endpoints.iter();
        let named = |endpoint: &Endpoint| Some((endpoint.name.clone()?, endpoint.address));
        Self {
            cidr: network.cidr,
            by_name: sorted(endpoints().filter_map(named)),
            by_instance: sorted(endpoints().map(|endpoint| (endpoint.instance, endpoint.address))),
            by_address: sorted(endpoints().map(|endpoint| (endpoint.address, endpoint.host_name()))),
        }
    }

    /// Whether the network is who knows whose address this is.
    pub(crate) fn covers(&self, address: Ipv4Addr) -> bool {
        self.cidr.contains(address)
    }

    /// What the instance with this address is called.
    pub(crate) fn host_name(&self, address: Ipv4Addr) -> Option<&HostName> {
        get(&self.by_address, &address)
    }

    /// The addresses that a label in lower case stands for. Of a name that many have, each `turn` begins with another one.
    pub(crate) fn addresses(&self, label: &str, turn: usize) -> Vec<Ipv4Addr> {
        if let Some(address) = HostName::address_in(label) {
            return self.host_name(address).map(|_| address).into_iter().collect();
        }
        if let Ok(instance) = label.parse() {
            return get(&self.by_instance, &instance).copied().into_iter().collect();
        }
        let first = self.by_name.partition_point(|(name, _)| name.as_str() < label);
        let count = self.by_name[first..].partition_point(|(name, _)| name.as_str() == label);
        let named = &self.by_name[first..first + count];
        let (later, sooner) = named.split_at(turn.checked_rem(count).unwrap_or_default());
        sooner.iter().chain(later).take(MOST).map(|(_, address)| *address).collect()
    }
}

fn sorted<K: Ord, V: Ord>(pairs: impl Iterator<Item = (K, V)>) -> Vec<(K, V)> {
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_unstable();
    pairs
}

fn get<'a, K: Ord, V>(sorted: &'a [(K, V)], key: &K) -> Option<&'a V> {
    let at = sorted.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
    Some(&sorted[at].1)
}
