//! The file of a part's sums: one block for each of the coarser levels and for each slice by peer, each with its digest.
//!
//! Owns its layout and that nothing is read from it that was not written for this part. It can go missing or bad at any time:
//! the part's rows answer then.
//!
//! A file begins with [`VERSION`], the octets of the account's file of the part, and the length of each block; then come the
//! blocks: 32 octets of SHA-256, and a stream of Arrow's in Zstandard's or a slice. Where there are no sums by peer, the slices'
//! blocks are not there, and their length is 0.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use arrow_array::RecordBatch;
use arrow_ipc::{reader::StreamReader, writer::StreamWriter};
use arrow_schema::ArrowError;
use lucarne_flows::receipts::Digest;

use super::{
    Level, Summed,
    peers::{self, PeerSum, SLICES},
};
use crate::durable;

const VERSION: [u8; 8] = *b"lcnsums2";
const NUMBER: usize = size_of::<u64>();
/// The coarser levels' and then the slices'.
const BLOCKS: usize = SLICES_FROM + SLICES;
const SLICES_FROM: usize = Level::Peer as usize;
const HEADER: usize = VERSION.len() + NUMBER * (1 + BLOCKS);
const DIGEST: usize = 32;
/// Of Zstandard: as for a part that is likely to stay.
const EFFORT: i32 = 6;

/// Why sums cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SumsError {
    #[error("the file: {0}")]
    File(#[from] io::Error),
    #[error("the rows: {0}")]
    Rows(#[from] ArrowError),
    #[error("it is damaged, or of another part or version")]
    Damaged,
}

/// Writes the sums of a part whose account's file has so many octets.
pub(in crate::part) fn write(path: &Path, part_size: u64, summed: &Summed) -> Result<(), SumsError> {
    let mut packed = vec![stream(&summed.instances)?, stream(&summed.services)?];
    for slice in summed.peers.iter().flatten() {
        packed.push(peers::write(slice)?);
    }
    let blocks: Vec<Vec<u8>> = packed.iter().map(|packed| [&Digest::of(packed).0[..], packed].concat()).collect();
    let lengths = blocks.iter().map(Vec::len).chain(std::iter::repeat(0)).take(BLOCKS);
    let mut header = [&VERSION[..], &part_size.to_le_bytes()].concat();
    lengths.for_each(|length| header.extend((length as u64).to_le_bytes()));
    path.parent().map_or(Ok(()), durable::create_dir)?;
    durable::write_whole(path, |file| {
        file.write_all(&header)?;
        Ok(file.write_all(&blocks.concat())?)
    })
}

fn stream(rows: &RecordBatch) -> Result<Vec<u8>, SumsError> {
    let mut stream = StreamWriter::try_new(Vec::new(), rows.schema_ref())?;
    stream.write(rows)?;
    Ok(zstd::bulk::compress(&stream.into_inner()?, EFFORT)?)
}

/// The finest level that can be read, where all blocks are there as they were written for the part.
pub(in crate::part) fn check(path: &Path, part_size: u64) -> Result<Level, SumsError> {
    let file = SumsFile::open(path, part_size)?;
    (0..SLICES_FROM).try_for_each(|block| file.packed(block).map(drop))?;
    if file.lengths[SLICES_FROM..].iter().all(|length| *length == 0) {
        return Ok(Level::Service);
    }
    (SLICES_FROM..BLOCKS).try_for_each(|block| file.packed(block).map(drop))?;
    Ok(Level::Peer)
}

/// The rows of a level, which is not that of peers.
pub(in crate::part) fn read(path: &Path, part_size: u64, level: Level) -> Result<Vec<RecordBatch>, SumsError> {
    let packed = SumsFile::open(path, part_size)?.packed(level as usize)?;
    let stream = zstd::decode_all(packed.as_slice())?;
    let rows = StreamReader::try_new(stream.as_slice(), None)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The sums of a slice.
pub(in crate::part) fn read_slice(path: &Path, part_size: u64, slice: usize) -> Result<Vec<PeerSum>, SumsError> {
    peers::read(&SumsFile::open(path, part_size)?.packed(SLICES_FROM + slice)?)
}

struct SumsFile {
    file: File,
    size: u64,
    lengths: [u64; BLOCKS],
}

impl SumsFile {
    fn open(path: &Path, part_size: u64) -> Result<Self, SumsError> {
        let file = File::open(path)?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let mut numbers = header[VERSION.len()..]
            .chunks_exact(NUMBER)
            .map(|octets| octets.iter().rev().fold(0, |number, octet| number << 8 | u64::from(*octet)));
        if !header.starts_with(&VERSION) || numbers.next() != Some(part_size) {
            return Err(SumsError::Damaged);
        }
        let mut lengths = [0; BLOCKS];
        lengths.iter_mut().zip(numbers).for_each(|(length, number)| *length = number);
        Ok(Self { size: file.metadata()?.len(), file, lengths })
    }

    /// A block without its digest, which it has.
    fn packed(&self, block: usize) -> Result<Vec<u8>, SumsError> {
        let (before, length) = (self.lengths.get(..block), self.lengths.get(block));
        let (Some(before), Some(length)) = (before, length) else { return Err(SumsError::Damaged) };
        let start = before.iter().try_fold(HEADER as u64, |sum, length| sum.checked_add(*length));
        let end = start.and_then(|start| start.checked_add(*length));
        let (Some(start), true) = (start, end.is_some_and(|end| end <= self.size)) else {
            return Err(SumsError::Damaged);
        };
        let mut block = vec![0; usize::try_from(*length).map_err(|_| SumsError::Damaged)?];
        self.file.read_exact_at(&mut block, start)?;
        if block.len() < DIGEST {
            return Err(SumsError::Damaged);
        }
        let packed = block.split_off(DIGEST);
        if Digest::of(&packed).0[..] == block[..] { Ok(packed) } else { Err(SumsError::Damaged) }
    }
}
