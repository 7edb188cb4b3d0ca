//! Results as age files, version 1: `age -d` opens them, and so does anything else that reads age.
//!
//! Owns the format (<https://age-encryption.org/v1>) with recipients for X25519 and P-256. Where the octets come from and go to, on how
//! many threads, and where a [`Seed`] is drawn, is the caller's: each chunk is sealed by itself, so that any thread may take
//! the next one. In reading order: [`recipient`], who can open a file; [`header`], the key of a file wrapped for each of
//! them, by `x25519` or [`p256`] with `hpke`; [`stream`], the content in chunks; [`writer`] and [`reader`], all of it from the first octet to the last.

mod bech32;
pub mod header;
mod hpke;
pub mod p256;
pub mod reader;
pub mod recipient;
pub mod stream;
pub mod writer;
mod x25519;

use ring::{aead, hkdf};

pub use header::Header;
pub use recipient::{Identity, Recipient};

/// Why a text is not an age file, or does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgeError {
    #[error("not an age file, or one in another form than its own: {0}")]
    Malformed(&'static str),
    #[error("the file is for other readers")]
    NotForYou,
    #[error("the file's header was changed")]
    HeaderChanged,
    #[error("chunk {0} was changed, stands where another belongs, or is not where the file ends")]
    ChunkChanged(u64),
    #[error("the file ends too early")]
    Truncated,
    #[error("the recipient's key is not one that a secret can be shared with")]
    WeakRecipient,
    #[error("the key that it is for cannot be used now")]
    KeyUnusable,
    #[error("a file has from 1 to {most} recipients", most = header::MOST_RECIPIENTS)]
    Recipients,
}

/// 32 octets that nobody has had, from which all secrets of one file are derived. The caller draws it from a good random
/// source and uses it for one file.
pub struct Seed([u8; 32]);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed")
    }
}

impl Seed {
    pub const fn new(octets: [u8; 32]) -> Self {
        Self(octets)
    }
    /// Another secret for each purpose.
    fn derive<const N: usize>(&self, purpose: &str) -> [u8; N] {
        derive(&self.0, b"lucarne result", purpose.as_bytes())
    }
}

struct Length(usize);
impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF with SHA-256.
fn derive<const N: usize>(secret: &[u8], salt: &[u8], info: &[u8]) -> [u8; N] {
    let mut derived = [0; N];
    let info = [info];
    let material = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let filled = material.expand(&info, Length(N)).and_then(|material| material.fill(&mut derived));
    // HKDF gives up to 255 blocks, and fails beyond them only.
    debug_assert!(filled.is_ok() && N <= 255 * 32);
    derived
}

fn cipher(key: &[u8; 32]) -> Result<aead::LessSafeKey, AgeError> {
    let key = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key).map_err(|_| AgeError::Malformed("a key"))?;
    Ok(aead::LessSafeKey::new(key))
}

#[cfg(test)]
mod tests;
