//! Which flow a packet belongs to, and whether it can begin one.
//!
//! Owns the translation from [`Headers`] to [`FlowKey`], with the rules of each protocol: both directions of one exchange
//! have one key, and two exchanges that cross have two. Who may begin one is decided by the groups.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_flows::{
    FlowKey, Phase,
    phase::{ACK, FIN, RST, SYN},
};
use lucarne_model::{
    flow::Direction,
    security_group::{ICMP, TCP, UDP},
};

use crate::parse::Headers;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const UNREACHABLE: u8 = 3;
const PORT_UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// What a packet is when no flow is known for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// It opens a connection, which starts in this phase.
    Opens(Phase),
    /// TCP of a connection that must have begun earlier.
    MidStream,
    /// It answers what was never asked.
    Stray,
}

/// The flow of a packet that goes this way through a port.
///
/// ICMP has no ports: the identifier of an echo stands in the local port, and in the remote one a number that tells apart
/// who asked, so that two guests that ping each other with the same identifier have two flows.
#[inline]
pub(crate) fn key(port: u32, direction: Direction, headers: &Headers) -> FlowKey {
    let egress = direction == Direction::Egress;
    let (local, remote) = ends(egress, headers.source, headers.destination);
    let (local_port, remote_port) = match headers.protocol {
        ICMP => icmp_ends(egress, headers),
        _ => ends(egress, headers.source_port, headers.destination_port),
    };
    FlowKey::new(port, local, remote, local_port, remote_port, headers.protocol)
}

const fn ends<T: Copy>(egress: bool, source: T, destination: T) -> (T, T) {
    if egress { (source, destination) } else { (destination, source) }
}

fn icmp_ends(egress: bool, headers: &Headers) -> (u16, u16) {
    match (headers.packet.icmp[0], egress) {
        (ECHO_REQUEST, true) | (ECHO_REPLY, false) => (headers.echo_id, 1),
        (ECHO_REQUEST, false) | (ECHO_REPLY, true) => (headers.echo_id, 2),
        _ => (u16::from_be_bytes(headers.packet.icmp), if egress { 3 } else { 4 }),
    }
}

/// What this packet is when it is the first one.
pub(crate) fn beginning(headers: &Headers) -> Beginning {
    match (headers.protocol, headers.packet.icmp[0]) {
        (TCP, _) if opens_tcp(headers) => Beginning::Opens(Phase::SynSent),
        // No state of TCP sends these together, or none of them.
        (TCP, _) if headers.packet.tcp_flags & (SYN | RST) != 0 && headers.packet.tcp_flags & ACK == 0 => {
            Beginning::Stray
        }
        (TCP, _) if headers.packet.tcp_flags & (ACK | RST) == 0 => Beginning::Stray,
        (TCP, _) => Beginning::MidStream,
        (ICMP, ECHO_REQUEST) => Beginning::Opens(Phase::Asked),
        (ICMP, ECHO_REPLY) => Beginning::Stray,
        (ICMP, _) => Beginning::Opens(Phase::OneWay),
        _ => Beginning::Opens(Phase::Asked),
    }
}

/// Whether it is the SYN that begins a TCP connection.
#[inline]
pub(crate) const fn opens_tcp(headers: &Headers) -> bool {
    headers.protocol == TCP && headers.packet.tcp_flags & (SYN | ACK | RST | FIN) == SYN
}

/// Whether it reports an error of another packet, which it quotes.
#[inline]
pub(crate) const fn is_error(headers: &Headers) -> bool {
    headers.protocol == ICMP && matches!(headers.packet.icmp[0], UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// Whether it says that nobody listens at the port.
pub(crate) const fn says_refused(headers: &Headers) -> bool {
    headers.protocol == ICMP && headers.packet.icmp[0] == UNREACHABLE && headers.packet.icmp[1] == PORT_UNREACHABLE
}

/// Whether it asks for an echo.
pub(crate) const fn asks_echo(headers: &Headers) -> bool {
    headers.protocol == ICMP && headers.packet.icmp[0] == ECHO_REQUEST && !headers.fragment
}

/// What the rules of a group match on: the destination port, or ICMP's type and code
/// (see [`Traffic::matches`](lucarne_model::security_group::Traffic::matches)).
pub(crate) fn rule_port(key: FlowKey, direction: Direction, icmp: [u8; 2]) -> u16 {
    match (key.protocol(), direction) {
        (ICMP, _) => u16::from_be_bytes(icmp),
        (TCP | UDP, Direction::Egress) => key.remote_port(),
        (TCP | UDP, Direction::Ingress) => key.local_port(),
        _ => 0,
    }
}
