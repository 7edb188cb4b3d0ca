//! Where copies of pages are kept and fetched from, whichever place it is.
//!
//! Owns the trait and the choice by place. A place that a page can be in beside these (a snapshot) is one more [`Away`] and
//! one more source.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lucarne_memory::run::Run;

use crate::{
    disk::Disk,
    page::Page,
    parent::{Parent, ParentError},
    places::{Away, Copy},
    pool::{self, Pool},
    remote::Remote,
    seal::Broken,
    snapshot::Snapshot,
    store::Store,
};

/// What became of a copy that should be there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("the store cannot be read: {0}")]
    Unreadable(io::Error),
    #[error(transparent)]
    Broken(Broken),
    #[error("its compressed copy is damaged")]
    Damaged,
    #[error("it is in a snapshot that the pager was not given")]
    NoSnapshot,
    #[error("{0}")]
    Parent(ParentError),
}

/// A page that cannot be given back to its guest. There is nothing else to give it: the guest must not go on.
#[derive(Debug, thiserror::Error)]
#[error("page {page} was lost: {lost}")]
pub(crate) struct FetchError {
    pub(crate) page: u64,
    pub(crate) lost: Lost,
}

/// One kind of place. `fetch` is asked for pages that all are in it, and writes their contents in order.
pub(crate) trait Source {
    fn fetch(&self, disk: &mut Disk, pages: &[(u64, Away)], contents: &mut [Page]) -> Result<(), FetchError>;
    /// This copy will not be asked for again.
    fn free(&self, copy: Away);
}

/// Pages that are one value over and over: nothing is kept.
#[derive(Debug)]
struct SameFilled;

impl Source for SameFilled {
    fn fetch(&self, _: &mut Disk, pages: &[(u64, Away)], contents: &mut [Page]) -> Result<(), FetchError> {
        for ((_, away), content) in pages.iter().zip(contents) {
            if let Away::SameFilled(value) = away {
                content.fill(*value);
            }
        }
        Ok(())
    }
    fn free(&self, _: Away) {}
}

impl Source for Mutex<Pool> {
    fn fetch(&self, _: &mut Disk, pages: &[(u64, Away)], contents: &mut [Page]) -> Result<(), FetchError> {
        for ((page, away), content) in pages.iter().zip(contents) {
            let Away::Compressed(copy, length) = *away else { continue };
            // Copied, so that the pool is free while the page is decompressed.
            let bytes = locked(self).copy(copy, length).to_vec();
            if !pool::decompress(*page, copy.generation, &bytes, content) {
                return Err(FetchError { page: *page, lost: Lost::Damaged });
            }
        }
        Ok(())
    }
    fn free(&self, copy: Away) {
        if let Away::Compressed(copy, length) = copy {
            locked(self).free(copy, length);
        }
    }
}

impl Source for Store {
    fn fetch(&self, disk: &mut Disk, pages: &[(u64, Away)], contents: &mut [Page]) -> Result<(), FetchError> {
        let copies = pages.iter().filter_map(|(page, away)| match away {
            Away::Ssd(copy) => Some((*page, *copy)),
            _ => None,
        });
        let copies: Vec<(u64, Copy)> = copies.collect();
        Self::fetch(self, disk, &copies, contents)
    }
    fn free(&self, copy: Away) {
        if let Away::Ssd(copy) = copy {
            Self::free(self, copy.at);
        }
    }
}

/// All places of one guest's copies.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) pool: Mutex<Pool>,
    pub(crate) store: Arc<Store>,
    pub(crate) remote: Remote,
    pub(crate) ancestor: Ancestor,
}

/// What the guest goes on from.
#[derive(Debug)]
pub(crate) enum Ancestor {
    /// Nothing: it booted, or has all of it.
    None,
    Snapshot(Snapshot),
    Parent(Parent),
}

