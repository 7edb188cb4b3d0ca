//! The keys that sign requests, each with its one algorithm: that of a signature is never taken from the signature.
//!
//! Owns their texts, their ids, and checking a signature. Whose key it is, and what for, is [`trust`](crate::trust)'s and
//! [`grant`](crate::grant)'s.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lucarne_model::storage::Digest;
use lucarne_statement::{
    sha256,
    signing::{self, ED25519_INFO, P256_INFO, PublicKey},
};
use ring::{
    hmac,
    signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

use crate::sshsig::{Signed, SshKey};

const PEM_LABEL: &str = "PUBLIC KEY";
const SECRET: &str = "lucarne-hmac-sha256 ";
/// The least octets of a shared secret.
const SECRET_LENGTH: usize = 32;
/// What a shared secret's id is the code of.
const SECRET_ID: &[u8] = b"lucarne seal key id";

/// A text that is no key that requests are signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a key: PEM of Ed25519 or P-256, a line of an SSH .pub file, or `lucarne-hmac-sha256` and a secret in base64"
)]
pub struct ParseKeyError;

/// A key that requests are checked with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum VerifyingKey {
    Ed25519(PublicKey),
    /// On P-256, with SHA-256 and signatures in DER: TPMs, HSMs, smart cards, `openssl dgst`.
    P256(P256Key),
    /// An SSH key, through `ssh-keygen` or an agent; with FIDO2 authenticators, only those that were touched.
    Ssh(SshKey),
    /// A shared secret: whoever can check with it can sign with it. So it counts only on the host that holds it.
    Hmac(SharedSecret),
}

/// A point on P-256, uncompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct P256Key([u8; 65]);

#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecret(Vec<u8>);

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret")
    }
}

impl SharedSecret {
    /// A secret of at least 32 octets, which the caller drew from a good random source.
    pub fn new(octets: Vec<u8>) -> Result<Self, ParseKeyError> {
        if octets.len() >= SECRET_LENGTH { Ok(Self(octets)) } else { Err(ParseKeyError) }
    }
    pub fn code(&self, octets: &[u8]) -> Vec<u8> {
        hmac::sign(&self.key(), octets).as_ref().to_vec()
    }
    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl VerifyingKey {
    /// What the key is called in envelopes, lists and logs: SHA-256 of its own octets; of a secret, of something that it makes.
    pub fn id(&self) -> Digest {
        match self {
            Self::Ed25519(key) => key.id(),
            Self::P256(key) => Digest::from_bytes(sha256(&[&P256_INFO, &key.0[1..]])),
            Self::Ssh(key) => Digest::from_bytes(sha256(&[&key.to_blob()])),
            Self::Hmac(secret) => Digest::from_bytes(sha256(&[&secret.code(SECRET_ID)])),
        }
    }

    /// Whether `sig` is this key's signature over `octets`, in the way of this key alone.
    pub fn verifies(&self, octets: &[u8], sig: &[u8]) -> Option<Signed> {
        let good = match self {
            Self::Ed25519(key) => key.verifies(octets, sig),
            Self::P256(key) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.0).verify(octets, sig).is_ok(),
            Self::Ssh(key) => return key.verifies(octets, sig),
            Self::Hmac(secret) => hmac::verify(&secret.key(), octets, sig).is_ok(),
        };
        good.then_some(Signed { counter: None })
    }
}

impl FromStr for VerifyingKey {
    type Err = ParseKeyError;
    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let text = text.trim();
        if let Some(secret) = text.strip_prefix(SECRET) {
            let secret = STANDARD.decode(secret).map_err(|_| ParseKeyError)?;
            return SharedSecret::new(secret).map(Self::Hmac);
        }
        match signing::from_pem(text, PEM_LABEL).as_slice() {
            [] => SshKey::from_line(text).map(Self::Ssh).map_err(|_| ParseKeyError),
            [der] => from_der(der).ok_or(ParseKeyError),
            _ => Err(ParseKeyError),
        }
    }
}

fn from_der(der: &[u8]) -> Option<VerifyingKey> {
    if let Some(key) = der.strip_prefix(&ED25519_INFO) {
        return Some(VerifyingKey::Ed25519(PublicKey::from_bytes(key.try_into().ok()?)));
    }
    let point = der.strip_prefix(&P256_INFO)?;
    Some(VerifyingKey::P256(P256Key([&[4], point].concat().try_into().ok()?)))
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ed25519(key) => f.pad(&key.to_pem()),
            Self::P256(key) => f.pad(&signing::to_pem(&[&P256_INFO, &key.0[1..]].concat(), PEM_LABEL)),
            Self::Ssh(key) => f.pad(&key.to_line()),
            Self::Hmac(secret) => f.pad(&format!("{SECRET}{}", STANDARD.encode(&secret.0))),
        }
    }
}
impl fmt::Debug for VerifyingKey {
    /// Its kind and id: a secret is not printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Ed25519(_) => "Ed25519",
            Self::P256(_) => "P256",
            Self::Ssh(_) => "Ssh",
            Self::Hmac(_) => "Hmac",
        };
        f.debug_tuple(kind).field(&self.id()).finish()
    }
}
impl TryFrom<String> for VerifyingKey {
    type Error = ParseKeyError;
    fn try_from(text: String) -> Result<Self, ParseKeyError> {
        text.parse()
    }
}
impl From<VerifyingKey> for String {
    fn from(key: VerifyingKey) -> Self {
        key.to_string()
    }
}
