//! One guest's memory, held from outside of its machine: read, punched, filled, and its faults heard.
//!
//! Owns the translation between page numbers and the machine's addresses. It is never mapped here: a touch of a hole
//! through a second mapping would make a page of zeros that the guest takes for its own.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::Arc,
};

use lucarne_memory::run::Run;
use lucarne_model::memory::Pages;
use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, seek},
    io::Errno,
};

use crate::{
    page::PAGE,
    shared::Discards,
    shim::{Region, ShimError},
    uffd::{Uffd, UffdError},
};

#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) uffd: Uffd,
    pub(crate) discards: Discards,
    /// What those are mapped from; what is behind them is this pager's and the next one's.
    pub(crate) notes: Arc<File>,
    memory: File,
    base: u64,
    pages: u64,
}

impl Guest {
    pub(crate) fn new(
        regions: &[Region],
        uffd: OwnedFd,
        memory: OwnedFd,
        discarded: OwnedFd,
    ) -> Result<Self, ShimError> {
        let not_understood = ShimError::NotUnderstood { what: "its memory is not one region of one file" };
        let [Region { base, size, offset: 0, .. }] = *regions else { return Err(not_understood) };
        let pages = size / Pages::SIZE;
        let notes = Arc::new(File::from(discarded));
        let discards = Discards::map(&notes, pages).map_err(ShimError::NoAnswer)?;
        if u32::try_from(pages).is_err() {
            return Err(not_understood);
        }
        Ok(Self { uffd: uffd.into(), discards, notes, memory: memory.into(), base, pages })
    }

    pub(crate) const fn pages(&self) -> u64 {
        self.pages
    }
    pub(crate) const fn all(&self) -> Run {
        Run::new(0, self.pages)
    }
    pub(crate) fn page_at(&self, address: u64) -> Option<u64> {
        let page = address.checked_sub(self.base)? / Pages::SIZE;
        (page < self.pages).then_some(page)
    }

    /// Which pages are in the guest's memory now: a bit each.
    pub(crate) fn present(&self) -> io::Result<Vec<u64>> {
        let mut bits = vec![0_u64; self.pages.div_ceil(64) as usize];
        let mut at = 0;
        loop {
            let start = match seek(&self.memory, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => return Ok(bits),
                Err(errno) => return Err(errno.into()),
            };
            at = seek(&self.memory, SeekFrom::Hole(start))?;
            for page in start / Pages::SIZE..at.div_ceil(Pages::SIZE).min(self.pages) {
                bits[(page / 64) as usize] |= 1 << (page % 64);
            }
        }
    }

    /// Without making pages where there are none: those read as zeros.
    pub(crate) fn read(&self, first: u64, into: &mut [u8]) -> io::Result<()> {
        self.memory.read_exact_at(into, first * Pages::SIZE)
    }

    /// Over a page that somebody else has put there.
    pub(crate) fn overwrite(&self, page: u64, content: &[u8]) -> io::Result<()> {
        self.memory.write_all_at(content, page * Pages::SIZE)
    }

    /// Takes the pages out of the host's memory.
    pub(crate) fn punch(&self, run: Run) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.memory, flags, run.first * Pages::SIZE, run.count * Pages::SIZE)?)
    }

    pub(crate) fn copy(&self, first: u64, content: &[u8]) -> Result<(), UffdError> {
        self.uffd.copy(self.address(first), content)
    }
    pub(crate) fn copy_protected(&self, first: u64, content: &[u8]) -> Result<(), UffdError> {
        self.uffd.copy_protected(self.address(first), content)
    }
    pub(crate) fn zero(&self, run: Run) -> Result<(), UffdError> {
        self.uffd.zero(self.address(run.first), length(run))
    }
    pub(crate) fn map(&self, run: Run) -> Result<(), UffdError> {
        self.uffd.resume(self.address(run.first), length(run))
    }
    pub(crate) fn protect(&self, run: Run) -> Result<(), UffdError> {
        self.uffd.protect(self.address(run.first), length(run))
    }
    pub(crate) fn unprotect(&self, run: Run) -> Result<(), UffdError> {
        self.uffd.unprotect(self.address(run.first), length(run))
    }
    pub(crate) fn wake(&self, run: Run) -> Result<(), UffdError> {
        self.uffd.wake(self.address(run.first), length(run))
    }

    const fn address(&self, page: u64) -> u64 {
        self.base + page * Pages::SIZE
    }
}

const fn length(run: Run) -> usize {
    run.count as usize * PAGE
}
