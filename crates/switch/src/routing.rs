//! Routing: to which interface does a packet go that a guest sends?
//!
//! Owns [`Hop`], the answer, in the form in which the flow table remembers it. The link address that a guest chose does
//! not matter: within its subnet a packet goes to its destination, else where the subnet's route table leads, by the
//! longest prefix. There is no broadcast domain, so broadcast and multicast have no route.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::Ipv4Addr;

use lucarne_model::EndReason;

use crate::fabric::{Fabric, NextHop, Place, Port};

/// The endpoint that a packet goes to, and whether it crosses the router on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) endpoint: u32,
    pub(crate) routed: bool,
}

impl Hop {
    /// For packets that have arrived: nothing is to be looked up.
    pub(crate) const ARRIVED: Self = Self { endpoint: 0, routed: false };

    /// As the flow table's memo.
    #[inline]
    pub(crate) const fn memo(self) -> u32 {
        self.endpoint << 1 | self.routed as u32
    }
    #[inline]
    pub(crate) const fn from_memo(memo: u32) -> Self {
        Self { endpoint: memo >> 1, routed: memo & 1 == 1 }
    }
}

impl Fabric {
    pub(crate) fn route(&self, port: &Port, destination: u32) -> Result<Hop, EndReason> {
        let network = &self.networks[port.network];
        let subnet = &network.subnets[port.subnet];
        let address = Ipv4Addr::from_bits(destination);
        let routed = !subnet.cidr.contains(address);
        let next = match subnet.routes.iter().find(|(prefix, _)| prefix.contains(address)) {
            _ if !routed => NextHop::Local,
            Some((_, next)) => *next,
            None => NextHop::Nowhere,
        };
        let endpoint = match next {
            NextHop::Local => network.by_address.get(&destination).copied(),
            NextHop::Endpoint(number) => Some(number),
            NextHop::Nowhere => None,
        };
        let reachable = |number: &u32| {
            let endpoint = &self.endpoints[*number as usize];
            endpoint.place != Place::Nowhere && endpoint.mac != port.mac
        };
        endpoint.filter(reachable).map(|endpoint| Hop { endpoint, routed }).ok_or(EndReason::NoRoute)
    }
}
