//! What the virtual router itself offers to guests, as flows: the metadata service, DHCP, DNS, NTP, an echo of the gateway.
//!
//! Owns which flows these are and their records: allowed whatever groups and orders say, because a guest cannot do without, and
//! with [`Path::Service`]. What is answered is decided in [`crate::guest`] and by the metadata service.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_flows::{Allowed, FarEnd, FlowKey, Grounds, Opening, Phase, Side};
use lucarne_model::{
    flow::{Direction, Path},
    security_group::ICMP,
};

use crate::{
    admission::Passage,
    dhcp, dns,
    exchange::{self, Beginning},
    fabric::Port,
    guest::METADATA,
    ntp,
    output::Output,
    switch::Switch,
};

impl Switch {
    /// Counts a packet between a guest and a service of the router, in the port and in its flow.
    pub(crate) fn count_served(&mut self, passage: &Passage<'_>, out: &mut impl Output) {
        let Passage { port: index, direction, headers, now, .. } = *passage;
        let Some(port) = self.fabric.port_mut(index) else { return };
        port.count(direction, headers.packet.bytes);
        let key = key(port, passage);
        let allowed = served(port);
        if exchange::opens_tcp(headers)
            && let Some(slot) = self.table.find(key)
            && let Some(reason) = self.table.phase(slot).end_reason()
        {
            self.table.finish(slot, reason, &mut |record| out.record(record));
        }
        match self.table.find(key) {
            Some(slot) => self.table.count(slot, direction, &headers.packet, now),
            None => {
                let side = if direction == Direction::Egress { Side::Initiator } else { Side::Responder };
                let (phase, epoch) = (first_phase(exchange::beginning(headers), side), self.fabric.epoch);
                let opening = Opening { direction, side, phase, allowed, memo: 0, epoch };
                self.table.open(key, opening, &headers.packet, now, &mut |record| out.record(record));
            }
        }
    }
}

/// Whether the flow is one with a service of the router.
pub(crate) fn is_served(port: &Port, key: FlowKey) -> bool {
    match key.remote().to_bits() {
        remote if remote == METADATA.to_bits() => true,
        remote if remote == ntp::LINK_LOCAL.to_bits() => ntp::is_exchange(key),
        remote if remote == port.gateway => key.protocol() == ICMP || dhcp::is_exchange(key),
        remote => port.is_resolver(remote) && dns::is_exchange(key),
    }
}

/// What the flow table is told of such a flow.
pub(crate) fn served(port: &Port) -> Allowed {
    let far = FarEnd { path: Path::Service, ..FarEnd::UNKNOWN };
    Allowed { owner: port.owner.clone(), grounds: Grounds::Nothing, far }
}

/// The flow of a packet. A guest without an address asks for one from nowhere to everybody: its DHCP is told as between the
/// address that it gets and the gateway, so that question and answer are one flow.
fn key(port: &Port, passage: &Passage<'_>) -> FlowKey {
    let (index, direction, headers) = (passage.port.0, passage.direction, passage.headers);
    let is_dhcp = match direction {
        Direction::Egress => dhcp::is_request(headers),
        Direction::Ingress => dhcp::is_reply(headers),
    };
    if is_dhcp {
        return dhcp::key(index, port.address, port.gateway);
    }
    exchange::key(index, direction, headers)
}

/// In what phase a flow begins that is taken up with this packet.
fn first_phase(beginning: Beginning, side: Side) -> Phase {
    match (beginning, side) {
        (Beginning::Opens(phase), Side::Initiator) => phase,
        (Beginning::Opens(Phase::Asked), Side::Responder) => Phase::Answered,
        (Beginning::MidStream, _) => Phase::Established,
        _ => Phase::OneWay,
    }
}
