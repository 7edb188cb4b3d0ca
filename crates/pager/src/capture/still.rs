//! The memory of a guest that has no pager, read while its processors stand still.
//!
//! Owns the reading, in the words of a [`Capture`](super::Capture). All of the memory is in QEMU's memory file, and nobody keeps what is
//! written over: it is of one instant only as long as nobody writes, so the guest has to stand until the end.

use std::{fs::File, os::unix::fs::FileExt};

use lucarne_model::memory::Pages;

use super::{CaptureError, Taken, wire::CHUNK};
use crate::{
    page::{self, Page},
    snapshot::{memory_of, runs},
};

#[derive(Debug)]
pub struct Still {
    memory: File,
    pages: u64,
    /// Pages of which there is anything, as far as the file system knows.
    occupied: Vec<u64>,
    given: u64,
    contents: Vec<Page>,
}

impl Still {
    /// The memory of the machine whose process is `process`. Nothing is read yet.
    pub fn of(process: u32) -> Result<Self, CaptureError> {
        let unreadable = |error: std::io::Error| CaptureError::Unreadable(error);
        let memory = memory_of(process).map_err(|error| unreadable(std::io::Error::other(error)))?;
        let pages = memory.metadata().map_err(unreadable)?.len() / Pages::SIZE;
        Ok(Self { memory, pages, occupied: Vec::new(), given: 0, contents: page::zeroed(CHUNK as usize) })
    }

    pub const fn memory(&self) -> Pages {
        Pages(self.pages)
    }

    /// See [`Capture::occupied`](super::Capture::occupied).
    pub fn occupied(&mut self) -> Result<Vec<u64>, CaptureError> {
        self.occupied = vec![0; self.pages.div_ceil(64) as usize];
        for (first, count) in runs(&self.memory).map_err(CaptureError::Unreadable)? {
            for page in first..self.pages.min(first + count as u64) {
                self.occupied[(page / 64) as usize] |= 1 << (page % 64);
            }
        }
        let mut looked = Vec::with_capacity(self.occupied.len());
        for chunk in 0..self.occupied.len() as u64 {
            looked.push(self.read(chunk)?);
        }
        self.occupied.clone_from(&looked);
        Ok(looked)
    }

    /// See [`Capture::next`](super::Capture::next).
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend, and what it lends is not copied")]
    pub fn next(&mut self) -> Result<Option<Taken<'_>>, CaptureError> {
        if self.occupied.is_empty() {
            self.occupied()?;
        }
        let chunk = self.given;
        if chunk == self.occupied.len() as u64 {
            return Ok(None);
        }
        self.given += 1;
        let occupied = self.read(chunk)?;
        let first = chunk * CHUNK;
        let contents = &self.contents[..CHUNK.min(self.pages - first) as usize];
        Ok(Some(Taken { first, occupied, contents: page::bytes(contents) }))
    }

    /// Pages that may be occupied; which of them are.
    fn read(&mut self, chunk: u64) -> Result<u64, CaptureError> {
        let first = chunk * CHUNK;
        let (mut occupied, mut at) = (self.occupied[chunk as usize], 0);
        while at < CHUNK && occupied >> at != 0 {
            at += u64::from((occupied >> at).trailing_zeros());
            let count = u64::from((occupied >> at).trailing_ones());
            let into = &mut self.contents[at as usize..][..count as usize];
            let read = self.memory.read_exact_at(page::bytes_mut(into), (first + at) * Pages::SIZE);
            read.map_err(CaptureError::Unreadable)?;
            for (bit, _) in (at..).zip(&*into).filter(|(_, content)| content.filled_with() == Some(0)) {
                occupied &= !(1 << bit);
            }
            at += count;
        }
        Ok(occupied)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    /// This process is the machine: it has one memory file of that name.
    #[test]
    fn what_stands_still_is_read_without_its_zeros() {
        let memory: File = memfd_create("memory-backend-memfd", MemfdFlags::CLOEXEC).unwrap().into();
        let pages = 300;
        memory.set_len(pages * Pages::SIZE).unwrap();
        let is_occupied = |page: u64| page % 7 == 3 || (70..200).contains(&page) || page == pages - 1;
        let content = |page: u64| [(page % 251 + 1) as u8; 4096];
        for page in (0..pages).filter(|page| is_occupied(*page)) {
            memory.write_all_at(&content(page), page * Pages::SIZE).unwrap();
        }
        // There, and zeros.
        memory.write_all_at(&[0; 4096], 5 * Pages::SIZE).unwrap();
        let mut still = Still::of(std::process::id()).unwrap();
        let occupied = still.occupied().unwrap();
        let mut seen = 0;
        while let Some(taken) = still.next().unwrap() {
            assert_eq!(taken.first(), seen);
            let mut at = 0;
            while at < taken.count() {
                let (count, contents) = taken.alike(at, 64);
                for page in 0..count {
                    let number = seen + at + page;
                    let found = contents.map(|contents| &contents[page as usize * 4096..][..4096]);
                    assert_eq!(found.is_some(), is_occupied(number), "page {number}");
                    assert_eq!(occupied[(number / 64) as usize] >> (number % 64) & 1 == 1, is_occupied(number));
                    assert!(found.is_none_or(|found| found == content(number)));
                }
                at += count;
            }
            seen += taken.count();
        }
        assert_eq!(seen, pages);
    }
}
