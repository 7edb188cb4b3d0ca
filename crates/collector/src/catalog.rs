//! What there is to be found: records in the log, and parts. One owner, so that every question sees each record once.
//!
//! Owns the instant at which records move from "in the log" to "in a part" for those who ask: both sides change under one
//! lock. Files are read by whoever took a [`Snapshot`], without the lock.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use lucarne_model::AccountId;

use crate::{
    chunk::Chunk,
    hour::Hour,
    part::{Part, Place},
};

/// Records that became durable together, and so on: all of a segment.
pub(crate) type Chunks = Vec<Arc<Chunk>>;

#[derive(Debug, Default)]
pub(crate) struct Catalog(RwLock<Contents>);

#[derive(Debug, Default)]
struct Contents {
    /// By log segment; the last one is still written to.
    unsealed: BTreeMap<u64, Chunks>,
    unsealed_records: usize,
    /// Parts of an hour, sorted by place: those of a location together, in the order of their segments.
    parts: BTreeMap<AccountId, BTreeMap<Hour, Vec<Arc<Part>>>>,
}

/// What one question is answered from.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Of all accounts.
    pub(crate) unsealed: Chunks,
    /// Of the one account, newest hour first.
    pub(crate) hours: Vec<(Hour, Vec<Arc<Part>>)>,
}

/// What a question in SQL is answered from.
#[derive(Debug)]
pub(crate) struct Everything {
    /// Of all accounts.
    pub(crate) unsealed: Chunks,
    /// Of the account, or of all.
    pub(crate) parts: Vec<Arc<Part>>,
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

    pub(crate) fn add(&self, segment: u64, chunks: impl IntoIterator<Item = Arc<Chunk>>) {
        let mut contents = self.write();
        for chunk in chunks {
            contents.unsealed_records += chunk.len();
            contents.unsealed.entry(segment).or_default().push(chunk);
        }
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

    /// Parts that lie in one folder, where there is more than one.
    pub(crate) fn crowded_folders(&self) -> Vec<Vec<Arc<Part>>> {
        let contents = self.read();
        let folders = contents.parts.values().flat_map(BTreeMap::values);
        let folders = folders.flat_map(|parts| parts.chunk_by(|a, b| a.place.is_beside(&b.place)));
        folders.filter(|parts| parts.len() > 1).map(<[_]>::to_vec).collect()
    }

    /// The part of an account that has this name.
    pub(crate) fn part(&self, account: AccountId, name: &str) -> Option<Arc<Part>> {
        let place = Place::parse(name).filter(|place| place.account == account)?;
        let contents = self.read();
        contents.parts.get(&account)?.get(&place.hour)?.iter().find(|part| part.place == place).cloned()
    }

    /// The part takes the place of all that it covers, whose files go with their last readers.
    pub(crate) fn merged(&self, part: Arc<Part>) {
        let mut contents = self.write();
        let hours = contents.parts.get_mut(&part.place.account);
        if let Some(parts) = hours.and_then(|hours| hours.get_mut(&part.place.hour)) {
            parts.iter().filter(|other| part.place.covers(&other.place)).for_each(|other| other.supersede());
            parts.retain(|other| !part.place.covers(&other.place));
        }
        contents.add_part(part);
    }

    pub(crate) fn snapshot(&self, account: AccountId, first: Hour, last: Hour) -> Snapshot {
        let contents = self.read();
        let hours = contents.parts.get(&account).into_iter().filter(|_| first <= last);
        let hours = hours.flat_map(|hours| hours.range(first..=last).rev());
        Snapshot { unsealed: contents.unsealed(), hours: hours.map(|(hour, parts)| (*hour, parts.clone())).collect() }
    }

    /// All there is of an account, or of all accounts.
    pub(crate) fn everything(&self, account: Option<AccountId>) -> Everything {
        let contents = self.read();
        let is_meant = |of: &AccountId| account.is_none_or(|account| account == *of);
        let accounts = contents.parts.iter().filter(|(of, _)| is_meant(of)).map(|(_, hours)| hours);
        Everything {
            unsealed: contents.unsealed(),
            parts: accounts.flat_map(BTreeMap::values).flatten().cloned().collect(),
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
    fn unsealed(&self) -> Chunks {
        self.unsealed.values().flatten().cloned().collect()
    }

    fn add_part(&mut self, part: Arc<Part>) {
        let parts = self.parts.entry(part.place.account).or_default().entry(part.place.hour).or_default();
        let at = parts.partition_point(|other| other.place < part.place);
        parts.insert(at, part);
    }
}
