//! A file's key wrapped for a P-256 key, as hardware has them: `age1tag1...` (<https://c2sp.org/age>, "tagged recipients").
//!
//! Owns points of the curve and the wrapping. Who has the key agrees by [`Agreement`], so that it may stay in a TPM.

use std::fmt;

use p256::{
    EncodedPoint, NonZeroScalar, PublicKey, SecretKey,
    elliptic_curve::{
        point::AffineCoordinates as _,
        sec1::{FromEncodedPoint as _, ToEncodedPoint as _},
    },
};

use lucarne_statement::sha256;

use super::{
    AgeError, Seed,
    header::{FileKey, Stanza, TAG, of_base64, to_base64},
    hpke::{Agreed, extract},
};

pub(super) const KIND: &str = "p256tag";
const NAME: &[u8] = b"age-encryption.org/p256tag";
/// How many octets of a digest say for whom a wrapping is.
const HINT: usize = 4;

/// A point of P-256, as its compressed octets (SEC 1, 2.3.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point([u8; 33]);

impl Point {
    /// The point of these octets in any of SEC 1's forms, if it is on the curve and not its neutral element.
    pub fn read(octets: &[u8]) -> Option<Self> {
        let encoded = EncodedPoint::from_bytes(octets).ok()?;
        Option::from(PublicKey::from_encoded_point(&encoded)).map(|key| Self::of(&key))
    }
    /// The same of a key's coordinates, as TPMs give them.
    pub fn of_coordinates(x: &[u8; 32], y: &[u8; 32]) -> Option<Self> {
        Self::read(&[&[4], &x[..], &y[..]].concat())
    }
    pub const fn compressed(&self) -> &[u8; 33] {
        &self.0
    }
    /// The octet 4, x, and y.
    pub fn uncompressed(&self) -> Vec<u8> {
        self.key().map(|key| key.to_encoded_point(false).as_bytes().to_vec()).unwrap_or_default()
    }
    fn of(key: &PublicKey) -> Self {
        let mut octets = [0; 33];
        octets.copy_from_slice(key.to_encoded_point(true).as_bytes());
        Self(octets)
    }
    /// Always there: a `Point` was made of one.
    fn key(&self) -> Option<PublicKey> {
        PublicKey::from_sec1_bytes(&self.0).ok()
    }
    /// SHA-256 of the recipient's text form's octets, cut short: what hints are made with.
    fn hint(&self, share: &[u8]) -> [u8; HINT] {
        let whose = &sha256(&[&self.0])[..HINT];
        let mut hint = [0; HINT];
        hint.copy_from_slice(&extract(NAME, &[share, whose].concat())[..HINT]);
        hint
    }
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// The secret half of a P-256 key, wherever it is.
pub trait Agreement: Send + Sync {
    fn public(&self) -> Point;
    /// The x coordinate of `share` times the secret; none if the key cannot be used now.
    fn agree(&self, share: &Point) -> Option<[u8; 32]>;
}

/// One whose secret is in memory.
pub struct InMemory(SecretKey);

impl InMemory {
    /// The key of 32 octets that the caller drew from a good random source; one in 2^32 is no key.
    pub fn from_octets(octets: &[u8; 32]) -> Option<Self> {
        SecretKey::from_slice(octets).ok().map(Self)
    }
}

impl Agreement for InMemory {
    fn public(&self) -> Point {
        Point::of(&self.0.public_key())
    }
    fn agree(&self, share: &Point) -> Option<[u8; 32]> {
        share.key().map(|share| multiply(&share, &self.0.to_nonzero_scalar()))
    }
}

fn multiply(point: &PublicKey, secret: &NonZeroScalar) -> [u8; 32] {
    (point.to_projective() * secret.as_ref()).to_affine().x().into()
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InMemory").field(&self.public()).finish()
    }
}

/// The key that is made for one wrapping.
pub(super) fn ephemeral(seed: &Seed, purpose: &str) -> Result<InMemory, AgeError> {
    let mut tries = (0..=u8::MAX).map(|attempt| seed.derive(&format!("{purpose} {attempt}")));
    tries.find_map(|octets| InMemory::from_octets(&octets)).ok_or(AgeError::WeakRecipient)
}

pub(super) fn wrap(key: &FileKey, ephemeral: &InMemory, recipient: &Point) -> Result<Stanza, AgeError> {
    let share = ephemeral.public();
    let secret = ephemeral.agree(recipient).ok_or(AgeError::WeakRecipient)?;
    let body = Agreed { secret, share: &share, recipient }.seal(NAME, key)?;
    let share = share.uncompressed();
    Ok(Stanza { arguments: vec![KIND.to_owned(), to_base64(&recipient.hint(&share)), to_base64(&share)], body })
}

/// None, where this wrapping is for somebody else: then the key is not even asked.
pub(super) fn unwrap(arguments: &[String], body: &[u8], secret: &dyn Agreement) -> Result<Option<FileKey>, AgeError> {
    let [hint, share] = arguments else { return Err(AgeError::Malformed("the arguments of a recipient")) };
    let malformed = AgeError::Malformed("the share of a recipient");
    let (hint, octets) = (of_base64(hint).ok_or(malformed)?, of_base64(share).ok_or(malformed)?);
    let share = Point::read(&octets).filter(|point| point.uncompressed() == octets).ok_or(malformed)?;
    if hint.len() != HINT || body.len() != 16 + TAG {
        return Err(AgeError::Malformed("the body of a recipient"));
    }
    let recipient = secret.public();
    if recipient.hint(&octets)[..] != hint[..] {
        return Ok(None);
    }
    let secret = secret.agree(&share).ok_or(AgeError::KeyUnusable)?;
    let key = Agreed { secret, share: &share, recipient: &recipient }.open(NAME, body)?;
    Ok(key.and_then(|key| FileKey::try_from(key).ok()))
}
