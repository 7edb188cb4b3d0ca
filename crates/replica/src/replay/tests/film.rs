//! Makes recordings: sessions as frames, frames as pcapng.

use std::net::SocketAddrV4;

use lucarne_model::{MacAddress, Moment, flow::Direction};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber},
};

use super::super::packet;

pub(super) const NETWORK: &str = "10.0.0.0/16";
pub(super) const START: Moment = Moment::from_secs(1_768_478_400);

pub(super) fn end(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

/// A frame of a recording.
#[derive(Clone, Debug)]
pub(super) struct Shot {
    pub(super) interface: u32,
    pub(super) at: Moment,
    pub(super) direction: Direction,
    pub(super) octets: Vec<u8>,
}

/// A recording in the byte order that is asked for, with `interfaces`, and with blocks that nobody knows.
pub(super) fn develop(big_endian: bool, interfaces: u32, shots: &[Shot]) -> Vec<u8> {
    let four = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let two = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let option = |code: u16, value: &[u8]| {
        let mut option = [&two(code)[..], &two(value.len() as u16), value].concat();
        option.resize(option.len().next_multiple_of(4), 0);
        option
    };
    let block = |kind: u32, body: Vec<u8>| {
        let mut body = body;
        body.resize(body.len().next_multiple_of(4), 0);
        let length = four(body.len() as u32 + 12);
        [&four(kind)[..], &length, &body, &length].concat()
    };
    let mut file = block(
        0x0a0d_0d0a,
        [&four(0x1a2b_3c4d)[..], &two(1), &two(0), &[0xff; 8], &option(4, b"test"), &option(0, &[])].concat(),
    );
    for number in 0..interfaces {
        let name = option(2, format!("eni-{number}").as_bytes());
        file.extend(block(1, [&two(1)[..], &two(0), &four(0), &name, &option(0, &[])].concat()));
    }
    for (number, shot) in shots.iter().enumerate() {
        if number % 3 == 0 {
            file.extend(block(0x0bad, [&four(32473)[..], b"{\"what\": 1}"].concat()));
        }
        let micros = shot.at.as_micros();
        let length = four(shot.octets.len() as u32);
        let mut body =
            [&four(shot.interface)[..], &four((micros >> 32) as u32), &four(micros as u32), &length, &length].concat();
        body.extend_from_slice(&shot.octets);
        body.resize(body.len().next_multiple_of(4), 0);
        let flags = if shot.direction == Direction::Egress { 2 } else { 1 };
        body.extend(option(2, &four(flags)));
        body.extend(option(0, &[]));
        file.extend(block(6, body));
    }
    file
}

/// Who speaks in a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// A TCP connection that is filmed at the server's interface.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) client: SocketAddrV4,
    pub(super) server: SocketAddrV4,
    pub(super) interface: u32,
    /// The numbers of the next octets.
    next: [u32; 2],
    pub(super) now: Moment,
    pub(super) shots: Vec<Shot>,
}

const MOST: usize = 1400;

impl Scene {
    /// A client that asks for a connection; the numbers are near their end, so that they begin anew.
    pub(super) fn new(client: SocketAddrV4, server: SocketAddrV4, interface: u32, now: Moment) -> Self {
        let next = [u32::MAX - 700 - u32::from(client.port()), u32::MAX - 900];
        let mut scene = Self { client, server, interface, next, now, shots: Vec::new() };
        scene.shoot(Side::Client, TcpControl::Syn, false, &[]);
        scene
    }

    /// Lets the client open with another number.
    pub(super) fn renumber(&mut self, number: u32) {
        self.shots.clear();
        self.next[0] = number;
        self.shoot(Side::Client, TcpControl::Syn, false, &[]);
    }

    pub(super) fn accept(mut self) -> Self {
        self.shoot(Side::Server, TcpControl::Syn, true, &[]);
        self.shoot(Side::Client, TcpControl::None, true, &[]);
        self
    }

    pub(super) fn refuse(mut self) -> Self {
        self.shoot(Side::Server, TcpControl::Rst, true, &[]);
        self
    }

    /// One side says something a while later, and the other acknowledges.
    pub(super) fn say(mut self, side: Side, micros: u64, octets: &[u8]) -> Self {
        self.now.0 += micros;
        for part in octets.chunks(MOST) {
            self.shoot(side, TcpControl::Psh, true, part);
        }
        let other = if side == Side::Client { Side::Server } else { Side::Client };
        self.shoot(other, TcpControl::None, true, &[]);
        self
    }

    pub(super) fn finish(mut self, side: Side) -> Self {
        self.shoot(side, TcpControl::Fin, true, &[]);
        let other = if side == Side::Client { Side::Server } else { Side::Client };
        self.shoot(other, TcpControl::None, true, &[]);
        self
    }

    pub(super) fn reset(mut self, side: Side) -> Self {
        self.shoot(side, TcpControl::Rst, true, &[]);
        self
    }

    fn shoot(&mut self, side: Side, control: TcpControl, acknowledges: bool, octets: &[u8]) {
        let (own, other) = (side as usize, 1 - side as usize);
        let (from, to) = if side == Side::Client { (self.client, self.server) } else { (self.server, self.client) };
        let tcp = TcpRepr {
            src_port: from.port(),
            dst_port: to.port(),
            control,
            seq_number: TcpSeqNumber(self.next[own] as i32),
            ack_number: acknowledges.then_some(TcpSeqNumber(self.next[other] as i32)),
            window_len: 65_535,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: octets,
        };
        let opens = u32::from(matches!(control, TcpControl::Syn | TcpControl::Fin));
        self.next[own] = self.next[own].wrapping_add(octets.len() as u32 + opens);
        let direction = if side == Side::Client { Direction::Ingress } else { Direction::Egress };
        let packet = tcp_packet(from, to, &tcp);
        self.shots.push(Shot {
            interface: self.interface,
            at: self.now,
            direction,
            octets: packet::frame(MacAddress::from_bits(7), &packet),
        });
        self.now.0 += 40;
    }
}

fn tcp_packet(from: SocketAddrV4, to: SocketAddrV4, tcp: &TcpRepr<'_>) -> Vec<u8> {
    let ip = Ipv4Repr {
        src_addr: *from.ip(),
        dst_addr: *to.ip(),
        next_header: IpProtocol::Tcp,
        payload_len: tcp.buffer_len(),
        hop_limit: 64,
    };
    let checksums = ChecksumCapabilities::default();
    let mut octets = vec![0; ip.buffer_len() + tcp.buffer_len()];
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut octets[..]), &checksums);
    let mut inner = TcpPacket::new_unchecked(&mut octets[ip.buffer_len()..]);
    tcp.emit(&mut inner, &ip.src_addr.into(), &ip.dst_addr.into(), &checksums);
    octets
}

/// A datagram at the server's interface.
pub(super) fn datagram(from: SocketAddrV4, to: SocketAddrV4, direction: Direction, at: Moment, octets: &[u8]) -> Shot {
    let octets = packet::frame(MacAddress::from_bits(7), &packet::datagram(from, to, octets));
    Shot { interface: 0, at, direction, octets }
}

/// All scenes as one recording.
pub(super) fn cut_together(scenes: Vec<Scene>) -> Vec<u8> {
    let interfaces = scenes.iter().map(|scene| scene.interface + 1).max().unwrap_or(1);
    let mut shots: Vec<Shot> = scenes.into_iter().flat_map(|scene| scene.shots).collect();
    shots.sort_by_key(|shot| shot.at);
    develop(false, interfaces, &shots)
}
