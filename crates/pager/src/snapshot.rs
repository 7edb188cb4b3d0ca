//! A guest's memory in a file that many guests go on from: written once, read by all of their pagers, changed by none.
//!
//! Owns the format. A file of version 1 is a header, then pages, then the index; little-endian:
//!
//! ```text
//! header  magic 8, version u32, entries u32, pages of the guest u64, offset of the index u64
//! page    LZ4, or as it is where that is not smaller
//! index   an entry for each page that is not zeros, in the order of pages:
//!         page u32, length u16 (0: same-filled, its value is the offset), zero u16, offset u64, proof 16
//! ```
//!
//! A proof is the first half of the SHA-256 of the page's number and what is stored of it; the digest of a snapshot is the
//! SHA-256 of header and index. So who knows the digest knows all of it, and pages are checked when they are fetched, not
//! before: what is not what was written is [`Lost`], and ends the VM. There is nothing secret in it that is not in each of
//! the VMs, and it is not sealed: those who may read it are root.
//!
//! The file is read through the host's page cache, which all pagers share; it needs no more of the host's memory than once.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use lucarne_model::storage::Digest;
use ring::digest::{Context, SHA256};
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use crate::{
    disk::Disk,
    page::{self, PAGE, Page},
    places::{Away, Word},
    source::{FetchError, Lost, Source},
};

const MAGIC: [u8; 8] = *b"LUCSNAPS";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + 4 + 8 + 8;
const ENTRY: usize = 4 + 2 + 2 + 8 + 16;
/// Pages are read from the guest so many at a time.
const CHUNK: usize = 256;

type Proof = [u8; 16];

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("could not {doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not the snapshot that was asked for: {reason}", path.display())]
    Changed { path: PathBuf, reason: &'static str },
    #[error("the machine's memory cannot be found: {reason}")]
    NoMemory { reason: String },
}

/// A snapshot that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub digest: Digest,
    /// In octets, on the disk.
    pub length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    page: u32,
    length: u16,
    offset: u64,
    proof: Proof,
}

/// Writes the memory of the machine whose process is `process` to the file `to`. The machine must stand still, and have no
/// pager: all of its memory is in its memfd.
pub fn write_memory_of(process: u32, to: &Path) -> Result<Written, SnapshotError> {
    write(&memory_of(process)?, to).map_err(|source| SnapshotError::File { doing: "write", path: to.into(), source })
}

/// The memfd that QEMU made for its guest's memory.
pub(crate) fn memory_of(process: u32) -> Result<File, SnapshotError> {
    let failed = |error: io::Error| SnapshotError::NoMemory { reason: error.to_string() };
    let folder = std::fs::read_dir(format!("/proc/{process}/fd")).map_err(failed)?;
    let is_memory = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:memory-backend-memfd"))
    };
    let found = folder.flatten().map(|entry| entry.path()).find(is_memory);
    let path = found.ok_or_else(|| SnapshotError::NoMemory { reason: "it has no memfd".into() })?;
    File::open(path).map_err(failed)
}

fn write(memory: &File, to: &Path) -> io::Result<Written> {
    // Not for the users of VMs: it has what other accounts' guests have.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    let mut out = BufWriter::new(file);
    out.write_all(&[0; HEADER])?;
    let (mut entries, mut offset) = (Vec::new(), HEADER as u64);
    let mut contents = page::zeroed(CHUNK);
    let mut small = vec![0; lz4_flex::block::get_maximum_output_size(PAGE)];
    for (first, count) in runs(memory)? {
        let contents = &mut contents[..count];
        memory.read_exact_at(page::bytes_mut(contents), first * PAGE as u64)?;
        for (page, content) in (first as u32..).zip(contents.iter()) {
            match content.filled_with() {
                Some(0) => {}
                Some(value) => {
                    entries.push(Entry { page, length: 0, offset: value, proof: proof(page, &value.to_le_bytes()) });
                }
                None => {
                    let length = lz4_flex::block::compress_into(&content.0, &mut small).unwrap_or(PAGE);
                    let stored = if length < PAGE { &small[..length] } else { &content.0[..] };
                    out.write_all(stored)?;
                    let proof = proof(page, stored);
                    entries.push(Entry { page, length: stored.len() as u16, offset, proof });
                    offset += stored.len() as u64;
                }
            }
        }
    }
    let pages = memory.metadata()?.len() / PAGE as u64;
    let (header, index) = (header(entries.len() as u32, pages, offset), index_of(&entries));
    out.write_all(&index)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.write_all_at(&header, 0)?;
    file.sync_all()?;
    Ok(Written { digest: digest_of(&header, &index), length: offset + index.len() as u64 })
}

