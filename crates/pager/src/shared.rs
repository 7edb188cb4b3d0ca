//! Files mapped into this process and another: the notes of discards, what is noted of captures, and the pool.
//!
//! Owns the mappings. Of the notes single words are read and changed, atomically; of the pool and of what captures keep, which
//! no other process maps at the same time, byte ranges.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    ptr::{self, NonNull},
    slice,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::page::PAGE;

/// `length` bytes of a file.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping is plain memory that lives until it is dropped; who reads and writes it is ordered by the types below.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// From octet `at` on, a multiple of a page.
    fn of(file: &File, at: u64, length: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe { mmap(ptr::null_mut(), length, protection, MapFlags::SHARED, file, at) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `of` and borrowed by nobody any more. It cannot fail for a mapping that is there.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// What is noted of each page where the machine is, and lives as long as it: a bit that the shim sets when the machine
/// discards the page; behind them all, a bit that the pager sets when the index is void for the page, because it has come
/// back or was given up since; a note of the pager's; and whether the machine is to keep what it would discard.
#[derive(Debug)]
pub(crate) struct Discards {
    mapping: Mapping,
    words: usize,
}

impl Discards {
    /// Of a memory of `pages`.
    pub(crate) fn map(file: &File, pages: u64) -> io::Result<Self> {
        let words = pages.div_ceil(64) as usize;
        let length = 2 * (words * 8).next_multiple_of(PAGE) + PAGE;
        // A file that is too short would end this process at a touch.
        if file.metadata()?.len() < length as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { mapping: Mapping::of(file, 0, length)?, words })
    }

    /// Octets of the file that this is; what is behind them is [`crate::capture::record`]'s.
    pub(crate) const fn length(&self) -> u64 {
        self.mapping.length as u64
    }

    fn all_words(&self) -> &[AtomicU64] {
        // SAFETY: a page-aligned mapping of whole words, alive as long as `self`, touched by atomic operations alone.
        unsafe { slice::from_raw_parts(self.mapping.start.as_ptr().cast(), self.mapping.length / 8) }
    }
    fn words(&self) -> &[AtomicU64] {
        &self.all_words()[..self.words]
    }

    fn voids(&self) -> &[AtomicU64] {
        &self.all_words()[(self.mapping.length - PAGE) / 16..][..self.words]
    }

    /// Whether what the index says of `page` is void.
    pub(crate) fn is_void(&self, page: u64) -> bool {
        let word = self.voids().get((page / 64) as usize);
        word.is_some_and(|word| word.load(Ordering::SeqCst) >> (page % 64) & 1 == 1)
    }

    pub(crate) fn set_void(&self, page: u64, is_void: bool) {
        let Some(word) = self.voids().get((page / 64) as usize) else { return };
        match (is_void, 1 << (page % 64)) {
            (true, bit) => word.fetch_or(bit, Ordering::SeqCst),
            (false, bit) => word.fetch_and(!bit, Ordering::SeqCst),
        };
    }

    /// What a pager of this machine has noted: zero at the machine's start.
    pub(crate) fn note(&self) -> &AtomicU64 {
        &self.all_words()[(self.mapping.length - PAGE) / 8]
    }

    /// While it is not zero the shim discards nothing: a capture has yet to read it.
    pub(crate) fn hold(&self) -> &AtomicU64 {
        &self.all_words()[(self.mapping.length - PAGE) / 8 + 1]
    }

    pub(crate) fn contains(&self, page: u64) -> bool {
        let word = self.words().get((page / 64) as usize);
        word.is_some_and(|word| word.load(Ordering::SeqCst) >> (page % 64) & 1 == 1)
    }

    /// Every page whose bit is set.
    pub(crate) fn all(&self) -> impl Iterator<Item = u64> {
        let words = self.words().iter().enumerate().map(|(at, word)| (at as u64 * 64, word.load(Ordering::SeqCst)));
        let set = words.filter(|(_, word)| *word != 0);
        set.flat_map(|(first, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit))
    }

    pub(crate) fn clear(&self, page: u64) {
        if let Some(word) = self.words().get((page / 64) as usize) {
            word.fetch_and(!(1 << (page % 64)), Ordering::SeqCst);
        }
    }
}

/// Bytes that outlive this process in the file that was mapped.
#[derive(Debug)]
pub(crate) struct Arena(Mapping);

impl Arena {
    /// Makes the file `length` bytes long, if it is not; memory is taken only where it is written.
    pub(crate) fn map(file: &File, length: usize) -> io::Result<Self> {
        Self::map_at(file, 0, length)
    }

    /// The same of `length` bytes from octet `at` on, a multiple of a page.
    pub(crate) fn map_at(file: &File, at: u64, length: usize) -> io::Result<Self> {
        make_long(file, at + length as u64)?;
        Mapping::of(file, at, length).map(Self)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: alive as long as `self`; written only through `bytes_mut`, which borrows it alone.
        unsafe { slice::from_raw_parts(self.0.start.as_ptr(), self.0.length) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.0.start.as_ptr(), self.0.length) }
    }
}

/// Words that outlive this process in the file that was mapped, each read and changed in one step.
///
/// Somebody who is killed between two changes leaves the first and not the second: what is stored is in the file's own pages,
/// in the order in which this process stored it, and no later process can see less.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    mapping: Arc<Mapping>,
    first: usize,
    count: usize,
}

impl Words {
    /// `count` words from octet `at` on, a multiple of a page. Makes the file long enough, if it is not.
    pub(crate) fn map_at(file: &File, at: u64, count: usize) -> io::Result<Self> {
        make_long(file, at + count as u64 * 8)?;
        Ok(Self { mapping: Arc::new(Mapping::of(file, at, count * 8)?), first: 0, count })
    }

    /// Those from `first` on, `count` at most.
    pub(crate) fn part(&self, first: usize, count: usize) -> Self {
        let first = first.min(self.count);
        Self { mapping: self.mapping.clone(), first: self.first + first, count: count.min(self.count - first) }
    }

    pub(crate) fn all(&self) -> &[AtomicU64] {
        // SAFETY: a page-aligned mapping of at least `first + count` words, as `map_at` mapped it and `part` only narrows;
        // alive as long as `self`, and touched by atomic operations alone.
        unsafe { slice::from_raw_parts(self.mapping.start.as_ptr().cast::<AtomicU64>().add(self.first), self.count) }
    }

    pub(crate) fn get(&self, at: usize) -> u64 {
        self.all().get(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Whatever was stored before it, anywhere, is there for whoever sees this.
    pub(crate) fn set(&self, at: usize, value: u64) {
        if let Some(word) = self.all().get(at) {
            word.store(value, Ordering::Release);
        }
    }
}

/// A file that is too short would end this process at a touch.
fn make_long(file: &File, length: u64) -> io::Result<()> {
    if file.metadata()?.len() < length { file.set_len(length) } else { Ok(()) }
}
