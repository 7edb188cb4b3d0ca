//! What must be looked after between evictions: access bits, copies that nobody wants any more, a pool that fills, a store
//! with holes, an index that has grown.
//!
//! Owns when each is due, but for access bits, which [`Looks`] says. All of it runs on the thread of [`crate::eviction`], which alone writes the index; faults go on
//! meanwhile. A copy is moved by making the new one, recording it, and only then letting it count and freeing the old one.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use lucarne_memory::{
    looks::Looks,
    policy::Occasion,
    run::{Run, Scan},
};
use lucarne_model::memory::{Pages, Place};

use crate::{
    control::RegionHeat,
    eviction::{BATCH, EvictError, Evictor},
    index::Entry,
    page,
    pager::locked,
    places::{Away, Copy, Word},
    pool,
    seal::Proof,
    step::Step,
};

/// What a page costs its guest that a look has unmapped, when it is touched again (measured, see the book).
const TOUCH: Duration = Duration::from_nanos(2100);
/// The first look is expected to find one page in so many touched.
const TOUCHED: u32 = 8;
/// Pages of one look, and of those that the book is locked for at a time: a fault may be waiting for it.
const LOOK: u64 = 1 << 16;
const LOOK_PART: u64 = 1 << 12;
/// Regions of the heat map.
const REGIONS: u64 = 64;
const TIDY: Duration = Duration::from_secs(1);
/// Pages of one part of an index that is written anew.
const PART: u64 = 1 << 13;
/// All slots of the store.
pub(crate) const ALL: Range<u32> = 0..u32::MAX;

#[derive(Debug)]
pub(crate) struct Upkeep {
    began: Instant,
    tidied: Instant,
    looks: Looks,
}

impl Upkeep {
    /// Of a guest of so many pages.
    pub(crate) fn new(pages: u64) -> Self {
        let now = Instant::now();
        let first = TOUCH * u32::try_from(pages).unwrap_or(u32::MAX) / TOUCHED;
        Self { began: now, tidied: now, looks: Looks::new(Duration::ZERO, first) }
    }

    /// Does what is due. What fails is tried again: nothing is lost by it.
    pub(crate) fn look_after(&mut self, evictor: &mut Evictor) {
        let done = evictor.make_room_in_pool();
        if let Err(error) = done.and_then(|()| self.tidy(evictor)) {
            tracing::debug!(%error, "the upkeep of a guest's copies waits");
            self.tidied = Instant::now();
        }
        self.look(evictor);
    }

    fn look(&mut self, evictor: &Evictor) {
        let pager = &evictor.pager;
        let lost = if pager.book().residency.scans_at_refaults() { pager.tally().lost } else { Duration::ZERO };
        let Some(occasion) = self.looks.due(self.began.elapsed(), lost) else { return };
        match evictor.look(occasion) {
            Some(cost) => self.looks.done(occasion, self.began.elapsed(), lost, cost),
            None => self.looks.failed(self.began.elapsed(), lost),
        }
    }

    fn tidy(&mut self, evictor: &mut Evictor) -> Result<(), EvictError> {
        if self.tidied.elapsed() < TIDY {
            return Ok(());
        }
        self.tidied = Instant::now();
        evictor.pager.sources.store.pace().second();
        evictor.drop_discarded();
        if !evictor.pager.squeezes() {
            evictor.forget_kept(&ALL);
        }
        evictor.pager.sources.store.give_back_empty();
        evictor.compact()?;
        evictor.shorten_index()
    }
}

impl Evictor {
    /// Reads and clears the access bits. What it cost: this thread's time, and the guest's afterwards. None: it could not be.
    fn look(&self, occasion: Occasion) -> Option<Duration> {
        let pager = &self.pager;
        // With the tripwire set, each page that a look unmaps would be told of as one that appeared by itself.
        if pager.minor {
            return None;
        }
        let began = Instant::now();
        let pages = pager.guest.pages();
        let region = pages.div_ceil(REGIONS).max(1);
        let mut heat: Vec<RegionHeat> =
            (0..pages).step_by(region as usize).map(|first| cold(first, region, pages)).collect();
        let mut touched = 0;
        for first in (0..pages).step_by(LOOK as usize) {
            let run = Run::new(first, LOOK.min(pages - first));
            let bits = match locked(&pager.shim).look(run) {
                Ok(bits) => bits,
                Err(error) => {
                    tracing::debug!(%error, "no access bits");
                    return None;
                }
            };
            for (part, bits) in
                (run.first..run.end()).step_by(LOOK_PART as usize).zip(bits.chunks(LOOK_PART as usize / 64))
            {
                let scan = Scan { run: Run::new(part, LOOK_PART.min(run.end() - part)), accessed: bits };
                let book = &mut *pager.book();
                book.residency.scanned(scan, occasion);
                for page in scan.run.first..scan.run.end() {
                    let region = &mut heat[(page / region) as usize];
                    region.resident += Pages(u64::from(book.places.place(page) == Place::Resident));
                    region.touched += Pages(u64::from(scan.was_accessed(page)));
                    touched += u32::from(scan.was_accessed(page));
                }
            }
        }
        pager.tally().heat = heat;
        Some(began.elapsed() + TOUCH * touched)
    }

