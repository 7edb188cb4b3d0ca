//! What pages of a captured guest were before the guest wrote to them.
//!
//! Owns the room for them, which is bounded, and the file that takes what is too much for it: without a name, gone with the
//! pager, each page sealed under a key that is in this process only. What the reader needs last goes there first.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt, path::PathBuf};

use lucarne_model::{InstanceId, paging::KEY};
use ring::{
    error::Unspecified,
    rand::{SecureRandom, SystemRandom},
};
use rustix::fs::{Mode, OFlags};

use crate::{
    page::{self, PAGE, Page, Room},
    seal::{Proof, Sealer},
};

/// Pages that are kept in memory: 8 MiB.
pub(crate) const IN_MEMORY: usize = 2048;
/// Pages that go to the file together.
const TOGETHER: usize = 64;

#[derive(Debug)]
struct Spill {
    file: File,
    sealer: Sealer,
    /// Where the next page goes. Each place is used once, and is the nonce of its seal.
    next: u64,
}

#[derive(Debug)]
pub(crate) struct Kept {
    /// The folder of the file.
    folder: PathBuf,
    instance: InstanceId,
    room: Room,
    free: Vec<u16>,
    here: BTreeMap<u64, u16>,
    spilled: BTreeMap<u64, (u32, Proof)>,
    spill: Option<Spill>,
}

impl Kept {
    pub(crate) fn new(folder: PathBuf, instance: InstanceId) -> Self {
        let (here, spilled) = (BTreeMap::new(), BTreeMap::new());
        Self { folder, instance, room: Room::default(), free: Vec::new(), here, spilled, spill: None }
    }

    pub(crate) fn keep(&mut self, page: u64, content: &Page) -> io::Result<()> {
        if self.room.is_empty() {
            self.room = Room::new(IN_MEMORY)?;
            self.free = (0..IN_MEMORY as u16).collect();
        }
        if self.free.is_empty() {
            self.make_room()?;
        }
        let slot = self.free.pop().ok_or(io::ErrorKind::OutOfMemory)?;
        self.room[usize::from(slot)].0.copy_from_slice(&content.0);
        self.here.insert(page, slot);
        Ok(())
    }

    /// What the page was, once: it is forgotten, unless it `stays`. False: it was not kept.
    pub(crate) fn read(&mut self, page: u64, stays: bool, content: &mut Page) -> io::Result<bool> {
        if let Some(slot) = self.here.get(&page).copied() {
            content.0.copy_from_slice(&self.room[usize::from(slot)].0);
            if !stays {
                self.here.remove(&page);
                self.free.push(slot);
            }
            return Ok(true);
        }
        let (Some((place, proof)), Some(spill)) = (self.spilled.get(&page).copied(), &self.spill) else {
            return Ok(false);
        };
        spill.file.read_exact_at(&mut content.0, u64::from(place) * PAGE as u64)?;
        let opened = spill.sealer.open(page, place.into(), proof, content);
        opened.map_err(|broken| io::Error::new(io::ErrorKind::InvalidData, broken))?;
        if !stays {
            self.spilled.remove(&page);
        }
        Ok(true)
    }

    pub(crate) fn contains(&self, page: u64) -> bool {
        self.here.contains_key(&page) || self.spilled.contains_key(&page)
    }

    /// It will not be asked for any more.
    pub(crate) fn forget(&mut self, page: u64) {
        self.free.extend(self.here.remove(&page));
        self.spilled.remove(&page);
    }

    /// Moves pages with the highest numbers to the file: those are asked for last.
    fn make_room(&mut self) -> io::Result<()> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(Spill::new(&self.folder, self.instance)?),
        };
        let last: Vec<(u64, u16)> = self.here.iter().rev().take(TOGETHER).map(|(page, slot)| (*page, *slot)).collect();
        let mut contents = page::zeroed(last.len());
        let mut proofs = Vec::with_capacity(last.len());
        let first = spill.next;
        // Also if they cannot be written: what is sealed once more is other.
        spill.next += last.len() as u64;
        for (((page, slot), content), place) in last.iter().zip(&mut contents).zip(first..) {
            content.0.copy_from_slice(&self.room[usize::from(*slot)].0);
            let sealed = spill.sealer.seal(*page, place, content);
            proofs.push((u32::try_from(place).map_err(io::Error::other)?, sealed.map_err(no_seal)?));
        }
        spill.file.write_all_at(page::bytes(&contents), first * PAGE as u64)?;
        for ((page, slot), proof) in last.into_iter().zip(proofs) {
            self.here.remove(&page);
            self.free.push(slot);
            self.spilled.insert(page, proof);
        }
        Ok(())
    }
}

impl Spill {
    fn new(folder: &std::path::Path, instance: InstanceId) -> io::Result<Self> {
        let mut key = [0; KEY];
        SystemRandom::new().fill(&mut key).map_err(no_seal)?;
        let sealer = Sealer::new(key, instance).map_err(no_seal)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Self { file: file.into(), sealer, next: 0 })
    }
}

fn no_seal(_: Unspecified) -> io::Error {
    io::Error::other("a page cannot be sealed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(seed: u64) -> Page {
        Page(std::array::from_fn(|at| (seed as usize).wrapping_mul(31).wrapping_add(at * 7) as u8))
    }

    /// Whatever goes to the file, in memory there never is more than the bound, and on the disk nothing to read.
    #[test]
    fn what_was_kept_is_read_once_from_wherever_it_went() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = Kept::new(folder.path().to_owned(), InstanceId::from_bits(7));
        let many = IN_MEMORY as u64 * 3;
        let number = |at: u64| at * 2_654_435_761 % 1_000_003;
        (0..many).for_each(|at| kept.keep(number(at), &page(at)).unwrap());
        assert!(kept.here.len() <= IN_MEMORY && kept.spilled.len() as u64 >= many - IN_MEMORY as u64);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it has no name");
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
    }

    #[test]
    fn a_folder_that_takes_nothing_is_an_error_and_what_is_kept_stays() {
        let mut kept = Kept::new("/proc/self".into(), InstanceId::from_bits(7));
        (0..IN_MEMORY as u64).for_each(|at| kept.keep(at, &page(at)).unwrap());
        assert!(kept.keep(IN_MEMORY as u64, &page(1)).is_err());
        let mut content = Page::ZERO;
        assert!(kept.read(5, false, &mut content).unwrap() && content.0 == page(5).0);
    }
}
