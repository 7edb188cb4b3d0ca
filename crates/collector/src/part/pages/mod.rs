//! A file of a part while it is written: batches of rows in, Parquet out.
//!
//! Owns the way from arrays to the columns of a file. Parquet's own writer takes arrays too, but looks each value up in
//! hash tables of its own, though most of ours come with their places in a dictionary; that was two thirds of the time of
//! writing a part. Which column is written how is said by the [`WriterProperties`] that are given; footer, schema and
//! reading are Parquet's own.

mod column;
mod encodings;
mod listing;
#[cfg(test)]
mod tests;
mod told;

use std::io::Write;

use arrow_array::{Array as _, ArrayRef, ListArray, RecordBatch, StructArray, cast::AsArray as _};
use arrow_schema::{DataType, Schema};
use parquet::{
    arrow::{ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata},
    basic::Compression,
    errors::{ParquetError, Result},
    file::{
        properties::{WriterProperties, WriterPropertiesPtr},
        writer::SerializedFileWriter,
    },
    schema::types::ColumnPath,
};
use zstd::bulk::Compressor;

use self::column::{Column, Leaf, Levels};

/// A file to which rows are written.
pub(super) struct PagesWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    properties: WriterPropertiesPtr,
    compressor: Compressor<'static>,
    /// Of the group that is being filled.
    columns: Vec<Column>,
    rows: usize,
}

impl<W: Write + Send> PagesWriter<W> {
    /// A file of this schema, in the compression of the properties, which is to be Zstandard. Texts may come as
    /// dictionaries of them.
    pub(super) fn new(sink: W, schema: &Schema, mut properties: WriterProperties) -> Result<Self> {
        let Compression::ZSTD(level) = properties.compression(&ColumnPath::new(Vec::new())) else {
            return Err(ParquetError::NYI("another compression than Zstandard".into()));
        };
        add_encoded_arrow_schema_to_metadata(schema, &mut properties);
        let file = SerializedFileWriter::new(
            sink,
            ArrowSchemaConverter::new().convert(schema)?.root_schema_ptr(),
            properties.into(),
        )?;
        let properties = file.properties().clone();
        let compressor = Compressor::new(level.compression_level())?;
        Ok(Self { file, properties, compressor, columns: Vec::new(), rows: 0 })
    }

    /// Appends rows; groups have so many rows as the properties say, or up to a page more.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let most = self.properties.data_page_row_count_limit();
        for start in (0..batch.num_rows()).step_by(most) {
            self.add_page(&batch.slice(start, most.min(batch.num_rows() - start)))?;
            if self.properties.max_row_group_row_count().is_some_and(|most| self.rows >= most) {
                self.close_group()?;
            }
        }
        Ok(())
    }

    fn add_page(&mut self, rows: &RecordBatch) -> Result<()> {
        if self.columns.is_empty() {
            let columns = self.file.schema_descr().columns().iter();
            self.columns = columns.map(|descr| Column::new(descr.clone(), &self.properties)).collect();
        }
        let mut leaves = Vec::with_capacity(self.columns.len());
        for (field, array) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            add_leaves(array, field.is_nullable(), &mut leaves);
        }
        if leaves.len() != self.columns.len() {
            return Err(ParquetError::General("a batch has other columns than its file".into()));
        }
        for (column, leaf) in self.columns.iter_mut().zip(&leaves) {
            column.add(leaf, &mut self.compressor)?;
        }
        self.rows += rows.num_rows();
        Ok(())
    }

    fn close_group(&mut self) -> Result<()> {
        let mut group = self.file.next_row_group()?;
        for column in self.columns.drain(..) {
            let (octets, result) = column.close(&mut self.compressor, &self.properties)?;
            group.append_column(&octets, result)?;
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }

    /// Writes what is left, and the footer.
    pub(super) fn finish(mut self) -> Result<W> {
        if self.rows > 0 {
            self.close_group()?;
        }
        self.file.into_inner()
    }
}

/// The columns of an array: of a struct its own.
fn add_leaves(array: &ArrayRef, is_nullable: bool, leaves: &mut Vec<Leaf>) {
    let rows = array.len();
    let levels = || {
        let nulls = || array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        if is_nullable { Levels::Flags(nulls()) } else { Levels::None }
    };
    match array.data_type() {
        DataType::Struct(_) => {
            let array: &StructArray = array.as_struct();
            let columns = array.columns().iter();
            leaves.extend(columns.map(|values| Leaf { values: values.clone(), levels: levels(), rows }));
        }
        DataType::List(_) => leaves.push(list(array.as_list())),
        _ => leaves.push(Leaf { values: array.clone(), levels: levels(), rows }),
    }
}

/// Lists, none of which is null, of items that could be and are not.
fn list(lists: &ListArray) -> Leaf {
    let (mut repeats, mut depths) = (Vec::with_capacity(lists.len()), Vec::with_capacity(lists.len()));
    for length in lists.offsets().lengths() {
        repeats.extend((0..length.max(1)).map(|item| u32::from(item > 0)));
        depths.extend((0..length.max(1)).map(|_| if length > 0 { Levels::MOST } else { 0 }));
    }
    let (start, end) = match (lists.offsets().first(), lists.offsets().last()) {
        (Some(start), Some(end)) => (*start as usize, *end as usize),
        _ => (0, 0),
    };
    let levels = Levels::Lists { repeats, depths };
    Leaf { values: lists.values().slice(start, end - start), levels, rows: lists.len() }
}
