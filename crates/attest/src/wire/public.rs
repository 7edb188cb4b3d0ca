//! The public half of a TPM's key: TPMT_PUBLIC of ECC keys on P-256 and RSA keys of 2048 and 3072 bits.
//!
//! Owns the octets and the key's name. Whether a key may be believed is for those who judge.

use super::{
    HashAlgorithm, Reader, Wire, WireError, Writer,
    algorithm::{AES, CFB, ECC, ECDSA, NIST_P256, NULL, RSA, RSASSA},
};

/// Octets of a coordinate on P-256.
pub(super) const COORDINATE: usize = 32;
/// Octets of the largest RSA modulus.
pub(super) const MODULUS: usize = 384;
/// Octets of the longest policy digest.
const POLICY: usize = 64;

/// TPMA_OBJECT: what may be done with a key, and whose it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes(pub u32);

impl Attributes {
    /// It cannot leave its TPM.
    pub const FIXED_TPM: Self = Self(1 << 1);
    /// It cannot have another parent.
    pub const FIXED_PARENT: Self = Self(1 << 4);
    /// The TPM made it: its private half was never outside.
    pub const SENSITIVE_DATA_ORIGIN: Self = Self(1 << 5);
    pub const USER_WITH_AUTH: Self = Self(1 << 6);
    pub const ADMIN_WITH_POLICY: Self = Self(1 << 7);
    pub const NO_DA: Self = Self(1 << 10);
    /// It signs, or decrypts, only what the TPM itself made.
    pub const RESTRICTED: Self = Self(1 << 16);
    pub const DECRYPT: Self = Self(1 << 17);
    pub const SIGN: Self = Self(1 << 18);

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    pub const fn has(self, all: Self) -> bool {
        self.0 & all.0 == all.0
    }
}

/// What a key signs with, when only that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsymmetricScheme {
    Any,
    Ecdsa(HashAlgorithm),
    Rsassa(HashAlgorithm),
}

/// The key itself. In a template, from which a TPM makes keys, the numbers are empty or zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A point on P-256, in at most 32 octets a coordinate.
    P256 { x: Vec<u8>, y: Vec<u8> },
    /// `exponent` 0 means 65537.
    Rsa { bits: u16, exponent: u32, modulus: Vec<u8> },
}

/// TPMT_PUBLIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    /// By what its name is taken.
    pub name_algorithm: HashAlgorithm,
    pub attributes: Attributes,
    pub policy: Vec<u8>,
    /// Bits of the AES key, in CFB, with which a parent protects others; none for keys that sign.
    pub symmetric_bits: Option<u16>,
    pub scheme: AsymmetricScheme,
    pub key: Key,
}

impl Public {
    /// The key's name: its hash's number and the hash over its TPMT_PUBLIC.
    pub fn name(&self) -> Vec<u8> {
        let mut name = self.name_algorithm.id().to_be_bytes().to_vec();
        name.extend(self.name_algorithm.digest(&self.to_octets()));
        name
    }
    /// Whether it signs only what its TPM made, lives in no other, and never lived elsewhere: an attestation key.
    pub fn is_attestation_key(&self) -> bool {
        let must = Attributes::FIXED_TPM
            .with(Attributes::FIXED_PARENT)
            .with(Attributes::SENSITIVE_DATA_ORIGIN)
            .with(Attributes::RESTRICTED)
            .with(Attributes::SIGN);
        self.attributes.has(must) && !self.attributes.has(Attributes::DECRYPT)
    }
}

impl Wire for Public {
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let kind = from.u16("kind of key")?;
        if ![RSA, ECC].contains(&kind) {
            return Err(WireError::Unknown { what: "kind of key", found: kind.into() });
        }
        let name_algorithm = HashAlgorithm::read(from)?;
        let attributes = Attributes(from.u32("attributes")?);
        let policy = from.sized(POLICY, "policy")?.to_vec();
        let symmetric_bits = read_symmetric(from)?;
        let scheme = read_scheme(from, kind)?;
        let key = if kind == RSA { read_rsa(from)? } else { read_p256(from)? };
        Ok(Self { name_algorithm, attributes, policy, symmetric_bits, scheme, key })
    }

    fn write(&self, to: &mut Writer) {
        to.u16(if matches!(self.key, Key::Rsa { .. }) { RSA } else { ECC });
        to.u16(self.name_algorithm.id()).u32(self.attributes.0).sized(&self.policy);
        match self.symmetric_bits {
            Some(bits) => to.u16(AES).u16(bits).u16(CFB),
            None => to.u16(NULL),
        };
        match self.scheme {
            AsymmetricScheme::Any => to.u16(NULL),
            AsymmetricScheme::Ecdsa(hash) => to.u16(ECDSA).u16(hash.id()),
            AsymmetricScheme::Rsassa(hash) => to.u16(RSASSA).u16(hash.id()),
        };
        match &self.key {
            Key::P256 { x, y } => to.u16(NIST_P256).u16(NULL).sized(x).sized(y),
            Key::Rsa { bits, exponent, modulus } => to.u16(*bits).u32(*exponent).sized(modulus),
        };
    }
}

fn read_symmetric(from: &mut Reader<'_>) -> Result<Option<u16>, WireError> {
    match from.u16("symmetric algorithm")? {
        NULL => return Ok(None),
        AES => {}
        other => return Err(WireError::Unknown { what: "symmetric algorithm", found: other.into() }),
    }
    let bits = from.u16("symmetric key")?;
    if ![128, 256].contains(&bits) {
        return Err(WireError::Unknown { what: "size of a symmetric key", found: bits.into() });
    }
    match from.u16("symmetric mode")? {
        CFB => Ok(Some(bits)),
        other => Err(WireError::Unknown { what: "symmetric mode", found: other.into() }),
    }
}

fn read_scheme(from: &mut Reader<'_>, kind: u16) -> Result<AsymmetricScheme, WireError> {
    match (from.u16("scheme")?, kind) {
        (NULL, _) => Ok(AsymmetricScheme::Any),
        (ECDSA, ECC) => HashAlgorithm::read(from).map(AsymmetricScheme::Ecdsa),
        (RSASSA, RSA) => HashAlgorithm::read(from).map(AsymmetricScheme::Rsassa),
        (other, _) => Err(WireError::Unknown { what: "scheme of such a key", found: other.into() }),
    }
}

fn read_p256(from: &mut Reader<'_>) -> Result<Key, WireError> {
    for (what, only) in [("curve", NIST_P256), ("key derivation", NULL)] {
        let found = from.u16(what)?;
        if found != only {
            return Err(WireError::Unknown { what, found: found.into() });
        }
    }
    let x = from.sized(COORDINATE, "x of a point")?.to_vec();
    let y = from.sized(COORDINATE, "y of a point")?.to_vec();
    Ok(Key::P256 { x, y })
}

fn read_rsa(from: &mut Reader<'_>) -> Result<Key, WireError> {
    let bits = from.u16("size of an RSA key")?;
    if ![2048, 3072].contains(&bits) {
        return Err(WireError::Unknown { what: "size of an RSA key", found: bits.into() });
    }
    let exponent = from.u32("exponent")?;
    let modulus = from.sized(usize::from(bits / 8), "modulus")?.to_vec();
    Ok(Key::Rsa { bits, exponent, modulus })
}
