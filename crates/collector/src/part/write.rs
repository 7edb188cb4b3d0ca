//! Writing a part: rows in batches in, two durable Parquet files out, and what is in them.
//!
//! Owns how the files are laid out, for the questions that are asked of them and for their size. Rows are sorted by
//! instance and then by arrival, so that an instance's rows are few pages, numbers differ little from the one before, and
//! statistics of a page leave out most others; addresses, which are scattered, have bloom filters. Pages are large enough
//! that what is said of each (some 60 octets a column) is little beside what is in it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema};
use lucarne_flows::receipts::{Digest, PartContents};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding, ZstdLevel},
    file::{
        metadata::{KeyValue, SortingColumn},
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder},
    },
    schema::types::ColumnPath,
};

use super::{
    Folders, NewPart, Part, PartError, Place,
    fold::fold,
    pages::PagesWriter,
    stored,
    sums::{self, Summing, file::SumsError},
};
use crate::{
    chunk::Chunk,
    columns::{Columns, Picked},
    durable,
};

/// Rows of a group; a writer holds a group's encoded columns in memory.
const GROUP: usize = 128 * 1024;
/// Rows of a page; a page is the least that is decoded.
const PAGE: usize = 8 * 1024;
/// Rows that are turned into arrays at once.
pub(super) const BATCH: usize = 16 * 1024;
/// Columns that have a bloom filter: those by which few of many rows are looked for, and that are not sorted.
pub(super) const BLOOM: [&str; 2] = ["source", "destination"];
/// How numbers are written that are too many to be listed once and pointed at, each in the way that was measured to be
/// the shortest.
const ENCODINGS: [(Encoding, &[&str]); 3] = [
    // Numbers that grow, or nearly do: as differences from one row to the next.
    (Encoding::DELTA_BINARY_PACKED, &["serial", "end"]),
    // Numbers of any size: first all their high octets, which are alike, then the lower ones.
    (
        Encoding::BYTE_STREAM_SPLIT,
        &["bytes", "reverse_bytes", "packets", "reverse_packets", "duration", "round_trip", "reverse_round_trip"],
    ),
    (Encoding::PLAIN, &["source_port", "destination_port"]),
];
/// Columns whose least and greatest values are told for each page: those that are sorted, or nearly.
const TOLD_BY_PAGE: [&str; 4] = ["instance", "interface", "subnet", "end"];
/// Columns of which they are told for a group of rows. All others say nothing of a row's two records, see
/// `on_rows` of the SQL's push-down, so that nobody would ask.
const TOLD_BY_GROUP: [&str; 14] = [
    "account",
    "vpc",
    "location",
    "rule",
    "verdict",
    "end_reason",
    "path",
    "protocol",
    "source",
    "destination",
    "source_port",
    "destination_port",
    "history",
    "conn_state",
];
/// The key and value by which later versions know what they read.
const VERSION: (&str, &str) = ("lucarne.flows", "3");

/// How long to look for a short way of saying things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// For a part that will soon be merged: as fast as records come.
    Fresh,
    /// For a part that is likely to stay.
    Merged,
}

impl Effort {
    const fn zstd(self) -> i32 {
        match self {
            Self::Fresh => 1,
            Self::Merged => 6,
        }
    }
}

/// Writes records of one place, which lie at `rows` of a chunk in [`Kept::row_order`](crate::Kept::row_order), as a part.
/// `arrays` are those of all columns of the chunk.
pub(crate) fn write(
    folders: &Folders,
    place: Place,
    effort: Effort,
    chunk: &Chunk,
    arrays: &RecordBatch,
    rows: &[u32],
) -> Result<NewPart, PartError> {
    let rows = fold(&chunk.columns, rows);
    let batches = rows.chunks(BATCH).map(|(forward, reverse)| {
        let [forward, reverse] = [forward, reverse].map(|rows| Picked::new(chunk, arrays, rows));
        let batch = |columns| stored::batch(columns, &forward, &reverse);
        Ok([batch(Columns::Shown)?, batch(Columns::Own)?])
    });
    write_rows(folders, place, effort, batches)
}

/// What the account sees of such rows, as it comes to the writer of the file.
pub(crate) fn shown_rows(chunk: &Chunk, arrays: &RecordBatch, rows: &[u32]) -> Result<Vec<RecordBatch>, PartError> {
    let rows = fold(&chunk.columns, rows);
    let batches = rows.chunks(BATCH).map(|(forward, reverse)| {
        let [forward, reverse] = [forward, reverse].map(|rows| Picked::new(chunk, arrays, rows));
        Ok(stored::batch(Columns::Shown, &forward, &reverse)?)
    });
    batches.collect()
}

/// Who makes a file of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The pages of this crate.
    Ours,
    /// The writer of the Parquet crate, which does not know addresses as octets.
    Parquets,
}

/// The account's file of such rows, in memory.
pub(crate) fn shown_file(rows: &[RecordBatch], effort: Effort, writer: Writer) -> Result<Vec<u8>, PartError> {
    let properties = shown_properties(effort)?;
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    match writer {
        Writer::Ours => {
            let mut file = PagesWriter::new(Vec::new(), &stored::schema(Columns::Shown), properties)?;
            rows.iter().try_for_each(|rows| file.write(rows))?;
            Ok(file.finish()?)
        }
        Writer::Parquets => {
            let mut file = ArrowWriter::try_new(Vec::new(), first.schema(), Some(properties))?;
            rows.iter().try_for_each(|rows| file.write(rows))?;
            Ok(file.into_inner()?)
        }
    }
}

