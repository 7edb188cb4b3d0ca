//! The store: sealed pages in a file on the disk, in slots of 4 KiB, 512 of which are an extent.
//!
//! Owns which slots are used, and the proofs of their content. Pages that leave together get slots in a row where there are
//! any, so that they come back in one read. An extent that is empty is given back to the disk after a while; one that is
//! nearly empty while there is much room is [`sparse`](Store::sparse), and its pages can be moved. Which page has which slot
//! and which copy counts is said by [`crate::places`], and what must outlive the pager by [`crate::index`].
//!
//! A file system takes extents and gives them back with the file locked against every reader, and some tell the disk too. So
//! that is done by whoever evicts, never by who answers a fault, never under the lock of the slots, and rarely: of the
//! extents that are empty some are kept, which also saves their next writes the file system's journal.

use std::{
    fs::File,
    io,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use rustix::fs::{FallocateFlags, fallocate};

use crate::{
    disk::{Disk, Transfer},
    pace::Pace,
    page::{PAGE, Page},
    places::Copy,
    seal::{Broken, Proof, Sealer},
    source::{FetchError, Lost},
};

/// Slots of an extent.
pub(crate) const EXTENT: usize = 512;
const EXTENT_BYTES: u64 = (EXTENT * PAGE) as u64;
/// With fewer extents than this, moving pages together gains nothing worth it.
const FEW_EXTENTS: usize = 4;
const RETRIES: usize = 3;
/// Pages that are written at a time, 128 KiB. Beside writes of 2 MiB a read of 4 KiB takes four times as long as alone,
/// beside such as these half as long again (measured, see the book).
const PIECE: usize = 32;
/// Of the extents one in so many may be empty and is kept.
const KEPT_EMPTY: usize = 8;
/// Extents given back at a time.
const GIVEN_BACK: usize = 8;

#[derive(Debug)]
struct Extent {
    used: [u64; EXTENT / 64],
    live: usize,
    proofs: [Proof; EXTENT],
}

impl Extent {
    const fn new() -> Self {
        Self { used: [0; EXTENT / 64], live: 0, proofs: [[0; 16]; EXTENT] }
    }
    const fn is_used(&self, slot: usize) -> bool {
        self.used[slot / 64] >> (slot % 64) & 1 == 1
    }
}

#[derive(Debug, Default)]
struct Slots {
    /// None: not on the disk.
    extents: Vec<Option<Box<Extent>>>,
    /// Where slots are taken from, and how far.
    current: usize,
    live: usize,
    allocated: usize,
}

#[derive(Debug)]
pub(crate) struct Store {
    file: File,
    sealer: Sealer,
    slots: Mutex<Slots>,
    pace: Mutex<Pace>,
}

impl Store {
    pub(crate) fn new(file: File, sealer: Sealer) -> Self {
        let slots = Slots { extents: Vec::new(), current: 0, live: 0, allocated: 0 };
        Self { file, sealer, slots: Mutex::new(slots), pace: Mutex::default() }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the disk has kept pace lately.
    pub(crate) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn timed<T>(&self, transfer: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = transfer();
        self.pace().saw(began.elapsed());
        done
    }

    /// While the index is read: this slot had this content when it was last written.
    pub(crate) fn remember(&self, slot: u32, proof: Proof) {
        self.slots().extent(slot as usize / EXTENT).proofs[slot as usize % EXTENT] = proof;
    }

    /// When the index was read: only these slots are used, all others are given back.
    pub(crate) fn keep_only(&self, used: impl Iterator<Item = u32>) -> io::Result<()> {
        let mut slots = self.slots();
        used.for_each(|slot| slots.mark(slot as usize));
        let extents = (self.file.metadata()?.len().div_ceil(EXTENT_BYTES) as usize).max(slots.extents.len());
        let unused: Vec<usize> = (0..extents).filter(|at| slots.extent(*at).live == 0).collect();
        unused.iter().for_each(|at| slots.forget(*at));
        drop(slots);
        // The index does not speak of them: they were taken by a pager that died before it said so.
        unused.into_iter().for_each(|at| self.give_back(at));
        Ok(())
    }

    /// Octets that the store takes on the disk.
    pub(crate) fn size(&self) -> u64 {
        self.slots().allocated as u64 * EXTENT_BYTES
    }

    /// Seals `contents`, which are of these pages in these new generations, and writes them; the copies in their order,
    /// with the proofs for the index. On an error nothing is kept.
    pub(crate) fn keep(
        &self,
        disk: &mut Disk,
        pages: &[(u64, u64)],
        contents: &mut [Page],
    ) -> io::Result<Vec<(Copy, Proof)>> {
        let mut proofs = Vec::with_capacity(pages.len());
        for ((page, generation), content) in pages.iter().zip(contents.iter_mut()) {
            let proof = self.sealer.seal(*page, *generation, content);
            proofs.push(proof.map_err(|_| io::Error::other("a page cannot be sealed"))?);
        }
        let slots = self.take(&proofs)?;
        if let Err(error) = self.write(disk, &slots, contents) {
            slots.iter().for_each(|slot| self.free(*slot));
            return Err(error);
        }
        let copies = slots.into_iter().zip(pages).map(|(at, (_, generation))| Copy { at, generation: *generation });
        Ok(copies.zip(proofs).collect())
    }

    /// Reads and opens these pages' copies.
    pub(crate) fn fetch(
        &self,
        disk: &mut Disk,
        pages: &[(u64, Copy)],
        contents: &mut [Page],
    ) -> Result<(), FetchError> {
        let first = pages.first().map_or(0, |(page, _)| *page);
        let read = self.read(disk, pages, contents);
        read.map_err(|error| FetchError { page: first, lost: Lost::Unreadable(error) })?;
        self.open_all(pages, contents)
    }

    /// The same of a page that is waited for, the one at `wanted`, and of its neighbours: all are read at once, and `arrived` is
    /// told of it while they may still be under way. False: it was not read, and nothing was done.
    pub(crate) fn fetch_around<E: From<FetchError>>(
        &self,
        disk: &mut Disk,
        pages: &[(u64, Copy)],
        wanted: usize,
        contents: &mut [Page],
        arrived: impl FnOnce(&[Page]) -> Result<(), E>,
    ) -> Result<bool, E> {
        let (before, rest) = contents.split_at_mut(wanted);
        let (content, after) = rest.split_at_mut(1);
        let mut others = reads(&pages[wanted + 1..], after);
        others.extend(reads(&pages[..wanted], before));
        let (mut told, began) = (None, Instant::now());
        let read = disk.read_first(&self.file, (place(pages[wanted].1.at), content), others, |content| {
            let opened = self.open_all(&pages[wanted..=wanted], content);
            told = Some(opened.map_err(E::from).and_then(|()| arrived(content)));
        });
        self.pace().saw(began.elapsed());
        if told.transpose()?.is_none() {
            return Ok(false);
        }
        let (before, rest) = contents.split_at_mut(wanted);
        let neighbours = [(&pages[wanted + 1..], &mut rest[1..]), (&pages[..wanted], before)];
        for (pages, contents) in neighbours {
            match &read {
                Ok(()) => self.open_all(pages, contents)?,
                Err(_) => self.fetch(disk, pages, contents)?,
            }
        }
        Ok(true)
    }

    /// A piece at a time, for somebody may be waiting for a read.
    fn write(&self, disk: &mut Disk, slots: &[u32], contents: &[Page]) -> io::Result<()> {
        for (slots, contents) in slots.chunks(PIECE).zip(contents.chunks(PIECE)) {
            let mut rest = contents;
            let write = |run: &[u32]| {
                let (these, others) = rest.split_at(run.len());
                rest = others;
                Transfer::Write(place(run[0]), these)
            };
            let writes = slots.chunk_by(|a, b| a + 1 == *b).map(write).collect();
            self.timed(|| disk.transfer(&self.file, writes))?;
        }
        Ok(())
    }

    fn open_all(&self, pages: &[(u64, Copy)], contents: &mut [Page]) -> Result<(), FetchError> {
        for ((page, copy), content) in pages.iter().zip(contents) {
            let opened = self.open(*page, *copy, content);
            opened.map_err(|broken| FetchError { page: *page, lost: Lost::Broken(broken) })?;
        }
        Ok(())
    }

    /// Opens what is said to be this page's copy, wherever it comes from.
    pub(crate) fn open(&self, page: u64, copy: Copy, content: &mut Page) -> Result<(), Broken> {
        let proof = self.proof(copy);
        self.sealer.open(page, copy.generation, proof, content)
    }

    /// Reads copies as they are, sealed.
    pub(crate) fn read(&self, disk: &mut Disk, pages: &[(u64, Copy)], contents: &mut [Page]) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match self.timed(|| disk.transfer(&self.file, reads(pages, contents))) {
                Err(error) if tries < RETRIES && error.kind() != io::ErrorKind::UnexpectedEof => {
                    tries += 1;
                    tracing::warn!(%error, tries, "the store was not read");
                }
                read => return read,
            }
        }
    }

    /// Whether this copy of `page` is what the page holds.
    pub(crate) fn holds(&self, page: u64, copy: Copy, content: &Page) -> bool {
        self.sealer.is_of(page, copy.generation, self.proof(copy), content)
    }

    /// What proves this copy's content.
    pub(crate) fn proof(&self, copy: Copy) -> Proof {
        self.slots().proof(copy.at)
    }

    pub(crate) fn free(&self, slot: u32) {
        self.slots().free(slot as usize);
    }

    /// Gives some extents back to the disk that have been empty for a while. For the thread that also [`keep`](Self::keep)s.
    pub(crate) fn give_back_empty(&self) {
        let empty = self.slots().forget_empty();
        empty.into_iter().for_each(|at| self.give_back(at));
    }

    fn give_back(&self, extent: usize) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = fallocate(&self.file, flags, extent as u64 * EXTENT_BYTES, EXTENT_BYTES) {
            tracing::warn!(%error, "a part of the store cannot be given back to the disk");
        }
    }

    /// Slots for copies with these proofs, in their order; all or none. A full disk has those that are left in any extent.
    fn take(&self, proofs: &[Proof]) -> io::Result<Vec<u32>> {
        let mut taken: Vec<u32> = Vec::with_capacity(proofs.len());
        let mut refused = None;
        loop {
            let from = taken.len();
            self.slots().take(&proofs[from..], refused.is_some(), &mut taken);
            match refused {
                _ if taken.len() == proofs.len() => return Ok(taken),
                None => {}
                Some(errno) => {
                    taken.into_iter().for_each(|slot| self.free(slot));
                    return Err(io::Error::from(errno));
                }
            }
            let fresh = self.slots().fresh();
            match fallocate(&self.file, FallocateFlags::empty(), fresh as u64 * EXTENT_BYTES, EXTENT_BYTES) {
                Ok(()) => drop(self.slots().extent(fresh)),
                Err(errno) => refused = Some(errno),
            }
        }
    }

    /// The slots of an extent that is nearly empty while there is much room elsewhere. Which pages have them is not kept here:
    /// that is asked so rarely that it is not worth its memory.
    pub(crate) fn sparse(&self) -> Option<Range<u32>> {
        self.slots().sparse()
    }

    /// Copies sealed pages to other slots as they are: a seal is bound to what a page is and not to where it lies. The new
    /// slots, with the proofs, in order.
    pub(crate) fn move_together(&self, disk: &mut Disk, pages: &[(u64, Copy)]) -> io::Result<Vec<(Copy, Proof)>> {
        let mut contents = crate::page::zeroed(pages.len());
        self.read(disk, pages, &mut contents)?;
        let proofs: Vec<Proof> = pages.iter().map(|(_, copy)| self.slots().proof(copy.at)).collect();
        let slots = self.take(&proofs)?;
        if let Err(error) = self.write(disk, &slots, &contents) {
            slots.iter().for_each(|slot| self.free(*slot));
            return Err(error);
        }
        let copies = slots.into_iter().zip(pages).map(|(at, (_, old))| Copy { at, generation: old.generation });
        Ok(copies.zip(proofs).collect())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Copies that lie in a row are read at once.
fn reads<'a>(pages: &[(u64, Copy)], contents: &'a mut [Page]) -> Vec<Transfer<'a>> {
    let mut transfers = Vec::new();
    let mut rest = contents;
    for run in pages.chunk_by(|(_, a), (_, b)| a.at + 1 == b.at) {
        let (these, others) = rest.split_at_mut(run.len());
        transfers.push(Transfer::Read(place(run[0].1.at), these));
        rest = others;
    }
    transfers
}

