//! What the detectors' tallies are made of, read again at a start from the log and the newest parts: so that a restart forgets
//! no scanner and no closed port of the last hour, and nothing has to be written for that while records come.
//!
//! Owns which records are read, how many at most, and since when all of them were.

use std::sync::Arc;

use lucarne_flows::findings::is_tallied;
use lucarne_model::{FlowFilter, Moment, flow::Direction};

use crate::{
    Kept,
    catalog::{Catalog, Everything},
    part::{Part, newest},
    position::{Position, Stretch},
};

/// Records that were tallied, in the order in which they came, and since when (by their end) that is all of them.
pub(super) struct Recalled {
    pub(super) records: Vec<Kept>,
    pub(super) since: Moment,
}

/// Of what ended at `from` or later, the newest `most` records that are tallied, as far as their parts can be read.
pub(super) fn recall(catalog: &Catalog, from: Moment, most: usize) -> Recalled {
    let Everything { unsealed, mut parts } = catalog.everything(None);
    let is_meant = |kept: &Kept| kept.record.end >= from && is_tallied(&kept.record);
    let mut records: Vec<Kept> = unsealed.iter().flat_map(|chunk| chunk.records_of(None)).filter(is_meant).collect();
    parts.retain(|part| part.place.hour.end() > from);
    parts.sort_unstable_by_key(|part| std::cmp::Reverse(part.place.hour));
    let mut since = from;
    for part in parts {
        let room = most.saturating_sub(records.len());
        // One more than there is room for: so it is known whether there is more.
        let read = if room == 0 { None } else { read(&part, from, room + 1) };
        if read.as_ref().is_none_or(|read| read.len() > room) {
            // Whatever of this hour is missing, what ended behind it is all there.
            since = since.max(part.place.hour.end());
        }
        records.extend(read.into_iter().flatten().filter(is_meant));
        if room == 0 {
            break;
        }
    }
    records.sort_unstable_by_key(|kept| kept.serial);
    Recalled { records, since }
}

/// None where the part cannot be read.
fn read(part: &Arc<Part>, from: Moment, most: usize) -> Option<Vec<Kept>> {
    let asked = FlowFilter { direction: Some(Direction::Ingress), ..FlowFilter::default() };
    let behind = Stretch { since: from, below: Position { end: Moment(u64::MAX), serial: u64::MAX } };
    match newest(part, &asked, &behind, most) {
        Ok(found) => Some(found.records),
        Err(error) => {
            tracing::warn!(path = %part.path.display(), %error, "a part cannot be read again for findings");
            None
        }
    }
}
