//! A template, compiled: which octets of a record go to which field, in one pass over it.
//!
//! Owns the list of elements that are understood, which NetFlow v9 and IPFIX number alike. Neighbouring fields that are
//! not are one step of skipping.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lucarne_model::Moment;

use super::{
    ForeignError, ForeignRecord, number,
    sampling::{Part, Said},
};
use crate::ipfix::wire::{Reader, Truncated, VARIABLE};

/// Fields of a template, beyond which it is refused.
pub(super) const MOST_FIELDS: usize = 512;

/// A field of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// None for an enterprise's own.
    pub(super) element: Option<u16>,
    /// Octets, or [`VARIABLE`].
    pub(super) length: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// So many octets that mean nothing to us.
    Skip(usize),
    /// A value that says its own length and means nothing to us.
    SkipVariable,
    /// A value of so many octets, or [`VARIABLE`].
    Take(Target, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Bytes,
    Packets,
    Protocol,
    Tos,
    TcpFlags,
    SourcePort,
    DestinationPort,
    Source,
    Destination,
    IngressInterface,
    EgressInterface,
    StartUptime,
    EndUptime,
    StartSeconds,
    EndSeconds,
    StartMillis,
    EndMillis,
    StartNtp,
    EndNtp,
    Boot,
    Sampling(Part),
}

impl Target {
    const fn of(element: u16) -> Option<Self> {
        Some(match element {
            1 | 85 => Self::Bytes,
            2 | 86 => Self::Packets,
            4 => Self::Protocol,
            5 => Self::Tos,
            6 => Self::TcpFlags,
            7 => Self::SourcePort,
            8 | 27 => Self::Source,
            10 => Self::IngressInterface,
            11 => Self::DestinationPort,
            12 | 28 => Self::Destination,
            14 => Self::EgressInterface,
            21 => Self::EndUptime,
            22 => Self::StartUptime,
            150 => Self::StartSeconds,
            151 => Self::EndSeconds,
            152 => Self::StartMillis,
            153 => Self::EndMillis,
            154 | 156 => Self::StartNtp,
            155 | 157 => Self::EndNtp,
            160 => Self::Boot,
            other => match Part::of(other) {
                Some(part) => Self::Sampling(part),
                None => return None,
            },
        })
    }

    const fn is_interface(self) -> bool {
        matches!(self, Self::IngressInterface | Self::EgressInterface)
    }
}

/// How a record is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    steps: Vec<Step>,
    /// Octets of the shortest record; at least 1.
    shortest: usize,
    kind: Kind,
}

/// What the records of a template are to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// They have both addresses: what is without them is no flow.
    Flows,
    /// Options that say how is sampled, for a domain or a selector.
    Sampling,
    /// Other options.
    Options,
    /// Neither.
    Other,
}

impl Kind {
    /// Whether it is what an options template describes.
    pub(super) const fn is_options(self) -> bool {
        matches!(self, Self::Sampling | Self::Options)
    }

    fn of(steps: &[Step], fields: &[Field], is_options: bool) -> Self {
        let has = |is_wanted: fn(Target) -> bool| {
            steps.iter().any(|step| matches!(step, Step::Take(target, _) if is_wanted(*target)))
        };
        let is_narrow =
            || fields.iter().any(|field| field.element.and_then(Target::of).is_some_and(Target::is_interface));
        let has_selector = || has(|target| target == Target::Sampling(Part::Selector));
        match is_options {
            true if has(|target| matches!(target, Target::Sampling(_))) && (has_selector() || !is_narrow()) => {
                Self::Sampling
            }
            true => Self::Options,
            false if has(|target| target == Target::Source) && has(|target| target == Target::Destination) => {
                Self::Flows
            }
            false => Self::Other,
        }
    }
}

impl Plan {
    /// Compiles the fields; those of options are only measured, but for what they say of sampling.
    pub(super) fn compile(fields: &[Field], is_options: bool) -> Result<Self, ForeignError> {
        let shortest = fields.iter().map(|field| if field.length == VARIABLE { 1 } else { usize::from(field.length) });
        let shortest: usize = shortest.sum();
        if shortest == 0 || fields.len() > MOST_FIELDS {
            return Err(ForeignError::Template);
        }
        let mut steps = Vec::new();
        for field in fields {
            let is_wanted = |target: &Target| !is_options || matches!(target, Target::Sampling(_));
            let target = field.element.and_then(Target::of).filter(is_wanted);
            let step = match (target, field.length) {
                (Some(target), length) => Step::Take(target, length),
                (None, VARIABLE) => Step::SkipVariable,
                (None, length) => Step::Skip(usize::from(length)),
            };
            match (steps.last_mut(), step) {
                (Some(Step::Skip(before)), Step::Skip(more)) => *before += more,
                _ => steps.push(step),
            }
        }
        let kind = Kind::of(&steps, fields, is_options);
        Ok(Self { steps, shortest, kind })
    }