const fn place(slot: u32) -> u64 {
    slot as u64 * PAGE as u64
}

impl Slots {
    fn extent(&mut self, at: usize) -> &mut Extent {
        if self.extents.len() <= at {
            self.extents.resize_with(at + 1, || None);
        }
        if self.extents[at].is_none() {
            self.allocated += 1;
        }
        self.extents[at].get_or_insert_with(|| Box::new(Extent::new()))
    }

    fn mark(&mut self, slot: usize) {
        let extent = self.extent(slot / EXTENT);
        let slot = slot % EXTENT;
        if !extent.is_used(slot) {
            extent.used[slot / 64] |= 1 << (slot % 64);
            extent.live += 1;
            self.live += 1;
        }
    }

    fn proof(&self, slot: u32) -> Proof {
        let extent = self.extents.get(slot as usize / EXTENT).and_then(Option::as_deref);
        extent.map_or([0; 16], |extent| extent.proofs[slot as usize % EXTENT])
    }

    /// Slots for as many of these copies as there is room for; when it is `tight` also where only few are left.
    fn take(&mut self, proofs: &[Proof], tight: bool, taken: &mut Vec<u32>) {
        for proof in proofs {
            let Some((at, slot)) = self.next_free(tight) else { return };
            self.mark(at * EXTENT + slot);
            self.extent(at).proofs[slot] = *proof;
            taken.push((at * EXTENT + slot) as u32);
        }
    }

