//! What a guest sends: its source checked, questions to the link answered here, packets sent on their way.
//!
//! Owns anti-spoofing and the list of what the switch answers itself: ARP, DHCP, DNS, NTP, an echo of the gateway. All but ARP are
//! flows ([`crate::service`]).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::Ipv4Addr;

use lucarne_model::{EndReason, MacAddress, Moment, flow::Direction};

use crate::{
    admission::Passage,
    arp,
    counters::Malformed,
    datagram::{Datagram, UDP_HEADER},
    dhcp::{self, Lease},
    dns, exchange,
    fabric::{Place, Port},
    ntp,
    output::{Output, PortIndex},
    parse::{self, Frame, Headers},
    rewrite,
    routing::Hop,
    switch::Switch,
};

/// Where the metadata service is, on every link.
pub(crate) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// For whom a packet with a true source is.
enum Addressee {
    Network,
    Router(Service),
}

/// What of the virtual router.
enum Service {
    Dhcp,
    Dns,
    Ntp,
    Metadata,
    GatewayEcho,
}

impl Switch {
    #[inline]
    pub(crate) fn take_from_guest(&mut self, from: PortIndex, frame: &mut [u8], now: Moment, out: &mut impl Output) {
        if self.fabric.port(from).is_none() {
            return self.tally.malformed(Malformed::UnknownPort);
        }
        match parse::parse(frame, self.settings.mtu) {
            Ok(Frame::Ipv4(headers)) => self.take_packet(from, frame, &headers, now, out),
            Ok(Frame::Arp) => self.answer_arp(from, frame, out),
            Err(why) => self.tally.malformed(why),
        }
    }

    #[inline]
    fn take_packet(
        &mut self,
        from: PortIndex,
        frame: &mut [u8],
        headers: &Headers,
        now: Moment,
        out: &mut impl Output,
    ) {
        let Some(port) = self.fabric.port(from) else { return };
        // What pads a short frame is not given on.
        let frame = &mut frame[..headers.frame_length()];
        match addressee(port, frame, headers) {
            Some(Addressee::Network) => {
                let passage = Passage { port: from, direction: Direction::Egress, frame, headers, now };
                if let Some(hop) = self.admit(&passage, out) {
                    self.forward(hop, frame, headers, now, out);
                }
            }
            Some(Addressee::Router(service)) => {
                let passage = Passage { port: from, direction: Direction::Egress, frame, headers, now };
                self.count_served(&passage, out);
                match service {
                    Service::Dhcp => self.answer_dhcp(from, frame, headers, now, out),
                    Service::Dns => self.answer_dns(from, frame, headers, now, out),
                    Service::Ntp => self.answer_ntp(from, frame, headers, now, out),
                    Service::GatewayEcho => self.answer_echo(from, frame, headers, now, out),
                    Service::Metadata => {
                        self.tally.to_metadata += 1;
                        out.to_metadata(from, frame);
                    }
                }
            }
            None => self.refuse_source(&Passage { port: from, direction: Direction::Egress, frame, headers, now }, out),
        }
    }

    /// Sends a packet that is allowed to its next interface.
    #[inline]
    fn forward(&mut self, hop: Hop, frame: &mut [u8], headers: &Headers, now: Moment, out: &mut impl Output) {
        let Some(endpoint) = self.fabric.endpoints.get(hop.endpoint as usize) else {
            return self.tally.rejected(EndReason::NoRoute);
        };
        let (place, vni) = (endpoint.place, endpoint.vni);
        if hop.routed {
            rewrite::address(frame, endpoint.mac, MacAddress::ROUTER.0);
            rewrite::decrement_ttl(frame);
        } else {
            frame[..6].copy_from_slice(&endpoint.mac);
        }
        match place {
            Place::Here(to) => {
                let mut arriving = *headers;
                arriving.packet.ttl -= u8::from(hop.routed);
                self.deliver(to, frame, &arriving, now, out);
            }
            Place::There(host) => {
                self.tally.to_tunnel += 1;
                out.to_tunnel(host, vni, frame);
            }
            Place::Unsealed(_) => self.tally.rejected(EndReason::EncryptionRequired),
            Place::Nowhere => self.tally.rejected(EndReason::NoRoute),
        }
    }

    fn refuse_source(&mut self, passage: &Passage<'_>, out: &mut impl Output) {
        if let Some(port) = self.fabric.port_mut(passage.port) {
            port.count(passage.direction, passage.headers.packet.bytes);
        }
        self.reject(passage, EndReason::SourceCheck.into(), out);
    }

    fn answer_arp(&mut self, from: PortIndex, frame: &[u8], out: &mut impl Output) {
        self.note_aside(from);
        let reply = self.fabric.port(from).and_then(|port| {
            let request = arp::request(frame)?;
            let (_, sender_mac) = parse::macs(frame);
            let true_sender = sender_mac == port.mac
                && request.sender_mac == port.mac
                && (request.sender == port.address || request.sender == 0);
            Some(arp::reply(&request, self.link_address(port, request.target)?)).filter(|_| true_sender)
        });
        match reply {
            Some(reply) => {
                self.note_aside(from);
                self.answer(from, &reply, out);
            }
            None => self.tally.malformed(Malformed::ArpIgnored),
        }
    }

