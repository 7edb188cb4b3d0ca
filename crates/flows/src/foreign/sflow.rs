//! sFlow v5: samples of packets, each as a record that stands for as many packets as were passed over.
//!
//! Owns the walk through samples and the look into a sampled packet's headers. Counter samples are no flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lucarne_model::Moment;

use super::{ForeignError, ForeignRecord, Passed, number};
use crate::ipfix::wire::{Reader, Truncated};

const FLOW_SAMPLE: u32 = 1;
const EXPANDED_FLOW_SAMPLE: u32 = 3;
const RAW_HEADER: u32 = 1;
const SAMPLED_IPV4: u32 = 3;
const SAMPLED_IPV6: u32 = 4;

/// After the version.
pub(super) fn decode(
    exporter: IpAddr,
    mut reader: Reader<'_>,
    now: Moment,
    emit: &mut impl FnMut(ForeignRecord),
) -> Result<Passed, ForeignError> {
    let agent = if reader.u32()? == 1 { 4 } else { 16 };
    let _agent = reader.take(agent)?;
    let domain = reader.u32()?;
    let (_sequence, _uptime, samples) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let mut passed = Passed::default();
    for _ in 0..samples {
        let (kind, length) = (reader.u32()?, reader.u32()?);
        let body = Reader(reader.take(usize::try_from(length).map_err(|_| ForeignError::Truncated)?)?);
        let empty = ForeignRecord::empty(exporter, domain, now);
        let record = match kind {
            FLOW_SAMPLE => flow_sample(body, false, empty)?,
            EXPANDED_FLOW_SAMPLE => flow_sample(body, true, empty)?,
            _ => None,
        };
        match record {
            Some(record) => emit(record),
            None => passed.no_flows += 1,
        }
    }
    Ok(passed)
}

/// The sampled packet, if it is one of IP.
fn flow_sample(
    mut body: Reader<'_>,
    is_expanded: bool,
    mut record: ForeignRecord,
) -> Result<Option<ForeignRecord>, Truncated> {
    let _sequence = body.u32()?;
    let _source = body.take(if is_expanded { 8 } else { 4 })?;
    let rate = body.u32()?;
    let (_pool, _drops) = (body.u32()?, body.u32()?);
    (record.ingress_interface, record.egress_interface) =
        (port(&mut body, is_expanded)?, port(&mut body, is_expanded)?);
    let records = body.u32()?;
    let mut is_found = false;
    for _ in 0..records {
        let (kind, length) = (body.u32()?, body.u32()?);
        let mut data = Reader(body.take(usize::try_from(length).map_err(|_| Truncated)?)?);
        let bytes = match kind {
            RAW_HEADER => raw_header(&mut data, &mut record)?,
            SAMPLED_IPV4 | SAMPLED_IPV6 if !is_found => Some(sampled_ip(&mut data, kind == SAMPLED_IPV6, &mut record)?),
            _ => None,
        };
        if let Some(bytes) = bytes {
            is_found = true;
            (record.packets, record.bytes) = (1, u64::from(bytes));
        }
    }
    Ok(is_found.then(|| record.scaled(rate)))
}

/// An interface's index; 0 where the packet was dropped, sent to several or is of the switch itself.
fn port(body: &mut Reader<'_>, is_expanded: bool) -> Result<u32, Truncated> {
    let (format, value) = if is_expanded {
        (body.u32()?, body.u32()?)
    } else {
        let both = body.u32()?;
        (both >> 30, both & 0x3fff_ffff)
    };
    Ok(if format == 0 && value != 0x3fff_ffff { value } else { 0 })
}