/// Where there is anything, in parts of at most [`CHUNK`] pages: first page and how many.
pub(crate) fn runs(memory: &File) -> io::Result<Vec<(u64, usize)>> {
    let (mut runs, mut at) = (Vec::new(), 0);
    loop {
        let start = match seek(memory, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(runs),
            Err(errno) => return Err(errno.into()),
        };
        at = seek(memory, SeekFrom::Hole(start))?;
        let (first, end) = (start / PAGE as u64, at / PAGE as u64);
        let parts = (first..end).step_by(CHUNK);
        runs.extend(parts.map(|first| (first, (end - first).min(CHUNK as u64) as usize)));
    }
}

fn header(entries: u32, pages: u64, index: u64) -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes(), &entries.to_le_bytes(), &pages.to_le_bytes(), &index.to_le_bytes()].concat()
}

fn index_of(entries: &[Entry]) -> Vec<u8> {
    let octets = |Entry { page, length, offset, proof }: &Entry| {
        [&page.to_le_bytes()[..], &length.to_le_bytes(), &[0; 2], &offset.to_le_bytes(), proof].concat()
    };
    entries.iter().flat_map(octets).collect()
}

fn digest_of(header: &[u8], index: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(header);
    context.update(index);
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Digest::from_bytes(digest)
}

fn proof(page: u32, stored: &[u8]) -> Proof {
    let mut context = Context::new(&SHA256);
    context.update(&page.to_le_bytes());
    context.update(stored);
    let mut proof = [0; 16];
    proof.copy_from_slice(&context.finish().as_ref()[..16]);
    proof
}

/// An open snapshot. Its index is what its digest says; its pages are checked when they are fetched.
#[derive(Debug)]
pub struct Snapshot {
    file: File,
    pages: u64,
    entries: Vec<Entry>,
}

