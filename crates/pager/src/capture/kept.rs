//! What pages of a captured guest were before the guest wrote to them.
//!
//! Owns the room for them, which is bounded, and the file that takes what is too much for it, each page sealed under a key that
//! is in memory only. What the reader needs last goes there first. All of it is the next pager's too, for as long as the machine
//! lives ([`Record`]).

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
};

use lucarne_model::paging::KEY;
use ring::{
    error::Unspecified,
    rand::{SecureRandom, SystemRandom},
};

use super::{held::Ledger, record::Record};
use crate::{
    page::{self, PAGE, Page},
    seal::Sealer,
    step::Step,
};

/// Pages that are kept in memory: 8 MiB.
pub(crate) const IN_MEMORY: usize = 2048;
/// Pages that go to the file together.
const TOGETHER: usize = 64;

#[derive(Debug)]
struct Spill {
    file: File,
    sealer: Sealer,
}

#[derive(Debug)]
pub(crate) struct Kept {
    record: Record,
    free: Vec<u16>,
    here: BTreeMap<u64, u16>,
    /// By place, which is the nonce of its seal: each is used once.
    spilled: BTreeMap<u64, u32>,
    spill: Option<Spill>,
}

impl Kept {
    /// Nothing is kept yet.
    pub(crate) fn new(record: Record) -> Self {
        let (here, spilled) = (BTreeMap::new(), BTreeMap::new());
        Self { record, free: (0..IN_MEMORY as u16).collect(), here, spilled, spill: None }
    }

    /// What an earlier pager kept. What it was about to keep is still what the page is, and is not wanted; what it was about to
    /// move is in both places.
    pub(crate) fn recover(record: Record, ledger: &Ledger) -> io::Result<Self> {
        let mut kept = Self { free: Vec::new(), ..Self::new(record) };
        for slot in (0..IN_MEMORY as u16).rev() {
            match kept.record.in_slot(slot).filter(|page| !ledger.guards(*page) && !kept.here.contains_key(page)) {
                Some(page) => drop(kept.here.insert(page, slot)),
                None => {
                    kept.record.free_slot(slot);
                    kept.free.push(slot);
                }
            }
        }
        for place in (0..kept.record.next_place()).map_while(|place| u32::try_from(place).ok()) {
            match kept.record.at_place(place).filter(|page| !ledger.guards(*page) && !kept.here.contains_key(page)) {
                Some(page) => drop(kept.spilled.insert(page, place)),
                None => kept.record.free_place(place),
            }
        }
        if !kept.spilled.is_empty() {
            kept.spill = Some(Spill::open(&kept.record)?);
        }
        Ok(kept)
    }

    pub(crate) fn keep(&mut self, page: u64, content: &Page) -> io::Result<()> {
        if self.free.is_empty() {
            self.make_room()?;
        }
        let slot = self.free.pop().ok_or(io::ErrorKind::OutOfMemory)?;
        self.record.set_slot(slot, page, content);
        self.here.insert(page, slot);
        Ok(())
    }

    /// What the page was, once: it is forgotten, unless it `stays`. False: it was not kept.
    pub(crate) fn read(&mut self, page: u64, stays: bool, content: &mut Page) -> io::Result<bool> {
        if let Some(slot) = self.here.get(&page) {
            content.0.copy_from_slice(self.record.content(*slot));
        } else if let (Some(place), Some(spill)) = (self.spilled.get(&page), &self.spill) {
            spill.file.read_exact_at(&mut content.0, u64::from(*place) * PAGE as u64)?;
            let opened = spill.sealer.open(page, u64::from(*place), self.record.proof(*place), content);
            opened.map_err(|broken| io::Error::new(io::ErrorKind::InvalidData, broken))?;
        } else {
            return Ok(false);
        }
        if !stays {
            self.forget(page);
        }
        Ok(true)
    }

    pub(crate) fn contains(&self, page: u64) -> bool {
        self.here.contains_key(&page) || self.spilled.contains_key(&page)
    }

    /// It will not be asked for any more.
    pub(crate) fn forget(&mut self, page: u64) {
        if let Some(slot) = self.here.remove(&page) {
            self.record.free_slot(slot);
            self.free.push(slot);
        }
        if let Some(place) = self.spilled.remove(&page) {
            self.record.free_place(place);
        }
    }

    /// Moves pages with the highest numbers to the file: those are asked for last.
    fn make_room(&mut self) -> io::Result<()> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(Spill::new(&self.record)?),
        };
        let last: Vec<(u64, u16)> = self.here.iter().rev().take(TOGETHER).map(|(page, slot)| (*page, *slot)).collect();
        let mut contents = page::zeroed(last.len());
        let mut places = Vec::with_capacity(last.len());
        // Also if they cannot be written: what is sealed once more is other.
        let first = self.record.reserve_places(last.len() as u64)?;
        for (((page, slot), content), place) in last.iter().zip(&mut contents).zip(first..) {
            content.0.copy_from_slice(self.record.content(*slot));
            let proof = spill.sealer.seal(*page, place, content).map_err(no_seal)?;
            places.push((u32::try_from(place).map_err(io::Error::other)?, proof));
        }
        spill.file.write_all_at(page::bytes(&contents), first * PAGE as u64)?;
        self.record.observer.at(Step::Sealed);
        last.iter().zip(&places).for_each(|((page, _), (place, proof))| self.record.set_place(*place, *page, *proof));
        self.record.observer.at(Step::Spilled);
        for ((page, slot), (place, _)) in last.into_iter().zip(places) {
            self.here.remove(&page);
            self.record.free_slot(slot);
            self.free.push(slot);
            self.spilled.insert(page, place);
        }
        Ok(())
    }
}