impl Ancestor {
    /// Whether a page that leaves is there with this content, and need not be kept elsewhere. `room` is for what it has.
    pub(crate) fn holds(&self, page: u64, content: &Page, room: &mut Page) -> bool {
        match self {
            Self::Snapshot(snapshot) => snapshot.holds(page, content, room),
            Self::None | Self::Parent(_) => false,
        }
    }

    /// The guest has ended: nobody waits for anything from there.
    pub(crate) fn give_up(&self) {
        if let Self::Parent(parent) = self {
            parent.give_up();
        }
    }

    /// These pages have come from there.
    pub(crate) fn have(&self, run: Run) {
        if let Self::Parent(parent) = self {
            parent.have(run);
        }
    }
}

impl Source for Ancestor {
    fn fetch(&self, disk: &mut Disk, pages: &[(u64, Away)], contents: &mut [Page]) -> Result<(), FetchError> {
        match (self, pages.first()) {
            (Self::Snapshot(snapshot), _) => snapshot.fetch(disk, pages, contents),
            (Self::Parent(parent), _) => parent.fetch(disk, pages, contents),
            (Self::None, Some((page, _))) => Err(FetchError { page: *page, lost: Lost::NoSnapshot }),
            (Self::None, None) => Ok(()),
        }
    }
    fn free(&self, _: Away) {}
}

impl Sources {
    pub(crate) fn pool(&self) -> MutexGuard<'_, Pool> {
        locked(&self.pool)
    }

    fn at(&self, away: Away) -> &dyn Source {
        match away {
            Away::SameFilled(_) => &SameFilled,
            Away::Compressed(..) => &self.pool,
            Away::Ssd(_) => &*self.store,
            Away::Remote(..) => &self.remote,
            Away::Snapshot => &self.ancestor,
        }
    }

    /// Fetches pages from wherever each of them is.
    pub(crate) fn fetch(
        &self,
        disk: &mut Disk,
        pages: &[(u64, Away)],
        contents: &mut [Page],
    ) -> Result<(), FetchError> {
        let mut rest = contents;
        for alike in pages.chunk_by(|(_, a), (_, b)| a.place() == b.place()) {
            let (these, others) = rest.split_at_mut(alike.len());
            self.at(alike[0].1).fetch(disk, alike, these)?;
            rest = others;
        }
        Ok(())
    }

    /// Fetches the page at `wanted`, for which the guest waits, and its neighbours; `arrived` is told as soon as it is there,
    /// and then of those behind it and before it.
    pub(crate) fn fetch_around<E: From<FetchError>>(
        &self,
        disk: &mut Disk,
        pages: &[(u64, Away)],
        wanted: usize,
        contents: &mut [Page],
        mut arrived: impl FnMut(Range<usize>, &[Page]) -> Result<(), E>,
    ) -> Result<(), E> {
        let stored = pages.iter().map(|(page, away)| match away {
            Away::Ssd(copy) => Some((*page, *copy)),
            _ => None,
        });
        let stored: Option<Vec<(u64, Copy)>> = if pages.len() > 1 { stored.collect() } else { None };
        let neighbours = [wanted + 1..pages.len(), 0..wanted].into_iter().filter(|part| !part.is_empty());
        let mut are_there = false;
        if let Some(stored) = stored {
            let first = |content: &[Page]| arrived(wanted..wanted + 1, content);
            are_there = self.store.fetch_around(disk, &stored, wanted, contents, first)?;
        }
        if !are_there {
            let content = &mut contents[wanted..=wanted];
            self.fetch(disk, &pages[wanted..=wanted], content)?;
            arrived(wanted..wanted + 1, content)?;
        }
        for part in neighbours {
            let contents = &mut contents[part.clone()];
            if !are_there {
                self.fetch(disk, &pages[part.clone()], contents)?;
            }
            arrived(part, contents)?;
        }
        Ok(())
    }

    pub(crate) fn free(&self, copy: Away) {
        self.at(copy).free(copy);
    }
}

/// What a panic elsewhere left cannot be half-changed: the pool's methods do not panic between two changes.
fn locked(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}