    /// Which MAC a guest should send to for an address on its link.
    fn link_address(&self, port: &Port, address: u32) -> Option<[u8; 6]> {
        let is_everywhere = address == METADATA.to_bits() || address == ntp::LINK_LOCAL.to_bits();
        if address == port.gateway || is_everywhere || port.is_resolver(address) {
            return Some(MacAddress::ROUTER.0);
        }
        let here = self.fabric.networks[port.network].subnets[port.subnet].id;
        let neighbour = self.fabric.neighbour(port, address).filter(|endpoint| endpoint.subnet == here)?;
        Some(neighbour.mac).filter(|_| address != port.address)
    }

    fn answer_dhcp(&mut self, from: PortIndex, frame: &[u8], headers: &Headers, now: Moment, out: &mut impl Output) {
        let reply = self.fabric.port(from).and_then(|port| {
            let subnet = &self.fabric.networks[port.network].subnets[port.subnet];
            let lease = Lease {
                mac: MacAddress(port.mac),
                address: Ipv4Addr::from_bits(port.address),
                netmask: subnet.cidr.netmask(),
                gateway: Ipv4Addr::from_bits(port.gateway),
                resolver: Ipv4Addr::from_bits(port.resolver),
                host_name: &port.host_name,
                mtu: self.settings.mtu,
                duration: self.settings.lease,
            };
            dhcp::answer(frame, headers, &lease)
        });
        self.reply(from, reply.ok_or(Malformed::DhcpIgnored), now, out);
    }

    fn answer_dns(&mut self, from: PortIndex, frame: &[u8], headers: &Headers, now: Moment, out: &mut impl Output) {
        let reply = self.fabric.port(from).and_then(|port| {
            let answer = dns::answer(question(frame, headers)?, &self.fabric.networks[port.network].names)?;
            Some(answer_frame(port, headers, &answer))
        });
        self.reply(from, reply.ok_or(Malformed::DnsIgnored), now, out);
    }

    fn answer_ntp(&mut self, from: PortIndex, frame: &[u8], headers: &Headers, now: Moment, out: &mut impl Output) {
        let reply = self.fabric.port(from).and_then(|port| {
            let behind = self.fabric.networks[port.network].clock_behind;
            Some(answer_frame(port, headers, &ntp::answer(question(frame, headers)?, now, behind)?))
        });
        self.reply(from, reply.ok_or(Malformed::NtpIgnored), now, out);
    }

    /// Answers a question to a service, or counts it as one that needs no answer.
    fn reply(&mut self, to: PortIndex, reply: Result<Vec<u8>, Malformed>, now: Moment, out: &mut impl Output) {
        match reply {
            Ok(reply) => {
                self.count_answer(to, &reply, now, out);
                self.answer(to, &reply, out);
            }
            Err(why) => self.tally.malformed(why),
        }
    }

    fn answer_echo(
        &mut self,
        from: PortIndex,
        frame: &mut [u8],
        headers: &Headers,
        now: Moment,
        out: &mut impl Output,
    ) {
        let (_, guest) = parse::macs(frame);
        rewrite::turn_echo(frame, headers, guest, MacAddress::ROUTER.0);
        self.count_answer(from, frame, now, out);
        self.answer(from, frame, out);
    }

    /// Counts what a service of the router answers to a guest.
    pub(crate) fn count_answer(&mut self, to: PortIndex, frame: &[u8], now: Moment, out: &mut impl Output) {
        if let Ok(Frame::Ipv4(headers)) = parse::parse(frame, u16::MAX) {
            self.count_served(&Passage { port: to, direction: Direction::Ingress, frame, headers: &headers, now }, out);
        }
    }

    fn answer(&mut self, to: PortIndex, frame: &[u8], out: &mut impl Output) {
        self.tally.answered += 1;
        out.to_guest(to, frame);
    }

    fn note_aside(&mut self, port: PortIndex) {
        if let Some(port) = self.fabric.port_mut(port) {
            port.counters.aside += 1;
        }
    }
}

/// What a datagram to a service says, if all of it is there.
fn question<'a>(frame: &'a [u8], headers: &Headers) -> Option<&'a [u8]> {
    let start = headers.transport() + UDP_HEADER;
    frame.get(start..start + usize::from(headers.packet.data))
}

/// The frame that answers a datagram, from where it was sent to.
fn answer_frame(port: &Port, headers: &Headers, answer: &[u8]) -> Vec<u8> {
    let datagram = Datagram {
        guest: MacAddress(port.mac),
        source: (Ipv4Addr::from_bits(headers.destination), headers.destination_port),
        destination: (Ipv4Addr::from_bits(headers.source), headers.source_port),
    };
    datagram.frame(answer.len(), |payload| payload.copy_from_slice(answer))
}

/// None when the source is not the port's own.
#[inline]
fn addressee(port: &Port, frame: &[u8], headers: &Headers) -> Option<Addressee> {
    let (_, source_mac) = parse::macs(frame);
    let own = headers.source == port.address;
    // Before it has an address, a guest can do nothing but ask for one.
    let asks_address = dhcp::is_request(headers) && (own || headers.source == 0);
    if source_mac != port.mac || !(own || asks_address) {
        return None;
    }
    Some(match headers.destination {
        _ if asks_address => Addressee::Router(Service::Dhcp),
        to if to == METADATA.to_bits() => Addressee::Router(Service::Metadata),
        to if dns::is_question(headers) && port.is_resolver(to) => Addressee::Router(Service::Dns),
        to if ntp::is_question(headers) && to == ntp::LINK_LOCAL.to_bits() => Addressee::Router(Service::Ntp),
        to if to == port.gateway && exchange::asks_echo(headers) => Addressee::Router(Service::GatewayEcho),
        _ => Addressee::Network,
    })
}
