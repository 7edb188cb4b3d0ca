//! What a frame says: Ethernet, IPv4 and the start of TCP, UDP and ICMP, read without copying.
//!
//! Owns which frames are well-formed, and the reasons of those that are not ([`Malformed`]). Everything behind it works
//! on [`Headers`] and trusts them. Checksums of TCP, UDP and ICMP are the guests' own business and are not read.
//!
//! Fragments are not put together: a later fragment has no ports to judge by, so the switch drops all of them as
//! [`TtlOrFragment`](lucarne_model::EndReason::TtlOrFragment). DHCP tells guests an MTU that fits the tunnel, so that only
//! datagrams larger than that are concerned.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_flows::{Packet, Timestamps};
use lucarne_model::{
    flow::Direction,
    security_group::{ICMP, TCP, UDP},
};

use crate::counters::Malformed;

/// Octets of an Ethernet header.
pub const ETHERNET: usize = 14;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
const IPV6: u16 = 0x86dd;
/// The kind of TCP's timestamps option.
const TIMESTAMPS: u8 = 8;
/// RFC 791: loose and strict source routes.
const SOURCE_ROUTES: [u8; 2] = [131, 137];

/// What a well-formed frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    Arp,
    Ipv4(Headers),
}

/// What the switch needs of an IPv4 packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// In host order.
    pub source: u32,
    pub destination: u32,
    /// Zeros where the protocol has no ports, and in fragments.
    pub source_port: u16,
    pub destination_port: u16,
    /// Octets of the IP header.
    pub header_length: u8,
    pub protocol: u8,
    /// The identifier of an ICMP echo.
    pub echo_id: u16,
    pub fragment: bool,
    /// What the flow table counts. Its length is that of the whole IP packet.
    pub packet: Packet,
}

impl Headers {
    /// Octets of the frame without what pads it.
    pub const fn frame_length(&self) -> usize {
        ETHERNET + self.packet.bytes as usize
    }
    /// Where the payload of IP begins in the frame.
    pub const fn transport(&self) -> usize {
        ETHERNET + self.header_length as usize
    }

    /// The address at the other end from the guest, when the packet goes this way.
    pub const fn remote(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Egress => self.destination,
            Direction::Ingress => self.source,
        }
    }
}

/// Reads a frame; an IP packet may have at most `mtu` octets.
#[inline]
pub fn parse(frame: &[u8], mtu: u16) -> Result<Frame, Malformed> {
    if frame.len() > ETHERNET + usize::from(mtu) {
        return Err(Malformed::Oversized);
    }
    let Some((ethernet, packet)) = frame.split_at_checked(ETHERNET) else { return Err(Malformed::Truncated) };
    match word(ethernet, 12) {
        IPV4 => parse_ipv4(packet).map(Frame::Ipv4),
        ARP => Ok(Frame::Arp),
        VLAN | QINQ => Err(Malformed::VlanTagged),
        IPV6 => Err(Malformed::Ipv6),
        _ => Err(Malformed::UnknownEtherType),
    }
}

/// The destination and the source of a frame that [`parse`] took.
#[inline]
pub(crate) fn macs(frame: &[u8]) -> ([u8; 6], [u8; 6]) {
    let mut both = ([0; 6], [0; 6]);
    both.0.copy_from_slice(&frame[..6]);
    both.1.copy_from_slice(&frame[6..12]);
    both
}

// What is written here octet by octet would be read whole as a result of a function, which processors wait for: the parts
// of parsing are one function.
#[inline(always)]
fn parse_ipv4(packet: &[u8]) -> Result<Headers, Malformed> {
    let Some(fixed) = packet.first_chunk::<20>() else { return Err(Malformed::Truncated) };
    let header_length = usize::from(fixed[0] & 0xf) * 4;
    let length = usize::from(word(fixed, 2));
    if fixed[0] >> 4 != 4 || header_length < 20 || length < header_length {
        return Err(Malformed::BadIpHeader);
    }
    let Some(packet) = packet.get(..length) else { return Err(Malformed::Truncated) };
    let (header, payload) = packet.split_at(header_length);
    if checksum(header) != 0 {
        return Err(Malformed::BadChecksum);
    }
    check_options(&header[20..])?;
    let mut headers = read_fixed(fixed);
    if !headers.fragment {
        read_transport(&mut headers, payload)?;
    }
    Ok(headers)
}

/// The header without its options, of which the length has been checked.
#[inline(always)]
fn read_fixed(fixed: &[u8; 20]) -> Headers {
    Headers {
        source: quad(fixed, 12),
        destination: quad(fixed, 16),
        header_length: (fixed[0] & 0xf) * 4,
        protocol: fixed[9],
        packet: Packet { bytes: word(fixed, 2).into(), ttl: fixed[8], tos: fixed[1], ..Packet::default() },
        // More fragments, or an offset.
        fragment: word(fixed, 6) & 0x3fff != 0,
        ..Headers::default()
    }
}

