//! The file of a part's sums: one block for each level, each with its digest.
//!
//! Owns its layout and that nothing is read from it that was not written for this part. It can go missing or bad at any time:
//! the part's rows answer then.
//!
//! A file begins with [`VERSION`], the octets of the account's file of the part, and the length of each block; then come the
//! blocks: 32 octets of SHA-256, and a stream of Arrow's in Zstandard's.

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

use super::Level;
use crate::durable;

const VERSION: [u8; 8] = *b"lcnsums1";
const NUMBER: usize = size_of::<u64>();
const HEADER: usize = VERSION.len() + NUMBER * (1 + Level::ALL.len());
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
pub(in crate::part) fn write(path: &Path, part_size: u64, levels: &[RecordBatch; 2]) -> Result<(), SumsError> {
    let mut blocks = Vec::new();
    let mut header = [&VERSION[..], &part_size.to_le_bytes()].concat();
    for rows in levels {
        let block = block(rows)?;
        header.extend((block.len() as u64).to_le_bytes());
        blocks.extend(block);
    }
    path.parent().map_or(Ok(()), durable::create_dir)?;
    durable::write_whole(path, |file| {
        file.write_all(&header)?;
        Ok(file.write_all(&blocks)?)
    })
}

fn block(rows: &RecordBatch) -> Result<Vec<u8>, SumsError> {
    let mut stream = StreamWriter::try_new(Vec::new(), rows.schema_ref())?;
    stream.write(rows)?;
    let packed = zstd::bulk::compress(&stream.into_inner()?, EFFORT)?;
    Ok([&Digest::of(&packed).0[..], &packed].concat())
}

/// Whether all blocks are there as they were written for the part.
pub(in crate::part) fn check(path: &Path, part_size: u64) -> Result<(), SumsError> {
    let file = File::open(path)?;
    Level::ALL.into_iter().try_for_each(|level| packed(&file, part_size, level).map(drop))
}

/// The rows of a level.
pub(in crate::part) fn read(path: &Path, part_size: u64, level: Level) -> Result<Vec<RecordBatch>, SumsError> {
    let packed = packed(&File::open(path)?, part_size, level)?;
    let stream = zstd::decode_all(packed.as_slice())?;
    let rows = StreamReader::try_new(stream.as_slice(), None)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn packed(file: &File, part_size: u64, level: Level) -> Result<Vec<u8>, SumsError> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)?;
    let number = |at: usize| {
        let octets = header.get(VERSION.len() + NUMBER * at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*octets))
    };
    if !header.starts_with(&VERSION) || number(0) != Some(part_size) {
        return Err(SumsError::Damaged);
    }
    let lengths = (0..=level as usize).map(|at| number(1 + at)).collect::<Option<Vec<u64>>>();
    let lengths = lengths.ok_or(SumsError::Damaged)?;
    let (Some(length), before) = (lengths.last(), &lengths[..level as usize]) else { return Err(SumsError::Damaged) };
    let start = before.iter().try_fold(HEADER as u64, |sum, length| sum.checked_add(*length));
    let end = start.and_then(|start| start.checked_add(*length));
    let (Some(start), true) = (start, end.is_some_and(|end| Some(end) <= file.metadata().ok().map(|file| file.len())))
    else {
        return Err(SumsError::Damaged);
    };
    let mut block = vec![0; usize::try_from(*length).map_err(|_| SumsError::Damaged)?];
    file.read_exact_at(&mut block, start)?;
    match block.split_at_checked(DIGEST) {
        Some((digest, packed)) if Digest::of(packed).0 == digest => Ok(packed.to_vec()),
        _ => Err(SumsError::Damaged),
    }
}
