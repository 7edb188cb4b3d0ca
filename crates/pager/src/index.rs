//! The index of where copies are: an append-only log that outlives its pager.
//!
//! Owns its format. A file is a header and then records, each `length u32, crc32 u32, kind u8, sequence u64, content`,
//! little-endian. The last entry for a page counts; a record that is not whole ends the log, and is cut off. What is torn
//! was never acted on, because a page is punched out only after the record with its copy was written.
//!
//! Sequence numbers count the records. The newest is noted where the machine is ([`crate::shared`]): a log that is older
//! than its machine, or gone, would make of pages that are away pages that never were, and is refused.
//!
//! Only leavings are recorded. A page that has come back needs no record: it is in the guest's memory, and the next pager
//! looks there. Nor is the log synced for each eviction: it must survive its pager, and a power cut takes the guest too.
//! A hibernation syncs it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::{places::Word, seal::Proof};

const MAGIC: [u8; 8] = *b"LUCPLACE";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + 8 + 16;
const RECORD: usize = 17;
const ENTRY: usize = 4 + 16 + 16;
const KIND_ENTRIES: u8 = 1;
const KIND_RESERVED: u8 = 2;
/// Generations reserved at a time.
const RESERVE: u64 = 1 << 20;
/// A log is written anew when it is longer than this many times what it must hold, and than [`SHORT`].
const SLACK: u64 = 3;
const SHORT: u64 = 1 << 20;

/// Where one page's copy is, from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) page: u32,
    pub(crate) word: Word,
    /// Of a copy in the store.
    pub(crate) proof: Proof,
}

/// Whose index it is: one of another life or size is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) life: Proof,
    pub(crate) pages: u64,
}

#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    file: File,
    identity: Identity,
    length: u64,
    /// Of the last record.
    sequence: u64,
    /// The next generation, and the first that is not reserved.
    next: u64,
    reserved: u64,
}

impl Index {
    /// Opens the log at `path`, or begins one, and calls `each` for every entry of it, oldest first.
    pub(crate) fn open(path: &Path, identity: Identity, mut each: impl FnMut(Entry)) -> io::Result<Self> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => drop(file.read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let path = path.to_owned();
        if bytes.get(..HEADER) != Some(&header(identity)[..]) {
            let (file, length) = begin(&path, identity)?;
            return Ok(Self { path, file, identity, length, sequence: 0, next: 1, reserved: 1 });
        }
        let found = replay(&bytes, identity.pages, &mut each);
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        file.set_len(found.length)?;
        file.seek(SeekFrom::Start(found.length))?;
        let (next, reserved) = (found.reserved, found.reserved);
        Ok(Self { path, file, identity, length: found.length, sequence: found.sequence, next, reserved })
    }

    /// How many records this log has had, those included that were left out when it was written anew.
    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// `count` generations in a row, never given before.
    pub(crate) fn generations(&mut self, count: u64) -> io::Result<u64> {
        if self.next + count > self.reserved {
            let reserved = self.next + count + RESERVE;
            self.write(KIND_RESERVED, &reserved.to_le_bytes())?;
            self.reserved = reserved;
        }
        let first = self.next;
        self.next += count;
        Ok(first)
    }