    fn next_free(&mut self, tight: bool) -> Option<(usize, usize)> {
        if self.free_in(self.current).is_none() {
            let most = if tight { EXTENT - 1 } else { EXTENT / 2 };
            let live = |at: usize| self.extents[at].as_ref().map(|extent| extent.live);
            let emptiest = (0..self.extents.len()).filter_map(|at| Some((live(at)?, at))).min();
            self.current = emptiest.filter(|(live, _)| *live <= most)?.1;
        }
        Some((self.current, self.free_in(self.current)?))
    }

    fn free_in(&self, at: usize) -> Option<usize> {
        let extent = self.extents.get(at)?.as_deref()?;
        let word = extent.used.iter().position(|word| *word != u64::MAX)?;
        Some(word * 64 + extent.used[word].trailing_ones() as usize)
    }

    /// The number of an extent that is not on the disk yet.
    fn fresh(&self) -> usize {
        self.extents.iter().position(Option::is_none).unwrap_or(self.extents.len())
    }

    fn free(&mut self, slot: usize) {
        let (at, slot) = (slot / EXTENT, slot % EXTENT);
        let Some(extent) = self.extents.get_mut(at).and_then(Option::as_deref_mut) else { return };
        if extent.is_used(slot) {
            extent.used[slot / 64] &= !(1 << (slot % 64));
            extent.live -= 1;
            self.live -= 1;
        }
    }

