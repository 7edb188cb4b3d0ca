//! Turns log segments into parts, and many parts of a day into few.
//!
//! Owns the order of steps that the crate's rule needs: parts first, then the segment goes; the merged part first, then
//! what it covers goes. Any step can be the last of this process, and each can be done again.

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

use lucarne_model::{AccountId, Moment};
use tokio_util::sync::CancellationToken;

use crate::{
    Kept,
    catalog::Catalog,
    compaction,
    day::Day,
    health::Gauges,
    log,
    pace::Pace,
    part::{self, Part, PartError, PartReader, Place},
};

const WORK: &str = "sealing";

/// How long records of a day may still come after its end, before its parts are merged for good.
const LATE: Duration = Duration::from_secs(3600);

/// Folders below the state folder.
pub(crate) const LOG_DIR: &str = "log";
pub(crate) const FLOWS_DIR: &str = "flows";

#[derive(Debug)]
pub(crate) struct Sealer {
    log_dir: PathBuf,
    flows_dir: PathBuf,
    pace: Pace,
    catalog: Arc<Catalog>,
    health: Arc<Gauges>,
}

/// Why a segment could not be sealed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("a part cannot be written: {0}")]
    Part(#[source] PartError),
    #[error("the sealed segment cannot be removed: {0}")]
    Remove(#[source] io::Error),
}

impl Sealer {
    pub(crate) fn new(state_dir: &Path, pace: Pace, catalog: Arc<Catalog>, health: Arc<Gauges>) -> Self {
        let (log_dir, flows_dir) = (state_dir.join(LOG_DIR), state_dir.join(FLOWS_DIR));
        Self { log_dir, flows_dir, pace, catalog, health }
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
            match seal(&self.log_dir, &self.flows_dir, segment, &chunks) {
                Ok(parts) => {
                    self.catalog.sealed(segment, parts);
                    self.health.sealing.clear(WORK);
                }
                Err(error) => return self.health.sealing.set(WORK, error.to_string()),
            }
        }
    }

    fn compact_all(&self, shutdown: &CancellationToken) {
        let over_before = Day::of(now().minus(LATE));
        for parts in self.catalog.crowded_days() {
            // A part that cannot be read stays alone, or what covers it would stand for records that it does not have.
            let size = |part: &Arc<Part>| if part.is_readable() { part.size } else { u64::MAX };
            let sizes: Vec<u64> = parts.iter().map(size).collect();
            let is_over = parts.first().is_some_and(|part| part.place.day < over_before);
            if shutdown.is_cancelled() {
                return;
            }
            let Some(range) = compaction::choose(&sizes, is_over) else { continue };
            match merge(&self.flows_dir, &parts[range]) {
                Ok(Some(part)) => self.catalog.merged(part),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "parts of a day could not be merged"),
            }
        }
    }
}

/// Writes a segment's records as parts and then removes the segment; can be done again after any failure.
pub(crate) fn seal(
    log_dir: &Path,
    flows_dir: &Path,
    segment: u64,
    chunks: &[Arc<[Kept]>],
) -> Result<Vec<Arc<Part>>, SealError> {
    let parts = write_parts(flows_dir, segment, chunks).map_err(SealError::Part)?;
    log::remove(log_dir, segment).map_err(SealError::Remove)?;
    Ok(parts)
}

/// One part for each account and day.
pub(crate) fn write_parts(flows_dir: &Path, segment: u64, chunks: &[Arc<[Kept]>]) -> Result<Vec<Arc<Part>>, PartError> {
    let mut places: BTreeMap<(AccountId, Day), Vec<&Kept>> = BTreeMap::new();
    for kept in chunks.iter().flat_map(|chunk| chunk.iter()) {
        places.entry((kept.record.account, Day::of(kept.record.end))).or_default().push(kept);
    }
    let write = |((account, day), mut rows): ((AccountId, Day), Vec<&Kept>)| {
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.position()));
        let place = Place { account, day, from: segment, to: segment };
        part::write(flows_dir, place, rows.into_iter().cloned().map(Ok))
    };
    places.into_iter().map(write).collect()
}

/// Writes the part that covers neighbouring parts of one day; none when one of them cannot be read.
pub(crate) fn merge(flows_dir: &Path, parts: &[Arc<Part>]) -> Result<Option<Arc<Part>>, PartError> {
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
    let place = Place { to: last.place.to, ..first.place };
    part::write(flows_dir, place, Merged(sources)).map(Some)
}

/// A part that is being merged: its newest row that is not yet taken, and the rest.
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

/// The rows of several parts, newest first. Sources are few, so the newest is found by looking at all.
struct Merged<'a>(Vec<Source<'a>>);

impl Iterator for Merged<'_> {
    type Item = Result<Kept, PartError>;

    fn next(&mut self) -> Option<Self::Item> {
        let newest = self.0.iter_mut().max_by_key(|source| source.head.as_ref().map(Kept::position))?;
        let row = newest.head.take()?;
        match newest.rest.next().transpose() {
            Ok(next) => newest.head = next,
            Err(error) => {
                newest.part.set_unreadable();
                return Some(Err(error));
            }
        }
        Some(Ok(row))
    }
}

fn now() -> Moment {
    Moment::EPOCH.plus(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