    /// Adds entries: all of them are there when this returns, or none.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        if entries.is_empty() { Ok(()) } else { self.write(KIND_ENTRIES, &entries_content(entries)) }
    }

    fn write(&mut self, kind: u8, content: &[u8]) -> io::Result<()> {
        let record = record(kind, self.sequence + 1, content);
        let written = self.file.write_all(&record);
        if let Err(error) = written {
            // A part of it may be there: what comes next must not stand behind it.
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
            return Err(error);
        }
        self.length += record.len() as u64;
        self.sequence += 1;
        Ok(())
    }

    /// Whether the log has become long for the `away` pages that it must hold.
    pub(crate) const fn is_long(&self, away: u64) -> bool {
        self.length > SHORT && self.length > SLACK * away * ENTRY as u64
    }

    /// Writes the log anew with nothing but `entries`, which come in parts.
    pub(crate) fn rewrite(&mut self, entries: impl Iterator<Item = Vec<Entry>>) -> io::Result<()> {
        let next = self.path.with_extension("next");
        let (mut file, mut length) = begin(&next, self.identity)?;
        let reserved = record(KIND_RESERVED, self.sequence, &self.reserved.to_le_bytes());
        let entries = entries.filter(|entries| !entries.is_empty());
        let records = entries.map(|entries| record(KIND_ENTRIES, self.sequence, &entries_content(&entries)));
        for record in std::iter::once(reserved).chain(records) {
            file.write_all(&record)?;
            length += record.len() as u64;
        }
        fs::rename(&next, &self.path)?;
        (self.file, self.length) = (file, length);
        Ok(())
    }

    /// Puts all of it on the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

fn header(Identity { life, pages }: Identity) -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes(), &pages.to_le_bytes(), &life].concat()
}

fn begin(path: &Path, identity: Identity) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&header(identity))?;
    Ok((file, HEADER as u64))
}

fn record(kind: u8, sequence: u64, content: &[u8]) -> Vec<u8> {
    let sequence = sequence.to_le_bytes();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(&sequence);
    hasher.update(content);
    let length = content.len() as u32;
    [&length.to_le_bytes(), &hasher.finalize().to_le_bytes(), &[kind][..], &sequence, content].concat()
}

fn entries_content(entries: &[Entry]) -> Vec<u8> {
    let mut content = Vec::with_capacity(entries.len() * ENTRY);
    for Entry { page, word, proof } in entries {
        content.extend(page.to_le_bytes());
        content.extend(word.to_bits().to_le_bytes());
        content.extend(proof);
    }
    content
}

/// What a log says of itself.
struct Found {
    length: u64,
    sequence: u64,
    reserved: u64,
}

/// Reads records until one is not whole.
fn replay(bytes: &[u8], pages: u64, each: &mut impl FnMut(Entry)) -> Found {
    let mut found = Found { length: HEADER as u64, sequence: 0, reserved: 1 };
    while let Some((kind, sequence, content)) = whole_record(&bytes[found.length as usize..]) {
        match kind {
            KIND_RESERVED => found.reserved = content.try_into().map_or(found.reserved, u64::from_le_bytes),
            _ => content.as_chunks::<ENTRY>().0.iter().filter_map(read_entry).for_each(|entry| {
                if u64::from(entry.page) < pages {
                    each(entry);
                }
            }),
        }
        found.sequence = sequence;
        found.length += (RECORD + content.len()) as u64;
    }
    found
}

fn whole_record(bytes: &[u8]) -> Option<(u8, u64, &[u8])> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().map(u32::from_le_bytes).ok();
    let (length, checksum) = (word(0)? as usize, word(4)?);
    let rest = bytes.get(8..)?.get(..RECORD - 8 + length)?;
    let sequence = rest[1..9].try_into().map(u64::from_le_bytes).ok()?;
    (crc32fast::hash(rest) == checksum).then(|| (rest[0], sequence, &rest[9..]))
}

