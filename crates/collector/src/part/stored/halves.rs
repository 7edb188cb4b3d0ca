//! Rows of a part as records again: the forward record of each, and the reverse one where there is one.
//!
//! Owns which kept columns are read for which wanted ones, so that a question touches no more than it needs.

use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use arrow_select::take::take_record_batch;

use super::{
    DURATION, FLOW_ID, Sharing, marker, reverse_name, schema, sharing,
    values::{self, GROUNDS, typed},
};
use crate::columns::{self, Columns};

/// How wanted columns of records are had from the columns of rows.
#[derive(Clone, Debug)]
pub(crate) struct Halves {
    columns: Columns,
    /// The wanted columns, as records show them.
    wanted: SchemaRef,
    /// The places in the rows' schema of what must be read, in growing order.
    read: Vec<usize>,
}

impl Halves {
    pub(crate) fn all(columns: Columns) -> Self {
        Self::of(columns, &(0..columns::schema(columns).fields().len()).collect::<Vec<_>>())
    }

    /// Of the columns at these places of the records' schema; places that are not there are left out.
    pub(crate) fn of(columns: Columns, wanted: &[usize]) -> Self {
        let (shown, stored) = (columns::schema(columns), schema(columns));
        let wanted =
            Schema::new(wanted.iter().filter_map(|place| shown.fields().get(*place).cloned()).collect::<Vec<_>>());
        let names = wanted.fields().iter().flat_map(|field| grounds(field.name()));
        let names = names.chain([marker(columns).to_owned()]);
        let mut read: Vec<usize> = names.filter_map(|name| stored.index_of(&name).ok()).collect();
        read.sort_unstable();
        read.dedup();
        Self { columns, wanted: Arc::new(wanted), read }
    }

    /// Of the columns of these names.
    pub(crate) fn named<'a>(columns: Columns, names: impl IntoIterator<Item = &'a str>) -> Self {
        let shown = columns::schema(columns);
        Self::of(columns, &names.into_iter().filter_map(|name| shown.index_of(name).ok()).collect::<Vec<_>>())
    }

    pub(crate) fn read(&self) -> &[usize] {
        &self.read
    }

    pub(crate) fn wanted(&self) -> &SchemaRef {
        &self.wanted
    }

    /// The forward records of rows, which have at least the columns to be read, and the reverse records.
    pub(crate) fn records(&self, rows: &RecordBatch) -> Result<[RecordBatch; 2], ArrowError> {
        let places = UInt32Array::from(self.reversed(rows)?);
        let reversed = take_record_batch(rows, &places)?;
        let (rows, reversed) = (Rows(rows), Rows(&reversed));
        Ok([self.batch(rows.0, |name| rows.forward(name))?, self.batch(reversed.0, |name| reversed.reverse(name))?])
    }

    /// The places of rows that have a reverse record.
    pub(crate) fn reversed(&self, rows: &RecordBatch) -> Result<Vec<u32>, ArrowError> {
        let rows = Rows(rows);
        let marks = rows.column(marker(self.columns))?;
        Ok((0..rows.0.num_rows() as u32).filter(|row| marks.is_valid(*row as usize)).collect())
    }

    fn batch(
        &self,
        rows: &RecordBatch,
        column: impl Fn(&str) -> Result<ArrayRef, ArrowError>,
    ) -> Result<RecordBatch, ArrowError> {
        let arrays = self.wanted.fields().iter().map(|field| column(field.name()));
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(self.wanted.clone(), arrays.collect::<Result<_, _>>()?, &options)
    }
}

/// What a record's column is made of, in either half.
fn grounds(column: &str) -> Vec<String> {
    match (column, sharing(column)) {
        ("start", _) => ["end", DURATION, "reverse_start"].map(str::to_owned).to_vec(),
        (FLOW_ID, _) => [FLOW_ID].iter().chain(&GROUNDS).map(|name| (*name).to_owned()).collect(),
        (_, Sharing::Own) => vec![column.to_owned(), reverse_name(column)],
        (_, Sharing::Swapped(other)) => vec![column.to_owned(), other.to_owned()],
        _ => vec![column.to_owned()],
    }
}

struct Rows<'a>(&'a RecordBatch);

impl Rows<'_> {
    fn column(&self, name: &str) -> Result<&ArrayRef, ArrowError> {
        self.0.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("column `{name}` is missing")))
    }

    /// A column of the forward records.
    fn forward(&self, name: &str) -> Result<ArrayRef, ArrowError> {
        match name {
            "start" => {
                let (ends, durations) = (self.column("end")?, self.column(DURATION)?);
                Ok(values::starts(typed(ends, "end")?, typed(durations, DURATION)?))
            }
            FLOW_ID => {
                let grounds = GROUNDS.iter().map(|name| self.column(name).cloned()).collect::<Result<Vec<_>, _>>()?;
                values::flow_ids(typed(self.column(FLOW_ID)?, FLOW_ID)?, &grounds)
            }
            "round_trip" => values::wide_round_trips(self.column(name)?),
            _ => self.column(name).cloned(),
        }
    }

    /// A column of the reverse records, of rows that have one.
    fn reverse(&self, name: &str) -> Result<ArrayRef, ArrowError> {
        let kept = || self.column(&reverse_name(name));
        match (name, sharing(name)) {
            ("start" | "end", _) => {
                let by: &Int64Array = typed(kept()?, name)?;
                Ok(values::later(typed(&self.forward(name)?, name)?, by))
            }
            ("round_trip", _) => values::wide_round_trips(kept()?),
            (_, Sharing::Next) => Ok(values::next(typed(self.column(name)?, name)?)),
            (_, Sharing::Opposite(words)) => Ok(values::opposite(typed(self.column(name)?, name)?, words)),
            (_, Sharing::Swapped(other)) => self.column(other).cloned(),
            (_, Sharing::Own) => kept().cloned(),
            (_, Sharing::Same) => self.forward(name),
        }
    }
}
