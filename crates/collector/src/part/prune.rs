//! What of a part need not be read: the groups and pages that cannot hold what is asked for.
//!
//! Owns the look at statistics and bloom filters, which speak of the forward records of rows: of a reverse one the ends are
//! in each other's columns, and the time is within [`APART`] of the forward one's. It may keep too much, never too little:
//! records are compared one by one after it.

use std::{fs::File, ops::Range};

use lucarne_model::{FlowFilter, Moment};
use parquet::{
    arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection},
    file::{metadata::ParquetMetaData, page_index::column_index::ColumnIndexMetaData, statistics::Statistics},
};

use super::{
    PartError,
    fold::APART,
    stored::{is_shared, swapped},
    write::BLOOM,
};
use crate::{
    columns::{direction_name, verdict_name},
    position::Stretch,
};

type Builder = ParquetRecordBatchReaderBuilder<File>;

/// The groups that may hold rows that are meant.
pub(super) fn groups(builder: &Builder, filter: &FlowFilter, stretch: &Stretch) -> Result<Vec<usize>, PartError> {
    let mut groups = Vec::new();
    for group in 0..builder.metadata().num_row_groups() {
        if group_may_match(builder, group, filter, stretch)? {
            groups.push(group);
        }
    }
    Ok(groups)
}

fn group_may_match(builder: &Builder, group: usize, filter: &FlowFilter, stretch: &Stretch) -> Result<bool, PartError> {
    if let Some(Statistics::Int64(end)) = statistics(builder, group, "end")
        && let (Some(min), Some(max)) = (end.min_opt(), end.max_opt())
        && !may_hold_time(stretch, *min, *max)
    {
        return Ok(false);
    }
    let group = Group { builder, group };
    for (column, text) in texts(filter) {
        let may_hold = match swapped(column) {
            Some(other) => group.may_hold_text(column, &text)? || group.may_hold_text(other, &text)?,
            None => !is_shared(column) || group.may_hold_text(column, &text)?,
        };
        if !may_hold {
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
pub(super) fn texts(filter: &FlowFilter) -> impl Iterator<Item = (&'static str, String)> {
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

/// Which rows of the chosen groups lie in pages that may hold the instance and the time.
pub(super) fn pages(
    metadata: &ParquetMetaData,
    groups: &[usize],
    filter: &FlowFilter,
    stretch: &Stretch,
) -> RowSelection {
    let times = select(metadata, groups, "end", |index, page| {
        let ColumnIndexMetaData::INT64(times) = index else { return true };
        let (min, max) = (times.min_value(page), times.max_value(page));
        min.zip(max).is_none_or(|(min, max)| may_hold_time(stretch, *min, *max))
    });
    let Some(instance) = filter.instance.map(|id| id.to_string()) else { return times };
    let instances = select(metadata, groups, "instance", |index, page| {
        let ColumnIndexMetaData::BYTE_ARRAY(texts) = index else { return true };
        let (min, max) = (texts.min_value(page), texts.max_value(page));
        min.zip(max).is_none_or(|(min, max)| min <= instance.as_bytes() && instance.as_bytes() <= max)
    });
    times.intersection(&instances)
}

/// The rows of the chosen groups in those pages of a column of which `is_wanted` says so.
fn select(
    metadata: &ParquetMetaData,
    groups: &[usize],
    column: &str,
    is_wanted: impl Fn(&ColumnIndexMetaData, usize) -> bool,
) -> RowSelection {
    let mut ranges = Vec::new();
    let mut base = 0;
    for group in groups {
        let rows = usize::try_from(metadata.row_group(*group).num_rows()).unwrap_or(0);
        match pages_of(metadata, *group, rows, column, &is_wanted) {
            Some(pages) => ranges.extend(pages.into_iter().map(|page| base + page.start..base + page.end)),
            None => ranges.push(base..base + rows),
        }
        base += rows;
    }
    RowSelection::from_consecutive_ranges(ranges.into_iter(), base)
}

/// The wanted pages of a group as rows of it; none without a page index.
fn pages_of(
    metadata: &ParquetMetaData,
    group: usize,
    rows: usize,
    column: &str,
    is_wanted: &impl Fn(&ColumnIndexMetaData, usize) -> bool,
) -> Option<Vec<Range<usize>>> {
    let column = column_index(metadata, column)?;
    let values = metadata.column_index()?.get(group)?.get(column)?;
    let starts: Vec<usize> = metadata
        .offset_index()?
        .get(group)?
        .get(column)?
        .page_locations()
        .iter()
        .map(|page| usize::try_from(page.first_row_index).ok())
        .collect::<Option<_>>()?;
    let ends = starts.iter().skip(1).copied().chain([rows]);
    let pages = starts.iter().copied().zip(ends).enumerate();
    Some(pages.filter(|(page, _)| is_wanted(values, *page)).map(|(_, (start, end))| start..end).collect())
}

fn statistics<'a>(builder: &'a Builder, group: usize, column: &str) -> Option<&'a Statistics> {
    let index = column_index(builder.metadata(), column)?;
    builder.metadata().row_group(group).column(index).statistics()
}

fn column_index(metadata: &ParquetMetaData, column: &str) -> Option<usize> {
    let columns = metadata.file_metadata().schema_descr().columns();
    columns.iter().position(|descriptor| descriptor.path().parts().first().is_some_and(|name| name == column))
}

/// Whether rows whose forward records end within the bounds, in milliseconds, may hold a record of the stretch.
fn may_hold_time(stretch: &Stretch, min: i64, max: i64) -> bool {
    let moment = |millis: i64| Moment(u64::try_from(millis).unwrap_or(0).saturating_mul(1000));
    stretch.meets(moment(min).minus(APART), moment(max).plus(APART))
}
