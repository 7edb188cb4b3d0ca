//! A file that keeps the last bytes written to it: what a VM printed on its console, or its QEMU on stderr.
//!
//! Owns the layout: 16 bytes of header (magic `LRING01\n`, then the count of all bytes ever written, little-endian), then
//! the bytes, each at its count modulo the capacity. The space is reserved when the file is made, so that a disk that
//! fills later takes no console away. The file outlives its writer; there is one writer, readers may be many.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

const MAGIC: [u8; 8] = *b"LRING01\n";
const HEADER: u64 = 16;

#[derive(Debug)]
pub(crate) struct Ring {
    file: File,
    capacity: u64,
    written: u64,
}

impl Ring {
    /// Opens the file at `path` to go on behind its end, or makes it; one of another size or kind is made anew.
    pub(crate) fn open(path: &Path, capacity: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let kept = if file.metadata()?.len() == HEADER + capacity { read_header(&file)? } else { None };
        let mut ring = Self { file, capacity, written: kept.unwrap_or(0) };
        if kept.is_none() {
            ring.file.set_len(0)?;
            rustix::fs::fallocate(&ring.file, rustix::fs::FallocateFlags::empty(), 0, HEADER + capacity)?;
            ring.write_header()?;
        }
        Ok(ring)
    }

    /// Adds bytes behind the others. The header follows the bytes: what it counts is there.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let skipped = bytes.len().saturating_sub(self.capacity as usize);
        self.written += skipped as u64;
        let mut rest = &bytes[skipped..];
        while !rest.is_empty() {
            let at = self.written % self.capacity;
            let fits = rest.len().min((self.capacity - at) as usize);
            self.file.write_all_at(&rest[..fits], HEADER + at)?;
            self.written += fits as u64;
            rest = &rest[fits..];
        }
        self.write_header()
    }

    fn write_header(&mut self) -> io::Result<()> {
        let mut header = [0; HEADER as usize];
        header[..8].copy_from_slice(&MAGIC);
        header[8..].copy_from_slice(&self.written.to_le_bytes());
        self.file.write_all_at(&header, 0)
    }
}

/// The kept bytes of the file at `path`, oldest first; none when there is no such file or it is not a ring.
pub fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let capacity = file.metadata()?.len().saturating_sub(HEADER);
    let Some(before) = read_header(&file)?.filter(|_| capacity > 0) else { return Ok(Vec::new()) };
    let mut bytes = vec![0; capacity as usize];
    file.read_exact_at(&mut bytes, HEADER)?;
    let after = read_header(&file)?.unwrap_or(before);
    // What was overwritten between the two looks at the header is newer than the rest: it is left out.
    let oldest = after.saturating_sub(capacity);
    let kept = (oldest..before.max(oldest)).map(|count| bytes[(count % capacity) as usize]).collect();
    Ok(kept)
}

fn read_header(file: &File) -> io::Result<Option<u64>> {
    let mut header = [0; HEADER as usize];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (magic, count) = header.split_at(8);
    let count = count.try_into().map(u64::from_le_bytes).unwrap_or(0);
    Ok((magic == MAGIC).then_some(count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_last_bytes_are_kept_in_order_even_when_the_writer_starts_anew(
            parts in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("ring");
            let mut ring = Ring::open(&path, 32).unwrap();
            let mut all = Vec::new();
            for (reopen, part) in parts {
                if reopen { ring = Ring::open(&path, 32).unwrap(); }
                ring.append(&part).unwrap();
                all.extend(part);
            }
            let last = &all[all.len().saturating_sub(32)..];
            prop_assert_eq!(contents(&path).unwrap(), last);
        }

        #[test]
        fn no_file_makes_the_reader_fail(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("ring");
            std::fs::write(&path, [&MAGIC[..], &bytes].concat()).unwrap();
            contents(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
            contents(&path).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_not_there_reads_as_empty() {
        assert!(contents(Path::new("/nonexistent/ring")).unwrap().is_empty());
    }
}
