//! The content of an age file: chunks of 64 KiB, each sealed by itself under its number and whether it is the last.
//!
//! Owns one chunk at a time. Since no chunk needs another, many threads can seal or open, and a reader can begin anywhere.

use ring::aead;

use super::{AgeError, cipher, derive, header::FileKey};

/// Octets of content in every chunk but the last.
pub const CHUNK: usize = 64 << 10;
/// What a chunk is longer for being sealed.
pub const TAG: usize = 16;
pub const SEALED_CHUNK: usize = CHUNK + TAG;
/// What stands between header and chunks.
pub const NONCE: usize = 16;

/// Which chunk: its number from 0, and whether another follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub number: u64,
    pub last: bool,
}

impl Place {
    fn nonce(self) -> aead::Nonce {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.number.to_be_bytes());
        nonce[11] = u8::from(self.last);
        aead::Nonce::assume_unique_for_key(nonce)
    }
}

/// The key of a file's chunks. Threads may share it.
pub struct ChunkKey(aead::LessSafeKey);

impl std::fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChunkKey")
    }
}

impl ChunkKey {
    pub(super) fn new(key: &FileKey, nonce: &[u8; NONCE]) -> Result<Self, AgeError> {
        Ok(Self(cipher(&derive(key, nonce, b"payload"))?))
    }

    /// Seals a chunk where it lies, and returns the tag that belongs behind it. Each place is sealed once; every chunk but
    /// the last is whole.
    pub fn seal(&self, place: Place, chunk: &mut [u8]) -> Result<[u8; TAG], AgeError> {
        let wrong = AgeError::Malformed("a chunk of another length");
        if chunk.len() > CHUNK || !place.last && chunk.len() != CHUNK {
            return Err(wrong);
        }
        let tag = self.0.seal_in_place_separate_tag(place.nonce(), aead::Aad::empty(), chunk).map_err(|_| wrong)?;
        tag.as_ref().try_into().map_err(|_| wrong)
    }

    /// Opens a chunk with its tag where it lies, and returns its content.
    pub fn open<'a>(&self, place: Place, sealed: &'a mut [u8]) -> Result<&'a mut [u8], AgeError> {
        let changed = AgeError::ChunkChanged(place.number);
        let content = self.0.open_in_place(place.nonce(), aead::Aad::empty(), sealed).map_err(|_| changed)?;
        // A last chunk without content is there only where nothing else is.
        let fits = content.len() <= CHUNK && (place.last || content.len() == CHUNK);
        if fits && (!content.is_empty() || place.number == 0) { Ok(content) } else { Err(changed) }
    }
}
