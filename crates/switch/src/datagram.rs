//! A UDP datagram of the virtual router to a guest, as a whole frame.
//!
//! Owns its headers and checksums, written by `smoltcp`. What it says is the business of [`crate::dhcp`], [`crate::dns`] and [`crate::ntp`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::Ipv4Addr;

use lucarne_model::MacAddress;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket,
        UdpRepr,
    },
};

use crate::parse::ETHERNET;

const IPV4: usize = 20;
pub(crate) const UDP_HEADER: usize = 8;

/// From where to where it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram {
    pub(crate) guest: MacAddress,
    pub(crate) source: (Ipv4Addr, u16),
    pub(crate) destination: (Ipv4Addr, u16),
}

impl Datagram {
    /// The frame around `length` octets, which `write` fills in.
    pub(crate) fn frame(&self, length: usize, write: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let ((source, src_port), (destination, dst_port)) = (self.source, self.destination);
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(MacAddress::ROUTER.0),
            dst_addr: EthernetAddress(self.guest.0),
            ethertype: EthernetProtocol::Ipv4,
        };
        let ip = Ipv4Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: IpProtocol::Udp,
            payload_len: UDP_HEADER + length,
            hop_limit: 64,
        };
        let checksums = ChecksumCapabilities::default();
        let mut frame = vec![0; ETHERNET + IPV4 + UDP_HEADER + length];
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame));
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]), &checksums);
        UdpRepr { src_port, dst_port }.emit(
            &mut UdpPacket::new_unchecked(&mut frame[ETHERNET + IPV4..]),
            &source.into(),
            &destination.into(),
            length,
            write,
            &checksums,
        );
        frame
    }
}
