//! Finding the newest rows of a part that are meant, without decoding the rest.
//!
//! Owns the two passes: first only the columns that decide (time, number, and what the filter names) are read, of the
//! groups and pages that [`prune`](super::prune) leaves; then whole rows, of those in which a record was found.

use std::{cmp::Reverse, collections::BinaryHeap};

use arrow_array::{RecordBatch, StringArray, TimestampMillisecondArray, UInt8Array, UInt16Array, UInt64Array};
use lucarne_model::{FlowFilter, Moment, flow::Direction};
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{RowSelection, RowSelector},
};

use super::{Half, Part, PartError, PartReader, prune, read, stored::Halves};
use crate::{
    Kept,
    columns::{BadColumn, Columns, column, direction_name},
    position::{Position, Stretch},
};

/// Records of a part, and how many were looked at to find them.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) records: Vec<Kept>,
    pub(crate) scanned: u64,
}

/// The newest records in the stretch that the filter matches, in no order: `most` of them, and some that share a row.
pub(crate) fn newest(part: &Part, filter: &FlowFilter, stretch: &Stretch, most: usize) -> Result<Found, PartError> {
    let builder = read::open(part, Half::Shown)?;
    let groups = prune::groups(&builder, filter, stretch)?;
    let pages = prune::pages(builder.metadata(), &groups, filter, stretch);
    let mut candidates = rows_of(&pages).into_iter();
    let deciding = Halves::named(Columns::Shown, ["serial", "end"].into_iter().chain(deciding_columns(filter)));
    let read = ProjectionMask::roots(builder.parquet_schema(), deciding.read().iter().copied());
    let reader = builder.with_projection(read).with_row_groups(groups.clone()).with_row_selection(pages);
    let mut newest = Newest { most, places: BinaryHeap::new() };
    let mut scanned = 0;
    for rows in reader.with_batch_size(read::BATCH).build()? {
        let rows = rows?;
        let places: Vec<usize> = candidates.by_ref().take(rows.num_rows()).collect();
        let reversed = deciding.reversed(&rows)?.into_iter().filter_map(|row| places.get(row as usize).copied());
        let places = [reversed.collect(), places];
        let [forward, reverse] = deciding.records(&rows)?;
        for (records, places) in [reverse, forward].iter().zip(places) {
            scanned += records.num_rows() as u64;
            newest.look_at(&Decider::of(records, filter)?, stretch, &places);
        }
    }
    let mut records =
        PartReader::open(part, groups, Some(selection(&newest.places())))?.collect::<Result<Vec<_>, _>>()?;
    records.retain(|kept| stretch.contains(kept.position()) && filter.matches(&kept.record));
    Ok(Found { records, scanned })
}

/// The newest records so far, each with the row in which it lies.
struct Newest {
    most: usize,
    places: BinaryHeap<Reverse<(Position, usize)>>,
}

impl Newest {
    /// Looks at records that lie in these rows.
    fn look_at(&mut self, decider: &Decider<'_>, stretch: &Stretch, rows: &[usize]) {
        for (record, row) in rows.iter().enumerate() {
            let position = decider.position(record);
            if stretch.contains(position) && decider.is_meant(record) {
                self.places.push(Reverse((position, *row)));
                if self.places.len() > self.most {
                    self.places.pop();
                }
            }
        }
    }

    /// The rows, each once and in order.
    fn places(self) -> Vec<usize> {
        let mut places: Vec<usize> = self.places.into_iter().map(|Reverse((_, row))| row).collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

/// Beside time and number.
fn deciding_columns(filter: &FlowFilter) -> impl Iterator<Item = &'static str> {
    let texts: Vec<&str> = prune::texts(filter).map(|(column, _)| column).collect();
    let protocol = filter.protocol.map(|_| "protocol");
    let ports = filter.port.map(|_| ["source_port", "destination_port"]);
    let peer = filter.peer.map(|_| ["direction", "source", "destination"]);
    texts.into_iter().chain(protocol).chain(ports.into_iter().flatten()).chain(peer.into_iter().flatten())
}

/// The numbers of the selected rows.
fn rows_of(selection: &RowSelection) -> impl IntoIterator<Item = usize> + use<> {
    let mut ranges = Vec::new();
    let mut at = 0;
    for RowSelector { row_count, skip } in selection.iter() {
        if !skip {
            ranges.push(at..at + row_count);
        }
        at += row_count;
    }
    ranges.into_iter().flatten()
}

/// Selects the rows of the given numbers, which grow.
fn selection(places: &[usize]) -> RowSelection {
    let end = places.last().map_or(0, |last| last + 1);
    RowSelection::from_consecutive_ranges(places.iter().map(|place| *place..place + 1), end)
}

/// The columns of a batch that decide whether a row is meant.
struct Decider<'a> {
    serial: &'a UInt64Array,
    end: &'a TimestampMillisecondArray,
    texts: Vec<(&'a StringArray, String)>,
    protocol: Option<(&'a UInt8Array, u8)>,
    port: Option<([&'a UInt16Array; 2], u16)>,
    peer: Option<Peer<'a>>,
}

struct Peer<'a> {
    direction: &'a StringArray,
    source: &'a StringArray,
    destination: &'a StringArray,
    wanted: String,
}

impl<'a> Decider<'a> {
    fn of(batch: &'a RecordBatch, filter: &FlowFilter) -> Result<Self, BadColumn> {
        let texts = prune::texts(filter).map(|(name, text)| Ok((column(batch, name)?, text)));
        let protocol = filter.protocol.map(|wanted| Ok((column(batch, "protocol")?, wanted)));
        let port =
            filter.port.map(|port| Ok(([column(batch, "source_port")?, column(batch, "destination_port")?], port)));
        let peer = filter.peer.map(|peer| {
            Ok(Peer {
                direction: column(batch, "direction")?,
                source: column(batch, "source")?,
                destination: column(batch, "destination")?,
                wanted: peer.to_string(),
            })
        });
        Ok(Self {
            serial: column(batch, "serial")?,
            end: column(batch, "end")?,
            texts: texts.collect::<Result<_, BadColumn>>()?,
            protocol: protocol.transpose()?,
            port: port.transpose()?,
            peer: peer.transpose()?,
        })
    }

    fn position(&self, row: usize) -> Position {
        let end = Moment(u64::try_from(self.end.value(row)).unwrap_or(0).saturating_mul(1000));
        Position { end, serial: self.serial.value(row) }
    }

    /// As [`FlowFilter::matches`].
    fn is_meant(&self, row: usize) -> bool {
        self.texts.iter().all(|(column, text)| column.value(row) == text)
            && self.protocol.is_none_or(|(column, protocol)| column.value(row) == protocol)
            && self.port.is_none_or(|(columns, port)| columns.iter().any(|column| column.value(row) == port))
            && self.peer.as_ref().is_none_or(|peer| peer.is_at(row))
    }
}

impl Peer<'_> {
    fn is_at(&self, row: usize) -> bool {
        let is_ingress = self.direction.value(row) == direction_name(Direction::Ingress);
        let peer = if is_ingress { self.source } else { self.destination };
        peer.value(row) == self.wanted
    }
}
