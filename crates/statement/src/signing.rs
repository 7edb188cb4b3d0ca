//! Statements signed: DSSE envelopes over canonical JSON, by Ed25519 keys that are written as everyone writes them.
//!
//! Owns the envelope, and keys in PEM (PKCS #8 and SubjectPublicKeyInfo, RFC 8410). What the statements say is that of
//! whoever has them signed; drawing a key's seed and keeping its file is the caller's.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lucarne_model::{Octets, storage::Digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    canonical::{self, CanonicalError},
    sha256,
};

/// What stands before the seed in PKCS #8.
const PRIVATE: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// What stands before the key in SubjectPublicKeyInfo.
pub const ED25519_INFO: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What stands before the point of every P-256 key: algorithm, curve, and a bit string of 65 octets uncompressed.
pub const P256_INFO: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
const PRIVATE_LABEL: &str = "PRIVATE KEY";
const PUBLIC_LABEL: &str = "PUBLIC KEY";

/// Why a text is not a key, or a signed statement not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    #[error("not an Ed25519 key in PEM (PKCS #8 or SubjectPublicKeyInfo)")]
    Key,
    #[error("the envelope is of type `{found}`, not `{expected}`")]
    Type { found: String, expected: &'static str },
    #[error("the envelope is not signed by key {0}")]
    Signature(Digest),
    #[error("the statement cannot be read or written: {0}")]
    Statement(#[from] CanonicalError),
}

/// A statement and who signed it: the JSON of DSSE, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    pub payload: Octets,
    pub payload_type: String,
    pub signatures: Vec<EnvelopeSignature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvelopeSignature {
    /// SHA-256 of the key's SubjectPublicKeyInfo: a hint, which is never believed.
    pub keyid: Digest,
    pub sig: Octets,
    /// Another envelope's JSON, in which an authority vouches for the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<Octets>,
}

impl Envelope {
    /// What its signatures are over: type and payload, each behind its length.
    pub fn signed_octets(&self) -> Vec<u8> {
        encode(&self.payload_type, &self.payload)
    }
}

/// What can be signed: a document with a type of its own, so that no signature counts for another kind.
pub trait Statement: Serialize + DeserializeOwned {
    const TYPE: &'static str;
}

/// Whose signatures are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub fn from_pem(text: &str) -> Result<Self, SigningError> {
        let der = unwrap(text, PUBLIC_LABEL).ok_or(SigningError::Key)?;
        let key = der.strip_prefix(&ED25519_INFO).and_then(|key| key.try_into().ok());
        key.map(Self).ok_or(SigningError::Key)
    }
    pub fn to_pem(&self) -> String {
        to_pem(&self.to_der(), PUBLIC_LABEL)
    }
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub fn id(&self) -> Digest {
        Digest::from_bytes(sha256(&[&self.to_der()]))
    }
    /// The statement, if this key signed it and it is in its canonical form.
    pub fn open<T: Statement>(&self, envelope: &Envelope) -> Result<T, SigningError> {
        if envelope.payload_type != T::TYPE {
            let found = envelope.payload_type.chars().take(80).collect();
            return Err(SigningError::Type { found, expected: T::TYPE });
        }
        let signed = envelope.signed_octets();
        let by_this = envelope.signatures.iter().any(|signature| self.verifies(&signed, &signature.sig));
        if by_this { Ok(canonical::read(&envelope.payload)?) } else { Err(SigningError::Signature(self.id())) }
    }
    /// Whether `sig` is this key's signature over `octets`.
    pub fn verifies(&self, octets: &[u8], sig: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(octets, sig).is_ok()
    }
    pub const fn from_bytes(octets: [u8; 32]) -> Self {
        Self(octets)
    }
    pub fn to_der(&self) -> Vec<u8> {
        [&ED25519_INFO[..], &self.0].concat()
    }
}

/// A key that signs.
pub struct SigningKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public().id()).finish()
    }
}

