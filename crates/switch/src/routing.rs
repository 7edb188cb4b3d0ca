//! Routing: to which interface does a packet go that a guest sends?
//!
//! Owns [`Hop`], the answer, in the form in which the flow table remembers it, and what records tell of the way
//! ([`FarEnd`]). The link address that a guest chose does not matter: within its subnet a packet goes to its destination,
//! else where the subnet's route table leads, by the longest prefix. There is no broadcast domain, so broadcast and
//! multicast have no route.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::Ipv4Addr;

use lucarne_flows::FarEnd;
use lucarne_model::{EndReason, flow::Path};

use crate::{
    fabric::{Endpoint, Fabric, NextHop, Place, Port},
    output::PortIndex,
};

/// The endpoint that a packet goes to, and whether it crosses the router on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) endpoint: u32,
    pub(crate) routed: bool,
    /// Whether each packet of the flow must be asked for a token.
    pub(crate) capped: bool,
}

impl Hop {
    /// For packets that have arrived: nothing is to be looked up.
    pub(crate) const ARRIVED: Self = Self { endpoint: 0, routed: false, capped: false };

    /// As the flow table's memo.
    #[inline]
    pub(crate) const fn memo(self) -> u32 {
        self.endpoint << 2 | (self.capped as u32) << 1 | self.routed as u32
    }
    #[inline]
    pub(crate) const fn from_memo(memo: u32) -> Self {
        Self { endpoint: memo >> 2, routed: memo & 1 == 1, capped: memo & 2 == 2 }
    }
}

/// The index among the virtual router's ports of the tunnel to the other hosts, as SNMP would know it.
const TUNNEL_INDEX: u32 = 1;
/// Of port 0; the others follow.
const FIRST_PORT_INDEX: u32 = 2;

/// The index of a guest's port.
pub(crate) const fn interface_index(port: PortIndex) -> u32 {
    FIRST_PORT_INDEX + port.0
}

const fn index_of_place(place: Place) -> u32 {
    match place {
        Place::Here(port) => interface_index(port),
        Place::There(_) => TUNNEL_INDEX,
        Place::Unsealed(_) | Place::Nowhere => 0,
    }
}

impl Fabric {
    /// What is told of the other end of a flow: an interface of the network, or what lies behind one that forwards.
    pub(crate) fn far_end(&self, port: &Port, remote: Ipv4Addr, peer: Option<&Endpoint>) -> FarEnd {
        if let Some(endpoint) = peer {
            let path = match endpoint.place {
                Place::Here(_) => Path::SameHost,
                _ if endpoint.elsewhere => Path::OtherLocation,
                Place::There(_) | Place::Unsealed(_) | Place::Nowhere => Path::OtherHost,
            };
            let interface_index = index_of_place(endpoint.place);
            return FarEnd { path, prefix_length: endpoint.prefix_length, interface_index };
        }
        let subnet = &self.networks[port.network].subnets[port.subnet];
        match subnet.routes.iter().find(|(prefix, _)| prefix.contains(remote)) {
            Some((prefix, NextHop::Endpoint(number))) => {
                let place = self.endpoints.get(*number as usize).map_or(Place::Nowhere, |endpoint| endpoint.place);
                FarEnd { path: Path::Site, prefix_length: prefix.prefix(), interface_index: index_of_place(place) }
            }
            _ => FarEnd { path: Path::Site, prefix_length: 0, interface_index: 0 },
        }
    }

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
        let endpoint = endpoint.ok_or(EndReason::NoRoute)?;
        match &self.endpoints[endpoint as usize] {
            to if to.place == Place::Nowhere || to.mac == port.mac => Err(EndReason::NoRoute),
            Endpoint { place: Place::Unsealed(_), .. } => Err(EndReason::EncryptionRequired),
            _ => Ok(Hop { endpoint, routed, capped: false }),
        }
    }
}
