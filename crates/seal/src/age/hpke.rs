//! One message to one P-256 key: HPKE (RFC 9180) in its base mode, with HKDF-SHA256 and ChaCha20-Poly1305.
//!
//! Owns the key schedule behind the agreement and no more of HPKE than age's tagged recipients need. The agreement itself is
//! given: a TPM makes it without its key leaving the chip, which libraries of HPKE have no entry for.

use ring::{aead, hkdf, hmac};

use super::{AgeError, Length, cipher, p256::Point};

/// DHKEM(P-256, HKDF-SHA256).
const KEM: [u8; 5] = *b"KEM\x00\x10";
/// The same with HKDF-SHA256 and ChaCha20-Poly1305.
const SUITE: [u8; 10] = *b"HPKE\x00\x10\x00\x01\x00\x03";
const VERSION: &[u8] = b"HPKE-v1";

/// What two keys agreed upon, and between which.
pub(super) struct Agreed<'a> {
    /// The x coordinate of the point that both come to.
    pub(super) secret: [u8; 32],
    /// The sender's, made for this message.
    pub(super) share: &'a Point,
    pub(super) recipient: &'a Point,
}

impl Agreed<'_> {
    pub(super) fn seal(&self, info: &[u8], message: &[u8]) -> Result<Vec<u8>, AgeError> {
        let (key, nonce) = self.schedule(info)?;
        let mut sealed = message.to_vec();
        let done = key.seal_in_place_append_tag(nonce, aead::Aad::empty(), &mut sealed);
        done.map(|()| sealed).map_err(|_| AgeError::WeakRecipient)
    }

    /// None, if it was not sealed to this recipient, or was changed.
    pub(super) fn open(&self, info: &[u8], sealed: &[u8]) -> Result<Option<Vec<u8>>, AgeError> {
        let (key, nonce) = self.schedule(info)?;
        let mut octets = sealed.to_vec();
        Ok(key.open_in_place(nonce, aead::Aad::empty(), &mut octets).ok().map(|message| message.to_vec()))
    }

    /// RFC 9180, sections 4.1 and 5.1.
    fn schedule(&self, info: &[u8]) -> Result<(aead::LessSafeKey, aead::Nonce), AgeError> {
        let between = [self.share.uncompressed(), self.recipient.uncompressed()].concat();
        let agreed = labeled_extract(&KEM, &[], b"eae_prk", &self.secret);
        let shared: [u8; 32] = labeled_expand(&KEM, &agreed, b"shared_secret", &between);
        let no_psk = labeled_extract(&SUITE, &[], b"psk_id_hash", &[]);
        let context = [&[0], &no_psk[..], &labeled_extract(&SUITE, &[], b"info_hash", info)].concat();
        let secret = labeled_extract(&SUITE, &shared, b"secret", &[]);
        let nonce: [u8; 12] = labeled_expand(&SUITE, &secret, b"base_nonce", &context);
        let key = cipher(&labeled_expand(&SUITE, &secret, b"key", &context))?;
        Ok((key, aead::Nonce::assume_unique_for_key(nonce)))
    }
}

fn labeled_extract(suite: &[u8], salt: &[u8], label: &[u8], material: &[u8]) -> [u8; 32] {
    extract(salt, &[VERSION, suite, label, material].concat())
}

/// HKDF's extraction (RFC 5869, 2.2), whose value is wanted here as octets.
pub(super) fn extract(salt: &[u8], material: &[u8]) -> [u8; 32] {
    let mut extracted = [0; 32];
    extracted.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, salt), material).as_ref());
    extracted
}

fn labeled_expand<const N: usize>(suite: &[u8], secret: &[u8; 32], label: &[u8], info: &[u8]) -> [u8; N] {
    let length = u16::try_from(N).unwrap_or(u16::MAX).to_be_bytes();
    let info = [&length, VERSION, suite, label, info].concat();
    let (info, mut expanded) = ([info.as_slice()], [0; N]);
    let material = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret);
    let filled = material.expand(&info, Length(N)).and_then(|material| material.fill(&mut expanded));
    debug_assert!(filled.is_ok(), "HKDF gives up to 255 blocks");
    expanded
}
