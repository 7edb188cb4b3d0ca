//! Geneve (RFC 8926): how a tenant's Ethernet frame and its network identifier are written between two hosts.
//!
//! Owns the layout: inner IPv4 and UDP headers (WireGuard carries IP packets only), the Geneve header, the frame. What switches
//! say to each other about a network goes the same way, as a control packet, and so keeps its place among the frames. Who may
//! send what is not decided here: the packet comes out of a [`Tunnel`](crate::tunnel::Tunnel), whose keys say which host
//! wrote it, so the inner addresses and checksums carry no authority and are not compared with anything.
//!
//! ```text
//!  0            20         28         36                     octets
//!  | IPv4       | UDP 6081 | Geneve   | Ethernet frame ...
//! ```
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::Ipv4Addr;

/// The UDP port of Geneve (RFC 8926, section 3.3).
pub const PORT: u16 = 6081;
/// What stands before the frame, in octets.
pub const OVERHEAD: usize = IPV4 + UDP + GENEVE;
/// The longest frame that one packet carries.
pub const MAX_FRAME: usize = u16::MAX as usize - OVERHEAD;

const IPV4: usize = 20;
const UDP: usize = 8;
const GENEVE: usize = 8;
const PROTOCOL_UDP: u8 = 17;
/// Transparent Ethernet bridging: the payload is a frame.
const ETHERNET: u16 = 0x6558;
/// In control packets: one of the numbers that IEEE 802 leaves to whoever wants one (802 section 9.2.4), here for our words.
const WORD: u16 = 0x88b5;
const VNI_LIMIT: u32 = 1 << 24;
/// In the second octet of the header: a control packet, and "there are options that must be understood".
const CONTROL: u8 = 0x80;
const CRITICAL: u8 = 0x40;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A tenant's.
    Frame,
    /// From one switch to the other.
    Word,
}

/// Why a packet is not one of ours, or a frame cannot become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GeneveError {
    #[error("the network identifier {0} does not fit in 24 bits")]
    Vni(u32),
    #[error("a frame of {0} octets does not fit in one packet")]
    TooLong(usize),
    #[error("the packet ends inside its headers")]
    Truncated,
    #[error("the packet is not whole IPv4 and UDP to port {PORT}")]
    Envelope,
    #[error("Geneve version {0} is not known")]
    Version(u8),
    #[error("control packets carry {WORD:#06x} between hosts and not {0:#06x}")]
    Control(u16),
    #[error("the packet has critical options and this host knows none")]
    CriticalOption,
    #[error("the payload's protocol is {0:#06x} and not Ethernet")]
    Protocol(u16),
}

/// Writes `frame`, or a word, about the network `vni` into `into`, which is cleared first. The addresses are those of the two
/// hosts.
pub fn encapsulate(
    (local, remote): (Ipv4Addr, Ipv4Addr),
    content: Content,
    vni: u32,
    frame: &[u8],
    into: &mut Vec<u8>,
) -> Result<(), GeneveError> {
    if vni >= VNI_LIMIT {
        return Err(GeneveError::Vni(vni));
    }
    if frame.len() > MAX_FRAME {
        return Err(GeneveError::TooLong(frame.len()));
    }
    let total = ((OVERHEAD + frame.len()) as u16).to_be_bytes();
    let datagram = ((UDP + GENEVE + frame.len()) as u16).to_be_bytes();
    let port = PORT.to_be_bytes();
    let [_, v0, v1, v2] = vni.to_be_bytes();
    let mut ip = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, PROTOCOL_UDP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[12..16].copy_from_slice(&local.octets());
    ip[16..20].copy_from_slice(&remote.octets());
    let sum = header_checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);

    into.clear();
    into.extend_from_slice(&ip);
    // The UDP checksum is zero, as RFC 8926 section 3.3 allows: WireGuard's tag covers every octet.
    into.extend_from_slice(&[port[0], port[1], port[0], port[1], datagram[0], datagram[1], 0, 0]);
    let (flags, protocol) = match content {
        Content::Frame => (0, ETHERNET.to_be_bytes()),
        Content::Word => (CONTROL, WORD.to_be_bytes()),
    };
    into.extend_from_slice(&[0, flags, protocol[0], protocol[1], v0, v1, v2, 0]);
    into.extend_from_slice(frame);
    Ok(())
}

