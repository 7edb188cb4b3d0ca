//! What there is to be found: records in the log, and parts. One owner, so that every question sees each record once.
//!
//! Owns the instant at which records move from "in the log" to "in a part" for those who ask: both sides change under one
//! lock. Files are read by whoever took a [`Snapshot`], without the lock.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use lucarne_model::AccountId;

use crate::{Kept, day::Day, part::Part};

/// Records that became durable together, and so on: all of a segment.
pub(crate) type Chunks = Vec<Arc<[Kept]>>;

#[derive(Debug, Default)]
pub(crate) struct Catalog(RwLock<Contents>);

#[derive(Debug, Default)]
struct Contents {
    /// By log segment; the last one is still written to.
    unsealed: BTreeMap<u64, Chunks>,
    unsealed_records: usize,
    /// Parts of a day in the order of their segments.
    parts: BTreeMap<AccountId, BTreeMap<Day, Vec<Arc<Part>>>>,
}

/// What one question is answered from.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Of all accounts.
    pub(crate) unsealed: Chunks,
    /// Of the one account, newest day first.
    pub(crate) days: Vec<(Day, Vec<Arc<Part>>)>,
}

impl Catalog {
    pub(crate) fn new(parts: Vec<Arc<Part>>) -> Self {
        let mut contents = Contents::default();
        parts.into_iter().for_each(|part| contents.add_part(part));
        Self(RwLock::new(contents))
    }

    /// A segment that is written to from now on; those before it can be sealed.
    pub(crate) fn open(&self, segment: u64) {
        self.write().unsealed.entry(segment).or_default();
    }

    pub(crate) fn add(&self, segment: u64, records: Arc<[Kept]>) {
        let mut contents = self.write();
        contents.unsealed_records += records.len();
        contents.unsealed.entry(segment).or_default().push(records);
    }

    /// Records that are not in parts yet.
    pub(crate) fn unsealed_records(&self) -> usize {
        self.read().unsealed_records
    }

    /// The oldest segment, unless it is the one that is written to.
    pub(crate) fn next_to_seal(&self) -> Option<(u64, Chunks)> {
        let contents = self.read();
        let (segment, chunks) = contents.unsealed.first_key_value()?;
        (contents.unsealed.len() > 1).then(|| (*segment, chunks.clone()))
    }

    /// The segment is gone from the log and its records are in `parts`.
    pub(crate) fn sealed(&self, segment: u64, parts: Vec<Arc<Part>>) {
        let mut contents = self.write();
        let chunks = contents.unsealed.remove(&segment).unwrap_or_default();
        contents.unsealed_records -= chunks.iter().map(|chunk| chunk.len()).sum::<usize>();
        parts.into_iter().for_each(|part| contents.add_part(part));
    }

    /// Days that have more than one part.
    pub(crate) fn crowded_days(&self) -> Vec<Vec<Arc<Part>>> {
        let contents = self.read();
        contents.parts.values().flat_map(BTreeMap::values).filter(|parts| parts.len() > 1).cloned().collect()
    }

    /// The part takes the place of all that it covers, whose files go with their last readers.
    pub(crate) fn merged(&self, part: Arc<Part>) {
        let mut contents = self.write();
        if let Some(parts) = contents.parts.get_mut(&part.place.account).and_then(|days| days.get_mut(&part.place.day))
        {
            parts.iter().filter(|other| part.place.covers(&other.place)).for_each(|other| other.supersede());
            parts.retain(|other| !part.place.covers(&other.place));
        }
        contents.add_part(part);
    }

    pub(crate) fn snapshot(&self, account: AccountId, first: Day, last: Day) -> Snapshot {
        let contents = self.read();
        let days = contents.parts.get(&account).into_iter().filter(|_| first <= last);
        let days = days.flat_map(|days| days.range(first..=last).rev());
        Snapshot {
            unsealed: contents.unsealed.values().flatten().cloned().collect(),
            days: days.map(|(day, parts)| (*day, parts.clone())).collect(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, Contents> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn add_part(&mut self, part: Arc<Part>) {
        let parts = self.parts.entry(part.place.account).or_default().entry(part.place.day).or_default();
        let at = parts.partition_point(|other| other.place < part.place);
        parts.insert(at, part);
    }
}
