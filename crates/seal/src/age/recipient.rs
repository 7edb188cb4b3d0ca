//! Who can open a result: public keys as `age1...`, and their secret halves as age's own tools keep them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use x25519_dalek::{PublicKey, StaticSecret};

use super::bech32;

const PUBLIC: &str = "age";
const SECRET: &str = "age-secret-key-";

/// A text that is no key of the kind that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    #[error("not an age recipient for X25519: `age1` and 58 more characters, in lower case")]
    Recipient,
    #[error("not an age identity for X25519: `AGE-SECRET-KEY-1` and 58 more characters")]
    Identity,
}

/// An X25519 key that a result is encrypted to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Recipient(pub(super) [u8; 32]);

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&bech32::write(PUBLIC, &self.0))
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
        let octets = bech32::read(PUBLIC, text).and_then(|octets| octets.try_into().ok());
        octets.map(Self).ok_or(ParseKeyError::Recipient)
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
pub struct Identity(pub(super) StaticSecret);

impl Identity {
    /// The identity of 32 octets that the caller drew from a good random source.
    pub fn from_octets(octets: [u8; 32]) -> Self {
        Self(StaticSecret::from(octets))
    }
    pub fn recipient(&self) -> Recipient {
        Recipient(PublicKey::from(&self.0).to_bytes())
    }
    /// As age's tools keep it: a line that is a secret.
    pub fn to_text(&self) -> String {
        bech32::write(SECRET, &self.0.to_bytes()).to_uppercase()
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
