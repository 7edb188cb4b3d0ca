//! Reading a part: only the groups and pages that can hold what is asked for.
//!
//! Owns the pruning. What is left is compared record by record by the caller: pruning may keep too much, never too little.

use std::{fs::File, ops::Range};

use arrow_array::RecordBatch;
use lucarne_model::{AccountId, FlowFilter, Moment};
use parquet::{
    arrow::arrow_reader::{
        ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
    },
    file::{
        metadata::{PageIndexPolicy, ParquetMetaData},
        page_index::column_index::ColumnIndexMetaData,
        statistics::Statistics,
    },
};

use super::{Part, PartError, write::BLOOM};
use crate::{
    Kept,
    columns::{Rows, direction_name, verdict_name},
    position::Stretch,
};

type Builder = ParquetRecordBatchReaderBuilder<File>;

/// Rows decoded at once.
const BATCH: usize = 1024;

/// The rows of a part, newest first, without those that cannot be meant.
pub(crate) struct PartReader {
    account: AccountId,
    batches: ParquetRecordBatchReader,
    rows: std::vec::IntoIter<Kept>,
    /// Rows decoded so far.
    pub(crate) scanned: u64,
}

impl PartReader {
    /// All rows.
    pub(crate) fn all(part: &Part) -> Result<Self, PartError> {
        Self::open(part, &FlowFilter::default(), &Stretch::ALL)
    }

    /// At least the rows in the stretch that the filter matches.
    pub(crate) fn open(part: &Part, filter: &FlowFilter, stretch: &Stretch) -> Result<Self, PartError> {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let builder = Builder::try_new_with_options(File::open(&part.path)?, options)?;
        let mut groups = Vec::new();
        for group in 0..builder.metadata().num_row_groups() {
            if group_may_match(&builder, group, filter, stretch)? {
                groups.push(group);
            }
        }
        let pages = page_selection(builder.metadata(), &groups, stretch);
        let batches = builder.with_row_groups(groups).with_row_selection(pages).with_batch_size(BATCH).build()?;
        Ok(Self { account: part.place.account, batches, rows: Vec::new().into_iter(), scanned: 0 })
    }

    fn decode(&mut self, batch: &RecordBatch) -> Result<(), PartError> {
        let rows = Rows::of(self.account, batch)?;
        let decoded: Vec<Kept> = (0..batch.num_rows()).map(|row| rows.get(row)).collect::<Result<_, _>>()?;
        self.scanned += decoded.len() as u64;
        self.rows = decoded.into_iter();
        Ok(())
    }
}

impl Iterator for PartReader {
    type Item = Result<Kept, PartError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.next() {
                return Some(Ok(row));
            }
            let read = self.batches.next()?.map_err(PartError::Arrow);
            if let Err(error) = read.and_then(|batch| self.decode(&batch)) {
                return Some(Err(error));
            }
        }
    }
}

fn group_may_match(builder: &Builder, group: usize, filter: &FlowFilter, stretch: &Stretch) -> Result<bool, PartError> {
    if let Some(Statistics::Int64(end)) = statistics(builder, group, "end")
        && let (Some(min), Some(max)) = (end.min_opt(), end.max_opt())
        && !stretch.meets(moment(*min), moment(*max))
    {
        return Ok(false);
    }
    let group = Group { builder, group };
    for (column, text) in texts(filter) {
        if !group.may_hold_text(column, &text)? {
            return Ok(false);
        }
    }
    if filter.protocol.is_some_and(|protocol| !group.may_hold_number("protocol", protocol.into())) {
        return Ok(false);
    }
    let may_hold_port =
        |port: u16| ["source_port", "destination_port"].iter().any(|c| group.may_hold_number(c, port.into()));
    if filter.port.is_some_and(|port| !may_hold_port(port)) {
        return Ok(false);
    }
    let Some(peer) = filter.peer.map(|peer| peer.to_string()) else { return Ok(true) };
    Ok(group.may_hold_text("source", &peer)? || group.may_hold_text("destination", &peer)?)
}

/// The columns of text that must have a given value.
fn texts(filter: &FlowFilter) -> impl Iterator<Item = (&'static str, String)> {
    let all = [
        ("instance", filter.instance.map(|id| id.to_string())),
        ("interface", filter.interface.map(|id| id.to_string())),
        ("vpc", filter.vpc.map(|id| id.to_string())),
        ("subnet", filter.subnet.map(|id| id.to_string())),
        ("verdict", filter.verdict.map(|verdict| verdict_name(verdict).to_owned())),
        ("end_reason", filter.end_reason.map(|reason| reason.to_string())),
        ("direction", filter.direction.map(|direction| direction_name(direction).to_owned())),
        ("source", filter.source.map(|address| address.to_string())),
        ("destination", filter.destination.map(|address| address.to_string())),
    ];
    all.into_iter().filter_map(|(column, text)| Some((column, text?)))
}

/// A row group of a file.
struct Group<'a> {
    builder: &'a Builder,
    group: usize,
}

impl Group<'_> {
    fn may_hold_text(&self, column: &str, text: &str) -> Result<bool, PartError> {
        if let Some(Statistics::ByteArray(values)) = statistics(self.builder, self.group, column)
            && let (Some(min), Some(max)) = (values.min_opt(), values.max_opt())
            && (text.as_bytes() < min.data() || text.as_bytes() > max.data())
        {
            return Ok(false);
        }
        if !BLOOM.contains(&column) {
            return Ok(true);
        }
        let Some(index) = column_index(self.builder.metadata(), column) else { return Ok(true) };
        let bloom = self.builder.get_row_group_column_bloom_filter(self.group, index)?;
        Ok(bloom.is_none_or(|bloom| bloom.check(text)))
    }

    /// For numbers below 2^31, which Parquet keeps as signed 32 bits.
    fn may_hold_number(&self, column: &str, number: i32) -> bool {
        match statistics(self.builder, self.group, column) {
            Some(Statistics::Int32(values)) => {
                values.min_opt().is_none_or(|min| *min <= number) && values.max_opt().is_none_or(|max| number <= *max)
            }
            _ => true,
        }
    }
}