/// Writes rows as a part: of each batch what the account sees, and what is the operator's own. After an error there is no
/// part, or the one that was there. The account's file comes last: with its name the part is there. Its sums come after it,
/// where it is likely to stay; a part without any is as good.
pub(super) fn write_rows(
    folders: &Folders,
    place: Place,
    effort: Effort,
    batches: impl Iterator<Item = Result<[RecordBatch; 2], PartError>>,
) -> Result<NewPart, PartError> {
    let name = place.name();
    let [own, shown] = folders.both().map(|folder| folder.join(&name));
    for path in [&own, &shown] {
        path.parent().map_or(Ok(()), durable::create_dir)?;
    }
    let mut sums = (effort == Effort::Merged).then(Summing::begin).transpose()?;
    let batches = batches.inspect(|batch| {
        let Ok([shown, _]) = batch else { return };
        if let Some(Err(error)) = sums.as_mut().map(|sums| sums.add(shown)) {
            tracing::warn!(name, %error, "a part is not added up");
            sums = None;
        }
    });
    let contents = durable::write_whole(&shown, |shown_file| {
        durable::write_whole(&own, |own_file| write_files(name.clone(), effort, shown_file, own_file, batches))
    })?;
    let part = Part::new(place, folders, contents.size);
    if let Some(Err(error)) = sums.map(|sums| write_sums(&part, sums)) {
        tracing::warn!(name, %error, "the sums of a part are not kept");
    }
    Ok(NewPart { part, contents })
}

fn write_sums(part: &Part, sums: Summing) -> Result<(), SumsError> {
    let Some(summed) = sums.finish()? else { return Ok(()) };
    sums::file::write(&part.sums_path, part.size, &summed)
}

fn write_files(
    name: String,
    effort: Effort,
    shown_file: &mut File,
    own_file: &mut File,
    batches: impl Iterator<Item = Result<[RecordBatch; 2], PartError>>,
) -> Result<PartContents, PartError> {
    let shown_file = Hashed { file: shown_file, digest: Digest::begin(), size: 0 };
    let mut shown = PagesWriter::new(shown_file, &stored::schema(Columns::Shown), shown_properties(effort)?)?;
    let mut own = PagesWriter::new(own_file, &stored::schema(Columns::Own), properties(effort)?.build())?;
    let mut minutes: BTreeMap<u64, u64> = BTreeMap::new();
    for batch in batches {
        let [of_shown, of_own] = batch?;
        stored::count_minutes(&of_shown, &mut minutes)?;
        shown.write(&of_shown)?;
        own.write(&of_own)?;
    }
    own.finish()?;
    let Hashed { digest, size, .. } = shown.finish()?;
    Ok(PartContents { name, size, sha256: digest.finish(), minutes: minutes.into_iter().collect() })
}

/// A file whose digest is made while it is written.
struct Hashed<'a> {
    file: &'a mut File,
    digest: Digest,
    size: u64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.file.write(octets)?;
        self.digest.add(&octets[..written]);
        self.size += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn properties(effort: Effort) -> Result<WriterPropertiesBuilder, PartError> {
    let version = KeyValue { key: VERSION.0.into(), value: Some(VERSION.1.into()) };
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(effort.zstd())?))
        .set_max_row_group_row_count(Some(GROUP))
        .set_data_page_row_count_limit(PAGE)
        .set_write_batch_size(PAGE)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_key_value_metadata(Some(vec![version])))
}

fn shown_properties(effort: Effort) -> Result<WriterProperties, PartError> {
    let schema = stored::schema(Columns::Shown);
    let order = ["instance", "serial"].into_iter().filter_map(|name| schema.index_of(name).ok());
    let order = order.filter_map(|index| i32::try_from(index).ok());
    let order = order.map(|column_idx| SortingColumn { column_idx, descending: false, nulls_first: false });
    let mut properties = properties(effort)?.set_sorting_columns(Some(order.collect()));
    for (encoding, names) in ENCODINGS {
        for column in names.iter().flat_map(|name| leaves(&schema, name)) {
            properties =
                properties.set_column_dictionary_enabled(column.clone(), false).set_column_encoding(column, encoding);
        }
    }
    for (told, names) in [(EnabledStatistics::Page, &TOLD_BY_PAGE[..]), (EnabledStatistics::Chunk, &TOLD_BY_GROUP[..])]
    {
        for name in names {
            properties = properties.set_column_statistics_enabled(ColumnPath::from(*name), told);
        }
    }
    for name in BLOOM {
        let column = ColumnPath::from(name);
        properties = properties
            .set_column_bloom_filter_enabled(column.clone(), true)
            .set_column_bloom_filter_max_ndv(column.clone(), GROUP as u64)
            .set_column_bloom_filter_fpp(column, 0.01);
    }
    Ok(properties.build())
}

/// What Parquet calls the columns of a field.
fn leaves(schema: &Schema, name: &str) -> Vec<ColumnPath> {
    match schema.field_with_name(name).map(Field::data_type) {
        Ok(DataType::Struct(fields)) => {
            fields.iter().map(|field| ColumnPath::new(vec![name.to_owned(), field.name().clone()])).collect()
        }
        _ => vec![ColumnPath::from(name)],
    }
}
