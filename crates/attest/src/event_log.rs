//! The event log of a boot, in the TCG's crypto-agile form (PC Client Platform Firmware Profile): read, replayed, written.
//!
//! Owns the form and the replay. Events of kinds that are not known here are kept and replayed like all others; what the
//! host agent's own events say is [`measure`](crate::measure)'s. The SHA-1 bank is read and never trusted: a log without
//! SHA-256 is refused as such.

use lucarne_model::ErrorCode;
use lucarne_statement::sha256;

use crate::{pcr::Values, wire::HashAlgorithm};

/// EV_NO_ACTION: tells something and extends nothing.
pub const NO_ACTION: u32 = 3;
/// EV_SEPARATOR: ends what the firmware measures before it hands over.
pub const SEPARATOR: u32 = 4;
/// EV_EVENT_TAG: a tagged event, whose digest is taken over its data.
pub const TAGGED: u32 = 6;
/// EV_CPU_MICROCODE.
pub const CPU_MICROCODE: u32 = 9;

const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";
const LOCALITY: &[u8; 16] = b"StartupLocality\0";
const SHA1_SIZE: usize = 20;
/// Registers of a PC's TPM.
const REGISTERS: u32 = 24;
/// More hashes than any TPM has banks.
const MOST_ALGORITHMS: u32 = 16;

/// Why an event log is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventLogError {
    #[error("the event log is cut short in event {event}")]
    Short { event: usize },
    #[error("event {event} of the log: {what}")]
    Malformed { event: usize, what: &'static str },
    #[error("the event log has digests of SHA-1 alone, which prove nothing")]
    Sha1Only,
    #[error("the event log gives register {index} the value {replayed}, the TPM quoted {quoted}")]
    OtherValue { index: u8, replayed: String, quoted: String },
}

impl EventLogError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Short { .. } | Self::Malformed { .. } => ErrorCode::EventLogMalformed,
            Self::Sha1Only => ErrorCode::EvidenceSha1Only,
            Self::OtherValue { .. } => ErrorCode::EventLogMismatch,
        }
    }
}

/// What the first event of a log says about it (TCG_EfiSpecIDEvent).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub platform_class: u32,
    /// Minor, major, errata, and the size of the firmware's words in units of four octets.
    pub version: [u8; 4],
    /// The hashes whose digests each event has, by number, with the octets of a digest.
    pub algorithms: Vec<(u16, u16)>,
    pub vendor: Vec<u8>,
}

/// One event (TCG_PCR_EVENT2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub register: u32,
    pub kind: u32,
    /// One digest for each algorithm of the header, in the log's order.
    pub digests: Vec<(u16, Vec<u8>)>,
    pub data: Vec<u8>,
}

impl Event {
    /// An event whose digest is that of its data, in the SHA-256 bank alone.
    pub fn over_data(register: u8, kind: u32, data: Vec<u8>) -> Self {
        let digests = vec![(HashAlgorithm::Sha256.id(), sha256(&[&data]).to_vec())];
        Self { register: register.into(), kind, digests, data }
    }
    /// What it extends the SHA-256 bank with; none when it extends nothing.
    pub fn extends(&self) -> Option<[u8; 32]> {
        let sha256 = HashAlgorithm::Sha256.id();
        let found = self.digests.iter().find(|(algorithm, _)| *algorithm == sha256)?;
        if self.kind == NO_ACTION { None } else { found.1.as_slice().try_into().ok() }
    }
    /// Whether its digest is that of its data: then the data says what was measured, and cannot be changed.
    pub fn is_over_data(&self) -> bool {
        self.extends() == Some(sha256(&[&self.data]))
    }
    /// The locality that the TPM was started from, which register 0 then begins with.
    fn locality(&self) -> Option<u8> {
        let told = self.data.strip_prefix(LOCALITY).filter(|_| self.kind == NO_ACTION && self.register == 0)?;
        if let [locality] = told { Some(*locality) } else { None }
    }
}

/// A log, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog {
    pub header: Header,
    pub events: Vec<Event>,
}

impl EventLog {
    /// An empty log with digests of SHA-256 alone, to which a host agent without a firmware's log adds its own.
    pub fn new() -> Self {
        let algorithm = (HashAlgorithm::Sha256.id(), HashAlgorithm::Sha256.size() as u16);
        let header =
            Header { platform_class: 1, version: [0, 2, 0, 2], algorithms: vec![algorithm], vendor: Vec::new() };
        Self { header, events: Vec::new() }
    }

    /// Reads a whole log; nothing may follow its last event.
    pub fn parse(octets: &[u8]) -> Result<Self, EventLogError> {
        let mut reader = Little { rest: octets, event: 0 };
        let header = reader.header()?;
        let mut events = Vec::new();
        while !reader.rest.is_empty() {
            reader.event += 1;
            events.push(reader.event(&header)?);
        }
        Ok(Self { header, events })
    }

    pub fn to_octets(&self) -> Vec<u8> {
        let mut octets = self.header.to_octets();
        self.events.iter().for_each(|event| event.write(&mut octets));
        octets
    }

    /// The values that the events alone give the registers of the SHA-256 bank.
    pub fn replay(&self) -> Values {
        let mut values = Values::default();
        if let Some(locality) = self.events.iter().find_map(Event::locality) {
            let mut begin = [0; 32];
            begin[31] = locality;
            values.set(0, begin);
        }
        for event in &self.events {
            if let (Some(digest), Ok(register)) = (event.extends(), u8::try_from(event.register)) {
                values.extend(register, digest);
            }
        }
        values
    }