    /// Frees copies of pages that the guest gave up.
    fn drop_discarded(&self) {
        let discards = &self.pager.guest.discards;
        for page in discards.all() {
            let copy = self.pager.book().places.drop_copy(page);
            if let Some(copy) = copy {
                discards.set_void(page, true);
                self.pager.sources.free(copy);
                self.pager.tally().discarded += Pages(1);
            }
        }
    }

    /// Frees the copies in these slots of the store that pages have kept which are here.
    pub(crate) fn forget_kept(&self, slots: &Range<u32>) {
        if !self.pager.book().places.keeps_any() {
            return;
        }
        let pages = self.pager.guest.pages();
        for first in (0..pages).step_by(PART as usize) {
            let kept: Vec<Copy> = {
                let places = &mut self.pager.book().places;
                let kept = (first..(first + PART).min(pages)).filter_map(|page| Some((page, places.kept(page)?)));
                let kept: Vec<(u64, Copy)> = kept.filter(|(_, copy)| slots.contains(&copy.at)).collect();
                kept.into_iter()
                    .filter(|(page, copy)| places.forget_kept(*page, copy.at))
                    .map(|(_, copy)| copy)
                    .collect()
            };
            kept.into_iter().for_each(|copy| self.pager.sources.free(Away::Ssd(copy)));
        }
    }

    /// Moves the oldest copies from a pool that fills to the store.
    fn make_room_in_pool(&mut self) -> Result<(), EvictError> {
        let crowded = self.pager.sources.pool().is_crowded();
        if crowded { self.demote(BATCH).map(drop) } else { Ok(()) }
    }

    /// Moves all copies from the pool to the store.
    pub(crate) fn demote_all(&mut self) -> Result<(), EvictError> {
        while self.demote(BATCH)? {}
        Ok(())
    }

    /// Moves about `count` copies; whether any was left in the pool's list.
    fn demote(&mut self, count: u64) -> Result<bool, EvictError> {
        let oldest: Vec<(u64, u32)> = {
            let mut pool = self.pager.sources.pool();
            std::iter::from_fn(|| pool.oldest()).take(count as usize).collect()
        };
        let (mut pages, mut contents) = (Vec::new(), Vec::new());
        // A page that left twice by way of one place is there twice; its copy moves once. In order, so that neighbours lie
        // together again.
        for (page, unit) in &oldest.iter().copied().collect::<BTreeMap<u64, u32>>() {
            let Some(away @ Away::Compressed(copy, length)) = self.pager.book().places.away(*page) else { continue };
            let bytes = self.pager.sources.pool().copy(copy, length).to_vec();
            let mut content = page::Page::ZERO;
            // If it is another's by now, the page has come back meanwhile.
            if copy.at == *unit && pool::decompress(*page, copy.generation, &bytes, &mut content) {
                pages.push((*page, away));
                contents.push(content);
            }
        }
        if !pages.is_empty() {
            let first = self.index.generations(pages.len() as u64).map_err(EvictError::Index)?;
            let numbered: Vec<(u64, u64)> = pages.iter().zip(first..).map(|((page, _), new)| (*page, new)).collect();
            let kept = self.pager.sources.store.keep(&mut self.disk, &numbered, &mut contents);
            let moved = kept.map_err(EvictError::Store).and_then(|copies| self.record_moves(&pages, copies));
            if let Err(error) = moved {
                self.pager.sources.pool().put_back(&oldest);
                return Err(error);
            }
            self.pager.observer.at(Step::Demoted);
            self.pager.sources.pool().put_back(&self.not_moved(&pages));
        }
        Ok(!oldest.is_empty())
    }

    /// Those that are still where they were: somebody is reading them, who may let them stay there.
    fn not_moved(&self, pages: &[(u64, Away)]) -> Vec<(u64, u32)> {
        let places = &self.pager.book().places;
        let stayed = pages.iter().filter(|(page, away)| places.away(*page) == Some(*away));
        let unit = stayed.filter_map(|(page, away)| match away {
            Away::Compressed(copy, _) => Some((*page, copy.at)),
            _ => None,
        });
        unit.collect()
    }