impl Snapshot {
    /// Opens the file at `path`, if it is the snapshot with this digest.
    pub fn open(path: &Path, digest: &Digest) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::File { doing: "read", path: path.into(), source };
        let changed = |reason| SnapshotError::Changed { path: path.into(), reason };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(failed)?;
        let number = |at: usize, octets: usize| {
            header[at..at + octets].iter().rev().fold(0_u64, |number, octet| number << 8 | u64::from(*octet))
        };
        if header[..8] != MAGIC || number(8, 4) != u64::from(VERSION) {
            return Err(changed("it does not begin as one"));
        }
        let (count, pages, at) = (number(12, 4), number(16, 8), number(24, 8));
        if at.checked_add(count * ENTRY as u64) != Some(length) {
            return Err(changed("its index is not where it says"));
        }
        let mut index = vec![0; count as usize * ENTRY];
        file.read_exact_at(&mut index, at).map_err(failed)?;
        if digest_of(&header, &index) != *digest {
            return Err(changed("its digest is another"));
        }
        Ok(Self { file, pages, entries: index.as_chunks::<ENTRY>().0.iter().map(read_entry).collect() })
    }

    /// Reads all of it: whether every page is what it was.
    pub fn check(&self) -> Result<(), String> {
        let mut content = page::zeroed(1);
        let pages = self.entries.iter().filter(|entry| entry.length > 0).map(|entry| u64::from(entry.page));
        for page in pages {
            self.fetch_run(page, &mut content).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// How large the guest is.
    pub(crate) const fn pages(&self) -> u64 {
        self.pages
    }

    /// Where the pages of a guest are that goes on from it.
    pub(crate) fn words(&self) -> Vec<Word> {
        let mut words = vec![Word::UNTOUCHED; self.pages as usize];
        for entry in &self.entries {
            let away = if entry.length == 0 { Away::SameFilled(entry.offset) } else { Away::Snapshot };
            if let Some(word) = words.get_mut(entry.page as usize) {
                *word = Word::away(away);
            }
        }
        words
    }

    /// Whether a page is in it with this content: then no other copy needs to be made. `room` is for what it has.
    pub(crate) fn holds(&self, page: u64, content: &Page, room: &mut Page) -> bool {
        let room = std::slice::from_mut(room);
        self.entry(page).is_some_and(|entry| entry.length > 0)
            && self.fetch_run(page, room).is_ok()
            && room[0].0 == content.0
    }

    fn entry(&self, page: u64) -> Option<&Entry> {
        let at = self.entries.binary_search_by_key(&page, |entry| u64::from(entry.page)).ok()?;
        Some(&self.entries[at])
    }

    /// Pages in a row from `first` on: with one read, because neighbours were written so.
    fn fetch_run(&self, first: u64, contents: &mut [Page]) -> Result<(), FetchError> {
        let lost = |page: u64, lost| FetchError { page, lost };
        let at = self.entries.binary_search_by_key(&first, |entry| u64::from(entry.page));
        let entries = at.ok().and_then(|at| self.entries.get(at..at + contents.len()));
        let entries = entries.ok_or_else(|| lost(first, Lost::Damaged))?;
        let (Some(from), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
        let length = (last.offset - from.offset) as usize + usize::from(last.length);
        let mut stored = vec![0; length];
        self.file.read_exact_at(&mut stored, from.offset).map_err(|error| lost(first, Lost::Unreadable(error)))?;
        for ((entry, content), page) in entries.iter().zip(contents).zip(first..) {
            let at = (entry.offset - from.offset) as usize;
            let stored = stored.get(at..at + usize::from(entry.length)).unwrap_or_default();
            if u64::from(entry.page) != page || proof(entry.page, stored) != entry.proof || !unpack(stored, content) {
                return Err(lost(page, Lost::Damaged));
            }
        }
        Ok(())
    }
}

fn unpack(stored: &[u8], content: &mut Page) -> bool {
    if stored.len() == PAGE {
        content.0.copy_from_slice(stored);
        return true;
    }
    lz4_flex::block::decompress_into(stored, &mut content.0).is_ok_and(|length| length == PAGE)
}

fn read_entry(octets: &[u8; ENTRY]) -> Entry {
    let mut proof = [0; 16];
    proof.copy_from_slice(&octets[16..]);
    Entry {
        page: u32::from_le_bytes([octets[0], octets[1], octets[2], octets[3]]),
        length: u16::from_le_bytes([octets[4], octets[5]]),
        offset: octets[8..16].iter().rev().fold(0, |number, octet| number << 8 | u64::from(*octet)),
        proof,
    }
}

impl Source for Snapshot {
    fn fetch(&self, _: &mut Disk, pages: &[(u64, Away)], contents: &mut [Page]) -> Result<(), FetchError> {
        let mut rest = contents;
        for run in pages.chunk_by(|(page, _), (next, _)| page + 1 == *next) {
            let (these, others) = rest.split_at_mut(run.len());
            self.fetch_run(run[0].0, these)?;
            rest = others;
        }
        Ok(())
    }
    fn free(&self, _: Away) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of: zeros, one value, what compresses, what does not; the last two behind a hole.
    fn memory(folder: &Path) -> (File, Vec<Page>) {
        let mut pages = page::zeroed(8);
        pages[1].fill(7);
        pages[2].0[100] = 1;
        let mut noise = 1_u32;
        for page in [3, 6] {
            pages[page].0.fill_with(|| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (noise >> 24) as u8
            });
        }
        pages[7].0[4095] = 9;
        let path = folder.join("memory");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        file.set_len(8 * PAGE as u64).unwrap();
        file.write_all_at(page::bytes(&pages[..4]), 0).unwrap();
        file.write_all_at(page::bytes(&pages[6..]), 6 * PAGE as u64).unwrap();
        (file, pages)
    }

    #[test]
    fn every_page_comes_back_as_it_was_and_zeros_take_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let (memory, pages) = memory(folder.path());
        let path = folder.path().join("snapshot");
        let written = write(&memory, &path).unwrap();
        assert_eq!(written.length, path.metadata().unwrap().len());
        let snapshot = Snapshot::open(&path, &written.digest).unwrap();
        assert_eq!((snapshot.pages(), snapshot.entries.len()), (8, 5));
        let words = snapshot.words();
        let (mut content, mut room) = (page::zeroed(1), Page::ZERO);
        for (page, expected) in pages.iter().enumerate() {
            match words[page].as_away() {
                None => assert_eq!(expected.filled_with(), Some(0)),
                Some(Away::SameFilled(value)) => assert_eq!(expected.filled_with(), Some(value)),
                Some(away) => {
                    let asked = [(page as u64, away)];
                    Source::fetch(&snapshot, &mut Disk::new(), &asked, &mut content).unwrap();
                    assert_eq!(content[0].0, expected.0);
                    assert!(snapshot.holds(page as u64, expected, &mut room));
                    assert!(!snapshot.holds(page as u64, &Page::ZERO, &mut room));
                }
            }
        }
        let asked = [(2, Away::Snapshot), (3, Away::Snapshot), (6, Away::Snapshot), (7, Away::Snapshot)];
        let mut contents = page::zeroed(4);
        Source::fetch(&snapshot, &mut Disk::new(), &asked, &mut contents).unwrap();
        for ((page, _), content) in asked.iter().zip(&contents) {
            assert_eq!(content.0, pages[*page as usize].0);
        }
        snapshot.check().unwrap();
    }

    /// Whichever octet of the file is changed: it is not opened, or the page is lost, and no other content comes of it.
    #[test]
    fn no_changed_octet_goes_unseen() {
        let folder = tempfile::tempdir().unwrap();
        let (memory, _) = memory(folder.path());
        let path = folder.path().join("snapshot");
        let written = write(&memory, &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(7).chain(whole.len() - 8 * ENTRY..whole.len()) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            let opened = Snapshot::open(&path, &written.digest);
            assert!(opened.is_err() || opened.is_ok_and(|snapshot| snapshot.check().is_err()), "octet {at}");
        }
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(Snapshot::open(&path, &written.digest).is_err());
    }
}