/// Octets of the packet whose first octets these are; none when it is not of IP.
fn raw_header(data: &mut Reader<'_>, record: &mut ForeignRecord) -> Result<Option<u32>, Truncated> {
    let (protocol, frame, stripped, length) = (data.u32()?, data.u32()?, data.u32()?, data.u32()?);
    let mut header = Reader(data.take(usize::try_from(length).map_err(|_| Truncated)?)?);
    let (kind, link) = match protocol {
        1 => match ethernet(&mut header) {
            Ok(found) => found,
            Err(Truncated) => return Ok(None),
        },
        11 => (0x0800, 0),
        12 => (0x86dd, 0),
        _ => return Ok(None),
    };
    let packet = match kind {
        0x0800 => ipv4(&mut header, record),
        0x86dd => ipv6(&mut header, record),
        _ => return Ok(None),
    };
    // The sampled octets may break off within the headers; what stands before is known then.
    // A frame's length counts its check sequence, which is no part of the packet and among what was stripped.
    Ok(packet.is_ok().then_some(frame.saturating_sub(stripped).saturating_sub(link)))
}

/// The type behind the addresses and VLAN tags, and the octets up to there.
fn ethernet(header: &mut Reader<'_>) -> Result<(u16, u32), Truncated> {
    let _addresses = header.take(12)?;
    let mut octets = 14;
    let mut kind = header.u16()?;
    while matches!(kind, 0x8100 | 0x88a8) {
        let _tag = header.u16()?;
        kind = header.u16()?;
        octets += 4;
    }
    Ok((kind, octets))
}

fn ipv4(header: &mut Reader<'_>, record: &mut ForeignRecord) -> Result<(), Truncated> {
    let length = usize::from(header.u8()? & 0xf) * 4;
    record.tos = header.u8()?;
    let _length_and_id = header.u32()?;
    let fragment = header.u16()? & 0x1fff;
    let _ttl = header.u8()?;
    record.protocol = header.u8()?;
    let _checksum = header.u16()?;
    record.source = Ipv4Addr::from_bits(header.u32()?).into();
    record.destination = Ipv4Addr::from_bits(header.u32()?).into();
    if fragment == 0 && header.take(length.saturating_sub(20)).is_ok() {
        ports(header, record);
    }
    Ok(())
}

fn ipv6(header: &mut Reader<'_>, record: &mut ForeignRecord) -> Result<(), Truncated> {
    record.tos = (header.u32()? >> 20) as u8;
    let _length = header.u16()?;
    record.protocol = header.u8()?;
    let _hops = header.u8()?;
    record.source = address6(header)?;
    record.destination = address6(header)?;
    ports(header, record);
    Ok(())
}

fn address6(reader: &mut Reader<'_>) -> Result<IpAddr, Truncated> {
    let octets = <[u8; 16]>::try_from(reader.take(16)?).map_err(|_| Truncated)?;
    Ok(Ipv6Addr::from(octets).into())
}

/// As far as the sampled octets go.
fn ports(header: &mut Reader<'_>, record: &mut ForeignRecord) {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    if !matches!(record.protocol, TCP | UDP) {
        return;
    }
    if let (Ok(source), Ok(destination)) = (header.u16(), header.u16()) {
        (record.source_port, record.destination_port) = (source, destination);
    }
    if record.protocol == TCP
        && let Ok(rest) = header.take(10)
    {
        record.tcp_flags = number(&rest[8..]) as u16 & 0x0fff;
    }
}

/// What the exporter has read of the packet's header itself; gives the packet's octets.
fn sampled_ip(data: &mut Reader<'_>, is_v6: bool, record: &mut ForeignRecord) -> Result<u32, Truncated> {
    let length = data.u32()?;
    record.protocol = data.u32()? as u8;
    (record.source, record.destination) = if is_v6 {
        (address6(data)?, address6(data)?)
    } else {
        (Ipv4Addr::from_bits(data.u32()?).into(), Ipv4Addr::from_bits(data.u32()?).into())
    };
    (record.source_port, record.destination_port) = (data.u32()? as u16, data.u32()? as u16);
    (record.tcp_flags, record.tos) = (data.u32()? as u16, data.u32()? as u8);
    Ok(length)
}
