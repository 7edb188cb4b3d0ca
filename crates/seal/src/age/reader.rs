//! An age file opened as it comes. Content is given out as soon as its chunk is proved; that the file is whole is known at
//! its end only, so who reads must not use what came before.

use super::{
    AgeError, Header, Identity,
    header::MOST_OCTETS,
    stream::{ChunkKey, NONCE, Place, SEALED_CHUNK},
};

/// The octets of an age file in, its content out.
#[derive(Debug)]
pub struct Reader {
    identity: Identity,
    chunks: Option<ChunkKey>,
    number: u64,
    kept: Vec<u8>,
}

impl Reader {
    pub fn new(identity: Identity) -> Self {
        Self { identity, chunks: None, number: 0, kept: Vec::new() }
    }

    /// Takes more of the file; content that is proved goes to `out`.
    pub fn push(&mut self, mut octets: &[u8], out: &mut Vec<u8>) -> Result<(), AgeError> {
        while !octets.is_empty() {
            // One octet beyond a chunk shows that it is not the last one.
            let most = if self.chunks.is_some() { SEALED_CHUNK + 1 } else { MOST_OCTETS + NONCE };
            let (taken, rest) = octets.split_at(octets.len().min(most.saturating_sub(self.kept.len())));
            self.kept.extend_from_slice(taken);
            octets = rest;
            match &self.chunks {
                None => self.begin(taken.is_empty())?,
                Some(_) if self.kept.len() > SEALED_CHUNK => self.open(false, out)?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The file is over.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), AgeError> {
        if self.chunks.is_none() {
            self.begin(true)?;
        }
        while self.kept.len() > SEALED_CHUNK {
            self.open(false, out)?;
        }
        if self.kept.is_empty() {
            return Err(AgeError::Truncated);
        }
        self.open(true, out)
    }

    /// Reads the header, once all of it is there. `all`: no more of it will come.
    fn begin(&mut self, all: bool) -> Result<(), AgeError> {
        let (header, length) = match Header::read(&self.kept) {
            Err(AgeError::Truncated) if !all && self.kept.len() < MOST_OCTETS => return Ok(()),
            read => read?,
        };
        let nonce = self.kept.get(length..length + NONCE).and_then(|nonce| <[u8; NONCE]>::try_from(nonce).ok());
        match nonce {
            Some(nonce) => {
                self.chunks = Some(ChunkKey::new(&header.unwrap(&self.identity)?, &nonce)?);
                self.kept.drain(..length + NONCE);
                Ok(())
            }
            None if all => Err(AgeError::Truncated),
            None => Ok(()),
        }
    }

    fn open(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), AgeError> {
        let Some(chunks) = &self.chunks else { return Err(AgeError::Truncated) };
        let length = self.kept.len().min(SEALED_CHUNK);
        let mut sealed: Vec<u8> = self.kept.drain(..length).collect();
        out.extend_from_slice(chunks.open(Place { number: self.number, last }, &mut sealed)?);
        self.number += 1;
        Ok(())
    }
}
