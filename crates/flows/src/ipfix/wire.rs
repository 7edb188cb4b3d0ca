//! The bytes of IPFIX: the message header, bounds-checked reading, and the encodings of single values.
//!
//! Owns sizes and byte order (network order throughout). What the values mean is the table's matter ([`super::elements`]).

use lucarne_model::Moment;

/// RFC 7011 section 3.1.
pub(crate) const VERSION: u16 = 10;
/// Octets of the message header.
pub const HEADER_LENGTH: usize = 16;
/// Octets of a set header.
pub(crate) const SET_HEADER_LENGTH: usize = 4;
pub(crate) const TEMPLATE_SET: u16 = 2;
pub(crate) const OPTIONS_TEMPLATE_SET: u16 = 3;
/// Sets and templates below this number are the protocol's own.
pub(crate) const FIRST_DATA_SET: u16 = 256;
/// The length that says "each value brings its own" (RFC 7011 section 7).
pub(crate) const VARIABLE: u16 = u16::MAX;
/// The top bit of an element's number: an enterprise number follows.
pub(crate) const ENTERPRISE_BIT: u16 = 0x8000;

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Octets of the whole message, header included.
    pub length: u16,
    /// Seconds since 1970.
    pub export_time: u32,
    /// Data records sent before this message in its session and domain, modulo 2^32.
    pub sequence: u32,
    pub domain: u32,
}

impl Header {
    /// Reads a header; none when it is not one of IPFIX or its length is less than its own.
    pub fn parse(bytes: &[u8; HEADER_LENGTH]) -> Option<Self> {
        let [v0, v1, l0, l1, t0, t1, t2, t3, s0, s1, s2, s3, d0, d1, d2, d3] = *bytes;
        let length = u16::from_be_bytes([l0, l1]);
        (u16::from_be_bytes([v0, v1]) == VERSION && usize::from(length) >= HEADER_LENGTH).then_some(Self {
            length,
            export_time: u32::from_be_bytes([t0, t1, t2, t3]),
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
            domain: u32::from_be_bytes([d0, d1, d2, d3]),
        })
    }

    pub(crate) fn to_bytes(self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[..2].copy_from_slice(&VERSION.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.length.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.export_time.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[12..].copy_from_slice(&self.domain.to_be_bytes());
        bytes
    }
}

/// More was asked for than is left.
#[derive(Debug)]
pub(crate) struct Truncated;

/// Reads from the front of a slice, never past its end.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Truncated> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(Truncated)?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (front, rest) = self.0.split_first_chunk::<N>().ok_or(Truncated)?;
        self.0 = rest;
        Ok(*front)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Truncated> {
        self.array::<1>().map(|[b]| b)
    }
    pub(crate) fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_be_bytes)
    }
    pub(crate) fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_be_bytes)
    }

    /// A value of a field of `length`, which may be [`VARIABLE`].
    pub(crate) fn value(&mut self, length: u16) -> Result<&'a [u8], Truncated> {
        if length != VARIABLE {
            return self.take(usize::from(length));
        }
        let length = match self.u8()? {
            u8::MAX => usize::from(self.u16()?),
            short => usize::from(short),
        };
        self.take(length)
    }
}

/// The value's bytes cannot be of the element's type, or name nothing that we know.
#[derive(Debug)]
pub(crate) struct BadValue;

/// An unsigned integer in 1 to 8 octets: senders may leave out leading zeros (RFC 7011 section 6.2).
pub(crate) fn unsigned<T: TryFrom<u64>>(value: &[u8]) -> Result<T, BadValue> {
    if value.is_empty() || value.len() > 8 {
        return Err(BadValue);
    }
    let number = value.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    T::try_from(number).map_err(|_| BadValue)
}

/// Octets of an id on the wire: its 68 bits, right-aligned.
pub(crate) const ID_LENGTH: u16 = 9;

pub(crate) fn put_id(bits: u128, out: &mut Vec<u8>) {
    out.extend_from_slice(&bits.to_be_bytes()[16 - usize::from(ID_LENGTH)..]);
}

pub(crate) fn id(value: &[u8]) -> Result<u128, BadValue> {
    if value.len() != usize::from(ID_LENGTH) || value.first().is_none_or(|top| *top > 0x0f) {
        return Err(BadValue);
    }
    Ok(value.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte)))
}

/// Writes the length prefix of a value of a [`VARIABLE`] field. Values are far shorter than 64 KiB by construction.
pub(crate) fn put_length(length: usize, out: &mut Vec<u8>) {
    match u8::try_from(length) {
        Ok(short) if short < u8::MAX => out.push(short),
        _ => {
            out.push(u8::MAX);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
}

/// Seconds from 1900, where NTP's time starts, to 1970.
const NTP_TO_UNIX: u64 = 2_208_988_800;
/// The last second that can be told: NTP's seconds wrap in 2036, and as is usual (RFC 4330 section 3) we read those with
/// a clear top bit as of the era from 2036 to 2104.
const LAST_SECOND: u64 = (1 << 32) + (1 << 31) - 1 - NTP_TO_UNIX;

/// dateTimeMicroseconds (RFC 7011 section 6.1.9): NTP's 32 bits of seconds and 32 of fraction, the lowest 11 of them
/// zero. Rounding up here and down in [`moment`] gives every microsecond back. Moments after 2104 are told as the last.
pub(crate) fn put_moment(moment: Moment, out: &mut Vec<u8>) {
    let moment = moment.min(Moment(LAST_SECOND * 1_000_000 + 999_999));
    let seconds = (moment.as_secs() + NTP_TO_UNIX) & 0xffff_ffff;
    let fraction = ((moment.as_micros() % 1_000_000) << 21).div_ceil(1_000_000) << 11;
    out.extend_from_slice(&(seconds << 32 | fraction).to_be_bytes());
}

pub(crate) fn moment(value: &[u8]) -> Result<Moment, BadValue> {
    let bits = u64::from_be_bytes(value.try_into().map_err(|_| BadValue)?);
    let era = if bits >> 63 == 0 { 1 << 32 } else { 0 };
    let seconds = ((bits >> 32) + era).checked_sub(NTP_TO_UNIX).ok_or(BadValue)?;
    let fraction = (bits & 0xffff_ffff) >> 11;
    let micros = (fraction * 1_000_000) >> 21;
    Ok(Moment(seconds * 1_000_000 + micros))
}
