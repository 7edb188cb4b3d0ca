//! Whose signatures count: people, with the keys that are enrolled for them or that an enrolled authority vouches for.
//!
//! Owns opening an envelope: size, form, every signature, and only then what it says. People count, never keys: who signs
//! with two keys signed once. What they may ask for is [`grant`](crate::grant)'s.

use std::collections::{BTreeMap, BTreeSet};

use lucarne_model::{AccountId, Moment, storage::Digest};
use lucarne_statement::{
    canonical,
    signing::{Envelope, EnvelopeSignature, Statement},
};
use serde::{Deserialize, Serialize};

use crate::{
    bounded::Text,
    key::VerifyingKey,
    refusal::Refusal,
    request::{Request, RequestId},
    sshsig::Signed,
};

/// Larger envelopes are not read.
pub const MOST_OCTETS: usize = 64 << 10;
pub const MOST_SIGNATURES: usize = 8;

/// Somebody who answers for what a key signs: the same name is the same person.
pub type Person = Text<64>;

/// A key that is known on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    pub person: Person,
    pub account: AccountId,
    pub key: VerifyingKey,
    /// When it ends to count, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Moment>,
}

/// A key that vouches for keys of people of one account, and of no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    pub account: AccountId,
    pub key: VerifyingKey,
}

/// An authority's word that a key is a person's. It travels with the signature that it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    pub person: Person,
    pub key: VerifyingKey,
    pub not_before: Moment,
    pub not_after: Moment,
}

impl Statement for Certificate {
    const TYPE: &'static str = "application/vnd.lucarne.seal-certificate.v1+json";
}

/// How a request came: a shared secret counts on the host itself only, since whoever can check with it can sign with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Local,
    Carried,
}

/// All keys that count on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    enrolled: BTreeMap<Digest, Enrolled>,
    authorities: BTreeMap<Digest, Authority>,
    revoked: BTreeSet<Digest>,
}

/// Someone who signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    pub account: AccountId,
    /// Of authenticators that count: the key and its count.
    pub counters: Vec<(Digest, u32)>,
}

/// A request whose signatures were all checked, before a word of it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened<R = Request> {
    pub id: RequestId,
    pub request: R,
    /// At least one.
    pub signers: BTreeMap<Person, Signer>,
}

impl Trust {
    pub fn enrol(&mut self, enrolled: Enrolled) {
        self.enrolled.insert(enrolled.key.id(), enrolled);
    }
    pub fn recognise(&mut self, authority: Authority) {
        self.authorities.insert(authority.key.id(), authority);
    }
    /// For good: a key, an authority with all that it vouched for, or one certificate by the id of its envelope.
    pub fn revoke(&mut self, id: Digest) {
        self.revoked.insert(id);
    }

    /// The request in these octets, if everybody who signed it is trusted.
    ///
    /// Every signature must count. One that does not is not passed over: it would be room for what nobody signed.
    pub fn open(&self, octets: &[u8], channel: Channel, now: Moment) -> Result<Opened, Refusal> {
        self.open_of(octets, channel, now)
    }

    /// The same of any kind of request.
    pub fn open_of<R: Statement>(&self, octets: &[u8], channel: Channel, now: Moment) -> Result<Opened<R>, Refusal> {
        let envelope = read_envelope_of::<R>(octets)?;
        let signed = envelope.signed_octets();
        let mut signers = BTreeMap::<Person, Signer>::new();
        for signature in &envelope.signatures {
            let (person, account, said) = self.check(signature, &signed, channel, now)?;
            let signer = signers.entry(person).or_insert(Signer { account, counters: Vec::new() });
            if signer.account != account {
                return Err(Refusal::Certificate {
                    key: signature.keyid.clone(),
                    cause: "it makes one person of two accounts".to_owned(),
                });
            }
            signer.counters.extend(said.counter.map(|counter| (signature.keyid.clone(), counter)));
        }
        let request = canonical::read(&envelope.payload).map_err(|error| Refusal::Request(error.to_string()))?;
        Ok(Opened { id: RequestId::of_octets(&signed), request, signers })
    }