fn check_options(mut options: &[u8]) -> Result<(), Malformed> {
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            0 => break,
            1 => options = rest,
            _ if SOURCE_ROUTES.contains(&kind) => return Err(Malformed::SourceRouted),
            _ => {
                let length = rest.first().map_or(0, |length| usize::from(*length));
                options = options.get(length..).filter(|_| length >= 2).ok_or(Malformed::BadIpHeader)?;
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn read_transport(headers: &mut Headers, payload: &[u8]) -> Result<(), Malformed> {
    match headers.protocol {
        TCP => {
            let Some(tcp) = payload.first_chunk::<20>() else { return Err(Malformed::BadTransportHeader) };
            let offset = usize::from(tcp[12] >> 4) * 4;
            if offset < 20 || offset > payload.len() {
                return Err(Malformed::BadTransportHeader);
            }
            (headers.source_port, headers.destination_port) = (word(tcp, 0), word(tcp, 2));
            // The lower 12 bits of the 13th and 14th octet without the data offset (RFC 9293 section 3.1).
            headers.packet.tcp_flags = word(tcp, 12) & 0x0fff;
            (headers.packet.sequence, headers.packet.acknowledgement) = (quad(tcp, 4), quad(tcp, 8));
            headers.packet.window = word(tcp, 14);
            if offset > 20 {
                headers.packet.timestamps = timestamps(&payload[20..offset]);
            }
            headers.packet.data = (payload.len() - offset) as u16;
        }
        UDP => {
            let Some(udp) = payload.first_chunk::<8>() else { return Err(Malformed::BadTransportHeader) };
            let length = usize::from(word(udp, 4));
            if length < 8 || length > payload.len() {
                return Err(Malformed::BadTransportHeader);
            }
            (headers.source_port, headers.destination_port) = (word(udp, 0), word(udp, 2));
            headers.packet.data = (length - 8) as u16;
        }
        ICMP => {
            let Some(icmp) = payload.first_chunk::<8>() else { return Err(Malformed::BadTransportHeader) };
            headers.packet.icmp = [icmp[0], icmp[1]];
            headers.echo_id = word(icmp, 4);
            headers.packet.data = (payload.len() - 8) as u16;
        }
        _ => {}
    }
    Ok(())
}

/// The timestamps among the options of TCP. Options are the guests' own business, so those that make no sense are only not
/// read.
fn timestamps(mut options: &[u8]) -> Option<Timestamps> {
    loop {
        match *options {
            // As nearly all systems lay them out, two octets that align them and this (RFC 7323 appendix A), and in a SYN.
            [TIMESTAMPS, 10, a, b, c, d, e, f, g, h, ..] => {
                return Some(Timestamps {
                    value: u32::from_be_bytes([a, b, c, d]),
                    echo: u32::from_be_bytes([e, f, g, h]),
                });
            }
            [1, ref rest @ ..] => options = rest,
            [0, ..] | [] | [_] => return None,
            [_, length, ..] => options = options.get(usize::from(length).max(2)..)?,
        }
    }
}

/// The packet that an ICMP error of these headers is about: RFC 792 promises its header and 8 octets more. `frame` is the
/// one that the headers were read from. Lengths and checksum of what is quoted are not trusted, so not read.
pub(crate) fn quoted(frame: &[u8], error: &Headers) -> Option<Headers> {
    let packet = frame.get(error.transport() + 8..error.frame_length())?;
    let fixed = packet.first_chunk::<20>()?;
    let mut headers = read_fixed(fixed);
    if fixed[0] >> 4 != 4 || headers.header_length < 20 || headers.fragment {
        return None;
    }
    let start = packet.get(usize::from(headers.header_length)..)?.first_chunk::<8>()?;
    match headers.protocol {
        TCP | UDP => (headers.source_port, headers.destination_port) = (word(start, 0), word(start, 2)),
        ICMP => (headers.packet.icmp, headers.echo_id) = ([start[0], start[1]], word(start, 4)),
        _ => {}
    }
    Some(headers)
}

#[inline]
pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Four octets: an address, or a sequence number.
#[inline]
fn quad(bytes: &[u8; 20], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The Internet checksum of an even number of octets (RFC 1071): 0 when the header that it is in is whole.
#[inline]
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    // Two words at once: what is carried beyond 16 bits is added to the lowest ones at the end.
    let (quads, rest) = bytes.as_chunks::<4>();
    let last = rest.first_chunk().map_or(0, |pair| u64::from(u16::from_be_bytes(*pair)));
    let sum = quads.iter().fold(last, |sum, quad| sum + u64::from(u32::from_be_bytes(*quad)));
    let folded = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let folded = (folded & 0xffff) + (folded >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