    /// Those empty extents that are too many, some of them.
    fn forget_empty(&mut self) -> Vec<usize> {
        let is_empty = |at: &usize| self.extents[*at].as_ref().is_some_and(|extent| extent.live == 0);
        let empty: Vec<usize> = (0..self.extents.len()).filter(|at| *at != self.current).filter(is_empty).collect();
        let many = empty.len().saturating_sub(self.allocated / KEPT_EMPTY).min(GIVEN_BACK);
        let empty = empty[empty.len() - many..].to_vec();
        empty.iter().for_each(|at| self.forget(*at));
        empty
    }

    fn forget(&mut self, extent: usize) {
        if self.extents[extent].take().is_some() {
            self.allocated -= 1;
        }
    }

    fn sparse(&self) -> Option<Range<u32>> {
        let there = self.extents.iter().enumerate().filter_map(|(at, extent)| Some((at, extent.as_deref()?)));
        let in_use: Vec<(usize, &Extent)> = there.filter(|(_, extent)| extent.live > 0).collect();
        let room = in_use.len() * EXTENT - self.live;
        if in_use.len() <= FEW_EXTENTS || room < in_use.len() * EXTENT / 2 {
            return None;
        }
        let others = in_use.into_iter().filter(|(at, _)| *at != self.current);
        let (at, _) = others.min_by_key(|(_, extent)| extent.live)?;
        Some((at * EXTENT) as u32..((at + 1) * EXTENT) as u32)
    }
}

#[cfg(test)]
mod tests;
