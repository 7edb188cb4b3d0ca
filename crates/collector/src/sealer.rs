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

use lucarne_flows::columns::{FlowColumns, Identity};
use lucarne_model::{AccountId, InstanceId, Moment, flow::Location};
use tokio_util::sync::CancellationToken;

use crate::{
    allocator,
    catalog::Catalog,
    chunk::Chunk,
    columns::Whole,
    compaction,
    health::Gauges,
    hour::Hour,
    log,
    pace::Pace,
    part::{self, Effort, Folders, NewPart, Part, PartError, Place},
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
                allocator::give_back();
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

    /// Merges until nothing is left to merge; what fails is tried again the next time.
    fn compact_all(&self, shutdown: &CancellationToken) {
        let over_before = Hour::of(now().minus(LATE));
        let mut merged = 1;
        while merged > 0 {
            merged = 0;
            for parts in self.catalog.crowded_folders() {
                // Senders wait when too much is unsealed.
                self.seal_all(shutdown);
                if shutdown.is_cancelled() {
                    return;
                }
                merged += usize::from(self.compact_some(&parts, over_before));
            }
        }
    }

    /// Merges some parts of a folder, if there are some to merge.
    fn compact_some(&self, parts: &[Arc<Part>], over_before: Hour) -> bool {
        // A part that cannot be read stays alone, or what covers it would stand for records that it does not have.
        let size = |part: &Arc<Part>| if part.is_readable() { part.size } else { u64::MAX };
        let sizes: Vec<u64> = parts.iter().map(size).collect();
        let is_over = parts.first().is_some_and(|part| part.place.hour < over_before);
        let Some(range) = compaction::choose(&sizes, is_over) else { return false };
        let merged = self.compact(&parts[range]);
        if let Err(error) = &merged {
            tracing::warn!(%error, "parts of an hour could not be merged");
        }
        merged.unwrap_or(false)
    }

    /// Merges parts, if all can be read.
    fn compact(&self, parts: &[Arc<Part>]) -> Result<bool, SealError> {
        let Some(NewPart { part, contents }) = part::merge(&self.folders, parts).map_err(SealError::Part)? else {
            return Ok(false);
        };
        let covered: Vec<String> = parts.iter().map(|part| part.place.name()).collect();
        self.receipts.issue(part.place.account, contents, &covered, now()).map_err(SealError::Receipt)?;
        self.catalog.merged(part);
        Ok(true)
    }
}

/// Writes a segment's records as parts, gives receipts, and then removes the segment; can be done again after any failure.
pub(crate) fn seal(
    log_dir: &Path,
    folders: &Folders,
    receipts: &Receipts,
    segment: u64,
    chunks: &[Arc<Chunk>],
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
    chunks: &[Arc<Chunk>],
) -> Result<Vec<NewPart>, PartError> {
    let Some(chunk) = together(chunks) else { return Ok(Vec::new()) };
    let arrays = Whole(&chunk).arrays()?;
    let write = |((account, hour, location), mut rows): ((AccountId, Hour, Location), Vec<u32>)| {
        sort(&chunk.columns, &mut rows);
        let place = Place { account, hour, location, from: segment, to: segment };
        part::write(folders, place, effort, &chunk, &arrays, &rows)
    };
    places(&chunk.columns).into_iter().map(write).collect()
}

/// Neighbouring chunks as one.
pub(crate) fn together(chunks: &[Arc<Chunk>]) -> Option<Arc<Chunk>> {
    let first = chunks.first()?.first;
    let mut columns = FlowColumns::default();
    columns.reserve(chunks.iter().map(|chunk| chunk.len()).sum());
    chunks.iter().for_each(|chunk| columns.append(&chunk.columns));
    Some(Arc::new(Chunk { first, columns }))
}

/// The rows of each place, in the order of their numbers.
fn places(flows: &FlowColumns) -> BTreeMap<(AccountId, Hour, Location), Vec<u32>> {
    let mut places: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    // Most records are of the place of the one before.
    let (mut last, mut run) = (None, Vec::new());
    let mut lay_down = |last: Option<(AccountId, Hour, u32)>, run: &mut Vec<u32>| {
        if let Some((account, hour, location)) = last {
            let location = flows.location.values()[location as usize].clone();
            places.entry((account, hour, location)).or_default().append(run);
        }
    };
    for row in 0..flows.len() {
        let place = (flows.identity(row).account, Hour::of(flows.ended(row)), flows.location.codes()[row]);
        if last != Some(place) {
            lay_down(last, &mut run);
            last = Some(place);
        }
        run.push(row as u32);
    }
    lay_down(last, &mut run);
    places
}

/// Sorts rows that are in the order of their numbers into that of a part: see [`Kept::row_order`](crate::Kept::row_order).
pub(crate) fn sort(flows: &FlowColumns, rows: &mut [u32]) {
    let identities = flows.identity.values();
    let mut instances: Vec<InstanceId> = identities.iter().map(|identity| identity.instance).collect();
    instances.sort_unstable();
    instances.dedup();
    let rank = |identity: &Identity| instances.partition_point(|instance| *instance < identity.instance);
    let ranks: Vec<usize> = identities.iter().map(rank).collect();
    let codes = flows.identity.codes();
    let rank = |row: &u32| ranks[codes[*row as usize] as usize];
    // Instances are few, so that the place of each one's rows follows from how many rows all have.
    let mut next = vec![0; instances.len() + 1];
    rows.iter().for_each(|row| next[rank(row) + 1] += 1);
    (1..next.len()).for_each(|at| next[at] += next[at - 1]);
    let before = rows.to_vec();
    for row in before {
        let place = &mut next[rank(&row)];
        rows[*place] = row;
        *place += 1;
    }
}

/// The wall clock.
pub(crate) fn now() -> Moment {
    Moment::EPOCH.plus(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
