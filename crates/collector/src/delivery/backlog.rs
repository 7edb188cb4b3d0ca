//! What of the kept records waits to be delivered.
//!
//! Owns the order of delivery, which is that of arrival: serials grow with it, in the log and in parts alike, and never
//! change. So a position is one number, and what came late is behind it whenever it happened.

use std::sync::Arc;

use lucarne_model::{FlowFilter, flow_log::FlowLog};

use crate::{
    Kept,
    catalog::{Catalog, Everything},
    hour::Hour,
    log,
    part::{Part, PartError, PartReader},
};

/// Records delivered at once.
pub(super) const BATCH: usize = 10_000;

#[derive(Clone, Debug)]
pub(super) struct Backlog {
    catalog: Arc<Catalog>,
}

/// The oldest records that wait.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// By serial; at most [`BATCH`].
    pub(super) records: Vec<Kept>,
    /// The position behind them, from which the next batch is looked for.
    pub(super) next: u64,
}

impl Backlog {
    pub(super) const fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog }
    }

    /// The next records of the log from `position` on. Reads files: not for an async task.
    pub(super) fn after(&self, log: &FlowLog, position: u64) -> Result<Batch, PartError> {
        let everything = self.catalog.everything(Some(log.account));
        let mut search = Search { log, filter: log.filter(), position, found: Vec::new() };
        let seen = seen_by(&everything);
        for part in &everything.parts {
            search.add_part(part)?;
        }
        for chunk in &everything.unsealed {
            if chunk.end() > position {
                chunk.records_of(Some(log.account)).for_each(|kept| search.add(kept));
            }
        }
        Ok(search.batch(seen))
    }
}

/// The position behind everything that is there. A part stands for whole segments, so nothing more comes to those.
fn seen_by(everything: &Everything) -> u64 {
    let sealed = everything.parts.iter().map(|part| log::serial(part.place.to + 1, 0)).max().unwrap_or(0);
    let unsealed = everything.unsealed.iter().filter(|chunk| chunk.len() > 0).map(|chunk| chunk.end()).max();
    sealed.max(unsealed.unwrap_or(0))
}

struct Search<'a> {
    log: &'a FlowLog,
    filter: FlowFilter,
    position: u64,
    found: Vec<Kept>,
}

impl Search<'_> {
    fn add_part(&mut self, part: &Part) -> Result<(), PartError> {
        let is_delivered = log::serial(part.place.to + 1, 0) <= self.position;
        if is_delivered || part.place.hour < Hour::of(self.log.created) {
            return Ok(());
        }
        for kept in PartReader::all(part)? {
            self.add(kept?);
        }
        Ok(())
    }

    fn add(&mut self, kept: Kept) {
        let Kept { serial, record } = &kept;
        let is_meant = *serial >= self.position
            && record.account == self.log.account
            && record.end >= self.log.created
            && self.filter.matches(record);
        if is_meant {
            self.found.push(kept);
        }
        if self.found.len() >= 4 * BATCH {
            self.keep_oldest();
        }
    }

    fn keep_oldest(&mut self) {
        if self.found.len() > BATCH {
            self.found.select_nth_unstable_by_key(BATCH, |kept| kept.serial);
            self.found.truncate(BATCH);
        }
    }

    fn batch(mut self, seen: u64) -> Batch {
        let is_whole = self.found.len() <= BATCH;
        self.keep_oldest();
        self.found.sort_unstable_by_key(|kept| kept.serial);
        let behind = self.found.last().map_or(self.position, |last| last.serial + 1);
        // One that was cut has more behind its last record; `found` is full then.
        let next = if is_whole && self.found.len() < BATCH { seen.max(behind) } else { behind };
        Batch { records: self.found, next }
    }
}