    /// Whether the events give each of `registers` the value that the TPM quoted: an event too many, too few, changed or
    /// in another place gives another. A register of which nothing is told must be as it was at the start.
    pub fn explains(&self, quoted: &Values, registers: &[u8]) -> Result<(), EventLogError> {
        let replayed = self.replay();
        for &index in registers {
            let told = replayed.get(index).unwrap_or_default();
            let quoted = quoted.get(index).unwrap_or_default();
            if told != quoted {
                return Err(EventLogError::OtherValue { index, replayed: hex(&told), quoted: hex(&quoted) });
            }
        }
        Ok(())
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new()
    }
}

impl Header {
    fn to_octets(&self) -> Vec<u8> {
        let mut data = SIGNATURE.to_vec();
        data.extend(self.platform_class.to_le_bytes());
        data.extend(self.version);
        data.extend((self.algorithms.len() as u32).to_le_bytes());
        for (algorithm, size) in &self.algorithms {
            data.extend(algorithm.to_le_bytes());
            data.extend(size.to_le_bytes());
        }
        data.push(self.vendor.len() as u8);
        data.extend(&self.vendor);
        let mut octets = [0u32.to_le_bytes(), NO_ACTION.to_le_bytes()].concat();
        octets.extend([0; SHA1_SIZE]);
        octets.extend((data.len() as u32).to_le_bytes());
        octets.extend(data);
        octets
    }
}

impl Event {
    fn write(&self, octets: &mut Vec<u8>) {
        octets.extend(self.register.to_le_bytes());
        octets.extend(self.kind.to_le_bytes());
        octets.extend((self.digests.len() as u32).to_le_bytes());
        for (algorithm, digest) in &self.digests {
            octets.extend(algorithm.to_le_bytes());
            octets.extend(digest);
        }
        octets.extend((self.data.len() as u32).to_le_bytes());
        octets.extend(&self.data);
    }
}

/// Takes octets from the front, little-endian, and knows which event it is in.
struct Little<'a> {
    rest: &'a [u8],
    event: usize,
}

impl<'a> Little<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], EventLogError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(EventLogError::Short { event: self.event })?;
        self.rest = rest;
        Ok(taken)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], EventLogError> {
        let event = self.event;
        self.take(N)?.try_into().map_err(|_| EventLogError::Short { event })
    }
    fn u16(&mut self) -> Result<u16, EventLogError> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Result<u32, EventLogError> {
        self.array().map(u32::from_le_bytes)
    }
    fn malformed(&self, what: &'static str) -> EventLogError {
        EventLogError::Malformed { event: self.event, what }
    }

    /// The first event has the old form, of SHA-1, in every log; only what it says tells a crypto-agile one.
    fn header(&mut self) -> Result<Header, EventLogError> {
        let (register, kind) = (self.u32()?, self.u32()?);
        let digest: [u8; SHA1_SIZE] = self.array()?;
        let size = self.u32()?;
        let mut data = Self { rest: self.take(size as usize)?, event: 0 };
        if (register, kind) != (0, NO_ACTION) || data.array::<16>().ok().as_ref() != Some(SIGNATURE) {
            return Err(EventLogError::Sha1Only);
        }
        if digest != [0; SHA1_SIZE] {
            return Err(self.malformed("the first event extends nothing and has a digest"));
        }
        let (platform_class, version) = (data.u32()?, data.array()?);
        let algorithms = data.algorithms()?;
        let vendor = data.array::<1>()?[0];
        let vendor = data.take(vendor.into())?.to_vec();
        if !data.rest.is_empty() {
            return Err(self.malformed("more follows what the maker had to say"));
        }
        Ok(Header { platform_class, version, algorithms, vendor })
    }

    fn algorithms(&mut self) -> Result<Vec<(u16, u16)>, EventLogError> {
        let count = self.u32()?;
        if count > MOST_ALGORITHMS {
            return Err(self.malformed("more hashes than a TPM has"));
        }
        let algorithms = (0..count).map(|_| Ok((self.u16()?, self.u16()?))).collect::<Result<Vec<_>, _>>()?;
        for (at, (algorithm, size)) in algorithms.iter().enumerate() {
            let known = HashAlgorithm::from_id(*algorithm);
            if known.is_some_and(|known| known.size() != usize::from(*size)) {
                return Err(self.malformed("a hash with digests of another size"));
            }
            if algorithms[..at].iter().any(|(before, _)| before == algorithm) {
                return Err(self.malformed("a hash is named twice"));
            }
        }
        let sha256 = HashAlgorithm::Sha256.id();
        if algorithms.iter().any(|(algorithm, _)| *algorithm == sha256) {
            Ok(algorithms)
        } else {
            Err(EventLogError::Sha1Only)
        }
    }

    fn event(&mut self, header: &Header) -> Result<Event, EventLogError> {
        let (register, kind, count) = (self.u32()?, self.u32()?, self.u32()?);
        if register >= REGISTERS {
            return Err(self.malformed("no TPM has such a register"));
        }
        if count as usize != header.algorithms.len() {
            return Err(self.malformed("not one digest for each hash of the log"));
        }
        let digests = (0..count).map(|_| self.digest(header)).collect::<Result<Vec<_>, _>>()?;
        if digests.iter().enumerate().any(|(at, (hash, _))| digests[..at].iter().any(|(before, _)| before == hash)) {
            return Err(self.malformed("two digests of one hash"));
        }
        let size = self.u32()?;
        let data = self.take(size as usize)?.to_vec();
        Ok(Event { register, kind, digests, data })
    }

    fn digest(&mut self, header: &Header) -> Result<(u16, Vec<u8>), EventLogError> {
        let algorithm = self.u16()?;
        let named = header.algorithms.iter().find(|(named, _)| *named == algorithm);
        let (_, size) = named.ok_or_else(|| self.malformed("a digest of a hash that the log does not have"))?;
        Ok((algorithm, self.take(usize::from(*size))?.to_vec()))
    }
}

pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests;
