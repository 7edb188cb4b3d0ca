//! Records in memory as Arrow arrays: some rows of columns, in an order of their own.
//!
//! Owns the way there. A value that repeats is written as text once, and is an array of dictionary keys from there on:
//! Parquet's writer takes those as they are, and only the batches that SQL sees have the text at each record. Pure.

use std::{
    fmt::{Display, Write as _},
    net::IpAddr,
    sync::Arc,
};

use arrow_array::{
    Array as _, ArrayRef, ArrowPrimitiveType, DictionaryArray, ListArray, PrimitiveArray, RecordBatch,
    RecordBatchOptions, StringArray, StructArray, TimestampMillisecondArray, UInt8Array, UInt32Array, UInt64Array,
    builder::StringBuilder, cast::AsArray as _, types::UInt32Type,
};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::take::take;
use lucarne_flows::columns::{ABSENT, Coded, FlowColumns, address};
use lucarne_model::SecurityGroupId;

use super::{
    array,
    layout::{Measures, Texts},
};

/// Rows of columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picked<'a> {
    pub(crate) flows: &'a FlowColumns,
    /// The number of the columns' first record; the others' follow.
    pub(crate) first: u64,
    /// Of rows that are there.
    pub(crate) rows: &'a [u32],
}

impl Picked<'_> {
    /// The rows as one batch of some of the columns.
    pub(crate) fn batch(&self, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let arrays = schema.fields().iter().map(|field| spelt_out(&self.array(field.name())?));
        // Where no column is wanted, their number still is.
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows.len()));
        RecordBatch::try_new_with_options(schema.clone(), arrays.collect::<Result<_, _>>()?, &options)
    }

    /// The column of this name; texts that repeat as a dictionary of them.
    pub(crate) fn array(&self, name: &str) -> Result<ArrayRef, ArrowError> {
        array(name, self)
    }

    /// The values of a column.
    pub(crate) fn of<T: Copy>(&self, column: &[T]) -> impl ExactSizeIterator<Item = T> {
        self.rows.iter().map(|row| column[*row as usize])
    }

    pub(super) fn serials(&self) -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(self.rows.iter().map(|row| self.first + u64::from(*row))))
    }

    pub(super) fn numbers<P: ArrowPrimitiveType>(&self, column: &[P::Native]) -> ArrayRef {
        let values: ScalarBuffer<P::Native> = self.of(column).collect::<Vec<_>>().into();
        Arc::new(PrimitiveArray::<P>::new(values, None))
    }

    /// Numbers of 8 bits that may be absent.
    pub(super) fn small_numbers(&self, column: &[u16]) -> ArrayRef {
        let values = self.of(column).map(|number| number as u8).collect::<Vec<_>>();
        Arc::new(UInt8Array::new(values.into(), self.nulls(column, |number| number == ABSENT)))
    }

    /// Lengths of prefixes, of which 0 says that none is known.
    pub(super) fn lengths(&self, column: &[u8]) -> ArrayRef {
        let values = self.of(column).collect::<Vec<_>>();
        Arc::new(UInt8Array::new(values.into(), self.nulls(column, |length| length == 0)))
    }

    pub(super) fn times(&self, column: &[i64]) -> ArrayRef {
        let values = self.of(column).collect::<Vec<_>>();
        Arc::new(TimestampMillisecondArray::new(values.into(), None).with_timezone("UTC"))
    }

    fn nulls<T: Copy>(&self, column: &[T], is_null: impl Fn(T) -> bool) -> Option<NullBuffer> {
        Some(self.of(column).map(|value| !is_null(value)).collect::<NullBuffer>())
            .filter(|nulls| nulls.null_count() > 0)
    }

    /// Words of a closed vocabulary.
    pub(super) fn words<T: Copy>(&self, column: &[T], name: fn(T) -> &'static str) -> ArrayRef {
        let mut words: Vec<&'static str> = Vec::new();
        let keys = self.of(column).map(|word| {
            let name = name(word);
            let known = words.iter().position(|known| std::ptr::eq(*known, name));
            known.unwrap_or_else(|| {
                words.push(name);
                words.len() - 1
            }) as u32
        });
        let keys = keys.collect::<Vec<_>>();
        dictionary(keys, None, StringArray::from_iter_values(words))
    }

    /// What of a repeated value is text.
    pub(super) fn texts<'v, T, D: Display + 'v>(&self, column: &'v Coded<T>, text: impl Fn(&'v T) -> D) -> ArrayRef {
        let texts = StringArray::from_iter_values(column.values().iter().map(|value| text(value).to_string()));
        dictionary(self.of(column.codes()).collect(), None, texts)
    }

    pub(super) fn texts_or_null<T: Display>(&self, column: &Coded<Option<T>>) -> ArrayRef {
        let text = |value: &Option<T>| value.as_ref().map(ToString::to_string);
        let texts: StringArray = column.values().iter().map(text).collect();
        let nulls = self.of(column.codes()).map(|code| texts.is_valid(code as usize)).collect();
        dictionary(self.of(column.codes()).collect(), Some(nulls), texts)
    }

    pub(super) fn addresses(&self, column: &[u128]) -> ArrayRef {
        self.addresses_where(column, |_| true)
    }

    /// Addresses, of which 0 says that there is none.
    pub(super) fn addresses_or_null(&self, column: &[u128]) -> ArrayRef {
        self.addresses_where(column, |bits| bits != 0)
    }

    fn addresses_where(&self, column: &[u128], is_there: impl Fn(u128) -> bool) -> ArrayRef {
        let mut texts = StringBuilder::with_capacity(self.rows.len(), 15 * self.rows.len());
        let (mut text, mut last) = (String::new(), None);
        for bits in self.of(column) {
            if last != Some(bits) {
                text.clear();
                put_address(address(bits), &mut text);
                last = Some(bits);
            }
            texts.append_option(is_there(bits).then_some(&text));
        }
        Arc::new(texts.finish())
    }

    /// Lists of groups.
    pub(super) fn lists(&self, column: &Coded<Vec<SecurityGroupId>>) -> ArrayRef {
        let text = |groups: &Vec<SecurityGroupId>| groups.iter().map(ToString::to_string).collect::<Vec<_>>();
        let lists: Vec<Vec<String>> = column.values().iter().map(text).collect();
        let lists = || self.of(column.codes()).map(|code| &lists[code as usize]);
        let offsets = OffsetBuffer::from_lengths(lists().map(Vec::len));
        let mut values = StringBuilder::new();
        lists().flatten().for_each(|group| values.append_value(group));
        Arc::new(ListArray::new(Texts::item(), offsets, Arc::new(values.finish()), None))
    }

    /// What was measured, as five columns of numbers.
    pub(super) fn round_trips(&self) -> ArrayRef {
        let flows = self.flows;
        let five = [
            &flows.round_trip_count,
            &flows.round_trip_min,
            &flows.round_trip_mean,
            &flows.round_trip_max,
            &flows.round_trip_smoothed,
        ];
        let is_measured = |row: &u32| five.iter().any(|column| column[*row as usize] != 0);
        let nulls: NullBuffer = self.rows.iter().map(is_measured).collect();
        let columns = five.map(|column| self.numbers::<UInt32Type>(column)).to_vec();
        Arc::new(StructArray::new(Measures::fields(), columns, Some(nulls)))
    }
}

