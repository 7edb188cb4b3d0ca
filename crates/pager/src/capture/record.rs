//! What a next pager finds of the captures of one that died: in the memory file that the machine's shim holds for the notes of
//! discards, behind them ([`crate::shared::Discards`]).
//!
//! Owns the layout, who has which part, and the names of the files beside it. There are [`COUNT`] parts, each with what one
//! capture has to remember:
//!
//! | | |
//! |---|---|
//! | head | one page: the mark of [`Ledger`], the length of the name, the next place in the file, the file's key, the name |
//! | bits | two for each page of the guest: guarded, and zeros |
//! | slots | a word for each page of the room: the number of the page that is kept there and one, or zero |
//! | places | three words for each page of the file: the number of the page and one, or zero, and the proof of its seal |
//! | room | [`IN_MEMORY`] pages |
//!
//! Each word is right at each instant, because what it tells of is stored before it. Memory is taken only of what was touched,
//! and given back when the capture ends. A note of the pager's says which layout it is ([`LAYOUT`]).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use lucarne_model::{InstanceId, paging::KEY};
use rustix::fs::{FallocateFlags, fallocate};

use super::{
    held::Ledger,
    kept::{IN_MEMORY, Kept},
    under_way::MOST,
};
use crate::{
    guest::Guest,
    page::{PAGE, Page},
    pager::locked,
    seal::Proof,
    shared::{Arena, Words},
    step::Observer,
};

/// While there are captures the shim is told to discard nothing by this number, which a next pager that knows another layout
/// does not know.
pub(crate) const LAYOUT: u64 = 2;
/// More than there are captures: one that has ended may be read for another moment.
const COUNT: usize = 2 * MOST;
const LONGEST_NAME: usize = 1024;

/// Words of a page; each of the parts of a record begins with one.
const ALIGNED: usize = PAGE / 8;
const MARK: usize = 0;
const NAME_LENGTH: usize = 1;
const NEXT: usize = 2;
const FILE_KEY: usize = 4;
const NAME: usize = 8;
/// Of one place: the page and its proof.
const PLACE: usize = 3;
/// Places that may be lost because the disk did not take what was sealed for them.
const SPARE: u64 = 4096;
const _: () = assert!(NAME + LONGEST_NAME / 8 <= ALIGNED && FILE_KEY + KEY / 8 <= NAME && size_of::<Proof>() == 16);

/// How many words each part of a record has, for a guest of so many pages.
#[derive(Clone, Copy, Debug)]
struct Layout {
    bits: usize,
    places: usize,
}

impl Layout {
    fn of(pages: u64) -> Self {
        let bits = (pages.div_ceil(64) as usize).next_multiple_of(ALIGNED);
        Self { bits, places: ((pages + SPARE) as usize * PLACE).next_multiple_of(ALIGNED) }
    }
    const fn zeros(self) -> usize {
        ALIGNED + self.bits
    }
    const fn slots(self) -> usize {
        self.zeros() + self.bits
    }
    const fn first_place(self) -> usize {
        self.slots() + IN_MEMORY.next_multiple_of(ALIGNED)
    }
    const fn words(self) -> usize {
        self.first_place() + self.places
    }
    const fn octets(self) -> u64 {
        (self.words() * 8 + IN_MEMORY * PAGE) as u64
    }
}

/// All records of one guest.
#[derive(Debug)]
pub(crate) struct Records {
    file: Arc<File>,
    /// Where the first one begins.
    at: u64,
    pages: u64,
    folder: PathBuf,
    instance: InstanceId,
    observer: Observer,
    /// Which of them somebody has.
    taken: Arc<Mutex<[bool; COUNT]>>,
}

impl Records {
    /// Those of a guest whose pager has this folder.
    pub(crate) fn of(guest: &Guest, folder: &Path, instance: InstanceId, observer: Observer) -> Self {
        Self::within(guest.notes.clone(), guest.discards.length(), (guest.pages(), folder, instance), observer)
    }

    fn within(
        file: Arc<File>,
        at: u64,
        (pages, folder, instance): (u64, &Path, InstanceId),
        observer: Observer,
    ) -> Self {
        Self { file, at, pages, folder: folder.to_owned(), instance, observer, taken: Arc::default() }
    }

    /// Of a capture of this name, or of one that is nobody's after this pager. `Err`: why there is none.
    pub(crate) fn begin(&self, name: Option<&str>) -> Result<(Kept, Ledger), String> {
        if name.is_some_and(|name| name.is_empty() || name.len() > LONGEST_NAME) {
            return Err(format!("its name has between 1 and {LONGEST_NAME} octets"));
        }
        let record = self.take().ok_or("captures that have ended are read still")?;
        let failed = |error: io::Error| format!("there is no memory for it: {error}");
        // What another pager left there, if anything.
        record.punch().map_err(failed)?;
        record.set_name(name.unwrap_or_default());
        let ledger = record.ledger();
        Ok((Kept::new(record), ledger))
    }