fn read_entry(bytes: &[u8; ENTRY]) -> Option<Entry> {
    let page = u32::from_le_bytes(bytes[..4].try_into().ok()?);
    let word = Word::from_bits(u128::from_le_bytes(bytes[4..20].try_into().ok()?))?;
    Some(Entry { page, word, proof: bytes[20..].try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::places::{Away, Copy};

    const IDENTITY: Identity = Identity { life: [7; 16], pages: 64 };

    fn entry(page: u32, at: u32) -> Entry {
        let word = Word::away(Away::Ssd(Copy { at, generation: u64::from(at) << 13 }));
        Entry { page, word, proof: [at as u8; 16] }
    }

    fn open(path: &Path) -> (Index, BTreeMap<u32, Entry>) {
        let mut entries = BTreeMap::new();
        let index = Index::open(path, IDENTITY, |entry| {
            entries.insert(entry.page, entry);
        })
        .unwrap();
        (index, entries)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Cut anywhere, as a kill -9 within a write cuts it, the log has every whole record, and goes on behind it.
        #[test]
        fn a_log_that_is_cut_anywhere_has_all_that_was_whole(
            batches in prop::collection::vec(prop::collection::vec((0_u32..64, any::<u32>()), 1..4), 1..8),
            cut in any::<prop::sample::Index>(),
            rewritten in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("places");
            let (mut index, _) = open(&path);
            let mut states = vec![(index.length(), BTreeMap::new(), 0)];
            for batch in batches {
                let entries: Vec<Entry> = batch.into_iter().map(|(page, at)| entry(page, at)).collect();
                index.append(&entries).unwrap();
                let mut now = states.last().unwrap().1.clone();
                now.extend(entries.iter().map(|entry| (entry.page, *entry)));
                states.push((index.length(), now, index.sequence()));
            }
            if rewritten {
                let all = states.last().unwrap().1.clone();
                index.rewrite(std::iter::once(all.values().copied().collect())).unwrap();
                prop_assert_eq!(open(&path).0.sequence(), index.sequence());
                prop_assert_eq!(&open(&path).1, &all);
                return Ok(());
            }
            let cut = HEADER as u64 + cut.index((index.length() - HEADER as u64) as usize + 1) as u64;
            OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
            let whole = states.iter().rev().find(|(length, ..)| *length <= cut).unwrap();
            let (mut index, entries) = open(&path);
            prop_assert_eq!((&entries, index.sequence()), (&whole.1, whole.2));
            index.append(&[entry(1, 77)]).unwrap();
            prop_assert_eq!(open(&path).1[&1], entry(1, 77));
        }

        #[test]
        fn no_file_makes_the_reader_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), after_header in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("places");
            let bytes = if after_header { [header(IDENTITY), bytes].concat() } else { bytes };
            fs::write(&path, bytes).unwrap();
            prop_assert_eq!(open(&path).1, BTreeMap::new());
        }
    }

    #[test]
    fn a_generation_is_never_given_twice_however_often_its_pager_dies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("places");
        let mut last = 0;
        for round in 0..5_u64 {
            let (mut index, _) = open(&path);
            for _ in 0..3 {
                let first = index.generations(RESERVE / 2).unwrap();
                assert!(first > last, "{first} after {last} in round {round}");
                last = first + RESERVE / 2 - 1;
            }
            if round == 3 {
                index.rewrite(std::iter::empty()).unwrap();
            }
        }
    }

    #[test]
    fn an_index_of_another_life_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("places");
        open(&path).0.append(&[entry(3, 4)]).unwrap();
        let other = Identity { life: [8; 16], ..IDENTITY };
        Index::open(&path, other, |_| panic!("an entry of another life")).unwrap();
        assert!(open(&path).1.is_empty());
    }

    /// The format on the disk, byte for byte: a pager of a later version must still read it.
    #[test]
    fn the_format_is_as_it_was() {
        let written = record(KIND_ENTRIES, 5, &entries_content(&[entry(3, 4)]));
        assert_eq!(written.len(), RECORD + ENTRY);
        assert_eq!(&written[..4], &36_u32.to_le_bytes());
        assert_eq!(written[8], KIND_ENTRIES);
        assert_eq!(&written[9..17], &5_u64.to_le_bytes());
        let written = &written[RECORD..];
        assert_eq!(&written[..4], &3_u32.to_le_bytes());
        assert_eq!(written[4] & 15, 4, "in the store");
        assert_eq!(&written[8..12], &4_u32.to_le_bytes());
        assert_eq!(&written[14..20], &(4_u64 << 13).to_le_bytes()[..6]);
        assert_eq!(&written[20..], [4; 16]);
    }
}
