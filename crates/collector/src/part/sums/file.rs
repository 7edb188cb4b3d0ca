//! The file of a part's sums: one block for each of the coarser levels, for each slice by peer and for those of conversations,
//! each with its digest.
//!
//! Owns its layout and that nothing is read from it that was not written for this part. It can go missing or bad at any time:
//! the part's rows answer then.
//!
//! A file begins with [`VERSION`], the octets of the account's file of the part, and the length of each block; then come the
//! blocks: 32 octets of SHA-256, and a stream of Arrow's in Zstandard's or a slice. Where there are no sums by peer, the slices'
//! blocks are not there, and their length is 0; so it is with slices that have no conversation. Of the conversations come first
//! the names, one a line, then the slices of open ones and those of settled ones. A file of the version before ends with the
//! peers.

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
    Level, Summed, conversations,
    peers::{self, PeerSum, SLICES},
};
use crate::durable;

const VERSION: [u8; 8] = *b"lcnsums3";
/// Has no conversations.
const VERSION_BEFORE: [u8; 8] = *b"lcnsums2";
const NUMBER: usize = size_of::<u64>();
/// The coarser levels', then the slices' by peer, and those of conversations.
const BLOCKS: usize = SETTLED_FROM + conversations::SLICES;
const SLICES_FROM: usize = Level::Peer as usize;
const NAMES: usize = SLICES_FROM + SLICES;
const OPEN_FROM: usize = NAMES + 1;
const SETTLED_FROM: usize = OPEN_FROM + conversations::SLICES;
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

/// What can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::part) struct Has {
    pub(in crate::part) finest: Level,
    pub(in crate::part) conversations: bool,
}

/// What there is of conversations; the numbers are those of slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Names,
    Open(usize),
    Settled(usize),
}

/// Writes the sums of a part whose account's file has so many octets.
pub(in crate::part) fn write(path: &Path, part_size: u64, summed: &Summed) -> Result<(), SumsError> {
    let mut packed = vec![stream(&summed.instances)?, stream(&summed.services)?];
    for slice in summed.peers.iter().flatten() {
        packed.push(peers::write(slice)?);
    }
    packed.resize(NAMES, Vec::new());
    let conversations::Slices { names, open, settled } = &summed.conversations;
    packed.push(zstd::bulk::compress(names.join("\n").as_bytes(), EFFORT)?);
    packed.extend(open.iter().chain(settled).cloned());
    let block =
        |packed: &Vec<u8>| if packed.is_empty() { Vec::new() } else { [&Digest::of(packed).0[..], packed].concat() };
    let blocks: Vec<Vec<u8>> = packed.iter().map(block).collect();
    let mut header = [&VERSION[..], &part_size.to_le_bytes()].concat();
    blocks.iter().for_each(|block| header.extend((block.len() as u64).to_le_bytes()));
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

/// What can be read, where all blocks are there as they were written for the part.
pub(in crate::part) fn check(path: &Path, part_size: u64) -> Result<Has, SumsError> {
    let file = SumsFile::open(path, part_size)?;
    for (block, length) in file.lengths.iter().enumerate() {
        if block < SLICES_FROM || *length > 0 {
            file.packed(block)?;
        }
    }
    let of_peers = file.lengths.get(SLICES_FROM..NAMES).ok_or(SumsError::Damaged)?;
    let finest = if of_peers.iter().all(|length| *length == 0) { Level::Service } else { Level::Peer };
    Ok(Has { finest, conversations: file.lengths.get(NAMES).is_some_and(|length| *length > 0) })
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

/// What there is of the part's conversations: octets of runs, or names, one a line.
pub(in crate::part) fn read_conversations(path: &Path, part_size: u64, of: Of) -> Result<Vec<u8>, SumsError> {
    let file = SumsFile::open(path, part_size)?;
    let block = match of {
        Of::Names => return Ok(zstd::decode_all(file.packed(NAMES)?.as_slice())?),
        Of::Open(slice) => OPEN_FROM + slice,
        Of::Settled(slice) => SETTLED_FROM + slice,
    };
    if file.lengths.get(block) == Some(&0) { Ok(Vec::new()) } else { file.packed(block) }
}

struct SumsFile {
    file: File,
    size: u64,
    /// Where the first block begins.
    begin: u64,
    lengths: Vec<u64>,
}

impl SumsFile {
    fn open(path: &Path, part_size: u64) -> Result<Self, SumsError> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut version = [0; VERSION.len()];
        file.read_exact_at(&mut version, 0)?;
        let begin = match version {
            VERSION => HEADER,
            VERSION_BEFORE => VERSION.len() + NUMBER * (1 + NAMES),
            _ => return Err(SumsError::Damaged),
        };
        let mut header = vec![0; begin - version.len()];
        file.read_exact_at(&mut header, version.len() as u64)?;
        let mut numbers = header
            .chunks_exact(NUMBER)
            .map(|octets| octets.iter().rev().fold(0, |number, octet| number << 8 | u64::from(*octet)));
        if numbers.next() != Some(part_size) {
            return Err(SumsError::Damaged);
        }
        Ok(Self { size, file, begin: begin as u64, lengths: numbers.collect() })
    }

    /// A block without its digest, which it has.
    fn packed(&self, block: usize) -> Result<Vec<u8>, SumsError> {
        let (before, length) = (self.lengths.get(..block), self.lengths.get(block));
        let (Some(before), Some(length)) = (before, length) else { return Err(SumsError::Damaged) };
        let start = before.iter().try_fold(self.begin, |sum, length| sum.checked_add(*length));
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