    /// Those that an earlier pager had frozen and given names; the others are forgotten.
    pub(crate) fn recover(&self) -> Vec<(String, Kept, Ledger)> {
        let found = (0..COUNT).filter_map(|number| self.find(number)).collect();
        self.forget_rest();
        found
    }

    /// Forgets what is nobody's.
    pub(crate) fn forget_rest(&self) {
        let taken = *locked(&self.taken);
        (0..COUNT).filter(|number| !taken[*number]).for_each(|number| self.forget(number));
    }

    /// Octets of the host's memory that all of it takes, the notes of discards included.
    pub(crate) fn size(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().map_or(0, |metadata| metadata.blocks() * 512)
    }

    fn take(&self) -> Option<Record> {
        let mut taken = locked(&self.taken);
        let number = taken.iter().position(|is_taken| !is_taken)?;
        let record = self.map(number).ok()?;
        taken[number] = true;
        Some(record)
    }

    fn map(&self, number: usize) -> io::Result<Record> {
        let (layout, at) = (Layout::of(self.pages), self.place(number));
        let words = Words::map_at(&self.file, at, layout.words())?;
        let room = Arena::map_at(&self.file, at + layout.words() as u64 * 8, IN_MEMORY * PAGE)?;
        let (file, taken) = (self.file.clone(), self.taken.clone());
        let (spill, instance, observer) = (spill(&self.folder, number), self.instance, self.observer);
        Ok(Record { number, pages: self.pages, at, layout, words, room, file, spill, instance, observer, taken })
    }

    fn place(&self, number: usize) -> u64 {
        self.at + number as u64 * Layout::of(self.pages).octets()
    }

    fn find(&self, number: usize) -> Option<(String, Kept, Ledger)> {
        // Nothing is there, and a touch of it would take memory.
        if self.file.metadata().ok()?.len() < self.place(number + 1) {
            return None;
        }
        let record = self.map(number).ok()?;
        let ledger = record.ledger();
        let name = record.name().filter(|name| ledger.is_frozen() && !name.is_empty())?;
        match Kept::recover(record, &ledger) {
            Ok(kept) => {
                locked(&self.taken)[number] = true;
                Some((name, kept, ledger))
            }
            Err(error) => {
                tracing::warn!(instance = %self.instance, name, %error, "what was held of a guest's memory is lost");
                None
            }
        }
    }

    fn forget(&self, number: usize) {
        let at = self.place(number);
        if self.file.metadata().is_ok_and(|metadata| metadata.len() > at)
            && let Err(error) = punch(&self.file, at, Layout::of(self.pages))
        {
            tracing::debug!(%error, "the memory of a capture that has ended stays");
        }
        remove(&spill(&self.folder, number));
    }
}

/// Deletes the files of captures in a pager's folder.
pub(crate) fn discard(folder: &Path) -> io::Result<()> {
    for number in 0..COUNT {
        match fs::remove_file(spill(folder, number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn spill(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("captured.{number}"))
}

fn remove(spill: &Path) {
    match fs::remove_file(spill) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "what was captured of a guest stays on the disk, sealed");
        }
        _ => {}
    }
}

fn punch(file: &File, at: u64, layout: Layout) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, at, layout.octets())?)
}

/// What one capture has to remember. It is forgotten when it is dropped, unless it says what pages were at an instant: then it is
/// the next pager's, however this one ends.
#[derive(Debug)]
pub(crate) struct Record {
    number: usize,
    pages: u64,
    at: u64,
    layout: Layout,
    words: Words,
    room: Arena,
    file: Arc<File>,
    /// Where what is too much for the room goes.
    pub(crate) spill: PathBuf,
    pub(crate) instance: InstanceId,
    pub(crate) observer: Observer,
    taken: Arc<Mutex<[bool; COUNT]>>,
}

impl Record {
    fn ledger(&self) -> Ledger {
        let bits = |first| self.words.part(first, self.layout.bits);
        Ledger { mark: self.words.part(MARK, 1), guarded: bits(ALIGNED), zeros: bits(self.layout.zeros()) }
    }

    fn punch(&self) -> io::Result<()> {
        self.ledger().void();
        punch(&self.file, self.at, self.layout)
    }

