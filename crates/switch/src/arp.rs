//! ARP (RFC 826) as the switch speaks it: it answers for every address that a guest may reach on its link, and carries
//! none on, so that no guest can speak for another.
//!
//! Owns reading a request and writing the reply. Which addresses have which MAC is the fabric's knowledge.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::parse::{ETHERNET, word};

const LENGTH: usize = 28;
/// Ethernet, IPv4, six and four octets.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// A question who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) sender_mac: [u8; 6],
    /// In host order; zero when the guest only looks whether an address is taken (RFC 5227).
    pub(crate) sender: u32,
    pub(crate) target: u32,
}

/// A reply, as a whole frame.
pub(crate) type Reply = [u8; ETHERNET + LENGTH];

/// The request in a frame, if it is one.
pub(crate) fn request(frame: &[u8]) -> Option<Request> {
    let arp = frame.get(ETHERNET..)?.first_chunk::<LENGTH>()?;
    if arp[..6] != KIND || word(arp, 6) != REQUEST {
        return None;
    }
    let address = |at: usize| u32::from_be_bytes([arp[at], arp[at + 1], arp[at + 2], arp[at + 3]]);
    let mut sender_mac = [0; 6];
    sender_mac.copy_from_slice(&arp[8..14]);
    Some(Request { sender_mac, sender: address(14), target: address(24) })
}

/// Says that `mac` has the address that was asked for.
pub(crate) fn reply(request: &Request, mac: [u8; 6]) -> Reply {
    let mut frame = [0; ETHERNET + LENGTH];
    let fields: [&[u8]; 9] = [
        &request.sender_mac,
        &mac,
        &[0x08, 0x06],
        &KIND,
        &REPLY.to_be_bytes(),
        &mac,
        &request.target.to_be_bytes(),
        &request.sender_mac,
        &request.sender.to_be_bytes(),
    ];
    let mut at = 0;
    for field in fields {
        frame[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    frame
}