impl SigningKey {
    /// The key of 32 octets that the caller drew from a good random source.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, SigningError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| SigningError::Key)?;
        Ok(Self { seed, pair })
    }
    pub fn from_pem(text: &str) -> Result<Self, SigningError> {
        let der = unwrap(text, PRIVATE_LABEL).ok_or(SigningError::Key)?;
        let seed = der.strip_prefix(&PRIVATE).and_then(|seed| seed.try_into().ok());
        seed.ok_or(SigningError::Key).and_then(Self::from_seed)
    }
    pub fn to_pem(&self) -> String {
        to_pem(&[&PRIVATE[..], &self.seed].concat(), PRIVATE_LABEL)
    }
    pub fn public(&self) -> PublicKey {
        let octets = self.pair.public_key().as_ref();
        PublicKey(std::array::from_fn(|at| octets.get(at).copied().unwrap_or_default()))
    }
    pub fn sign<T: Statement>(&self, statement: &T) -> Result<Envelope, SigningError> {
        let payload = canonical::write(statement)?;
        let envelope = Envelope { payload: payload.into(), payload_type: T::TYPE.to_owned(), signatures: Vec::new() };
        Ok(self.sign_too(envelope))
    }
    /// Adds this key's signature to those that the envelope has.
    pub fn sign_too(&self, mut envelope: Envelope) -> Envelope {
        let sig = self.sign_octets(&envelope.signed_octets());
        envelope.signatures.push(EnvelopeSignature { keyid: self.public().id(), sig, cert: None });
        envelope
    }
    pub fn sign_octets(&self, octets: &[u8]) -> Octets {
        self.pair.sign(octets).as_ref().into()
    }
}

/// What DSSE signs.
fn encode(kind: &str, payload: &[u8]) -> Vec<u8> {
    [format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).as_bytes(), payload].concat()
}

/// DER as PEM, in lines of 64 as RFC 7468 wants them.
pub fn to_pem(der: &[u8], label: &str) -> String {
    let mut lines = String::new();
    // 48 octets are 64 digits.
    for part in der.chunks(48) {
        STANDARD.encode_string(part, &mut lines);
        lines.push('\n');
    }
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

/// The octets of the first block of `label`.
fn unwrap(text: &str, label: &str) -> Option<Vec<u8>> {
    from_pem(text, label).into_iter().next()
}

/// The octets of all blocks of `label` in a text; a block that is not base64 ends the list.
pub fn from_pem(text: &str, label: &str) -> Vec<Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let blocks = text.split(&begin).skip(1).map_while(|after| {
        let (inner, _) = after.split_once(&end)?;
        let digits: String = inner.chars().filter(|digit| !digit.is_whitespace()).collect();
        STANDARD.decode(digits).ok()
    });
    blocks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Said {
        what: String,
    }
    impl Statement for Said {
        const TYPE: &'static str = "application/vnd.test+json";
    }

    fn key(octet: u8) -> SigningKey {
        SigningKey::from_seed([octet; 32]).expect("a key")
    }

    /// DSSE's own example: its encoding of this type and payload.
    #[test]
    fn what_is_signed_is_dsses_encoding() {
        let encoded = encode("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn a_statement_opens_for_the_key_that_signed_it_and_for_no_other() {
        let said = Said { what: "so it is".to_owned() };
        let mut envelope = key(1).sign(&said).expect("an envelope");
        assert_eq!(key(1).public().open(&envelope), Ok(said.clone()));
        let other = key(2).public();
        assert_eq!(other.open::<Said>(&envelope), Err(SigningError::Signature(other.id())));
        envelope.signatures[0].keyid = other.id();
        assert!(other.open::<Said>(&envelope).is_err(), "the hint is not believed");
        envelope.payload.0[3] ^= 1;
        assert!(key(1).public().open::<Said>(&envelope).is_err());
    }

    #[test]
    fn a_signature_counts_for_one_type_alone() {
        let mut envelope = key(1).sign(&Said { what: String::new() }).expect("an envelope");
        envelope.payload_type = "application/vnd.other+json".to_owned();
        assert!(matches!(key(1).public().open::<Said>(&envelope), Err(SigningError::Type { .. })));
    }

    /// The private and public key of RFC 8410, section 10, which other tools read.
    #[test]
    fn keys_are_written_as_rfc_8410_does() {
        let private = "-----BEGIN PRIVATE KEY-----\n\
            MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let public = "-----BEGIN PUBLIC KEY-----\n\
            MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let key = SigningKey::from_pem(private).expect("a key");
        assert_eq!(key.to_pem(), private);
        assert_eq!(key.public().to_pem(), public);
        assert_eq!(PublicKey::from_pem(public), Ok(key.public()));
        assert_eq!(PublicKey::from_pem(private), Err(SigningError::Key));
        assert!(SigningKey::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----").is_err());
        assert!(!format!("{key:?}").contains("1O5y"), "a key is not printed");
    }
}
