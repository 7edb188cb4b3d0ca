//! Reading and writing big-endian octets, as all structures of a TPM have them.
//!
//! Owns the refusals of octets that cannot be what they should be. Structures are the neighbours'.

/// Why octets are not the structure that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("{what} is cut short at octet {at}")]
    Short { what: &'static str, at: usize },
    #[error("{count} octets follow the structure")]
    Trailing { count: usize },
    #[error("{what} has {found} octets, at most {most} are possible")]
    TooLong { what: &'static str, found: usize, most: usize },
    #[error("{found:#x} is not a {what} that is known here")]
    Unknown { what: &'static str, found: u64 },
}

/// Takes octets from the front, big-endian.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub const fn new(octets: &'a [u8]) -> Self {
        Self { all: octets, at: 0 }
    }
    /// How many octets were taken.
    pub const fn position(&self) -> usize {
        self.at
    }
    pub fn rest(&self) -> &'a [u8] {
        self.all.get(self.at..).unwrap_or_default()
    }
    pub fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let taken = self.rest().get(..count).ok_or(WireError::Short { what, at: self.all.len() })?;
        self.at += count;
        Ok(taken)
    }
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let taken = self.take(N, what)?;
        taken.try_into().map_err(|_| WireError::Short { what, at: self.all.len() })
    }
    pub fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        self.array(what).map(u8::from_be_bytes)
    }
    pub fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        self.array(what).map(u16::from_be_bytes)
    }
    pub fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        self.array(what).map(u32::from_be_bytes)
    }
    pub fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        self.array(what).map(u64::from_be_bytes)
    }
    /// Octets behind their number in 16 bits (any TPM2B).
    pub fn sized(&mut self, most: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let found = usize::from(self.u16(what)?);
        if found > most {
            return Err(WireError::TooLong { what, found, most });
        }
        self.take(found, what)
    }
    /// Nothing may follow.
    pub fn end(&self) -> Result<(), WireError> {
        let count = self.rest().len();
        if count == 0 { Ok(()) } else { Err(WireError::Trailing { count }) }
    }
}

/// Appends octets, big-endian.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    octets: Vec<u8>,
}

impl Writer {
    pub fn octets(&mut self, octets: &[u8]) -> &mut Self {
        self.octets.extend_from_slice(octets);
        self
    }
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.octets(&[value])
    }
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.octets(&value.to_be_bytes())
    }
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.octets(&value.to_be_bytes())
    }
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.octets(&value.to_be_bytes())
    }
    /// Octets behind their number in 16 bits (any TPM2B), of which the first 65,535 are written: structures that were
    /// read never have more.
    pub fn sized(&mut self, octets: &[u8]) -> &mut Self {
        let count = u16::try_from(octets.len()).unwrap_or(u16::MAX);
        self.u16(count);
        self.octets(&octets[..usize::from(count)])
    }
    pub fn into_octets(self) -> Vec<u8> {
        self.octets
    }
}