    /// The copies that count and have one of these slots, in the order of the slots. Goes over the whole book, a part at a time.
    fn copies_in(&self, slots: &Range<u32>) -> Vec<(u64, Away, Copy)> {
        let there = |(page, away)| match away {
            // One that a lender has too is brought to it again.
            Away::Ssd(copy) | Away::Remote(copy, _) if slots.contains(&copy.at) => Some((page, away, copy)),
            _ => None,
        };
        let mut found = Vec::new();
        for first in (0..self.pager.guest.pages()).step_by(PART as usize) {
            found.extend(self.pager.book().places.all_away(Run::new(first, PART)).filter_map(there));
        }
        found.sort_unstable_by_key(|(_, _, copy)| copy.at);
        found
    }

    /// Moves the pages of an extent that is nearly empty elsewhere, so that the disk gets it back.
    fn compact(&mut self) -> Result<(), EvictError> {
        let Some(sparse) = self.pager.sources.store.sparse() else { return Ok(()) };
        // What a page has kept, although it is here, is not worth the move.
        self.forget_kept(&sparse);
        let there = self.copies_in(&sparse);
        let pages: Vec<(u64, Copy)> = there.iter().map(|(page, _, copy)| (*page, *copy)).collect();
        let copies = self.pager.sources.store.move_together(&mut self.disk, &pages).map_err(EvictError::Store)?;
        let from: Vec<(u64, Away)> = there.iter().map(|(page, away, _)| (*page, *away)).collect();
        self.record_moves(&from, copies)?;
        self.pager.observer.at(Step::Compacted);
        Ok(())
    }

    /// The new copies count, first here and then in the index, and the old ones are freed last: a page that is being fetched
    /// meanwhile keeps its old one, and the index is told nothing of it. No page is in `from` twice.
    fn record_moves(&mut self, from: &[(u64, Away)], to: Vec<(Copy, Proof)>) -> Result<(), EvictError> {
        let moves = from.iter().zip(to).map(|((page, old), (copy, proof))| (*page, *old, Away::Ssd(copy), proof));
        let (moved, stayed): (Vec<(u64, Away, Away, Proof)>, Vec<_>) = {
            let places = &mut self.pager.book().places;
            moves.partition(|(page, old, new, _)| places.move_copy(*page, *old, *new))
        };
        stayed.iter().for_each(|(_, _, new, _)| self.pager.sources.free(*new));
        let entry = |(page, _, new, proof): &(u64, Away, Away, Proof)| Entry {
            page: *page as u32,
            word: Word::away(*new),
            proof: *proof,
        };
        let recorded = self.index.append(&moved.iter().map(entry).collect::<Vec<_>>());
        self.note_index();
        for (page, old, new, _) in moved {
            // Back again, if it is not recorded; one that has come back meanwhile has freed its new copy itself.
            let back = recorded.is_err() && {
                let places = &mut self.pager.book().places;
                let now = places.away(page).filter(|now| now.recorded() == new);
                now.is_some_and(|now| places.move_copy(page, now, old))
            };
            self.pager.sources.free(if back { new } else { old });
        }
        recorded.map_err(EvictError::Index)
    }

    fn shorten_index(&mut self) -> Result<(), EvictError> {
        let pager = self.pager.clone();
        {
            let book = pager.book();
            pager.sources.pool().tidy(|page| book.places.away(page));
        }
        let counts = pager.book().places.counts();
        let away = counts.total() - counts.resident - counts.untouched;
        if !self.index.is_long(away.0) {
            return Ok(());
        }
        let pages = pager.guest.pages();
        let part = |first| {
            let recorded = |(page, away): (u64, Away)| (page, away.recorded());
            let away: Vec<(u64, Away)> = pager.book().places.all_away(Run::new(first, PART)).map(recorded).collect();
            let proof = |away| match away {
                Away::Ssd(copy) => pager.sources.store.proof(copy),
                _ => [0; 16],
            };
            let entry = |(page, away)| Entry { page: page as u32, word: Word::away(away), proof: proof(away) };
            away.into_iter().map(entry).collect()
        };
        self.index.rewrite((0..pages).step_by(PART as usize).map(part)).map_err(EvictError::Index)?;
        self.pager.observer.at(Step::Rewritten);
        Ok(())
    }
}

const fn cold(first: u64, region: u64, pages: u64) -> RegionHeat {
    let count = if first + region > pages { pages - first } else { region };
    RegionHeat { first, pages: Pages(count), resident: Pages::ZERO, touched: Pages::ZERO }
}