    fn check(
        &self,
        signature: &EnvelopeSignature,
        signed: &[u8],
        channel: Channel,
        now: Moment,
    ) -> Result<(Person, AccountId, Signed), Refusal> {
        let key_id = &signature.keyid;
        let Enrolled { person, account, key, until } = match (self.enrolled.get(key_id), &signature.cert) {
            (Some(enrolled), None) => enrolled.clone(),
            (None, Some(certificate)) => self.vouched(key_id, certificate, now)?,
            (Some(_), Some(_)) => return Err(certificate_error(key_id, "the key is enrolled and needs none")),
            (None, None) => return Err(Refusal::UnknownKey(key_id.clone())),
        };
        if self.revoked.contains(key_id) {
            return Err(Refusal::RevokedKey(key_id.clone()));
        }
        if let Some(until) = until.filter(|until| *until < now) {
            return Err(Refusal::KeyExpired(key_id.clone(), until));
        }
        if matches!(key, VerifyingKey::Hmac(_)) && channel != Channel::Local {
            return Err(Refusal::NotLocal(key_id.clone()));
        }
        let said = key.verifies(signed, &signature.sig).ok_or_else(|| Refusal::Signature(key_id.clone()))?;
        Ok((person, account, said))
    }

    /// The key that an authority vouches for.
    fn vouched(&self, key_id: &Digest, certificate: &[u8], now: Moment) -> Result<Enrolled, Refusal> {
        let wrong = |cause: &str| certificate_error(key_id, cause);
        let envelope: Envelope = canonical::read(certificate).map_err(|error| wrong(&error.to_string()))?;
        let [signature] = envelope.signatures.as_slice() else { return Err(wrong("it has not one signature")) };
        let authority = self.authorities.get(&signature.keyid).filter(|_| signature.cert.is_none());
        let authority = authority.ok_or_else(|| Refusal::UnknownKey(key_id.clone()))?;
        let signed = envelope.signed_octets();
        let own_id = Digest::from_bytes(lucarne_statement::sha256(&[&signed]));
        if self.revoked.contains(&signature.keyid) || self.revoked.contains(&own_id) {
            return Err(Refusal::RevokedKey(key_id.clone()));
        }
        if envelope.payload_type != Certificate::TYPE || authority.key.verifies(&signed, &signature.sig).is_none() {
            return Err(wrong("its authority did not sign it"));
        }
        let said: Certificate = canonical::read(&envelope.payload).map_err(|error| wrong(&error.to_string()))?;
        if said.key.id() != *key_id || matches!(said.key, VerifyingKey::Hmac(_)) {
            return Err(wrong("it is for another key"));
        }
        if !(said.not_before..=said.not_after).contains(&now) {
            return Err(wrong("it does not hold at this time"));
        }
        Ok(Enrolled { person: said.person, account: authority.account, key: said.key, until: Some(said.not_after) })
    }
}

fn certificate_error(key: &Digest, cause: &str) -> Refusal {
    Refusal::Certificate { key: key.clone(), cause: cause.to_owned() }
}

/// The envelope of a request, as it is carried: canonical JSON, of bounded size, with each key at most once.
pub fn read_envelope(octets: &[u8]) -> Result<Envelope, Refusal> {
    read_envelope_of::<Request>(octets)
}

/// The same of any kind of request.
pub fn read_envelope_of<R: Statement>(octets: &[u8]) -> Result<Envelope, Refusal> {
    if octets.len() > MOST_OCTETS {
        return Err(Refusal::TooLarge { found: octets.len(), most: MOST_OCTETS });
    }
    let envelope: Envelope = canonical::read(octets).map_err(|error| Refusal::Envelope(error.to_string()))?;
    if envelope.payload_type != R::TYPE {
        let found = envelope.payload_type.chars().take(80).collect();
        return Err(Refusal::Type { found, expected: R::TYPE });
    }
    if !(1..=MOST_SIGNATURES).contains(&envelope.signatures.len()) {
        return Err(Refusal::Signatures { found: envelope.signatures.len(), most: MOST_SIGNATURES });
    }
    let mut keys = BTreeSet::new();
    match envelope.signatures.iter().find(|signature| !keys.insert(&signature.keyid)) {
        Some(twice) => Err(Refusal::SignedTwice(twice.keyid.clone())),
        None => Ok(envelope),
    }
}

#[cfg(test)]
mod tests;
