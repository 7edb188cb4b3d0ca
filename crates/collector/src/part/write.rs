//! Writing a part: rows in, one durable Parquet file out.
//!
//! Owns how the file is laid out for the questions that are asked of it: rows newest first in small groups, so that times
//! select few of them; statistics of each group and page; bloom filters of ids and addresses, because rows that are
//! sorted by time have a bit of every instance in each group.

use std::{fs::File, path::Path, sync::Arc};

use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};

use super::{Part, PartError, Place};
use crate::{Kept, columns, durable};

/// Rows of a group; a group is what a reader and a writer hold in memory.
const GROUP: usize = 8192;
/// Rows of a page; a page is the least that is decoded.
const PAGE: usize = 1024;
/// Rows that are turned into columns at once.
const BATCH: usize = 1024;
/// Columns that have a bloom filter.
pub(super) const BLOOM: [&str; 6] = ["instance", "interface", "subnet", "vpc", "source", "destination"];
/// The key and value by which later versions know what they read.
const VERSION: (&str, &str) = ("lucarne.flows", "1");

/// Writes rows, which must come newest first, as a part. After an error there is no part, or the one that was there.
pub(crate) fn write(
    flows: &Path,
    place: Place,
    rows: impl IntoIterator<Item = Result<Kept, PartError>>,
) -> Result<Arc<Part>, PartError> {
    durable::create_dir(&place.dir(flows))?;
    let size = durable::write_whole(&place.path(flows), |file| write_rows(file, rows))?;
    Ok(Part::new(place, flows, size))
}

fn write_rows(file: &mut File, rows: impl IntoIterator<Item = Result<Kept, PartError>>) -> Result<u64, PartError> {
    let mut writer = ArrowWriter::try_new(file, columns::schema(), Some(properties()?))?;
    let mut rows = rows.into_iter();
    loop {
        let batch = rows.by_ref().take(BATCH).collect::<Result<Vec<Kept>, PartError>>()?;
        if batch.is_empty() {
            break;
        }
        writer.write(&columns::batch(&batch)?)?;
    }
    writer.finish()?;
    Ok(writer.bytes_written() as u64)
}

fn properties() -> Result<WriterProperties, PartError> {
    let version = KeyValue { key: VERSION.0.into(), value: Some(VERSION.1.into()) };
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_max_row_group_row_count(Some(GROUP))
        .set_data_page_row_count_limit(PAGE)
        .set_write_batch_size(PAGE)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_key_value_metadata(Some(vec![version]));
    for name in BLOOM {
        let column = ColumnPath::from(name);
        properties = properties
            .set_column_bloom_filter_enabled(column.clone(), true)
            .set_column_bloom_filter_max_ndv(column.clone(), GROUP as u64)
            .set_column_bloom_filter_fpp(column, 0.01);
    }
    Ok(properties.build())
}
