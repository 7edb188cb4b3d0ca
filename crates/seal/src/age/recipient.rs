//! Who can open a result: public keys as `age1...`, and their secret halves as age's own tools keep them.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use x25519_dalek::StaticSecret;

use super::{
    bech32,
    p256::{Agreement, Point},
    x25519,
};

const PUBLIC: &str = "age";
/// Of hardware's keys: files say to whom of those that are known they are.
const TAGGED: &str = "age1tag";
const SECRET: &str = "age-secret-key-";

/// A text that is no key of the kind that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    #[error(
        "not an age recipient: `age1` and 58 more characters of an X25519 key, or `age1tag1` and 59 of a P-256 key"
    )]
    Recipient,
    #[error("not an age identity for X25519: `AGE-SECRET-KEY-1` and 58 more characters")]
    Identity,
}

/// A key that a file is encrypted to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Recipient {
    X25519([u8; 32]),
    /// A key as TPMs, smart cards and phones have them.
    P256(Point),
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::X25519(octets) => bech32::write(PUBLIC, octets),
            Self::P256(point) => bech32::write(TAGGED, point.compressed()),
        };
        f.pad(&text)
    }
}
impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for Recipient {
    type Err = ParseKeyError;
    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let x25519 = bech32::read(PUBLIC, text).and_then(|octets| octets.try_into().ok()).map(Self::X25519);
        let p256 = || bech32::read(TAGGED, text).filter(|it| it.len() == 33).and_then(|it| Point::read(&it));
        x25519.or_else(|| p256().map(Self::P256)).ok_or(ParseKeyError::Recipient)
    }
}
impl TryFrom<String> for Recipient {
    type Error = ParseKeyError;
    fn try_from(text: String) -> Result<Self, ParseKeyError> {
        text.parse()
    }
}
impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.to_string()
    }
}

/// The secret half of a recipient.
#[derive(Clone)]
pub enum Identity {
    X25519(StaticSecret),
    P256(Arc<dyn Agreement>),
}

impl Identity {
    /// The X25519 identity of 32 octets that the caller drew from a good random source.
    pub fn from_octets(octets: [u8; 32]) -> Self {
        Self::X25519(StaticSecret::from(octets))
    }
    pub fn recipient(&self) -> Recipient {
        match self {
            Self::X25519(secret) => Recipient::X25519(x25519::public(secret)),
            Self::P256(secret) => Recipient::P256(secret.public()),
        }
    }
    /// An X25519 identity as age's tools keep it: a line that is a secret.
    pub fn text_of(octets: &[u8; 32]) -> String {
        bech32::write(SECRET, octets).to_uppercase()
    }
    /// Finds the identity in a file of age's: lines, of which those that begin with `#` say something to people.
    pub fn from_file(text: &str) -> Result<Self, ParseKeyError> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        match (lines.next(), lines.next()) {
            (Some(line), None) => line.parse(),
            _ => Err(ParseKeyError::Identity),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.recipient()).finish()
    }
}
impl FromStr for Identity {
    type Err = ParseKeyError;
    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        // Bech32 is in one case, and this one is in capitals.
        let own_case = !text.bytes().any(|c| c.is_ascii_lowercase());
        let octets = own_case.then(|| bech32::read(SECRET, &text.to_lowercase())).flatten();
        let octets: Option<[u8; 32]> = octets.and_then(|octets| octets.try_into().ok());
        octets.map(Self::from_octets).ok_or(ParseKeyError::Identity)
    }
}
