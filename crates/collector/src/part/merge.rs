//! Merging parts: rows of several in the order of one, without making records of them.
//!
//! Owns that a merged part has the rows of its sources, each once and in order. Only a batch of each source is in memory.

use std::sync::Arc;

use arrow_array::{RecordBatch, StringArray, UInt64Array};
use arrow_select::interleave::interleave_record_batch;

use super::{
    Effort, Folders, NewPart, Part, PartError, Place,
    read::PartRows,
    write::{BATCH, write_rows},
};
use crate::columns::column;

/// Writes the part that covers neighbouring parts of one folder; none when one of them cannot be read.
pub(crate) fn merge(folders: &Folders, parts: &[Arc<Part>]) -> Result<Option<NewPart>, PartError> {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(None) };
    let mut merged = Merged { sources: Vec::with_capacity(parts.len()), held: Vec::new() };
    for part in parts {
        if let Err(error) = merged.add(part) {
            tracing::error!(path = %part.path.display(), %error, "a part cannot be read and is left alone");
            part.set_unreadable();
            return Ok(None);
        }
    }
    let place = Place { to: last.place.to, ..first.place.clone() };
    write_rows(folders, place, Effort::Merged, merged).map(Some)
}

/// The rows of several parts in the order of rows. Sources are few, so the first is found by looking at all.
struct Merged<'a> {
    sources: Vec<Source<'a>>,
    /// Batches of which rows are to come, or have been taken since the last batch was given.
    held: Vec<Held>,
}

/// A part that is being merged.
struct Source<'a> {
    part: &'a Part,
    rest: PartRows,
    /// Which of the held batches its next row is in, and which row that is; none when all are taken.
    at: Option<(usize, usize)>,
}

struct Held {
    batches: [RecordBatch; 2],
    instances: StringArray,
    serials: UInt64Array,
}

impl Held {
    fn of(batches: [RecordBatch; 2]) -> Result<Self, PartError> {
        let [shown, _] = &batches;
        let (instances, serials) = (column::<StringArray>(shown, "instance")?, column::<UInt64Array>(shown, "serial")?);
        Ok(Self { instances: instances.clone(), serials: serials.clone(), batches })
    }

    fn order(&self, row: usize) -> (&str, u64) {
        (self.instances.value(row), self.serials.value(row))
    }
}

impl<'a> Merged<'a> {
    fn add(&mut self, part: &'a Part) -> Result<(), PartError> {
        self.sources.push(Source { part, rest: PartRows::all(part)?, at: None });
        self.refill(self.sources.len() - 1)
    }

    /// Gives a source without a row its next one.
    fn refill(&mut self, source: usize) -> Result<(), PartError> {
        let Source { rest, at, .. } = &mut self.sources[source];
        *at = None;
        for batches in rest.by_ref() {
            let held = Held::of(batches?)?;
            if !held.serials.is_empty() {
                *at = Some((self.held.len(), 0));
                self.held.push(held);
                break;
            }
        }
        Ok(())
    }

    /// The order of a source's next row.
    fn head(&self, source: &Source<'_>) -> Option<(&str, u64)> {
        source.at.map(|(held, row)| self.held[held].order(row))
    }

    /// The source of the next row, and how many of its rows come before any of another one's.
    fn next_run(&self, most: usize) -> Option<(usize, usize)> {
        let heads = self.sources.iter().enumerate().filter_map(|(at, source)| Some((self.head(source)?, at)));
        let (_, first) = heads.clone().min()?;
        let limit = heads.filter(|(_, at)| *at != first).min().map(|(head, _)| head);
        let (held, row) = self.sources[first].at?;
        let held = &self.held[held];
        let end = held.serials.len().min(row + most);
        let run = (row + 1..end).take_while(|row| limit.is_none_or(|limit| held.order(*row) < limit)).count();
        Some((first, 1 + run))
    }

    /// The next rows, as places in the held batches.
    fn take(&mut self) -> Result<Vec<(usize, usize)>, PartError> {
        let mut places = Vec::with_capacity(BATCH);
        while places.len() < BATCH
            && let Some((source, run)) = self.next_run(BATCH - places.len())
            && let Some((held, row)) = self.sources[source].at
        {
            places.extend((row..row + run).map(|row| (held, row)));
            if row + run < self.held[held].serials.len() {
                self.sources[source].at = Some((held, row + run));
            } else if let Err(error) = self.refill(source) {
                self.sources[source].part.set_unreadable();
                return Err(error);
            }
        }
        Ok(places)
    }

    /// Lets go of batches all of whose rows are taken.
    fn drop_taken(&mut self) {
        let mut kept = Vec::with_capacity(self.sources.len());
        let mut held: Vec<Option<Held>> = std::mem::take(&mut self.held).into_iter().map(Some).collect();
        for source in &mut self.sources {
            if let Some((at, row)) = source.at
                && let Some(batch) = held[at].take()
            {
                source.at = Some((kept.len(), row));
                kept.push(batch);
            }
        }
        self.held = kept;
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<[RecordBatch; 2], PartError>;

    fn next(&mut self) -> Option<Self::Item> {
        let places = match self.take() {
            Ok(places) if places.is_empty() => return None,
            Ok(places) => places,
            Err(error) => return Some(Err(error)),
        };
        let of = |file: usize| {
            let batches: Vec<&RecordBatch> = self.held.iter().map(|held| &held.batches[file]).collect();
            interleave_record_batch(&batches, &places)
        };
        let merged = of(0).and_then(|shown| Ok([shown, of(1)?]));
        self.drop_taken();
        Some(merged.map_err(PartError::from))
    }
}
