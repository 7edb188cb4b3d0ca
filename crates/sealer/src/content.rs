//! What an operation finds, on its way into an age file: counted, lengthened, encrypted on all processors, written.
//!
//! Owns the limit of the request, the padding of the content, and the order of chunks: each is sealed by itself, so a batch of
//! them is sealed by several threads where it will lie in the file. It keeps one batch, and what leaves it is ciphertext.

use std::{
    fs::File,
    io::{self, Write},
    num::NonZero,
    thread,
};

use lucarne_seal::{
    age::{
        AgeError, Seed,
        stream::{CHUNK, ChunkKey, Place, SEALED_CHUNK},
        writer::{self, Begun},
    },
    operation::Format,
    padding::Padding,
    request::ResultTerms,
};
use ring::rand::{SecureRandom, SystemRandom};

use crate::order::Failure;

const WRITING: &str = "write the result";
/// Chunks that are sealed at once: some milliseconds' work, beside which the start of threads is nothing.
const BATCH: usize = 64;
/// Less is sealed by one thread.
const LEAST: usize = 8;
/// Beyond that, whoever takes the result in is slower.
const MOST_THREADS: usize = 8;

/// Takes content in order; [`Content::finish`] makes the file whole.
#[derive(Debug)]
pub(crate) struct Content {
    key: ChunkKey,
    /// The number of the next chunk.
    number: u64,
    /// Content that is not sealed yet; only what comes next says whether its last chunk is the file's.
    kept: Vec<u8>,
    sealed: Vec<u8>,
    threads: usize,
    out: File,
    length: u64,
    most: u64,
    padding: Padding,
}

impl Content {
    pub(crate) fn begin(terms: &ResultTerms, out: File) -> Result<Self, Failure> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
        Self::begin_with(threads, terms, out)
    }

    fn begin_with(threads: usize, terms: &ResultTerms, mut out: File) -> Result<Self, Failure> {
        let mut seed = [0; 32];
        let drawn = SystemRandom::new().fill(&mut seed).map_err(|_| io::ErrorKind::Other.into());
        drawn.map_err(Failure::broken("draw a random number"))?;
        let Begun { octets, chunks, .. } = writer::begin(&Seed::new(seed), &terms.recipients).map_err(not_sealed)?;
        out.write_all(&octets).map_err(Failure::broken(WRITING))?;
        Ok(Self {
            key: chunks,
            number: 0,
            kept: Vec::new(),
            sealed: Vec::new(),
            threads,
            out,
            length: 0,
            most: terms.most_octets.get(),
            padding: terms.padding,
        })
    }

    /// So much is to come: what would be too long in the end is not begun.
    pub(crate) const fn expect(&self, length: u64) -> Result<(), Failure> {
        match self.length.saturating_add(length) > self.most {
            true => Err(Failure::TooLong { most: self.most }),
            false => Ok(()),
        }
    }

    /// Takes more content. What goes beyond the limit is not sealed, and nothing after it.
    pub(crate) fn push(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.length = self.length.saturating_add(octets.len() as u64);
        if self.length > self.most {
            return Err(Failure::TooLong { most: self.most });
        }
        self.take(octets)
    }

    /// Lengthens the content, seals its last chunk, and writes all that is left. The limit is on content without that.
    pub(crate) fn finish(mut self, format: Format) -> Result<(), Failure> {
        let mut left = self.padding.padded(self.length) - self.length;
        let filling = [format.filler(); 4096];
        while left > 0 {
            let piece = left.min(filling.len() as u64);
            self.take(&filling[..piece as usize])?;
            left -= piece;
        }
        self.seal()?;
        let place = Place { number: self.number, last: true };
        let tag = self.key.seal(place, &mut self.kept).map_err(not_sealed)?;
        self.kept.extend_from_slice(&tag);
        self.out.write_all(&self.kept).and_then(|()| self.out.flush()).map_err(Failure::broken(WRITING))
    }

    fn take(&mut self, mut octets: &[u8]) -> Result<(), Failure> {
        while !octets.is_empty() {
            if self.kept.len() > BATCH * CHUNK {
                self.seal()?;
            }
            let room = BATCH * CHUNK + 1 - self.kept.len();
            let (taken, rest) = octets.split_at(octets.len().min(room));
            self.kept.extend_from_slice(taken);
            octets = rest;
        }
        Ok(())
    }

    /// Seals and writes all whole chunks behind which there is something.
    fn seal(&mut self) -> Result<(), Failure> {
        let chunks = self.kept.len().saturating_sub(1) / CHUNK;
        self.sealed.resize(chunks * SEALED_CHUNK, 0);
        let threads = if chunks < LEAST { 1 } else { self.threads };
        let each = chunks.div_ceil(threads).max(1);
        let (key, first) = (&self.key, self.number);
        let shares = self.kept[..chunks * CHUNK].chunks(each * CHUNK).zip(self.sealed.chunks_mut(each * SEALED_CHUNK));
        let shares = (first..).step_by(each).zip(shares);
        thread::scope(|scope| {
            let seals = |(number, (content, sealed))| move || seal_chunks(key, number, content, sealed);
            let mut shares: Vec<_> = shares.map(seals).collect();
            // This thread has a share too.
            let own = shares.pop();
            let others: Vec<_> = shares.into_iter().map(|share| scope.spawn(share)).collect();
            let own = own.map_or(Ok(()), |share| share());
            let others = others.into_iter().map(|other| other.join().unwrap_or(Err(AgeError::Truncated)));
            others.fold(own, Result::and)
        })
        .map_err(not_sealed)?;
        self.number += chunks as u64;
        self.kept.drain(..chunks * CHUNK);
        self.out.write_all(&self.sealed).map_err(Failure::broken(WRITING))
    }
}

