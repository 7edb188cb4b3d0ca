//! Secrets: how they are kept and compared, and the shape of an access key's id.
//!
//! Owns the digest. A secret is 256 random bits, so one round of SHA-256 keeps it: slow hashes slow down the guessing of
//! what people choose, and nobody guesses 256 bits at any speed. Comparing digests in constant time tells nothing either.

use lucarne_model::storage::Digest;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

/// SHA-256 in hexadecimal digits.
pub(crate) fn digest_of(text: &[u8]) -> String {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text).as_ref());
    Digest::from_bytes(bytes).to_string()
}

/// Whether the secret is the one of which `digest` is kept.
pub(crate) fn matches(secret: &str, digest: &str) -> bool {
    digest_of(secret.as_bytes()).as_bytes().ct_eq(digest.as_bytes()).into()
}

const KEY_LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A new access key's id: `LK` and 18 letters and digits (90 random bits).
pub(crate) fn new_key_id() -> String {
    let bits = crate::random::bits();
    let letters = (0..18).map(|place| char::from(KEY_LETTERS[(bits >> (5 * place)) as usize & 31]));
    "LK".chars().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_matches_its_digest() {
        let digest = digest_of(b"secret");
        assert!(matches("secret", &digest));
        assert!(!matches("secre", &digest));
        assert!(!matches(&digest, &digest));
    }

    #[test]
    fn a_key_id_has_its_documented_form() {
        let id = new_key_id();
        assert_eq!(id.len(), 20);
        assert!(id.starts_with("LK") && id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()));
    }
}
