//! What other exporters send: NetFlow v5 and v9, IPFIX and sFlow v5 of routers, as records of one simple shape.
//!
//! Owns the decoding and all that is remembered for it: templates, each compiled to a plan of which octets go where
//! ([`plan`]), kept for each exporter and domain within bounds ([`templates`]), and rates of sampling ([`sampling`]). What a datagram says is believed of nobody
//! but its sender. Unlike [`crate::ipfix`] nothing here is required: fields that are not known are passed over, sets without
//! a template are counted and passed over, and a datagram that breaks off gives the records before the break. Pure.

mod plan;
mod sampling;
mod sets;
mod sflow;
mod templates;
#[cfg(test)]
mod tests;
mod v5;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use lucarne_model::Moment;

use crate::ipfix::wire::{Reader, Truncated};
use sampling::Rates;
use templates::Templates;

/// One flow as another exporter saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRecord {
    /// Who sent the datagram.
    pub exporter: IpAddr,
    /// The observation domain, source id, engine or sub-agent.
    pub domain: u32,
    pub start: Moment,
    pub end: Moment,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// 0 where the protocol has no ports.
    pub source_port: u16,
    pub destination_port: u16,
    /// The IANA protocol number.
    pub protocol: u8,
    pub tos: u8,
    /// The union of the TCP flags.
    pub tcp_flags: u16,
    /// As the exporter counted, multiplied by the sampling rate.
    pub packets: u64,
    pub bytes: u64,
    /// SNMP's indices at the exporter; 0 where it does not know.
    pub ingress_interface: u32,
    pub egress_interface: u32,
    /// Packets that each counted one stands for; 1 where all were counted or nothing is said of it.
    pub sampling_rate: u32,
}

impl ForeignRecord {
    fn empty(exporter: IpAddr, domain: u32, at: Moment) -> Self {
        let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            exporter,
            domain,
            start: at,
            end: at,
            source: nowhere,
            destination: nowhere,
            source_port: 0,
            destination_port: 0,
            protocol: 0,
            tos: 0,
            tcp_flags: 0,
            packets: 0,
            bytes: 0,
            ingress_interface: 0,
            egress_interface: 0,
            sampling_rate: 1,
        }
    }

    /// With the counts of all packets, of which one in `rate` was counted.
    fn scaled(mut self, rate: u32) -> Self {
        self.sampling_rate = rate;
        self.packets = self.packets.saturating_mul(rate.into());
        self.bytes = self.bytes.saturating_mul(rate.into());
        self
    }
}

/// Why a datagram, or its rest, was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignError {
    #[error("it is neither NetFlow v5 or v9 nor IPFIX nor sFlow v5")]
    Version,
    #[error("it breaks off, or says that it is longer than it is")]
    Truncated,
    #[error("a template has no fields, too many, or a record of no length")]
    Template,
}

impl From<Truncated> for ForeignError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// What a datagram gave beside records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Sets of data whose template is not known (yet).
    pub without_template: u64,
    /// Records that are no flows: options, counters, records without both addresses.
    pub no_flows: u64,
}

/// All exporters and what is remembered of each.
#[derive(Debug, Default)]
pub struct Decoder {
    exporters: HashMap<IpAddr, Remembered>,
    /// Grows by one with each datagram: who was silent longest has the lowest.
    datagrams: u64,
}

#[derive(Debug, Default)]
struct Remembered {
    templates: Templates,
    rates: Rates,
    heard: u64,
}

impl Decoder {
    /// Exporters that are remembered; beyond it the one that was silent longest is forgotten.
    pub const MOST_EXPORTERS: usize = 1024;

    /// Decodes a datagram that came from `exporter` at `now`, and gives each record to `emit`. After an error the records
    /// before it have been given.
    pub fn decode(
        &mut self,
        exporter: IpAddr,
        datagram: &[u8],
        now: Moment,
        emit: &mut impl FnMut(ForeignRecord),
    ) -> Result<Passed, ForeignError> {
        let mut reader = Reader(datagram);
        match reader.u16()? {
            5 => v5::decode(exporter, reader, emit),
            9 => sets::decode_v9(exporter, reader, self.remembered(exporter), emit),
            10 => sets::decode_ipfix(exporter, reader, self.remembered(exporter), emit),
            // The version of sFlow is a number of 32 bits.
            0 if reader.u16()? == 5 => sflow::decode(exporter, reader, now, emit),
            _ => Err(ForeignError::Version),
        }
    }

    fn remembered(&mut self, exporter: IpAddr) -> &mut Remembered {
        self.datagrams += 1;
        if !self.exporters.contains_key(&exporter) && self.exporters.len() >= Self::MOST_EXPORTERS {
            let silent = self.exporters.iter().min_by_key(|(_, remembered)| remembered.heard);
            if let Some(silent) = silent.map(|(exporter, _)| *exporter) {
                self.exporters.remove(&silent);
            }
        }
        let remembered = self.exporters.entry(exporter).or_default();
        remembered.heard = self.datagrams;
        remembered
    }
}

/// An unsigned number of 1 to 8 octets; 0 of none, and of more than 8 the last.
fn number(octets: &[u8]) -> u64 {
    octets.iter().fold(0, |number, octet| number << 8 | u64::from(*octet))
}