    /// Octets that this plan holds in memory, about.
    pub(super) fn weight(&self) -> usize {
        self.steps.len() * size_of::<Step>() + size_of::<Self>()
    }

    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether another record could be in what is left; if not it is padding.
    pub(super) const fn fits(&self, left: usize) -> bool {
        left >= self.shortest
    }

    /// Reads the next record into `record`, which has the exporter's values, and gives what it says of sampling; `boot` is
    /// when its uptime began, in milliseconds since 1970, where the header says it.
    pub(super) fn read(
        &self,
        reader: &mut Reader<'_>,
        boot: Option<u64>,
        record: &mut ForeignRecord,
    ) -> Result<Said, Truncated> {
        let (mut times, mut said) = (Times { boot, ..Times::default() }, Said::default());
        for step in &self.steps {
            match *step {
                Step::Skip(octets) => drop(reader.take(octets)?),
                Step::SkipVariable => drop(reader.value(VARIABLE)?),
                Step::Take(target, length) => {
                    let value = reader.value(length)?;
                    match target {
                        Target::Source | Target::Destination => put_address(target, value, record),
                        Target::Sampling(part) => said.put(part, number(value)),
                        _ => put_number(target, number(value), record, &mut times),
                    }
                }
            }
        }
        let (start, end) = (times.start(), times.end());
        record.end = end.or(start).unwrap_or(record.end);
        record.start = start.unwrap_or(record.end).min(record.end);
        Ok(said)
    }
}

fn put_address(target: Target, value: &[u8], record: &mut ForeignRecord) {
    let address = match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        16 => <[u8; 16]>::try_from(value).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
        _ => None,
    };
    let field = if target == Target::Source { &mut record.source } else { &mut record.destination };
    // A template with fields for both versions leaves those of the other one empty.
    if let Some(address) = address.filter(|address| !address.is_unspecified()) {
        *field = address;
    }
}

fn put_number(target: Target, value: u64, record: &mut ForeignRecord, times: &mut Times) {
    match target {
        Target::Bytes => record.bytes = value,
        Target::Packets => record.packets = value,
        Target::Protocol => record.protocol = value as u8,
        Target::Tos => record.tos = value as u8,
        Target::TcpFlags => record.tcp_flags = value as u16,
        Target::SourcePort => record.source_port = value as u16,
        Target::DestinationPort => record.destination_port = value as u16,
        Target::IngressInterface => record.ingress_interface = value as u32,
        Target::EgressInterface => record.egress_interface = value as u32,
        Target::StartUptime => times.start_uptime = Some(value),
        Target::EndUptime => times.end_uptime = Some(value),
        Target::StartSeconds => times.start_millis = value.checked_mul(1000),
        Target::EndSeconds => times.end_millis = value.checked_mul(1000),
        Target::StartMillis => times.start_millis = Some(value),
        Target::EndMillis => times.end_millis = Some(value),
        Target::StartNtp => times.start_millis = ntp_millis(value),
        Target::EndNtp => times.end_millis = ntp_millis(value),
        Target::Boot => times.boot = Some(value),
        Target::Source | Target::Destination | Target::Sampling(_) => {}
    }
}

/// What a record says of its times, in whatever way.
#[derive(Default)]
struct Times {
    boot: Option<u64>,
    start_uptime: Option<u64>,
    end_uptime: Option<u64>,
    start_millis: Option<u64>,
    end_millis: Option<u64>,
}

impl Times {
    fn start(&self) -> Option<Moment> {
        self.at(self.start_millis, self.start_uptime)
    }
    fn end(&self) -> Option<Moment> {
        self.at(self.end_millis, self.end_uptime)
    }
    fn at(&self, millis: Option<u64>, uptime: Option<u64>) -> Option<Moment> {
        let millis = millis.or_else(|| self.boot?.checked_add(uptime?))?;
        millis.checked_mul(1000).map(Moment)
    }
}

/// Milliseconds since 1970 of NTP's seconds and fraction since 1900.
fn ntp_millis(bits: u64) -> Option<u64> {
    let seconds = (bits >> 32).checked_sub(2_208_988_800)?;
    Some(seconds * 1000 + (((bits & 0xffff_ffff) * 1000) >> 32))
}
