//! NetFlow v5: a header and up to 30 records of 48 octets.

use std::net::{IpAddr, Ipv4Addr};

use lucarne_model::Moment;

use super::{ForeignError, ForeignRecord, Passed};
use crate::ipfix::wire::{Reader, Truncated};

/// After the version.
pub(super) fn decode(
    exporter: IpAddr,
    mut reader: Reader<'_>,
    emit: &mut impl FnMut(ForeignRecord),
) -> Result<Passed, ForeignError> {
    let count = reader.u16()?;
    let (uptime, seconds, nanos) = (u64::from(reader.u32()?), u64::from(reader.u32()?), u64::from(reader.u32()?));
    let _sequence = reader.u32()?;
    let engine = u32::from(reader.u16()?);
    // Two bits of how, then one of how many; 0 where all are counted.
    let sampling_rate = u32::from(reader.u16()? & 0x3fff).max(1);
    let boot = (seconds * 1000 + nanos / 1_000_000).saturating_sub(uptime);
    for _ in 0..count {
        emit(read(exporter, engine, boot, &mut reader)?.scaled(sampling_rate));
    }
    Ok(Passed::default())
}

fn read(exporter: IpAddr, engine: u32, boot: u64, reader: &mut Reader<'_>) -> Result<ForeignRecord, Truncated> {
    let source = IpAddr::V4(Ipv4Addr::from_bits(reader.u32()?));
    let destination = IpAddr::V4(Ipv4Addr::from_bits(reader.u32()?));
    let _next_hop = reader.u32()?;
    let (ingress_interface, egress_interface) = (u32::from(reader.u16()?), u32::from(reader.u16()?));
    let (packets, bytes) = (u64::from(reader.u32()?), u64::from(reader.u32()?));
    let at = |uptime: u32| Moment((boot + u64::from(uptime)) * 1000);
    let (start, end) = (at(reader.u32()?), at(reader.u32()?));
    let (source_port, destination_port) = (reader.u16()?, reader.u16()?);
    let _padding = reader.u8()?;
    let (tcp_flags, protocol, tos) = (u16::from(reader.u8()?), reader.u8()?, reader.u8()?);
    // Autonomous systems, prefix lengths, padding.
    let _rest = reader.take(8)?;
    Ok(ForeignRecord {
        exporter,
        domain: engine,
        start: start.min(end),
        end,
        source,
        destination,
        source_port,
        destination_port,
        protocol,
        tos,
        tcp_flags,
        packets,
        bytes,
        ingress_interface,
        egress_interface,
        sampling_rate: 1,
    })
}
