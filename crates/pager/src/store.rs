//! The store: sealed pages in a file on the disk, in slots of 4 KiB, 512 of which are an extent.
//!
//! Owns which slots are used, by which page, and the proofs of their content. Pages that leave together get slots in a row
//! where there are any, so that they come back in one read. An extent that is empty is given back to the disk; one that is
//! nearly empty while there is much room is [`sparse`](Store::sparse), and its pages can be moved. Which copy counts is
//! said by [`crate::places`], and what must outlive the pager by [`crate::index`].

use std::{
    fs::File,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::fs::{FallocateFlags, fallocate};

use crate::{
    disk::{Disk, Transfer},
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

#[derive(Debug)]
struct Extent {
    used: [u64; EXTENT / 64],
    live: usize,
    owners: [u32; EXTENT],
    proofs: [Proof; EXTENT],
}

impl Extent {
    const fn new() -> Self {
        Self { used: [0; EXTENT / 64], live: 0, owners: [0; EXTENT], proofs: [[0; 16]; EXTENT] }
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
}

impl Store {
    pub(crate) const fn new(file: File, sealer: Sealer) -> Self {
        let slots = Slots { extents: Vec::new(), current: 0, live: 0, allocated: 0 };
        Self { file, sealer, slots: Mutex::new(slots) }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While the index is read: this slot had this content when it was last written.
    pub(crate) fn remember(&self, slot: u32, page: u32, proof: Proof) {
        let mut slots = self.slots();
        let (at, slot) = (slot as usize / EXTENT, slot as usize % EXTENT);
        let extent = slots.extent(at);
        (extent.owners[slot], extent.proofs[slot]) = (page, proof);
    }

    /// When the index was read: only these slots are used, all others are given back.
    pub(crate) fn keep_only(&self, used: impl Iterator<Item = u32>) -> io::Result<()> {
        let mut slots = self.slots();
        used.for_each(|slot| slots.mark(slot as usize));
        let extents = (self.file.metadata()?.len().div_ceil(EXTENT_BYTES) as usize).max(slots.extents.len());
        for at in 0..extents {
            // An extent that the index does not speak of was taken by a pager that died before it said so.
            if slots.extent(at).live == 0 {
                slots.give_back(at, &self.file);
            }
        }
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
        let numbers: Vec<u64> = pages.iter().map(|(page, _)| *page).collect();
        let slots = self.slots().take(&numbers, &proofs, &self.file)?;
        let mut transfers = Vec::new();
        let mut rest = &*contents;
        for run in slots.chunk_by(|a, b| a + 1 == *b) {
            let (these, others) = rest.split_at(run.len());
            transfers.push(Transfer::Write(place(run[0]), these));
            rest = others;
        }
        if let Err(error) = disk.transfer(&self.file, transfers) {
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
        let lost = |page, lost| FetchError { page, lost };
        let first = pages.first().map_or(0, |(page, _)| *page);
        self.read(disk, pages, contents).map_err(|error| lost(first, Lost::Unreadable(error)))?;
        for ((page, copy), content) in pages.iter().zip(contents) {
            self.open(*page, *copy, content).map_err(|broken| lost(*page, Lost::Broken(broken)))?;
        }
        Ok(())
    }

    /// Opens what is said to be this page's copy, wherever it comes from.
    pub(crate) fn open(&self, page: u64, copy: Copy, content: &mut Page) -> Result<(), Broken> {
        let proof = self.slots().proof(copy.at);
        self.sealer.open(page, copy.generation, proof, content)
    }

    /// Reads copies as they are, sealed.
    pub(crate) fn read(&self, disk: &mut Disk, pages: &[(u64, Copy)], contents: &mut [Page]) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let mut transfers = Vec::new();
            let mut rest = &mut *contents;
            for run in pages.chunk_by(|(_, a), (_, b)| a.at + 1 == b.at) {
                let (these, others) = rest.split_at_mut(run.len());
                transfers.push(Transfer::Read(place(run[0].1.at), these));
                rest = others;
            }
            match disk.transfer(&self.file, transfers) {
                Err(error) if tries < RETRIES && error.kind() != io::ErrorKind::UnexpectedEof => {
                    tries += 1;
                    tracing::warn!(%error, tries, "the store was not read");
                }
                read => return read,
            }
        }
    }

    /// What proves this copy's content.
    pub(crate) fn proof(&self, copy: Copy) -> Proof {
        self.slots().proof(copy.at)
    }

    pub(crate) fn free(&self, slot: u32) {
        self.slots().free(slot as usize, &self.file);
    }

    /// The pages of an extent that is nearly empty while there is much room elsewhere, with their slots.
    pub(crate) fn sparse(&self) -> Option<Vec<(u64, u32)>> {
        self.slots().sparse()
    }

    /// Copies sealed pages to other slots as they are: a seal is bound to what a page is and not to where it lies. The new
    /// slots, with the proofs, in order.
    pub(crate) fn move_together(&self, disk: &mut Disk, pages: &[(u64, Copy)]) -> io::Result<Vec<(Copy, Proof)>> {
        let mut contents = crate::page::zeroed(pages.len());
        self.read(disk, pages, &mut contents)?;
        let numbers: Vec<u64> = pages.iter().map(|(page, _)| *page).collect();
        let proofs: Vec<Proof> = pages.iter().map(|(_, copy)| self.slots().proof(copy.at)).collect();
        let slots = self.slots().take(&numbers, &proofs, &self.file)?;
        let writes = slots.iter().zip(&contents);
        let writes = writes.map(|(slot, content)| Transfer::Write(place(*slot), std::slice::from_ref(content)));
        if let Err(error) = disk.transfer(&self.file, writes.collect()) {
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

    /// Slots for these pages, in their order; all or none.
    fn take(&mut self, pages: &[u64], proofs: &[Proof], file: &File) -> io::Result<Vec<u32>> {
        let mut taken: Vec<u32> = Vec::with_capacity(pages.len());
        for (page, proof) in pages.iter().zip(proofs) {
            match self.take_one(*page as u32, *proof, file) {
                Ok(slot) => taken.push(slot),
                Err(error) => {
                    taken.into_iter().for_each(|slot| self.free(slot as usize, file));
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    fn take_one(&mut self, page: u32, proof: Proof, file: &File) -> io::Result<u32> {
        if self.free_in(self.current).is_none() {
            self.current = self.next_extent(file)?;
        }
        let slot = self.free_in(self.current).ok_or(io::ErrorKind::StorageFull)?;
        self.mark(self.current * EXTENT + slot);
        let current = self.current;
        let extent = self.extent(current);
        (extent.owners[slot], extent.proofs[slot]) = (page, proof);
        Ok((current * EXTENT + slot) as u32)
    }

    fn free_in(&self, at: usize) -> Option<usize> {
        let extent = self.extents.get(at)?.as_deref()?;
        let word = extent.used.iter().position(|word| *word != u64::MAX)?;
        Some(word * 64 + extent.used[word].trailing_ones() as usize)
    }

    /// One that is at least half empty, or a new one; on a full disk whichever has room.
    fn next_extent(&mut self, file: &File) -> io::Result<usize> {
        let live = |extent: &Option<Box<Extent>>| extent.as_ref().map(|extent| extent.live);
        let emptiest = (0..self.extents.len()).filter_map(|at| Some((live(&self.extents[at])?, at))).min();
        if let Some((_, at)) = emptiest.filter(|(live, _)| *live <= EXTENT / 2) {
            return Ok(at);
        }
        let fresh = self.extents.iter().position(Option::is_none).unwrap_or(self.extents.len());
        match fallocate(file, FallocateFlags::empty(), fresh as u64 * EXTENT_BYTES, EXTENT_BYTES) {
            Ok(()) => {
                self.extent(fresh);
                Ok(fresh)
            }
            Err(errno) => emptiest.filter(|(live, _)| *live < EXTENT).map(|(_, at)| at).ok_or_else(|| errno.into()),
        }
    }

    fn free(&mut self, slot: usize, file: &File) {
        let (at, slot) = (slot / EXTENT, slot % EXTENT);
        let Some(extent) = self.extents.get_mut(at).and_then(Option::as_deref_mut) else { return };
        if !extent.is_used(slot) {
            return;
        }
        extent.used[slot / 64] &= !(1 << (slot % 64));
        extent.live -= 1;
        self.live -= 1;
        if extent.live == 0 && at != self.current {
            self.give_back(at, file);
        }
    }

    fn give_back(&mut self, at: usize, file: &File) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = fallocate(file, flags, at as u64 * EXTENT_BYTES, EXTENT_BYTES) {
            tracing::warn!(%error, "a part of the store cannot be given back to the disk");
        }
        self.extents[at] = None;
        self.allocated -= 1;
    }

    fn sparse(&self) -> Option<Vec<(u64, u32)>> {
        let room = self.allocated * EXTENT - self.live;
        if self.allocated <= FEW_EXTENTS || room < self.allocated * EXTENT / 2 {
            return None;
        }
        let there = self.extents.iter().enumerate().filter_map(|(at, extent)| Some((at, extent.as_deref()?)));
        let (at, extent) = there.filter(|(at, _)| *at != self.current).min_by_key(|(_, extent)| extent.live)?;
        let used = (0..EXTENT).filter(|slot| extent.is_used(*slot));
        Some(used.map(|slot| (u64::from(extent.owners[slot]), (at * EXTENT + slot) as u32)).collect())
    }
}

#[cfg(test)]
mod tests;
