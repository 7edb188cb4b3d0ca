//! A capture whose flows are known: forty conversations of TCP and UDP over three seconds, as a pcap file.
//!
//! Owns the octets of the file and what a meter must count in it.

use std::{fs, net::Ipv4Addr, path::Path};

use super::Flow;

/// How many there are.
pub(crate) const PACKETS: usize = 20 * 7 + 20 * 6;

const SINCE: u32 = 1_768_478_400;
/// Microseconds between two packets.
const PACE: u32 = 10_000;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN: u8 = 1;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;

#[derive(Clone, Copy)]
struct End(Ipv4Addr, u16);

struct Packet {
    from: End,
    to: End,
    protocol: u8,
    flags: u8,
    data: u16,
}

/// Writes the capture, and gives of each packet its flow and what counts: one packet, its bytes and its flags.
pub(crate) fn write(to: &Path) -> Vec<(Flow, [u64; 3])> {
    let mut file = Vec::new();
    // Magic, version 2.4, no correction, the longest frame, Ethernet.
    for word in [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 65_535, 1] {
        file.extend(u32::to_le_bytes(word));
    }
    let mut told = Vec::new();
    for (packet, number) in (0..40).flat_map(conversation).zip(0..) {
        let frame = packet.frame();
        let (at, length) = (PACE * number, frame.len() as u32);
        for word in [SINCE + at / 1_000_000, at % 1_000_000, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
        let Packet { from, to, protocol, flags, .. } = packet;
        let flow = (from.0.into(), from.1, to.0.into(), to.1, protocol);
        told.push((flow, [1, packet.octets().into(), flags.into()]));
    }
    fs::write(to, file).unwrap();
    told
}

/// By turns a request over TCP that both sides close, and three questions over UDP.
fn conversation(number: u8) -> Vec<Packet> {
    let port = if number.is_multiple_of(2) { 443 } else { 53 };
    let client = End(Ipv4Addr::new(10, 1, 0, number + 1), 40_000 + u16::from(number));
    let server = End(Ipv4Addr::new(10, 2, 0, number % 7 + 1), port);
    let asks = |protocol, flags, data| Packet { from: client, to: server, protocol, flags, data };
    let answers = |protocol, flags, data| Packet { from: server, to: client, protocol, flags, data };
    if port == 53 {
        let pair = || [asks(UDP, 0, 20 + u16::from(number)), answers(UDP, 0, 200 + u16::from(number))];
        return [pair(), pair(), pair()].into_iter().flatten().collect();
    }
    let (request, closing) = (100 + u16::from(number), FIN | ACK);
    vec![
        asks(TCP, SYN, 0),
        answers(TCP, SYN | ACK, 0),
        asks(TCP, PSH | ACK, request),
        answers(TCP, PSH | ACK, 1000),
        asks(TCP, closing, 0),
        answers(TCP, closing, 0),
        asks(TCP, ACK, 0),
    ]
}

impl Packet {
    /// Of the IP packet.
    fn octets(&self) -> u16 {
        20 + if self.protocol == TCP { 20 } else { 8 } + self.data
    }

    /// Checksums are left zero, because no meter looks at them.
    fn frame(&self) -> Vec<u8> {
        let mut frame = [&[2; 6][..], &[4; 6], &[8, 0, 0x45, 0]].concat();
        frame.extend(self.octets().to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, self.protocol, 0, 0]);
        frame.extend(self.from.0.octets());
        frame.extend(self.to.0.octets());
        frame.extend(self.from.1.to_be_bytes());
        frame.extend(self.to.1.to_be_bytes());
        match self.protocol {
            TCP => frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, self.flags, 4, 0, 0, 0, 0, 0]),
            _ => frame.extend([(self.data + 8).to_be_bytes(), [0, 0]].concat()),
        }
        frame.resize(frame.len() + usize::from(self.data), b'x');
        frame
    }
}