/// Which rows of the chosen groups lie in pages whose times meet the stretch.
fn page_selection(metadata: &ParquetMetaData, groups: &[usize], stretch: &Stretch) -> RowSelection {
    let mut ranges = Vec::new();
    let mut base = 0;
    for group in groups {
        let rows = usize::try_from(metadata.row_group(*group).num_rows()).unwrap_or(0);
        match pages(metadata, *group, rows, stretch) {
            Some(pages) => ranges.extend(pages.into_iter().map(|page| base + page.start..base + page.end)),
            None => ranges.push(base..base + rows),
        }
        base += rows;
    }
    RowSelection::from_consecutive_ranges(ranges.into_iter(), base)
}

/// The pages of a group that may hold rows in the stretch, as rows of the group; none without a page index.
fn pages(metadata: &ParquetMetaData, group: usize, rows: usize, stretch: &Stretch) -> Option<Vec<Range<usize>>> {
    let end = column_index(metadata, "end")?;
    let index = metadata.page_index_for_row_group(group);
    let Some(ColumnIndexMetaData::INT64(times)) = index.column_index(end) else { return None };
    let starts: Vec<usize> = index
        .offset_index(end)?
        .page_locations()
        .iter()
        .map(|page| usize::try_from(page.first_row_index).ok())
        .collect::<Option<_>>()?;
    let ends = starts.iter().skip(1).copied().chain([rows]);
    let pages = starts.iter().copied().zip(ends).enumerate();
    let wanted = pages.filter(|(page, _)| match (times.min_value(*page), times.max_value(*page)) {
        (Some(min), Some(max)) => stretch.meets(moment(*min), moment(*max)),
        _ => true,
    });
    Some(wanted.map(|(_, (start, end))| start..end).collect())
}

fn statistics<'a>(builder: &'a Builder, group: usize, column: &str) -> Option<&'a Statistics> {
    let index = column_index(builder.metadata(), column)?;
    builder.metadata().row_group(group).column(index).statistics()
}

fn column_index(metadata: &ParquetMetaData, column: &str) -> Option<usize> {
    let columns = metadata.file_metadata().schema_descr().columns();
    columns.iter().position(|descriptor| descriptor.path().parts().first().is_some_and(|name| name == column))
}

fn moment(micros: i64) -> Moment {
    Moment(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use lucarne_model::InstanceId;

    use super::*;
    use crate::{
        day::Day,
        part::{Place, write},
        position::Position,
        test_records::{NOW, numbered, record},
    };

    /// 20,000 records, newest first, one a second; of account 0 as a part has only one.
    fn part(dir: &std::path::Path) -> std::sync::Arc<Part> {
        let account = record(0).account;
        let rows = numbered(0..20_000).into_iter().rev();
        let rows = rows.map(|mut record| {
            let serial = record.flow_id;
            record.account = account;
            record.instance = InstanceId::from_bits(u128::from(serial / 10_000));
            Ok(Kept { serial, record })
        });
        write(dir, Place { account, day: Day::of(NOW), from: 1, to: 1 }, rows).unwrap()
    }

    fn stretch(since: u64, until: u64) -> Stretch {
        let at = |seconds| Moment(NOW.as_micros() + seconds * 1_000_000);
        Stretch { since: at(since), below: Position::at(at(until)) }
    }

    #[test]
    fn all_rows_come_back_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let serials: Vec<u64> = PartReader::all(&part(dir.path())).unwrap().map(|row| row.unwrap().serial).collect();
        assert_eq!(serials, (0..20_000).rev().collect::<Vec<u64>>());
    }

    #[test]
    fn a_short_time_decodes_a_few_pages_and_misses_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let part = part(dir.path());
        for (since, until) in [(0, 1), (5000, 5010), (8191, 8193), (19_990, 30_000)] {
            let stretch = stretch(since, until);
            let mut reader = PartReader::open(&part, &FlowFilter::default(), &stretch).unwrap();
            let found = reader.by_ref().filter(|row| stretch.contains(row.as_ref().unwrap().position())).count() as u64;
            assert_eq!(found, until.min(20_000) - since);
            assert!(reader.scanned <= 3072, "{} rows decoded for {found}", reader.scanned);
        }
    }

    #[test]
    fn groups_without_the_instance_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let part = part(dir.path());
        let scanned = |instance: u128| {
            let filter = FlowFilter { instance: Some(InstanceId::from_bits(instance)), ..FlowFilter::default() };
            let mut reader = PartReader::open(&part, &filter, &Stretch::ALL).unwrap();
            let found = reader.by_ref().filter(|row| filter.matches(&row.as_ref().unwrap().record)).count();
            (found, reader.scanned)
        };
        assert_eq!(scanned(7), (0, 0));
        let (found, decoded) = scanned(1);
        assert_eq!(found, 10_000);
        assert!(decoded < 20_000);
    }

    #[test]
    fn a_file_that_is_no_part_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let part = part(dir.path());
        let whole = std::fs::read(&part.path).unwrap();
        for damaged in [&[][..], b"PAR1", &whole[..whole.len() / 2]] {
            std::fs::write(&part.path, damaged).unwrap();
            assert!(PartReader::all(&part).is_err());
        }
    }
}
