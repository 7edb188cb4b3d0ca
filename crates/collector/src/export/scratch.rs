//! A file without a name for what an export does not hold in memory: it goes with whoever made it, however that ends.
//!
//! Owns how things lie in it: in blocks of several, as JSON in Zstandard's, each read by itself.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

/// Of Zstandard: what is written is read once and soon.
const EFFORT: i32 = 1;

#[derive(Debug)]
pub(super) struct Scratch {
    file: File,
    size: u64,
}

/// Where some things lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    at: u64,
    octets: usize,
    /// How many.
    pub(super) count: usize,
}

impl Scratch {
    /// In a folder on the disk that is to take it.
    pub(super) fn within(folder: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder)?;
        Ok(Self { file, size: 0 })
    }

    pub(super) fn put<T: Serialize>(&mut self, things: &[T]) -> io::Result<Block> {
        let mut packer = zstd::Encoder::new(Vec::new(), EFFORT)?;
        for thing in things {
            serde_json::to_writer(&mut packer, thing)?;
            packer.write_all(b"\n")?;
        }
        let octets = packer.finish()?;
        self.file.write_all_at(&octets, self.size)?;
        let block = Block { at: self.size, octets: octets.len(), count: things.len() };
        self.size += octets.len() as u64;
        Ok(block)
    }

    pub(super) fn get<T: DeserializeOwned>(&self, block: Block) -> io::Result<Vec<T>> {
        let mut octets = vec![0; block.octets];
        self.file.read_exact_at(&mut octets, block.at)?;
        let text = zstd::decode_all(octets.as_slice())?;
        let things = serde_json::Deserializer::from_slice(&text).into_iter();
        Ok(things.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn blocks_come_back_in_any_order_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::within(folder.path()).unwrap();
        let blocks: Vec<Block> = (0..20_u32).map(|n| scratch.put(&vec![n; n as usize]).unwrap()).collect();
        for (n, block) in blocks.iter().enumerate().rev() {
            assert_eq!((block.count, scratch.get::<u32>(*block).unwrap()), (n, vec![n as u32; n]));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