/// What `packet` carries, its network identifier, and the frame or word. Options that are not critical are skipped.
pub fn decapsulate(packet: &[u8]) -> Result<(Content, u32, &[u8]), GeneveError> {
    let datagram = ipv4_payload(packet)?;
    let (udp, rest) = datagram.split_at_checked(UDP).ok_or(GeneveError::Truncated)?;
    let length = usize::from(be16(udp, 4));
    if be16(udp, 2) != PORT || length < UDP || length > datagram.len() {
        return Err(GeneveError::Envelope);
    }
    let (header, rest) = rest[..length - UDP].split_at_checked(GENEVE).ok_or(GeneveError::Truncated)?;
    if header[0] >> 6 != 0 {
        return Err(GeneveError::Version(header[0] >> 6));
    }
    if header[1] & CRITICAL != 0 {
        return Err(GeneveError::CriticalOption);
    }
    let protocol = be16(header, 2);
    let content = match (header[1] & CONTROL != 0, protocol) {
        (false, ETHERNET) => Content::Frame,
        (true, WORD) => Content::Word,
        (false, other) => return Err(GeneveError::Protocol(other)),
        (true, other) => return Err(GeneveError::Control(other)),
    };
    let options = usize::from(header[0] & 0x3f) * 4;
    let frame = rest.get(options..).ok_or(GeneveError::Truncated)?;
    Ok((content, u32::from_be_bytes([0, header[4], header[5], header[6]]), frame))
}

/// The payload of a whole (unfragmented) IPv4 packet of UDP.
fn ipv4_payload(packet: &[u8]) -> Result<&[u8], GeneveError> {
    let header = packet.get(..IPV4).ok_or(GeneveError::Truncated)?;
    let header_length = usize::from(header[0] & 0xf) * 4;
    let total = usize::from(be16(header, 2));
    // More fragments, or an offset.
    let fragment = be16(header, 6) & 0x3fff != 0;
    if header[0] >> 4 != 4 || header_length < IPV4 || header[9] != PROTOCOL_UDP || fragment {
        return Err(GeneveError::Envelope);
    }
    packet.get(header_length..total).ok_or(GeneveError::Truncated)
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The Internet checksum (RFC 1071) of a header whose checksum field is zero.
fn header_checksum(header: &[u8; IPV4]) -> u16 {
    let sum: u32 = header.chunks_exact(2).map(|pair| u32::from(be16(pair, 0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
    const B: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 2);

    fn packet(vni: u32, frame: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        encapsulate((A, B), Content::Frame, vni, frame, &mut packet).unwrap();
        packet
    }

    proptest! {
        #[test]
        fn a_frame_comes_out_as_it_went_in(vni in 0..VNI_LIMIT, frame in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut packet = Vec::new();
            for content in [Content::Frame, Content::Word] {
                encapsulate((A, B), content, vni, &frame, &mut packet).unwrap();
                prop_assert_eq!(decapsulate(&packet), Ok((content, vni, &frame[..])));
            }
        }
        #[test]
        fn no_octets_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decapsulate(&bytes);
        }
        /// Bytes that are nearly right go deeper than arbitrary ones.
        #[test]
        fn no_damage_makes_the_parser_panic(at in 0usize..60, value: u8, cut in 0usize..100) {
            let mut damaged = packet(7, &[0x5a; 40]);
            let at = at % damaged.len();
            damaged[at] = value;
            damaged.truncate(cut);
            let _ = decapsulate(&damaged);
        }
        #[test]
        fn a_packet_that_is_cut_is_refused(cut in 0usize..76) {
            prop_assert!(decapsulate(&packet(7, &[0x5a; 40])[..cut]).is_err());
        }
    }

    #[test]
    fn the_ip_header_sums_to_zero_as_routers_expect() {
        let packet = packet(7, b"frame");
        let sum: u32 = packet[..IPV4].chunks_exact(2).map(|pair| u32::from(be16(pair, 0))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn critical_options_are_refused_and_others_skipped() {
        let mut with_option = packet(7, b"optnframe");
        with_option[28] = 1;
        assert_eq!(decapsulate(&with_option), Ok((Content::Frame, 7, &b"frame"[..])));
        with_option[29] = CRITICAL;
        assert_eq!(decapsulate(&with_option), Err(GeneveError::CriticalOption));
    }

    #[test]
    fn what_is_not_a_data_packet_with_a_frame_is_refused_by_reason() {
        let with = |at: usize, value: u8| {
            let mut packet = packet(7, b"frame");
            packet[at] = value;
            decapsulate(&packet).unwrap_err()
        };
        assert_eq!(with(28, 0x40), GeneveError::Version(1));
        assert_eq!(with(29, CONTROL), GeneveError::Control(ETHERNET));
        assert_eq!(with(30, 0x08), GeneveError::Protocol(0x0858));
        assert_eq!(with(6, 0x20), GeneveError::Envelope, "a fragment");
        assert_eq!(with(23, 0), GeneveError::Envelope, "another port");
        assert_eq!(with(28, 0x3f), GeneveError::Truncated, "options beyond the end");
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let mut into = Vec::new();
        assert_eq!(encapsulate((A, B), Content::Frame, VNI_LIMIT, b"", &mut into), Err(GeneveError::Vni(VNI_LIMIT)));
        let long = vec![0; MAX_FRAME + 1];
        assert_eq!(encapsulate((A, B), Content::Frame, 1, &long, &mut into), Err(GeneveError::TooLong(MAX_FRAME + 1)));
    }
}