impl Spill {
    /// An empty one.
    fn new(record: &Record) -> io::Result<Self> {
        let mut key = [0; KEY];
        SystemRandom::new().fill(&mut key).map_err(no_seal)?;
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&record.spill)?;
        record.set_file_key(&key);
        Ok(Self { file, sealer: Sealer::new(key, record.instance).map_err(no_seal)? })
    }

    /// One in which there is something.
    fn open(record: &Record) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&record.spill)?;
        Ok(Self { file, sealer: Sealer::new(record.file_key(), record.instance).map_err(no_seal)? })
    }
}

fn no_seal(_: Unspecified) -> io::Error {
    io::Error::other("a page cannot be sealed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::record::tests::{Machine, PAGES};

    fn page(seed: u64) -> Page {
        Page(std::array::from_fn(|at| (seed as usize).wrapping_mul(31).wrapping_add(at * 7) as u8))
    }

    const fn number(at: u64) -> u64 {
        at * 2_654_435_761 % PAGES
    }

    /// Whatever goes to the file, in memory there never is more than the bound, and on the disk nothing to read.
    #[test]
    fn what_was_kept_is_read_once_from_wherever_it_went() {
        let machine = Machine::new();
        let (mut kept, _) = machine.records().begin(None).unwrap();
        let many = IN_MEMORY as u64 * 3;
        (0..many).for_each(|at| kept.keep(number(at), &page(at)).unwrap());
        assert!(kept.here.len() <= IN_MEMORY && kept.spilled.len() as u64 >= many - IN_MEMORY as u64);
        let mut sealed = page(0);
        kept.spill.as_ref().unwrap().file.read_exact_at(&mut sealed.0, 0).unwrap();
        assert!((0..many).all(|at| page(at).0 != sealed.0));
        let mut content = Page::ZERO;
        for at in 0..many {
            assert!(kept.read(number(at), true, &mut content).unwrap());
            assert!(kept.read(number(at), false, &mut content).unwrap() && content.0 == page(at).0, "{at}");
            assert!(!kept.read(number(at), false, &mut content).unwrap());
        }
        assert_eq!(kept.free.len(), IN_MEMORY);
        drop(kept);
        assert_eq!(machine.files(), 0);
    }

    #[test]
    fn a_folder_that_takes_nothing_is_an_error_and_what_is_kept_stays() {
        let machine = Machine::at("/proc/self".into());
        let (mut kept, _) = machine.records().begin(None).unwrap();
        (0..IN_MEMORY as u64).for_each(|at| kept.keep(at, &page(at)).unwrap());
        assert!(kept.keep(IN_MEMORY as u64, &page(1)).is_err());
        let mut content = Page::ZERO;
        assert!(kept.read(5, false, &mut content).unwrap() && content.0 == page(5).0);
    }

    /// Also what was forgotten stays so, and nothing is sealed twice for one place.
    #[test]
    fn the_next_pager_finds_what_was_kept_and_goes_on_keeping() {
        let machine = Machine::new();
        let (mut kept, ledger) = machine.records().begin(Some("rep-1")).unwrap();
        let many = IN_MEMORY as u64 * 2;
        for round in 0..3 {
            (round * many..(round + 1) * many).for_each(|at| kept.keep(number(at), &page(at)).unwrap());
            (round * many..(round + 1) * many).step_by(5).for_each(|at| kept.forget(number(at)));
            let (here, spilled, next) = (kept.here.clone(), kept.spilled.clone(), kept.record.next_place());
            // Killed.
            std::mem::forget(kept);
            ledger.mark.set(0, 1);
            let mut found = machine.records().recover();
            assert_eq!(found.len(), 1);
            let (name, next_kept, _) = found.remove(0);
            assert_eq!((name.as_str(), &next_kept.here, &next_kept.spilled), ("rep-1", &here, &spilled));
            assert_eq!((next_kept.record.next_place(), next_kept.free.len()), (next, IN_MEMORY - here.len()));
            kept = next_kept;
        }
        let mut content = Page::ZERO;
        for at in 0..3 * many {
            let found = kept.read(number(at), false, &mut content).unwrap();
            assert_eq!(found, !(at % many).is_multiple_of(5), "{at}");
            assert!(!found || content.0 == page(at).0, "{at}");
        }
    }

    /// Killed between two changes: what it was about to keep is what the page is still, and what it was about to move is once there.
    #[test]
    fn what_was_half_done_is_either_done_or_not() {
        let machine = Machine::new();
        let (mut kept, ledger) = machine.records().begin(Some("rep-1")).unwrap();
        (0..IN_MEMORY as u64 + 1).for_each(|at| kept.keep(at, &page(at)).unwrap());
        let (moved, place) = kept.spilled.pop_first().unwrap();
        // It is in the file, and its slot is not free yet.
        let slot = kept.free.pop().unwrap();
        kept.record.set_slot(slot, moved, &page(moved));
        // That it is guarded was not taken back yet.
        ledger.guarded.set(0, 1 << 7);
        ledger.mark.set(0, 1);
        std::mem::forget(kept);
        let (_, mut kept, _) = machine.records().recover().remove(0);
        let mut content = Page::ZERO;
        assert!(kept.read(moved, true, &mut content).unwrap() && content.0 == page(moved).0);
        assert!(kept.here.contains_key(&moved) && kept.record.at_place(place).is_none());
        assert!(!kept.contains(7));
        assert!((0..=IN_MEMORY as u64).filter(|page| *page != 7).all(|page| kept.contains(page)));
    }
}
