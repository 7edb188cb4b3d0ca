//! What a host says of itself to those who are to ask it: which keys answer for it, and what it said last.
//!
//! Owns these two statements. A [`Card`] is signed by the host's own keys, which shows that they are one host's; that the host
//! is the operator's, the operator shows by signing it too. A [`Beacon`] is new every few minutes: a request that names it was
//! made after it.

use std::collections::BTreeMap;

use lucarne_model::{HostId, Moment, tpm::PresentedTpm};
use lucarne_statement::{
    sha256,
    signing::{Envelope, EnvelopeSignature, PublicKey, SigningError, SigningKey, Statement},
};
use serde::{Deserialize, Serialize};

use crate::{age::Recipient, key::VerifyingKey, operation::Layer, request::Nonce};

/// A host, the key that answers for each of its layers, how what only it can read is sealed, and its TPM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    pub host: HostId,
    pub keys: BTreeMap<Layer, VerifyingKey>,
    /// For requests that nobody else is to read; see [`sealed_request`](crate::sealed_request).
    pub recipient: Recipient,
    /// Which of the recipients that follow each other: what was sealed to one before opens no more.
    pub epoch: u32,
    /// Its TPM, whose attestation key signs quotes, with what its maker says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<PresentedTpm>,
}

impl Statement for Card {
    const TYPE: &'static str = "application/vnd.lucarne.seal-host-card.v1+json";
}

impl Card {
    /// The card of a host with one key for guests and their machines, and one for itself; signed by both.
    pub fn make(
        host: HostId,
        (guest, own): (&SigningKey, &SigningKey),
        (recipient, epoch): (Recipient, u32),
        tpm: Option<PresentedTpm>,
    ) -> Result<Envelope, SigningError> {
        let key = |key: &SigningKey| VerifyingKey::Ed25519(key.public());
        let keys =
            BTreeMap::from([(Layer::Guest, key(guest)), (Layer::Hypervisor, key(guest)), (Layer::Host, key(own))]);
        Ok(own.sign_too(guest.sign(&Self { host, keys, recipient, epoch, tpm })?))
    }

    /// The card, if each of its keys signed it; and, where `authority` is given, if that key signed it too.
    pub fn open(envelope: &Envelope, authority: Option<&PublicKey>) -> Result<Self, SigningError> {
        let card: Self = lucarne_statement::canonical::read(&envelope.payload)?;
        for layer in Layer::ALL {
            card.key(layer).ok_or(SigningError::Key)?.open::<Self>(envelope)?;
        }
        if let Some(authority) = authority {
            authority.open::<Self>(envelope)?;
        }
        Ok(card)
    }

    /// The same card with the operator's word for it, if that is for this card: whoever has the card may put it there.
    pub fn with_word(envelope: Envelope, word: &EnvelopeSignature, authority: &PublicKey) -> Option<Envelope> {
        let mut vouched = envelope;
        vouched.signatures.push(word.clone());
        Self::open(&vouched, Some(authority)).is_ok().then_some(vouched)
    }

    pub fn key(&self, layer: Layer) -> Option<&PublicKey> {
        match self.keys.get(&layer)? {
            VerifyingKey::Ed25519(key) => Some(key),
            _ => None,
        }
    }
}

/// What a TPM is given to sign with the registers so that its host is known to be so since a beacon: SHA-256 over a domain and the
/// beacon as it is carried.
pub fn qualifying_data(beacon: &[u8]) -> [u8; 32] {
    sha256(&[b"lucarne seal beacon v1\n", beacon])
}

/// Octets that a host said at a time, and nobody could know before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beacon {
    pub host: HostId,
    pub nonce: Nonce,
    pub time: Moment,
}

impl Statement for Beacon {
    const TYPE: &'static str = "application/vnd.lucarne.seal-beacon.v1+json";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::{HOST, key, recipient};

    #[test]
    fn a_card_is_believed_when_all_its_keys_signed_it_and_the_operators_where_that_is_pinned() {
        let card = Card::make(HOST, (&key(1), &key(2)), (recipient(), 0), None).expect("a card");
        assert_eq!(Card::open(&card, None).map(|card| card.host), Ok(HOST));
        assert!(Card::open(&card, Some(&key(3).public())).is_err());
        let vouched = key(3).sign_too(card.clone());
        let opened = Card::open(&vouched, Some(&key(3).public())).expect("vouched for");
        assert_eq!(opened.key(Layer::Host), Some(&key(2).public()));
        // The operator's word may come by another way than the card; a word for another card is none.
        let word = vouched.signatures.last().expect("it was signed");
        assert_eq!(Card::with_word(card.clone(), word, &key(3).public()), Some(vouched.clone()));
        assert_eq!(Card::with_word(card.clone(), word, &key(4).public()), None);
        let later = Card::make(HOST, (&key(1), &key(2)), (recipient(), 1), None).expect("a card");
        assert_eq!(Card::with_word(later, word, &key(3).public()), None);
        let mut half = card;
        half.signatures.pop();
        assert!(Card::open(&half, None).is_err(), "one of its keys did not sign");
    }
}
