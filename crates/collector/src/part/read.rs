//! Reading a part: its two files side by side, as batches of records or as records.
//!
//! Owns that both files are read in step: the same groups, the same rows. Which those are is decided by the caller.

use std::fs::File;

use arrow_array::RecordBatch;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::file::metadata::PageIndexPolicy;

use super::{Half, Part, PartError, stored::Halves};
use crate::{
    Kept,
    columns::{Columns, Rows},
};

type Builder = ParquetRecordBatchReaderBuilder<File>;

/// Rows decoded at once.
pub(super) const BATCH: usize = 1024;

/// A part's file with its page index.
pub(super) fn open(part: &Part, half: Half) -> Result<Builder, PartError> {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    Ok(Builder::try_new_with_options(part.open(half)?, options)?)
}

/// The rows of a part as they are kept: of each batch what the account sees, and what is the operator's own.
pub(super) struct PartRows {
    shown: ParquetRecordBatchReader,
    own: ParquetRecordBatchReader,
}

impl PartRows {
    /// All rows.
    pub(super) fn all(part: &Part) -> Result<Self, PartError> {
        let groups = (0..open(part, Half::Shown)?.metadata().num_row_groups()).collect();
        Self::open(part, groups, None)
    }

    fn open(part: &Part, groups: Vec<usize>, rows: Option<RowSelection>) -> Result<Self, PartError> {
        let files = [open(part, Half::Shown)?, open(part, Half::Own)?];
        let lengths = |file: &Builder| file.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
        let [shown, own]: [Vec<i64>; 2] = files.each_ref().map(lengths);
        if shown != own {
            return Err(PartError::Apart);
        }
        let read = |file: Builder| {
            let file = file.with_row_groups(groups.clone()).with_batch_size(BATCH);
            rows.iter().cloned().fold(file, Builder::with_row_selection).build()
        };
        let [shown, own] = files.map(read);
        Ok(Self { shown: shown?, own: own? })
    }
}

impl Iterator for PartRows {
    type Item = Result<[RecordBatch; 2], PartError>;

    fn next(&mut self) -> Option<Self::Item> {
        match (self.shown.next(), self.own.next()) {
            (None, None) => None,
            (Some(Ok(shown)), Some(Ok(own))) if shown.num_rows() == own.num_rows() => Some(Ok([shown, own])),
            (Some(Err(error)), _) | (_, Some(Err(error))) => Some(Err(error.into())),
            _ => Some(Err(PartError::Apart)),
        }
    }
}

/// Batches of records as the account may see them, each with the batch of what is the operator's own: of the same rows
/// first the forward records, then the reverse ones.
pub(crate) struct PartBatches {
    rows: PartRows,
    halves: [Halves; 2],
}

impl PartBatches {
    pub(crate) fn all(part: &Part) -> Result<Self, PartError> {
        PartRows::all(part).map(Self::over)
    }

    fn over(rows: PartRows) -> Self {
        Self { rows, halves: [Columns::Shown, Columns::Own].map(Halves::all) }
    }
}

/// A batch of shown columns and the one of the operator's own.
pub(crate) type BothBatches = (RecordBatch, RecordBatch);

impl Iterator for PartBatches {
    type Item = Result<[BothBatches; 2], PartError>;

    fn next(&mut self) -> Option<Self::Item> {
        let [shown, own] = match self.rows.next()? {
            Ok(batches) => batches,
            Err(error) => return Some(Err(error)),
        };
        let [of_shown, of_own] = &self.halves;
        let records = of_shown.records(&shown).and_then(|shown| Ok((shown, of_own.records(&own)?)));
        let both = |([forward, reverse], [own_forward, own_reverse]): ([_; 2], [_; 2])| {
            [(forward, own_forward), (reverse, own_reverse)]
        };
        Some(records.map(both).map_err(PartError::from))
    }
}

/// The records of a part, in the order in which they lie there.
pub(crate) struct PartReader {
    batches: PartBatches,
    rows: std::vec::IntoIter<Kept>,
}

impl PartReader {
    /// All rows.
    pub(crate) fn all(part: &Part) -> Result<Self, PartError> {
        Ok(Self { batches: PartBatches::all(part)?, rows: Vec::new().into_iter() })
    }

    /// The chosen rows of the chosen groups.
    pub(super) fn open(part: &Part, groups: Vec<usize>, rows: Option<RowSelection>) -> Result<Self, PartError> {
        let batches = PartBatches::over(PartRows::open(part, groups, rows)?);
        Ok(Self { batches, rows: Vec::new().into_iter() })
    }
}

