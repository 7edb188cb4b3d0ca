//! Algorithms by their numbers in the TCG's registry, and hashing by those numbers.
//!
//! Owns which of them exist here. Which of them is trusted is for those who judge: SHA-1 is read and never trusted.

use ring::digest::{self, Algorithm};

use super::{Reader, Wire, WireError, Writer};

pub(super) const RSA: u16 = 0x0001;
pub(super) const AES: u16 = 0x0006;
pub(super) const NULL: u16 = 0x0010;
pub(super) const RSASSA: u16 = 0x0014;
pub(super) const ECDSA: u16 = 0x0018;
pub(super) const ECC: u16 = 0x0023;
pub(super) const CFB: u16 = 0x0043;
/// The curve, in the registry of curves.
pub(super) const NIST_P256: u16 = 0x0003;

/// A hash by its TPM_ALG_ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgorithm {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl HashAlgorithm {
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    pub const fn id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.id() == id)
    }
    /// How many octets its digests have.
    pub const fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
    /// The name that the tools know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }
    pub fn digest(self, octets: &[u8]) -> Vec<u8> {
        digest::digest(self.ring(), octets).as_ref().to_vec()
    }
    fn ring(self) -> &'static Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }
}

impl Wire for HashAlgorithm {
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let id = from.u16("hash algorithm")?;
        Self::from_id(id).ok_or(WireError::Unknown { what: "hash algorithm", found: id.into() })
    }
    fn write(&self, to: &mut Writer) {
        to.u16(self.id());
    }
}
