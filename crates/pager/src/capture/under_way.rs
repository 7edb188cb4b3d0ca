//! The captures of one guest that are under way at the same time, a few at most.
//!
//! Owns which there are, by number and perhaps by name, and that each of them hears of every answer to a fault. A page is
//! write-protected for as long as any of them guards it. Pure, as [`Held`] is.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_model::memory::Place;

use super::held::{Duty, Held, Ledger};
use crate::places::Answer;

/// Each costs two bits a page, and its guest a copy of what it writes over.
pub(crate) const MOST: usize = 4;

/// All captures of a guest. `K` is where old contents are kept.
#[derive(Debug)]
pub(crate) struct UnderWay<K> {
    begun: u64,
    all: Vec<Named<K>>,
}

#[derive(Debug)]
struct Named<K> {
    /// One that has a name outlives the connections of its readers.
    name: Option<String>,
    held: Held<K>,
}

impl<K> Default for UnderWay<K> {
    fn default() -> Self {
        Self { begun: 0, all: Vec::new() }
    }
}

impl<K: Clone> UnderWay<K> {
    /// One of so many pages; `Err`: why there is none.
    pub(crate) fn begin(
        &mut self,
        name: Option<String>,
        pages: u64,
        (kept, ledger): (K, Ledger),
    ) -> Result<u64, String> {
        if self.all.len() >= MOST {
            return Err(format!("{MOST} captures of it are under way"));
        }
        if name.is_some() && self.all.iter().any(|one| one.name == name) {
            return Err("a capture has this name".into());
        }
        self.begun += 1;
        self.all.push(Named { name, held: Held::new(self.begun, pages, kept, ledger) });
        Ok(self.begun)
    }

    /// One that an earlier pager of the guest had frozen.
    pub(crate) fn go_on(&mut self, name: String, pages: u64, (kept, ledger): (K, Ledger)) {
        self.begun += 1;
        self.all.push(Named { name: Some(name), held: Held::found(self.begun, pages, kept, ledger) });
    }

    pub(crate) fn end(&mut self, number: u64) -> Option<Held<K>> {
        let at = self.all.iter().position(|one| one.held.number == number)?;
        Some(self.all.remove(at).held)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
    pub(crate) fn get(&self, number: u64) -> Option<&Held<K>> {
        self.all.iter().map(|one| &one.held).find(|held| held.number == number)
    }
    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Held<K>> {
        self.all.iter_mut().map(|one| &mut one.held).find(|held| held.number == number)
    }
    pub(crate) fn named(&self, name: &str) -> Option<u64> {
        self.all.iter().find(|one| one.name.as_deref() == Some(name)).map(|one| one.held.number)
    }
    pub(crate) fn has_named(&self) -> bool {
        self.all.iter().any(|one| one.name.is_some())
    }
    pub(crate) fn nameless_mut(&mut self) -> impl Iterator<Item = &mut Held<K>> {
        self.all.iter_mut().filter(|one| one.name.is_none()).map(|one| &mut one.held)
    }

    /// Whether one of them needs this page to stay write-protected.
    pub(crate) fn guard(&self, page: u64) -> bool {
        self.all.iter().any(|one| one.held.guards(page))
    }
    /// The same of those beside this one.
    pub(crate) fn others_guard(&self, number: u64, page: u64) -> bool {
        self.all.iter().any(|one| one.held.number != number && one.held.guards(page))
    }
    /// Whether a page that comes back is to come write-protected.
    pub(crate) fn guard_arrival(&self, page: u64) -> bool {
        self.all.iter().any(|one| one.held.guards_arrival(page))
    }

    /// A fault on `page`, which was at `was`, will be answered so: what is to be kept before.
    pub(crate) fn handle_answer(&mut self, page: u64, was: Place, answer: &Answer) -> Vec<Duty<K>> {
        self.all.iter_mut().filter_map(|one| one.held.handle_answer(page, was, answer)).collect()
    }
}
