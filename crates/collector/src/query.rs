//! Answers questions for kept records: newest first, a page at a time.
//!
//! Owns account scoping, in [`Store::list`] and nowhere else: parts are those of the question's account, and records of
//! the log are compared by [`FlowQuery::matches`], which asks for the account too.

use std::sync::Arc;

use lucarne_model::{AccountId, FlowPage, FlowQuery};

use crate::{
    Kept,
    catalog::Catalog,
    chunk::Chunk,
    hour::Hour,
    part::{self, Found, Part, PartError},
    position::{BadCursor, Position, Stretch},
};

/// Records that may be looked at for one page. A rare record may so be some pages away, with nothing on those between.
const MOST_SCANNED: u64 = 2_000_000;

/// What can be asked.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    catalog: Arc<Catalog>,
}

impl Store {
    pub(crate) fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog }
    }

    pub(crate) fn unsealed(&self) -> usize {
        self.catalog.unsealed_records()
    }

    /// The part of an account that has this name.
    pub(crate) fn part(&self, account: AccountId, name: &str) -> Option<Arc<Part>> {
        self.catalog.part(account, name)
    }

    /// The page that a question asks for. Reads files: not for an async task.
    pub(crate) fn list(&self, query: &FlowQuery) -> Result<FlowPage, BadCursor> {
        let stretch = Stretch::of(query)?;
        let hours = self.catalog.snapshot(query.account, Hour::of(stretch.since), Hour::of(stretch.below.end));
        let limit = query.limit.clamp(1, FlowQuery::MAX_LIMIT) as usize;
        let mut search = Search { query, stretch, limit, found: Vec::new(), scanned: 0, unreadable: 0 };
        hours.unsealed.iter().for_each(|chunk| search.add_unsealed(chunk));
        let mut stopped_at = None;
        for (index, (hour, parts)) in hours.hours.iter().enumerate() {
            if search.is_full_above(Position::at(hour.end())) {
                break;
            }
            parts.iter().for_each(|part| search.add_part(part));
            if search.scanned > MOST_SCANNED && index + 1 < hours.hours.len() {
                stopped_at = Some(Position::at(hour.start()));
                break;
            }
        }
        Ok(search.page(stopped_at))
    }
}

/// A page in the making: the newest records so far, one more than the page holds, so that it knows of a next one.
struct Search<'a> {
    query: &'a FlowQuery,
    stretch: Stretch,
    limit: usize,
    /// Newest first.
    found: Vec<Kept>,
    scanned: u64,
    unreadable: u32,
}

impl Search<'_> {
    fn add_unsealed(&mut self, chunk: &Chunk) {
        self.scanned += chunk.len() as u64;
        let rows = chunk.rows_of(Some(self.query.account)).into_iter();
        let rows = rows.filter(|row| self.stretch.contains(chunk.position(*row))).map(|row| chunk.kept(row));
        let meant = rows.filter(|kept| self.query.matches(&kept.record)).collect();
        self.add(meant);
    }

    fn add_part(&mut self, part: &Part) {
        match self.read_part(part) {
            Ok(meant) => self.add(meant),
            Err(error) => {
                tracing::error!(path = %part.path.display(), %error, "a part cannot be read; an answer lacks its records");
                self.unreadable += 1;
            }
        }
    }

    /// The newest of the part's records that are meant, as many as could be on the page.
    fn read_part(&mut self, part: &Part) -> Result<Vec<Kept>, PartError> {
        let Found { records, scanned } = part::newest(part, &self.query.filter, &self.open_stretch(), self.limit + 1)?;
        self.scanned += scanned;
        Ok(records)
    }

    /// The stretch, without what is older than all that a full page has.
    fn open_stretch(&self) -> Stretch {
        let oldest = self.found.last().filter(|_| self.found.len() > self.limit);
        let since = oldest.map_or(self.stretch.since, |oldest| self.stretch.since.max(oldest.record.end));
        Stretch { since, ..self.stretch }
    }

    /// Whether no record at or below the position can be on the page, or tell that there is a next one.
    fn is_full_above(&self, position: Position) -> bool {
        self.found.len() > self.limit && self.found.last().is_some_and(|last| last.position() >= position)
    }

    fn add(&mut self, meant: Vec<Kept>) {
        if meant.is_empty() {
            return;
        }
        self.found.extend(meant);
        self.found.sort_unstable_by_key(|kept| std::cmp::Reverse(kept.position()));
        self.found.truncate(self.limit + 1);
    }

    /// The page; `stopped_at` is where the search ended early, if it did: older hours were not looked at.
    fn page(mut self, stopped_at: Option<Position>) -> FlowPage {
        if let Some(stop) = stopped_at {
            self.found.retain(|kept| kept.position() >= stop);
        }
        let more = self.found.len() > self.limit;
        self.found.truncate(self.limit);
        let last = if more { self.found.last().map(Kept::position) } else { stopped_at };
        FlowPage {
            records: self.found.into_iter().map(|kept| kept.record).collect(),
            next: last.map(|position| position.to_string()),
            scanned: self.scanned,
            unreadable: self.unreadable,
        }
    }
}
