//! What an operation finds, on its way into an age file: counted, lengthened, encrypted, written.
//!
//! Owns the limit of the request and the padding of the content. It keeps less than two chunks, and what leaves it is
//! ciphertext.

use std::{
    fs::File,
    io::{self, Write},
};

use lucarne_seal::{
    age::{AgeError, Seed, writer},
    operation::Format,
    padding::Padding,
    request::ResultTerms,
};
use ring::rand::{SecureRandom, SystemRandom};

use crate::order::Failure;

const DOING: &str = "seal the result";
/// Ciphertext is written in pieces of about that size.
const PIECE: usize = 256 << 10;

/// Takes content in order; [`Content::finish`] makes the file whole.
#[derive(Debug)]
pub(crate) struct Content {
    writer: writer::Writer,
    sealed: Vec<u8>,
    out: File,
    length: u64,
    most: u64,
    padding: Padding,
}

impl Content {
    pub(crate) fn begin(terms: &ResultTerms, out: File) -> Result<Self, Failure> {
        let mut seed = [0; 32];
        let drawn = SystemRandom::new().fill(&mut seed).map_err(|_| io::ErrorKind::Other.into());
        drawn.map_err(Failure::broken("draw a random number"))?;
        let mut sealed = Vec::with_capacity(2 * PIECE);
        let writer = writer::Writer::begin(&Seed::new(seed), &terms.recipients, &mut sealed).map_err(not_sealed)?;
        Ok(Self { writer, sealed, out, length: 0, most: terms.most_octets.get(), padding: terms.padding })
    }

    /// Takes more content. What goes beyond the limit is not sealed, and nothing after it.
    pub(crate) fn push(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.length = self.length.saturating_add(octets.len() as u64);
        if self.length > self.most {
            return Err(Failure::TooLong { most: self.most });
        }
        octets.chunks(PIECE).try_for_each(|piece| self.seal(piece))
    }

    /// Lengthens the content, seals its last chunk, and writes all that is left. The limit is on content without that.
    pub(crate) fn finish(mut self, format: Format) -> Result<(), Failure> {
        let mut left = self.padding.padded(self.length) - self.length;
        let filling = [format.filler(); 4096];
        while left > 0 {
            let piece = left.min(filling.len() as u64);
            self.seal(&filling[..piece as usize])?;
            left -= piece;
        }
        self.writer.finish(&mut self.sealed).map_err(not_sealed)?;
        self.out.write_all(&self.sealed).and_then(|()| self.out.flush()).map_err(Failure::broken("write the result"))
    }

    fn seal(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.writer.push(piece, &mut self.sealed).map_err(not_sealed)?;
        if self.sealed.len() >= PIECE {
            self.out.write_all(&self.sealed).map_err(Failure::broken("write the result"))?;
            self.sealed.clear();
        }
        Ok(())
    }
}

fn not_sealed(error: AgeError) -> Failure {
    Failure::Broken { doing: DOING, cause: error.to_string() }
}