    fn set_name(&self, name: &str) {
        for (at, octets) in name.as_bytes().chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..octets.len()].copy_from_slice(octets);
            self.words.set(NAME + at, u64::from_le_bytes(word));
        }
        self.words.set(NAME_LENGTH, name.len() as u64);
    }

    /// None: it is not one.
    fn name(&self) -> Option<String> {
        let length = usize::try_from(self.words.get(NAME_LENGTH)).ok().filter(|length| *length <= LONGEST_NAME)?;
        let octets = (0..length.div_ceil(8)).flat_map(|at| self.words.get(NAME + at).to_le_bytes());
        String::from_utf8(octets.take(length).collect()).ok()
    }

    /// The page that is kept in this slot of the room; none: the slot is free.
    pub(crate) fn in_slot(&self, slot: u16) -> Option<u64> {
        self.words.get(self.layout.slots() + usize::from(slot)).checked_sub(1).filter(|page| *page < self.pages)
    }

    /// The content first: who finds the page there finds what it was.
    pub(crate) fn set_slot(&mut self, slot: u16, page: u64, content: &Page) {
        self.content_mut(slot).copy_from_slice(&content.0);
        self.words.set(self.layout.slots() + usize::from(slot), page + 1);
    }

    pub(crate) fn free_slot(&self, slot: u16) {
        self.words.set(self.layout.slots() + usize::from(slot), 0);
    }

    pub(crate) fn content(&self, slot: u16) -> &[u8] {
        &self.room.bytes()[usize::from(slot) * PAGE..][..PAGE]
    }

    fn content_mut(&mut self, slot: u16) -> &mut [u8] {
        &mut self.room.bytes_mut()[usize::from(slot) * PAGE..][..PAGE]
    }

    /// The first place of the file that was never used; zero: there is no file.
    pub(crate) fn next_place(&self) -> u64 {
        self.words.get(NEXT).min(self.pages + SPARE)
    }

    /// `count` places that nobody has sealed anything for, nor will, whatever becomes of this pager.
    pub(crate) fn reserve_places(&self, count: u64) -> io::Result<u64> {
        let first = self.next_place();
        let end = first.checked_add(count).filter(|end| *end <= self.pages + SPARE);
        self.words.set(NEXT, end.ok_or(io::ErrorKind::StorageFull)?);
        Ok(first)
    }

    pub(crate) fn file_key(&self) -> [u8; KEY] {
        let mut key = [0; KEY];
        for (at, octets) in key.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *octets = self.words.get(FILE_KEY + at).to_ne_bytes();
        }
        key
    }

    /// Before the first place is reserved.
    pub(crate) fn set_file_key(&self, key: &[u8; KEY]) {
        for (at, octets) in key.as_chunks::<8>().0.iter().enumerate() {
            self.words.set(FILE_KEY + at, u64::from_ne_bytes(*octets));
        }
    }

    /// The page that lies at this place of the file; none: nothing that is wanted.
    pub(crate) fn at_place(&self, place: u32) -> Option<u64> {
        self.words.get(self.place(place)).checked_sub(1).filter(|page| *page < self.pages)
    }

    pub(crate) fn proof(&self, place: u32) -> Proof {
        let at = self.place(place);
        let mut proof = [0; 16];
        proof[..8].copy_from_slice(&self.words.get(at + 1).to_ne_bytes());
        proof[8..].copy_from_slice(&self.words.get(at + 2).to_ne_bytes());
        proof
    }

    /// Once it has been written there.
    pub(crate) fn set_place(&self, place: u32, page: u64, proof: Proof) {
        let at = self.place(place);
        let (words, _) = proof.as_chunks::<8>();
        words.iter().enumerate().for_each(|(word, octets)| self.words.set(at + 1 + word, u64::from_ne_bytes(*octets)));
        self.words.set(at, page + 1);
    }

    pub(crate) fn free_place(&self, place: u32) {
        self.words.set(self.place(place), 0);
    }

    const fn place(&self, place: u32) -> usize {
        self.layout.first_place() + place as usize * PLACE
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.ledger().is_frozen() {
            if let Err(error) = self.punch() {
                tracing::debug!(%error, "the memory of a capture that has ended stays");
            }
            remove(&self.spill);
        }
        locked(&self.taken)[self.number] = false;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};
    use tempfile::TempDir;

    use super::*;

    pub(crate) const PAGES: u64 = 1_000_003;
    const NOTES: u64 = 3 * PAGE as u64;

    /// Holds a memory file for pagers that come and go.
    pub(crate) struct Machine {
        file: Arc<File>,
        folder: PathBuf,
        _made: TempDir,
    }

    impl Machine {
        pub(crate) fn new() -> Self {
            let made = tempfile::tempdir().unwrap();
            Self { folder: made.path().to_owned(), ..Self::at(PathBuf::new()) }.keeping(made)
        }
        pub(crate) fn at(folder: PathBuf) -> Self {
            let file: File = memfd_create("notes", MemfdFlags::CLOEXEC).unwrap().into();
            file.set_len(NOTES).unwrap();
            Self { file: Arc::new(file), folder, _made: tempfile::tempdir().unwrap() }
        }
        fn keeping(self, made: TempDir) -> Self {
            Self { _made: made, ..self }
        }
        /// A pager's.
        pub(crate) fn records(&self) -> Records {
            let of = (PAGES, &*self.folder, InstanceId::from_bits(7));
            Records::within(self.file.clone(), NOTES, of, Observer(None))
        }
        pub(crate) fn files(&self) -> usize {
            fs::read_dir(&self.folder).unwrap().count()
        }
    }

    /// A page that was never, of any capture, is not kept, guarded or zeros; and they do not lie in each other.
    #[test]
    fn each_has_its_own_and_begins_empty() {
        let machine = Machine::new();
        let records = machine.records();
        let content = |seed: u8| Page([seed; PAGE]);
        let mut all: Vec<(Kept, Ledger)> = (0..COUNT).map(|_| records.begin(None).unwrap()).collect();
        assert!(records.begin(None).is_err(), "there is no room for more");
        for (seed, (kept, ledger)) in (1..).zip(&mut all) {
            kept.keep(PAGES - 1, &content(seed)).unwrap();
            for words in [&ledger.guarded, &ledger.zeros] {
                assert!(words.all().len() as u64 >= PAGES.div_ceil(64));
                (0..words.all().len()).for_each(|at| assert_eq!(words.get(at), 0));
                (0..words.all().len()).for_each(|at| words.set(at, seed.into()));
            }
        }
        let mut found = Page::ZERO;
        for (seed, (kept, ledger)) in (1..).zip(&mut all) {
            assert!(kept.read(PAGES - 1, true, &mut found).unwrap() && found.0 == content(seed).0);
            let last = ledger.zeros.all().len() - 1;
            assert_eq!((ledger.guarded.get(last), ledger.zeros.get(0)), (seed.into(), seed.into()));
        }
        let full = records.size();
        drop(all);
        assert!(records.size() < full / 4, "{} of {full} octets are still there", records.size());
        let (kept, ledger) = records.begin(None).unwrap();
        assert!(!kept.contains(PAGES - 1) && ledger.guarded.get(0) == 0 && !ledger.is_frozen());
    }

    #[test]
    fn only_what_was_frozen_and_has_a_name_is_found_and_files_of_others_go() {
        let machine = Machine::new();
        let records = machine.records();
        let name = "rep-1".repeat(50);
        for (name, is_frozen) in [(Some(&*name), true), (Some("armed"), false), (None, true)] {
            let (kept, ledger) = records.begin(name).unwrap();
            ledger.mark.set(0, is_frozen.into());
            std::mem::forget(kept);
        }
        (0..COUNT).for_each(|number| fs::write(spill(&machine.folder, number), "").unwrap());
        let next = machine.records();
        let found = next.recover();
        assert_eq!(found.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>(), [name]);
        assert_eq!(machine.files(), 1);
        // However that pager ends.
        drop(found);
        let found = next.recover();
        assert_eq!(found.len(), 1);
        found[0].2.void();
        drop(found);
        assert!(next.recover().is_empty() && machine.files() == 0);
        assert!(records.begin(Some("")).is_err() && records.begin(Some(&"x".repeat(LONGEST_NAME + 1))).is_err());
    }

    /// The machine's process could write anything there.
    #[test]
    fn what_is_not_a_record_is_no_capture_and_nobodys_end() {
        let machine = Machine::new();
        for value in [u64::MAX, PAGES + 1, PAGES, 1 << 63, 7] {
            let (kept, ledger) = machine.records().begin(Some("rep-1")).unwrap();
            std::mem::forget(kept);
            let words = Words::map_at(&machine.file, NOTES, Layout::of(PAGES).words()).unwrap();
            words.all().iter().enumerate().skip(NAME_LENGTH).for_each(|(at, _)| words.set(at, value));
            ledger.mark.set(0, 1);
            for (_, mut kept, _) in machine.records().recover() {
                let mut content = Page::ZERO;
                for page in [0, value.wrapping_sub(1), PAGES - 1, PAGES] {
                    let _ = kept.read(page, true, &mut content);
                    kept.forget(page);
                }
            }
        }
    }
}
