//! Frames of the scene, written octet by octet, independent of the code that is tested.

use std::net::Ipv4Addr;

use lucarne_model::MacAddress;

use super::{address, mac};

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// Between whom a frame goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) source_mac: MacAddress,
    pub(super) destination_mac: MacAddress,
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
}

impl Ends {
    /// As a guest addresses it: within its subnet to the neighbour, else to the router; from the tunnel as it arrives.
    pub(super) fn between(from: u128, to: u128) -> Self {
        let (source, destination) = (address(from), address(to));
        let same_link = source.octets()[2] == destination.octets()[2];
        let arrives = super::endpoint(from).host != super::HERE;
        let (source_mac, destination_mac) = match (same_link, arrives) {
            (true, _) => (mac(from), mac(to)),
            (false, true) => (MacAddress::ROUTER, mac(to)),
            (false, false) => (mac(from), MacAddress::ROUTER),
        };
        Self { source_mac, destination_mac, source, destination }
    }

    pub(super) fn frame(&self, shape: &Shape) -> Vec<u8> {
        let payload = shape.payload();
        let header_length = 20 + shape.options.len();
        let mut ip = vec![0; 20];
        ip[0] = 0x40 | (header_length / 4) as u8;
        ip[1] = shape.tos;
        ip[2..4].copy_from_slice(&((header_length + payload.len()) as u16).to_be_bytes());
        ip[6..8].copy_from_slice(&shape.fragment.to_be_bytes());
        ip[8] = shape.ttl;
        ip[9] = shape.protocol;
        ip[12..16].copy_from_slice(&self.source.octets());
        ip[16..20].copy_from_slice(&self.destination.octets());
        ip.extend(&shape.options);
        let sum = internet_checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        [&self.destination_mac.0[..], &self.source_mac.0, &[8, 0], &ip, &payload].concat()
    }
}

/// What a packet is, apart from its ends.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    pub(super) options: Vec<u8>,
    pub(super) fragment: u16,
    /// The header of the transport protocol.
    pub(super) transport: Vec<u8>,
    /// Octets behind it.
    pub(super) data: Vec<u8>,
}

impl Shape {
    fn new(protocol: u8, transport: Vec<u8>) -> Self {
        Self { protocol, ttl: 64, tos: 0, options: Vec::new(), fragment: 0, transport, data: Vec::new() }
    }

    fn payload(&self) -> Vec<u8> {
        [self.transport.as_slice(), &self.data].concat()
    }

    pub(super) fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }
    pub(super) fn tos(self, tos: u8) -> Self {
        Self { tos, ..self }
    }
    pub(super) fn fragment(self, fragment: u16) -> Self {
        Self { fragment, ..self }
    }
    pub(super) fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }
}

pub(super) fn tcp(source_port: u16, destination_port: u16, flags: u8) -> Shape {
    let mut header = vec![0; 20];
    header[..2].copy_from_slice(&source_port.to_be_bytes());
    header[2..4].copy_from_slice(&destination_port.to_be_bytes());
    (header[12], header[13]) = (5 << 4, flags);
    Shape::new(6, header)
}

pub(super) fn udp(source_port: u16, destination_port: u16, data: usize) -> Shape {
    let length = (8 + data) as u16;
    let words = [source_port, destination_port, length, 0];
    Shape { data: vec![0x55; data], ..Shape::new(17, words.iter().flat_map(|word| word.to_be_bytes()).collect()) }
}

pub(super) fn icmp(kind: u8, code: u8, id: u16) -> Shape {
    let [high, low] = id.to_be_bytes();
    let mut header = vec![kind, code, 0, 0, high, low, 0, 1];
    let sum = internet_checksum(&header);
    header[2..4].copy_from_slice(&sum.to_be_bytes());
    Shape::new(1, header)
}

pub(super) fn ping(id: u16) -> Shape {
    icmp(8, 0, id)
}
pub(super) fn pong(id: u16) -> Shape {
    icmp(0, 0, id)
}

/// An ICMP error about the packet in `frame`, which it quotes as RFC 792 says.
pub(super) fn error_about(kind: u8, code: u8, frame: &[u8]) -> Shape {
    let quoted = &frame[14..frame.len().min(14 + 28)];
    Shape { data: quoted.to_vec(), ..icmp(kind, code, 0) }
}

pub(super) fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