/// Texts by their places among `texts`.
fn dictionary(keys: Vec<u32>, nulls: Option<NullBuffer>, texts: StringArray) -> ArrayRef {
    let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
    Arc::new(DictionaryArray::<UInt32Type>::new(UInt32Array::new(keys.into(), nulls), Arc::new(texts)))
}

/// An array with the values of its dictionary, if it has one, at each place.
pub(crate) fn spelt_out(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.as_any_dictionary_opt() {
        Some(dictionary) => take(dictionary.values(), dictionary.keys(), None),
        None => Ok(array.clone()),
    }
}

/// As [`IpAddr`] shows itself, for the usual ones without the machinery.
fn put_address(address: IpAddr, text: &mut String) {
    let IpAddr::V4(v4) = address else {
        // Writing to a String cannot fail.
        let _ = write!(text, "{address}");
        return;
    };
    for (place, octet) in v4.octets().into_iter().enumerate() {
        if place > 0 {
            text.push('.');
        }
        let digits = [octet / 100, octet / 10 % 10, octet % 10];
        let leading = if octet >= 100 { 0 } else { 1 + usize::from(octet < 10) };
        digits[leading..].iter().for_each(|digit| text.push(char::from(b'0' + digit)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_are_written_as_they_show_themselves(address: IpAddr, octet: u8) {
            for address in [address, IpAddr::from([octet, 0, 9, 100])] {
                let mut text = String::new();
                put_address(address, &mut text);
                prop_assert_eq!(text, address.to_string());
            }
        }
    }
}
