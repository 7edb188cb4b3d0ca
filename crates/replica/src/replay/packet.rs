//! What a frame carries, as far as sessions are made of it.
//!
//! Owns the reading of IPv4, TCP and UDP, and the writing of datagrams and of packets with other addresses. Segments that are
//! played are written by [`TcpClient`](super::tcp_client::TcpClient)'s stack.

use std::net::{Ipv4Addr, SocketAddrV4};

use lucarne_model::MacAddress;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket, UdpPacket, UdpRepr},
};

const LINK_HEADER: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const HOP_LIMIT: u8 = 64;
/// Type and code.
const PORT_UNREACHABLE: [u8; 2] = [3, 3];
const ICMP_HEADER: usize = 8;
/// DCCP and UDP-Lite: their checksums count addresses, so that they cannot be played from others.
const COUNTS_ADDRESSES: [u8; 2] = [33, 136];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    /// None with ports.
    Other(u8),
}

/// A packet of IPv4.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    /// Port 0 where there are none.
    pub(crate) source: SocketAddrV4,
    pub(crate) destination: SocketAddrV4,
    pub(crate) content: Content<'a>,
    /// All of it, without the link's header.
    pub(crate) octets: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'a> {
    Tcp(Segment<'a>),
    Udp(&'a [u8]),
    Other(u8),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) sequence: u32,
    pub(crate) acknowledged: Option<u32>,
    pub(crate) opens: bool,
    pub(crate) ends: bool,
    pub(crate) resets: bool,
    pub(crate) octets: &'a [u8],
}

impl Packet<'_> {
    pub(crate) const fn protocol(&self) -> Protocol {
        match self.content {
            Content::Tcp(_) => Protocol::Tcp,
            Content::Udp(_) => Protocol::Udp,
            Content::Other(number) => Protocol::Other(number),
        }
    }
}

/// None: it holds no whole packet of IPv4, or a fragment of one, or one that cannot be played.
pub(crate) fn parse(frame: &[u8]) -> Option<Packet<'_>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let all = &frame[LINK_HEADER..];
    let ip = Ipv4Packet::new_checked(all).ok()?;
    if ip.version() != 4 || ip.more_frags() || ip.frag_offset() != 0 {
        return None;
    }
    let octets = &all[..usize::from(ip.total_len())];
    let inner = octets.get(usize::from(ip.header_len())..)?;
    let (ports, content) = match ip.next_header() {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(inner).ok()?;
            let segment = Segment {
                sequence: tcp.seq_number().0 as u32,
                acknowledged: tcp.ack().then(|| tcp.ack_number().0 as u32),
                opens: tcp.syn(),
                ends: tcp.fin(),
                resets: tcp.rst(),
                octets: &inner[usize::from(tcp.header_len())..],
            };
            ((tcp.src_port(), tcp.dst_port()), Content::Tcp(segment))
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(inner).ok()?;
            let content = inner.get(8..usize::from(udp.len()))?;
            ((udp.src_port(), udp.dst_port()), Content::Udp(content))
        }
        other if COUNTS_ADDRESSES.contains(&other.into()) => return None,
        other => ((0, 0), Content::Other(other.into())),
    };
    let source = SocketAddrV4::new(ip.src_addr(), ports.0);
    let destination = SocketAddrV4::new(ip.dst_addr(), ports.1);
    Some(Packet { source, destination, content, octets })
}

/// A packet as a frame from the player to the router.
pub(crate) fn frame(from: MacAddress, packet: &[u8]) -> Vec<u8> {
    [&MacAddress::ROUTER.0[..], &from.0, &IPV4, packet].concat()
}

/// A datagram of UDP as a packet.
pub(crate) fn datagram(from: SocketAddrV4, to: SocketAddrV4, content: &[u8]) -> Vec<u8> {
    let udp = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let length = udp.header_len() + content.len();
    let ip = Ipv4Repr {
        src_addr: *from.ip(),
        dst_addr: *to.ip(),
        next_header: IpProtocol::Udp,
        payload_len: length,
        hop_limit: HOP_LIMIT,
    };
    let checksums = ChecksumCapabilities::default();
    let mut octets = vec![0; ip.buffer_len() + length];
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut octets[..]), &checksums);
    let mut inner = UdpPacket::new_unchecked(&mut octets[ip.buffer_len()..]);
    let fill = |room: &mut [u8]| room.copy_from_slice(content);
    udp.emit(&mut inner, &ip.src_addr.into(), &ip.dst_addr.into(), content.len(), fill, &checksums);
    octets
}

/// The end of a datagram to `server` of which its host says that nobody listens there (RFC 792): the message holds how it began.
pub(crate) fn refused_datagram(packet: &Packet<'_>, server: SocketAddrV4) -> Option<SocketAddrV4> {
    let ip = Ipv4Packet::new_checked(packet.octets).ok()?;
    let message = ip.payload();
    if ip.next_header() != IpProtocol::Icmp || !message.starts_with(&PORT_UNREACHABLE) {
        return None;
    }
    // The datagram in it is cut, so that its header alone is read.
    let began = message.get(ICMP_HEADER..)?;
    let length = usize::from(began.first()? & 0x0f) * 4;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(began.get(at..at + 4)?).ok()?));
    let port = |at: usize| Some(u16::from_be_bytes(began.get(length + at..length + at + 2)?.try_into().ok()?));
    let sent = [SocketAddrV4::new(address(12)?, port(0)?), SocketAddrV4::new(address(16)?, port(2)?)];
    let is_ours =
        *began.get(9)? == u8::from(IpProtocol::Udp) && sent[1] == server && *packet.source.ip() == *server.ip();
    is_ours.then_some(sent[0])
}

/// The same packet with other addresses, which its content's checksum does not count.
pub(crate) fn readdressed(packet: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut octets = packet.to_vec();
    let mut ip = Ipv4Packet::new_unchecked(&mut octets[..]);
    ip.set_src_addr(from);
    ip.set_dst_addr(to);
    ip.fill_checksum();
    octets
}
