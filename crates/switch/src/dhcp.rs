//! DHCP (RFC 2131) as the switch speaks it: each port has one address, known beforehand, so that there is nothing to
//! allocate and nothing to remember.
//!
//! Owns the decision what to answer, and the reply. The wire format is `smoltcp`'s.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{net::Ipv4Addr, time::Duration};

use lucarne_flows::FlowKey;
use lucarne_model::{HostName, MacAddress, security_group::UDP};
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr};

use crate::{
    datagram::{Datagram, UDP_HEADER},
    dns, ntp,
    parse::Headers,
};

const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
const OPTION_HOST_NAME: u8 = 12;
const OPTION_DOMAIN: u8 = 15;
const OPTION_MTU: u8 = 26;
const OPTION_NTP: u8 = 42;
/// Domains in which names without dots are looked for (RFC 3397).
const OPTION_SEARCH: u8 = 119;

/// What a port's guest is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease<'a> {
    pub(crate) mac: MacAddress,
    pub(crate) address: Ipv4Addr,
    pub(crate) netmask: Ipv4Addr,
    /// Router and DHCP server.
    pub(crate) gateway: Ipv4Addr,
    pub(crate) resolver: Ipv4Addr,
    pub(crate) host_name: &'a HostName,
    pub(crate) mtu: u16,
    pub(crate) duration: Duration,
}

/// Whether a guest's packet is for the DHCP server, whatever address it was sent to.
pub(crate) const fn is_request(headers: &Headers) -> bool {
    headers.protocol == UDP
        && headers.source_port == CLIENT_PORT
        && headers.destination_port == SERVER_PORT
        && !headers.fragment
}

/// Whether a packet is an answer of the DHCP server.
pub(crate) const fn is_reply(headers: &Headers) -> bool {
    headers.protocol == UDP && headers.source_port == SERVER_PORT && headers.destination_port == CLIENT_PORT
}

/// The flow of all DHCP between a guest with this address and the gateway.
pub(crate) const fn key(port: u32, address: u32, gateway: u32) -> FlowKey {
    FlowKey::new(port, address, gateway, CLIENT_PORT, SERVER_PORT, UDP)
}

/// Whether the flow has DHCP's ports.
pub(crate) const fn is_exchange(key: FlowKey) -> bool {
    key.protocol() == UDP && key.local_port() == CLIENT_PORT && key.remote_port() == SERVER_PORT
}

/// The frame that answers a guest's, if it needs one.
pub(crate) fn answer(frame: &[u8], headers: &Headers, lease: &Lease<'_>) -> Option<Vec<u8>> {
    let payload = frame.get(headers.transport() + UDP_HEADER..headers.frame_length())?;
    let packet = DhcpPacket::new_checked(payload).ok()?;
    let request = DhcpRepr::parse(&packet).ok()?;
    if request.client_hardware_address.as_bytes() != lease.mac.0.as_slice() {
        return None;
    }
    let verdict = decide(&request, lease)?;
    write(&request, verdict, lease)
}

fn decide(request: &DhcpRepr<'_>, lease: &Lease<'_>) -> Option<DhcpMessageType> {
    if request.server_identifier.is_some_and(|server| server != lease.gateway) {
        return None;
    }
    match request.message_type {
        DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
        DhcpMessageType::Inform => Some(DhcpMessageType::Ack),
        DhcpMessageType::Request => {
            // A renewing client says its address in `ciaddr`, others in the option (RFC 2131 section 4.3.2).
            let wanted = request.requested_ip.unwrap_or(request.client_ip);
            Some(if wanted == lease.address { DhcpMessageType::Ack } else { DhcpMessageType::Nak })
        }
        _ => None,
    }
}

fn write(request: &DhcpRepr<'_>, verdict: DhcpMessageType, lease: &Lease<'_>) -> Option<Vec<u8>> {
    let (mtu, seconds) = (lease.mtu.to_be_bytes(), lease.duration.as_secs().min(u32::MAX.into()) as u32);
    let search = dns::encode(&[HostName::DOMAIN]);
    let clock = ntp::LINK_LOCAL.octets();
    let options: [(u8, &[u8]); 5] = [
        (OPTION_HOST_NAME, lease.host_name.as_str().as_bytes()),
        (OPTION_DOMAIN, HostName::DOMAIN.as_bytes()),
        (OPTION_MTU, &mtu),
        (OPTION_NTP, &clock),
        (OPTION_SEARCH, &search),
    ];
    let options = options.map(|(kind, data)| DhcpOption { kind, data });
    let granted = verdict != DhcpMessageType::Nak;
    // RFC 2131 section 3.4: whoever only informs itself has its address by other means.
    let leased = granted && request.message_type != DhcpMessageType::Inform;
    let reply = DhcpRepr {
        message_type: verdict,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: if granted { request.client_ip } else { Ipv4Addr::UNSPECIFIED },
        your_ip: if leased { lease.address } else { Ipv4Addr::UNSPECIFIED },
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: granted.then_some(lease.gateway),
        subnet_mask: granted.then_some(lease.netmask),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(lease.gateway),
        parameter_request_list: None,
        dns_servers: granted.then(|| [lease.resolver].into_iter().collect()),
        max_size: None,
        lease_duration: leased.then_some(seconds),
        renew_duration: None,
        rebind_duration: None,
        additional_options: if granted { &options } else { &[] },
    };
    envelop(&reply, lease)
}

/// Sends to the broadcast address, which a guest without an address takes too; the frame goes to its port only.
fn envelop(reply: &DhcpRepr<'_>, lease: &Lease<'_>) -> Option<Vec<u8>> {
    let datagram = Datagram {
        guest: lease.mac,
        source: (lease.gateway, SERVER_PORT),
        destination: (Ipv4Addr::BROADCAST, CLIENT_PORT),
    };
    // Some clients drop what is shorter than BOOTP's fixed packet (RFC 1542 section 2.1).
    let length = reply.buffer_len().max(300);
    let mut written = Ok(());
    let frame = datagram.frame(length, |payload| written = reply.emit(&mut DhcpPacket::new_unchecked(payload)));
    written.ok().map(|()| frame)
}
