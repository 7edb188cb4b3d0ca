//! Turns log segments into parts, and many parts of an hour into few.
//!
//! Owns the order of steps that the crate's rule needs: parts first, then their receipts, then the segment goes; the
//! merged part first, then its receipt, then what it covers goes. Any step can be the last of this process, and each can
//! be done again.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant, SystemTime},
};

use lucarne_model::{AccountId, Moment, flow::Location};
use tokio_util::sync::CancellationToken;

use crate::{
    Kept,
    catalog::Catalog,
    compaction,
    health::Gauges,
    hour::Hour,
    log,
    pace::Pace,
    part::{self, Effort, Folders, NewPart, Part, PartError, PartReader, Place},
    receipts::{Receipts, ReceiptsError},
};

const WORK: &str = "sealing";

/// How long records of an hour may still come after its end, before its parts are merged for good.
const LATE: Duration = Duration::from_secs(600);

/// Below the state folder.
pub(crate) const LOG_DIR: &str = "log";

#[derive(Debug)]
pub(crate) struct Sealer {
    log_dir: PathBuf,
    folders: Folders,
    pace: Pace,
    catalog: Arc<Catalog>,
    receipts: Arc<Receipts>,
    health: Arc<Gauges>,
}

/// Why a segment could not be sealed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("a part cannot be written: {0}")]
    Part(#[source] PartError),
    #[error("no receipt can be given: {0}")]
    Receipt(#[source] ReceiptsError),
    #[error("the sealed segment cannot be removed: {0}")]
    Remove(#[source] io::Error),
}

impl Sealer {
    pub(crate) fn new(
        state_dir: &Path,
        folders: Folders,
        pace: Pace,
        catalog: Arc<Catalog>,
        receipts: Arc<Receipts>,
        health: Arc<Gauges>,
    ) -> Self {
        Self { log_dir: state_dir.join(LOG_DIR), folders, pace, catalog, receipts, health }
    }

    /// Works until `shutdown`, woken by the keeper and by the clock.
    pub(crate) fn run(&self, woken: &Receiver<()>, shutdown: &CancellationToken) {
        let mut compacted = Instant::now();
        while !shutdown.is_cancelled() {
            let wait = self.pace.retry.min(Duration::from_millis(200));
            if matches!(woken.recv_timeout(wait), Err(RecvTimeoutError::Disconnected)) {
                return;
            }
            self.seal_all(shutdown);
            if compacted.elapsed() >= self.pace.compact_every {
                self.compact_all(shutdown);
                compacted = Instant::now();
            }
        }
    }

    fn seal_all(&self, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled()
            && let Some((segment, chunks)) = self.catalog.next_to_seal()
        {
            if let Some(Err(full)) = self.folders.shelf.as_ref().map(|shelf| shelf.check_room()) {
                return self.health.sealing.set(WORK, full);
            }
            match seal(&self.log_dir, &self.folders, &self.receipts, segment, &chunks) {
                Ok(parts) => {
                    self.catalog.sealed(segment, parts);
                    self.health.sealing.clear(WORK);
                }
                Err(error) => return self.health.sealing.set(WORK, error.to_string()),
            }
        }
    }

    fn compact_all(&self, shutdown: &CancellationToken) {
        let over_before = Hour::of(now().minus(LATE));
        for parts in self.catalog.crowded_folders() {
            // A part that cannot be read stays alone, or what covers it would stand for records that it does not have.
            let size = |part: &Arc<Part>| if part.is_readable() { part.size } else { u64::MAX };
            let sizes: Vec<u64> = parts.iter().map(size).collect();
            let is_over = parts.first().is_some_and(|part| part.place.hour < over_before);
            if shutdown.is_cancelled() {
                return;
            }
            let Some(range) = compaction::choose(&sizes, is_over) else { continue };
            if let Err(error) = self.compact(&parts[range]) {
                tracing::warn!(%error, "parts of an hour could not be merged");
            }
        }
    }

    fn compact(&self, parts: &[Arc<Part>]) -> Result<(), SealError> {
        let Some(NewPart { part, contents }) = merge(&self.folders, parts).map_err(SealError::Part)? else {
            return Ok(());
        };
        let covered: Vec<String> = parts.iter().map(|part| part.place.name()).collect();
        self.receipts.issue(part.place.account, contents, &covered, now()).map_err(SealError::Receipt)?;
        self.catalog.merged(part);
        Ok(())
    }
}

/// Writes a segment's records as parts, gives receipts, and then removes the segment; can be done again after any failure.
pub(crate) fn seal(
    log_dir: &Path,
    folders: &Folders,
    receipts: &Receipts,
    segment: u64,
    chunks: &[Arc<[Kept]>],
) -> Result<Vec<Arc<Part>>, SealError> {
    let mut parts = Vec::new();
    for NewPart { part, contents } in write_parts(folders, segment, Effort::Fresh, chunks).map_err(SealError::Part)? {
        receipts.issue(part.place.account, contents, &[], now()).map_err(SealError::Receipt)?;
        parts.push(part);
    }
    log::remove(log_dir, segment).map_err(SealError::Remove)?;
    Ok(parts)
}

/// One part for each account, hour and location.
pub(crate) fn write_parts(
    folders: &Folders,
    segment: u64,
    effort: Effort,
    chunks: &[Arc<[Kept]>],
) -> Result<Vec<NewPart>, PartError> {
    let mut places: BTreeMap<(AccountId, Hour, &Location), Vec<&Kept>> = BTreeMap::new();
    for kept in chunks.iter().flat_map(|chunk| chunk.iter()) {
        let record = &kept.record;
        places.entry((record.account, Hour::of(record.end), &record.location)).or_default().push(kept);
    }
    let write = |((account, hour, location), mut rows): ((AccountId, Hour, &Location), Vec<&Kept>)| {
        rows.sort_unstable_by_key(|row| row.row_order());
        let place = Place { account, hour, location: location.clone(), from: segment, to: segment };
        part::write(folders, place, effort, rows.into_iter().map(Ok))
    };
    places.into_iter().map(write).collect()
}

/// Writes the part that covers neighbouring parts of one folder; none when one of them cannot be read.
pub(crate) fn merge(folders: &Folders, parts: &[Arc<Part>]) -> Result<Option<NewPart>, PartError> {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(None) };
    let mut sources = Vec::with_capacity(parts.len());
    for part in parts {
        match PartReader::all(part).and_then(|reader| Source::new(reader, part)) {
            Ok(source) => sources.push(source),
            Err(error) => {
                tracing::error!(path = %part.path.display(), %error, "a part cannot be read and is left alone");
                part.set_unreadable();
                return Ok(None);
            }
        }
    }
    let place = Place { to: last.place.to, ..first.place.clone() };
    part::write(folders, place, Effort::Merged, Merged(sources)).map(Some)
}

/// A part that is being merged: its first row that is not yet taken, and the rest.
struct Source<'a> {
    head: Option<Kept>,
    rest: PartReader,
    part: &'a Part,
}

impl<'a> Source<'a> {
    fn new(mut rest: PartReader, part: &'a Part) -> Result<Self, PartError> {
        Ok(Self { head: rest.next().transpose()?, rest, part })
    }
}

/// The rows of several parts in the order of rows. Sources are few, so the first is found by looking at all.
struct Merged<'a>(Vec<Source<'a>>);

impl Iterator for Merged<'_> {
    type Item = Result<Kept, PartError>;

    fn next(&mut self) -> Option<Self::Item> {
        let waiting = self.0.iter_mut().filter(|source| source.head.is_some());
        let first = waiting.min_by_key(|source| source.head.as_ref().map(Kept::row_order))?;
        let row = first.head.take()?;
        match first.rest.next().transpose() {
            Ok(next) => first.head = next,
            Err(error) => {
                first.part.set_unreadable();
                return Some(Err(error));
            }
        }
        Some(Ok(row))
    }
}

/// The wall clock.
pub(crate) fn now() -> Moment {
    Moment::EPOCH.plus(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
