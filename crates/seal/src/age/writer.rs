//! An age file from its first octet to its last, as content comes.
//!
//! Owns the order: header, nonce, chunks. Whoever has several threads takes the [`ChunkKey`] apart with [`begin`] and keeps
//! the order itself; [`Writer`] is the same on one.

use super::{
    AgeError, Header, Recipient, Seed,
    stream::{CHUNK, ChunkKey, NONCE, Place},
};

/// What an age file begins with, and the key of its chunks.
#[derive(Debug)]
pub struct Begun {
    pub header: Header,
    /// Header and nonce as they are written.
    pub octets: Vec<u8>,
    pub chunks: ChunkKey,
}

/// Begins a file for these recipients.
pub fn begin(seed: &Seed, recipients: &[Recipient]) -> Result<Begun, AgeError> {
    let (header, key) = Header::make(seed, recipients)?;
    let nonce: [u8; NONCE] = seed.derive("nonce");
    let octets = [header.to_octets(), nonce.to_vec()].concat();
    Ok(Begun { header, octets, chunks: ChunkKey::new(&key, &nonce)? })
}

/// Content in, the octets of an age file out. It keeps less than a chunk and one octet.
#[derive(Debug)]
pub struct Writer {
    chunks: ChunkKey,
    number: u64,
    /// Content that is not sealed yet: only what comes next says whether it is the last chunk.
    kept: Vec<u8>,
}

impl Writer {
    /// Begins a file; what it begins with goes to `out`.
    pub fn begin(seed: &Seed, recipients: &[Recipient], out: &mut Vec<u8>) -> Result<Self, AgeError> {
        let begun = begin(seed, recipients)?;
        out.extend_from_slice(&begun.octets);
        Ok(Self { chunks: begun.chunks, number: 0, kept: Vec::with_capacity(CHUNK) })
    }

    /// Takes more content; the chunks that are whole go to `out`.
    pub fn push(&mut self, mut content: &[u8], out: &mut Vec<u8>) -> Result<(), AgeError> {
        while !content.is_empty() {
            if self.kept.len() == CHUNK {
                self.seal(false, out)?;
            }
            let (taken, rest) = content.split_at(content.len().min(CHUNK - self.kept.len()));
            self.kept.extend_from_slice(taken);
            content = rest;
        }
        Ok(())
    }

    /// The content is over: the last chunk goes to `out`.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), AgeError> {
        self.seal(true, out)
    }

    fn seal(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), AgeError> {
        let tag = self.chunks.seal(Place { number: self.number, last }, &mut self.kept)?;
        out.extend_from_slice(&self.kept);
        out.extend_from_slice(&tag);
        self.kept.clear();
        self.number += 1;
        Ok(())
    }
}
