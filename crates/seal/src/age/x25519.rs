//! A file's key wrapped for an X25519 key: what age's own tools make.

use ring::aead;
use x25519_dalek::{PublicKey, StaticSecret};

use super::{
    AgeError, cipher, derive,
    header::{FileKey, Stanza, TAG, of_base64, to_base64},
};

pub(super) const KIND: &str = "X25519";
const INFO: &[u8] = b"age-encryption.org/v1/X25519";

pub(super) fn public(secret: &StaticSecret) -> [u8; 32] {
    PublicKey::from(secret).to_bytes()
}

pub(super) fn wrap(key: &FileKey, ephemeral: &StaticSecret, recipient: [u8; 32]) -> Result<Stanza, AgeError> {
    let share = public(ephemeral);
    let wrapping = wrapping_key(ephemeral, recipient, share, recipient)?;
    let mut body = key.to_vec();
    let sealed = cipher(&wrapping)?.seal_in_place_append_tag(nonce(), aead::Aad::empty(), &mut body);
    sealed.map_err(|_| AgeError::WeakRecipient)?;
    Ok(Stanza { arguments: vec![KIND.to_owned(), to_base64(&share)], body })
}

/// None, where this wrapping is for somebody else.
pub(super) fn unwrap(arguments: &[String], body: &[u8], secret: &StaticSecret) -> Result<Option<FileKey>, AgeError> {
    let [share] = arguments else { return Err(AgeError::Malformed("the arguments of a recipient")) };
    let share: [u8; 32] = of_base64(share)
        .and_then(|share| share.try_into().ok())
        .ok_or(AgeError::Malformed("the share of a recipient"))?;
    let mut body: [u8; 16 + TAG] = body.try_into().map_err(|_| AgeError::Malformed("the body of a recipient"))?;
    let wrapping = wrapping_key(secret, share, share, public(secret))?;
    let opened = cipher(&wrapping)?.open_in_place(nonce(), aead::Aad::empty(), &mut body);
    Ok(opened.ok().and_then(|key| FileKey::try_from(&*key).ok()))
}

fn nonce() -> aead::Nonce {
    // A wrapping key is used once.
    aead::Nonce::assume_unique_for_key([0; 12])
}

fn wrapping_key(
    own: &StaticSecret,
    other: [u8; 32],
    share: [u8; 32],
    recipient: [u8; 32],
) -> Result<[u8; 32], AgeError> {
    let shared = own.diffie_hellman(&PublicKey::from(other));
    if !shared.was_contributory() {
        return Err(AgeError::WeakRecipient);
    }
    Ok(derive(shared.as_bytes(), &[share, recipient].concat(), INFO))
}