impl Iterator for PartReader {
    type Item = Result<Kept, PartError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.next() {
                return Some(Ok(row));
            }
            match self.batches.next()?.and_then(|halves| decode(&halves)) {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn decode(halves: &[BothBatches; 2]) -> Result<Vec<Kept>, PartError> {
    let mut records = Vec::with_capacity(2 * BATCH);
    for (shown, own) in halves {
        let rows = Rows::of(shown, own)?;
        for row in 0..shown.num_rows() {
            records.push(rows.get(row)?);
        }
    }
    // Two sorted runs, which this sort merges.
    records.sort_by_key(Kept::row_order);
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use lucarne_model::{FlowFilter, FlowRecord, InstanceId, Moment};

    use super::*;
    use crate::{
        chunk::Chunk,
        columns::Whole,
        hour::Hour,
        part::{Effort, Folders, Place, newest, write},
        position::{Position, Stretch},
        test_records::{NOW, record},
    };

    const COUNT: u64 = 100_000;
    const INSTANCES: u64 = 10;
    /// Ten records a second, so that all are of one hour.
    const STEP: u64 = 10_000;

    /// Records of one account and ten instances, an instance's tenth of a part one after the other.
    fn part(dir: &Path) -> Arc<Part> {
        let records: Vec<FlowRecord> = (0..COUNT)
            .map(|serial| {
                let mut record = record(2 * serial);
                record.instance = InstanceId::from_bits(u128::from(serial % INSTANCES));
                record.end = Moment(NOW.as_micros() + serial * STEP);
                record.start = record.end;
                record
            })
            .collect();
        let mut rows: Vec<u32> = (0..COUNT as u32).collect();
        rows.sort_by_key(|row| row % INSTANCES as u32);
        let of = record(0);
        let place = Place { account: of.account, hour: Hour::of(NOW), location: of.location, from: 1, to: 1 };
        let chunk = Chunk::of(0, &records);
        let arrays = Whole(&chunk).arrays().unwrap();
        write(&Folders::of(dir), place, Effort::Fresh, &chunk, &arrays, &rows).unwrap().part
    }

    fn stretch(since: u64, until: u64) -> Stretch {
        let at = |number| Moment(NOW.as_micros() + number * STEP);
        Stretch { since: at(since), below: Position::at(at(until)) }
    }

    fn instance(number: u64) -> FlowFilter {
        FlowFilter { instance: Some(InstanceId::from_bits(number.into())), ..FlowFilter::default() }
    }

    #[test]
    fn all_rows_come_back_sorted_by_instance_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let rows: Vec<Kept> = PartReader::all(&part(dir.path())).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(rows.len() as u64, COUNT);
        assert!(rows.is_sorted_by_key(Kept::row_order));
    }

    #[test]
    fn the_newest_rows_are_found_wherever_they_lie() {
        let dir = tempfile::tempdir().unwrap();
        let part = part(dir.path());
        for (filter, stretch, expected) in [
            (FlowFilter::default(), Stretch::ALL, (COUNT - 5..COUNT).collect::<Vec<u64>>()),
            (FlowFilter::default(), stretch(40, 43), vec![40, 41, 42]),
            (instance(3), Stretch::ALL, (0..5).map(|n| COUNT - 47 + 10 * n).collect()),
            (instance(3), stretch(0, 30), vec![3, 13, 23]),
            (instance(99), Stretch::ALL, vec![]),
        ] {
            let found = newest(&part, &filter, &stretch, 5).unwrap();
            let mut serials: Vec<u64> = found.records.iter().map(|row| row.serial).collect();
            serials.sort_unstable();
            assert_eq!(serials, expected, "{filter:?} {stretch:?}");
        }
    }

    #[test]
    fn an_instance_and_a_time_lead_to_a_few_pages() {
        let dir = tempfile::tempdir().unwrap();
        let part = part(dir.path());
        let scanned = |filter, stretch| newest(&part, &filter, &stretch, 5).unwrap().scanned;
        assert_eq!(scanned(instance(99), Stretch::ALL), 0);
        assert!(scanned(instance(3), Stretch::ALL) <= 3 * 8192);
        assert!(scanned(instance(3), stretch(0, 30)) <= 8192 * 2);
        // A row's other record may have ended a little before or after.
        let apart = super::super::APART.as_micros() as u64 / STEP;
        assert_eq!(scanned(FlowFilter::default(), stretch(COUNT + apart, COUNT + apart + 1)), 0);
    }

    #[test]
    fn files_that_are_no_part_or_no_pair_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let part = part(dir.path());
        let whole = std::fs::read(&part.path).unwrap();
        for damaged in [&[][..], b"PAR1", &whole[..whole.len() / 2]] {
            std::fs::write(&part.path, damaged).unwrap();
            assert!(PartReader::all(&part).is_err());
        }
        std::fs::write(&part.path, whole).unwrap();
        std::fs::remove_file(&part.own_path).unwrap();
        assert!(PartReader::all(&part).is_err());
    }
}
