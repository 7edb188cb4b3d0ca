//! How the values of a record stand on the wire: one writer and one reader for each kind.
//!
//! Owns the conversions that the table of elements ([`super::elements`]) names; sizes and byte order of plain numbers,
//! ids and times are in [`super::wire`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use lucarne_model::{
    ConnState, EndReason, FlowRecord, History, Moment, SecurityGroupId,
    flow::{Direction, Location, Path, Side, Verdict},
};

use super::{
    elements::{SECURITY_GROUP_ID, Sender},
    encode::MAX_GROUPS,
    wire::{BadValue, ENTERPRISE_BIT, ID_LENGTH, Reader, id, put_id, put_length},
};
use crate::columns::{AddressOctets, address_octets};

/// The groups of a basicList; none when it is a list of something else.
pub(super) fn group_list(value: &[u8]) -> Result<Option<Vec<SecurityGroupId>>, BadValue> {
    let mut list = Reader(value);
    let mut head = || Some((list.u8().ok()?, list.u16().ok()?, list.u16().ok()?));
    let (_semantic, number, length) = head().ok_or(BadValue)?;
    let enterprise = if number & ENTERPRISE_BIT == 0 { None } else { Some(list.u32().map_err(|_| BadValue)?) };
    let inner = SECURITY_GROUP_ID;
    if (number & !ENTERPRISE_BIT, enterprise) != (inner.number, inner.enterprise) {
        return Ok(None);
    }
    let mut groups = Vec::new();
    while list.left() > 0 {
        let bits = list.value(length).map_err(|_| BadValue).and_then(id)?;
        groups.push(SecurityGroupId::from_bits(bits));
    }
    Ok(Some(groups))
}

pub(super) fn put_optional_id(bits: Option<u128>, out: &mut Vec<u8>) {
    match bits {
        Some(bits) => {
            put_length(usize::from(ID_LENGTH), out);
            put_id(bits, out);
        }
        None => put_length(0, out),
    }
}

pub(super) fn optional_id(value: &[u8]) -> Result<Option<u128>, BadValue> {
    if value.is_empty() { Ok(None) } else { id(value).map(Some) }
}

pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_length(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn put_history(history: History, out: &mut Vec<u8>) {
    let length = out.len();
    out.push(0);
    out.extend(history.letters());
    out[length] = (out.len() - length - 1) as u8; // at most `History::MAX`
}

pub(super) fn text(value: &[u8]) -> Result<&str, BadValue> {
    std::str::from_utf8(value).map_err(|_| BadValue)
}

pub(super) fn location(value: &[u8]) -> Result<Location, BadValue> {
    text(value)?.parse().map_err(|_| BadValue)
}

pub(super) fn put_uptime(moment: Moment, sender: &Sender, out: &mut Vec<u8>) {
    let uptime = moment.as_millis().wrapping_sub(sender.init.as_millis());
    out.extend_from_slice(&(uptime as u32).to_be_bytes());
}

/// The number of a set of groups in the dictionary: a hash (FNV-1a) of the ids, so that a set has the same one at every
/// host and after every restart.
pub fn group_set_id(groups: &[SecurityGroupId]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let groups = &groups[..groups.len().min(MAX_GROUPS)];
    if groups.is_empty() {
        return 0;
    }
    let bytes = groups.iter().flat_map(|group| group.bits().to_be_bytes());
    bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME)).max(1)
}

/// What each octet stands for, if for anything.
pub(super) type Words<T> = LazyLock<[Option<T>; 256]>;

pub(super) static VERDICTS: Words<Verdict> = LazyLock::new(|| words([(0, Verdict::Accept), (1, Verdict::Reject)]));
pub(super) static DIRECTIONS: Words<Direction> =
    LazyLock::new(|| words([(0, Direction::Ingress), (1, Direction::Egress)]));
pub(super) static SIDES: Words<Side> = LazyLock::new(|| words([(1, Side::Initiator), (2, Side::Responder)]));
pub(super) static PATHS: Words<Path> = LazyLock::new(|| words(Path::ALL.map(|path| (path.code(), path))));
pub(super) static END_REASONS: Words<EndReason> =
    LazyLock::new(|| words(EndReason::ALL.iter().map(|reason| (reason.code(), *reason))));
pub(super) static CONN_STATES: Words<ConnState> =
    LazyLock::new(|| words(ConnState::ALL.iter().map(|state| (state.code(), *state))));

fn words<T: Copy>(known: impl IntoIterator<Item = (u8, T)>) -> [Option<T>; 256] {
    let mut words = [None; 256];
    known.into_iter().for_each(|(code, word)| words[usize::from(code)] = Some(word));
    words
}

pub(super) fn put_source_prefix(record: &FlowRecord, _: &Sender, out: &mut Vec<u8>) {
    out.push(record.source_prefix_length.unwrap_or(0));
}
pub(super) fn put_destination_prefix(record: &FlowRecord, _: &Sender, out: &mut Vec<u8>) {
    out.push(record.destination_prefix_length.unwrap_or(0));
}

pub(super) const NO_HOP: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
pub(super) const NO_HOP_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// A next hop; one that is unspecified is none.
pub(super) fn hop(octets: AddressOctets) -> AddressOctets {
    const UNSPECIFIED: AddressOctets = address_octets(NO_HOP);
    if octets == UNSPECIFIED { [0; 16] } else { octets }
}

/// Only asked for records of two IPv4 addresses; see [`super::encode`].
pub(super) fn put_ipv4(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(_) => out.extend_from_slice(&[0; 4]),
    }
}

pub(super) fn put_ipv6(address: IpAddr, out: &mut Vec<u8>) {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    out.extend_from_slice(&v6.octets());
}

/// Addresses as columns have them.
pub(super) fn ipv4(octets: [u8; 4]) -> AddressOctets {
    address_octets(IpAddr::V4(octets.into()))
}

pub(super) const fn ipv6(octets: [u8; 16]) -> AddressOctets {
    octets
}

pub(super) fn put_icmp_type(record: &FlowRecord, _: &Sender, out: &mut Vec<u8>) {
    out.push(record.icmp_type.unwrap_or(0));
}
pub(super) fn put_icmp_code(record: &FlowRecord, _: &Sender, out: &mut Vec<u8>) {
    out.push(record.icmp_code.unwrap_or(0));
}
pub(super) fn put_icmp_type_and_code(record: &FlowRecord, sender: &Sender, out: &mut Vec<u8>) {
    put_icmp_type(record, sender, out);
    put_icmp_code(record, sender, out);
}