/// Seals whole chunks, the first of which has this number, to where they will lie.
fn seal_chunks(key: &ChunkKey, first: u64, content: &[u8], sealed: &mut [u8]) -> Result<(), AgeError> {
    for (number, (content, sealed)) in (first..).zip(content.chunks(CHUNK).zip(sealed.chunks_mut(SEALED_CHUNK))) {
        let (chunk, tag) = sealed.split_at_mut(CHUNK);
        chunk.copy_from_slice(content);
        tag.copy_from_slice(&key.seal(Place { number, last: false }, chunk)?);
    }
    Ok(())
}

fn not_sealed(error: AgeError) -> Failure {
    Failure::Broken { doing: "seal the result", cause: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Seek},
        time::Instant,
    };

    use lucarne_seal::age::{Identity, reader::Reader};
    use proptest::prelude::*;

    use super::*;

    fn terms(identity: &Identity, most: u64, padding: Padding) -> ResultTerms {
        ResultTerms { recipients: vec![identity.recipient()], most_octets: most.try_into().unwrap(), padding }
    }
    fn identity() -> Identity {
        Identity::from_octets([5; 32])
    }
    fn opened(sealed: &[u8]) -> Vec<u8> {
        let mut reader = Reader::new(identity());
        let mut content = Vec::new();
        reader.push(sealed, &mut content).unwrap();
        reader.finish(&mut content).unwrap();
        content
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// However content comes, and on however many threads it is sealed, it is what is opened.
        #[test]
        fn content_comes_back_in_its_order(
            pieces in prop::collection::vec(0..(40 * CHUNK), 0..6), whole in 0..3usize, threads in 1..5usize, odd: bool,
        ) {
            let mut file = tempfile::tempfile().unwrap();
            let terms = terms(&identity(), 1 << 40, Padding::Padme);
            let mut content = Content::begin_with(threads, &terms, file.try_clone().unwrap()).unwrap();
            // And lengths at which a batch or a chunk ends.
            let length = pieces.iter().sum::<usize>() + whole * BATCH * CHUNK + usize::from(odd);
            let expected: Vec<u8> = (0..length as u64).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
            let mut from = 0;
            for piece in pieces {
                content.push(&expected[from..from + piece]).unwrap();
                from += piece;
            }
            content.push(&expected[from..]).unwrap();
            content.finish(Format::Json).unwrap();
            let mut sealed = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut sealed).unwrap();
            let found = opened(&sealed);
            prop_assert_eq!(found.len() as u64, Padding::Padme.padded(length as u64));
            prop_assert!(found[..length] == expected && found[length..].iter().all(|octet| *octet == b' '));
        }
    }

    #[test]
    fn nothing_is_sealed_beyond_the_limit() {
        let terms = terms(&identity(), 10, Padding::None);
        let mut content = Content::begin(&terms, tempfile::tempfile().unwrap()).unwrap();
        content.push(&[1; 10]).unwrap();
        assert_eq!(content.push(&[1]), Err(Failure::TooLong { most: 10 }));
    }

    /// `cargo test -p lucarne-sealer --lib how_fast -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn how_fast_content_is_sealed() {
        let piece = vec![7; 1 << 20];
        let most = thread::available_parallelism().map_or(1, NonZero::get);
        for threads in 1..=most {
            let nowhere = File::options().write(true).open("/dev/null").unwrap();
            let mut content =
                Content::begin_with(threads, &terms(&identity(), 1 << 40, Padding::None), nowhere).unwrap();
            let begun = Instant::now();
            (0..1024).for_each(|_| content.push(&piece).unwrap());
            content.finish(Format::Octets).unwrap();
            println!("{threads} threads: {:.2} GB/s", 1.073_741_824 / begun.elapsed().as_secs_f64());
        }
    }
}
