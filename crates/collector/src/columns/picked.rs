//! Records in memory as Arrow arrays: a chunk's columns where they lie, and some of their rows in an order of their own.
//!
//! Owns the way there. What has the width of an array's values (numbers, times, addresses, the codes of values that repeat) Arrow reads
//! in the chunk itself, which lives as long as any of its arrays: nothing is copied. A value that repeats is written as text
//! once, and an address stays its 16 octets; text at each record is only made of columns that somebody wants to see
//! ([`spelt_out`]). Pure.

use std::{
    fmt::{Display, Write as _},
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use arrow_array::{
    Array as _, ArrayRef, ArrowPrimitiveType, DictionaryArray, FixedSizeBinaryArray, ListArray, PrimitiveArray,
    RecordBatch, RecordBatchOptions, StringArray, StructArray, TimestampMillisecondArray, UInt8Array, UInt32Array,
    UInt64Array,
    builder::StringBuilder,
    cast::AsArray as _,
    types::{UInt8Type, UInt32Type},
};
use arrow_buffer::{ArrowNativeType, BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer, ToByteSlice};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, SchemaRef};
use arrow_select::take::take;
use lucarne_flows::columns::{ABSENT, AddressOctets, Coded, FlowColumns, address};
use lucarne_model::SecurityGroupId;

use super::{
    ARRAYS, Columns,
    layout::{Measures, Texts, Word},
    schema,
};
use crate::chunk::Chunk;

/// Octets of an address.
const ADDRESS: i32 = 16;

/// Octets of most texts of ids.
const TEXT: usize = 24;

/// All rows of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole<'a>(pub(crate) &'a Arc<Chunk>);

/// Some rows of a chunk, by the arrays of all.
#[derive(Debug)]
pub(crate) struct Picked<'a> {
    pub(crate) flows: &'a FlowColumns,
    arrays: &'a RecordBatch,
    rows: UInt32Array,
}

impl<'a> Picked<'a> {
    /// The rows are ones that are there; the arrays those of [`Whole::arrays`].
    pub(crate) fn new(chunk: &'a Chunk, arrays: &'a RecordBatch, rows: &[u32]) -> Self {
        Self { flows: &chunk.columns, arrays, rows: rows.to_vec().into() }
    }

    pub(crate) fn rows(&self) -> &[u32] {
        self.rows.values()
    }

    /// The column of this name, not spelt out.
    pub(crate) fn array(&self, name: &str) -> Result<ArrayRef, ArrowError> {
        let whole = self.arrays.column_by_name(name);
        let whole = whole.ok_or_else(|| unknown(name))?;
        take(whole, &self.rows, None)
    }

    /// The values of a column.
    pub(crate) fn of<T: Copy>(&self, column: &[T]) -> impl ExactSizeIterator<Item = T> {
        self.rows.values().iter().map(|row| column[*row as usize])
    }
}

/// What Arrow reads of a chunk.
struct Shared<F> {
    chunk: Arc<Chunk>,
    octets: F,
}

impl<F: Fn(&FlowColumns) -> &[u8]> AsRef<[u8]> for Shared<F> {
    fn as_ref(&self) -> &[u8] {
        (self.octets)(&self.chunk.columns)
    }
}

impl Whole<'_> {
    /// The rows, or some of them, as one batch of the columns of a schema, spelt out.
    pub(crate) fn batch(self, rows: Option<&[u32]>, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let rows = rows.map(|rows| UInt32Array::from(rows.to_vec()));
        let arrays = schema.fields().iter().map(|field| {
            let (_, make) =
                ARRAYS.iter().find(|(name, _)| name == field.name()).ok_or_else(|| unknown(field.name()))?;
            let whole = make(&self)?;
            let picked = match &rows {
                Some(rows) => take(&whole, rows, None)?,
                None => whole,
            };
            spelt_out(&picked)
        });
        // Where no column is wanted, their number still is.
        let count = rows.as_ref().map_or(self.0.len(), UInt32Array::len);
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(schema.clone(), arrays.collect::<Result<_, _>>()?, &options)
    }

    /// All columns as they lie: what repeats as dictionaries, addresses as octets.
    pub(crate) fn arrays(self) -> Result<RecordBatch, ArrowError> {
        /// The same for all chunks, and much to write down for each.
        static LYING: OnceLock<SchemaRef> = OnceLock::new();
        let arrays = ARRAYS.iter().map(|(_, make)| make(&self)).collect::<Result<Vec<_>, _>>()?;
        let lying = LYING.get_or_init(|| {
            let spelt = schema(Columns::All);
            let field = |(field, array): (&FieldRef, &ArrayRef)| {
                Field::new(field.name(), array.data_type().clone(), field.is_nullable())
            };
            Arc::new(Schema::new(spelt.fields().iter().zip(&arrays).map(field).collect::<Vec<_>>()))
        });
        RecordBatch::try_new(lying.clone(), arrays)
    }

    pub(super) fn flows(&self) -> &FlowColumns {
        &self.0.columns
    }

    fn buffer<F>(&self, octets: F) -> Buffer
    where
        F: Fn(&FlowColumns) -> &[u8] + Send + 'static,
    {
        Buffer::from(bytes::Bytes::from_owner(Shared { chunk: Arc::clone(self.0), octets }))
    }

    fn values<T: ArrowNativeType>(&self, column: fn(&FlowColumns) -> &[T]) -> ScalarBuffer<T> {
        self.buffer(move |flows| column(flows).to_byte_slice()).into()
    }

    pub(super) fn serials(&self) -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values((self.0.first..).take(self.0.len())))
    }

    pub(super) fn numbers<P: ArrowPrimitiveType>(&self, column: fn(&FlowColumns) -> &[P::Native]) -> ArrayRef {
        Arc::new(PrimitiveArray::<P>::new(self.values(column), None))
    }

    /// Numbers of 8 bits that may be absent.
    pub(super) fn small_numbers(&self, column: &[u16]) -> ArrayRef {
        let values: Vec<u8> = column.iter().map(|number| *number as u8).collect();
        Arc::new(UInt8Array::new(values.into(), nulls(column, |number| number == ABSENT)))
    }

    /// Lengths of prefixes, of which 0 says that none is known.
    pub(super) fn lengths(&self, column: fn(&FlowColumns) -> &[u8]) -> ArrayRef {
        let nulls = nulls(column(self.flows()), |length| length == 0);
        Arc::new(UInt8Array::new(self.values(column), nulls))
    }

    pub(super) fn times(&self, column: fn(&FlowColumns) -> &[i64]) -> ArrayRef {
        Arc::new(TimestampMillisecondArray::new(self.values(column), None).with_timezone("UTC"))
    }

    /// Words of a closed vocabulary.
    pub(super) fn words<T: Word>(&self, column: fn(&FlowColumns) -> &[T]) -> Result<ArrayRef, ArrowError> {
        let codes: Vec<u8> = column(self.flows()).iter().map(|word| word.code()).collect();
        Ok(Arc::new(DictionaryArray::<UInt8Type>::try_new(codes.into(), T::names().clone())?))
    }

    /// What of a repeated value is text.
    pub(super) fn texts<T: 'static, D: Display>(
        &self,
        column: fn(&FlowColumns) -> &Coded<T>,
        text: impl Fn(&T) -> D,
    ) -> Result<ArrayRef, ArrowError> {
        let values = column(self.flows()).values();
        let mut texts = StringBuilder::with_capacity(values.len(), TEXT * values.len());
        for value in values {
            // Writing to a builder cannot fail; what was written is the beginning of the next text.
            let _ = write!(texts, "{}", text(value));
            texts.append_value("");
        }
        self.dictionary(column, Arc::new(texts.finish()))
    }

    pub(super) fn texts_or_null<T: Display + 'static>(
        &self,
        column: fn(&FlowColumns) -> &Coded<Option<T>>,
    ) -> Result<ArrayRef, ArrowError> {
        let texts = column(self.flows()).values().iter().map(|value| value.as_ref().map(ToString::to_string));
        self.dictionary(column, Arc::new(texts.collect::<StringArray>()))
    }

    /// Lists of groups.
    pub(super) fn lists(
        &self,
        column: fn(&FlowColumns) -> &Coded<Vec<SecurityGroupId>>,
    ) -> Result<ArrayRef, ArrowError> {
        let lists = column(self.flows()).values();
        let offsets = OffsetBuffer::from_lengths(lists.iter().map(Vec::len));
        let texts: StringArray = lists.iter().flatten().map(|group| Some(group.to_string())).collect();
        self.dictionary(column, Arc::new(ListArray::new(Texts::item(), offsets, Arc::new(texts), None)))
    }

    /// The codes of a column as places among `values`.
    fn dictionary<T: 'static>(
        &self,
        column: fn(&FlowColumns) -> &Coded<T>,
        values: ArrayRef,
    ) -> Result<ArrayRef, ArrowError> {
        let codes: ScalarBuffer<u32> = self.buffer(move |flows| column(flows).codes().to_byte_slice()).into();
        Ok(Arc::new(DictionaryArray::<UInt32Type>::try_new(UInt32Array::new(codes, None), values)?))
    }

    pub(super) fn addresses(&self, column: fn(&FlowColumns) -> &[AddressOctets]) -> Result<ArrayRef, ArrowError> {
        self.addresses_with(column, None)
    }

    /// Addresses, of which one of zeros says that there is none.
    pub(super) fn addresses_or_null(
        &self,
        column: fn(&FlowColumns) -> &[AddressOctets],
    ) -> Result<ArrayRef, ArrowError> {
        self.addresses_with(column, nulls(column(self.flows()), |octets| octets == [0; 16]))
    }

    fn addresses_with(
        &self,
        column: fn(&FlowColumns) -> &[AddressOctets],
        nulls: Option<NullBuffer>,
    ) -> Result<ArrayRef, ArrowError> {
        let octets = self.buffer(move |flows| column(flows).as_flattened());
        Ok(Arc::new(FixedSizeBinaryArray::try_new(ADDRESS, octets, nulls)?))
    }

    /// What was measured, as five columns of numbers.
    pub(super) fn round_trips(&self) -> ArrayRef {
        let flows = self.flows();
        let five = [
            &flows.round_trip_count,
            &flows.round_trip_min,
            &flows.round_trip_mean,
            &flows.round_trip_max,
            &flows.round_trip_smoothed,
        ];
        let is_measured = |row: usize| five.iter().fold(0, |all, column| all | column[row]) != 0;
        let nulls = NullBuffer::new(BooleanBuffer::collect_bool(flows.len(), is_measured));
        let columns = vec![
            self.numbers::<UInt32Type>(|flows| &flows.round_trip_count),
            self.numbers::<UInt32Type>(|flows| &flows.round_trip_min),
            self.numbers::<UInt32Type>(|flows| &flows.round_trip_mean),
            self.numbers::<UInt32Type>(|flows| &flows.round_trip_max),
            self.numbers::<UInt32Type>(|flows| &flows.round_trip_smoothed),
        ];
        Arc::new(StructArray::new(Measures::fields(), columns, Some(nulls)))
    }
}

fn unknown(name: &str) -> ArrowError {
    ArrowError::SchemaError(format!("there is no column `{name}`"))
}

fn nulls<T: Copy>(column: &[T], is_null: impl Fn(T) -> bool) -> Option<NullBuffer> {
    let nulls = NullBuffer::new(BooleanBuffer::collect_bool(column.len(), |row| !is_null(column[row])));
    Some(nulls).filter(|nulls| nulls.null_count() > 0)
}

/// An array with what people see at each place: of a dictionary its values, of an address its text.
pub(crate) fn spelt_out(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if let Some(dictionary) = array.as_any_dictionary_opt() {
        return take(dictionary.values(), dictionary.keys(), None);
    }
    if *array.data_type() != DataType::FixedSizeBinary(ADDRESS) {
        return Ok(array.clone());
    }
    let octets = array.as_fixed_size_binary();
    let mut texts = StringBuilder::with_capacity(array.len(), 15 * array.len());
    let (mut text, mut last) = (String::new(), None);
    for value in octets.iter() {
        if let Some(value) = value
            && last != Some(value)
        {
            text.clear();
            put_address(value, &mut text);
            last = Some(value);
        }
        texts.append_option(value.map(|_| &text));
    }
    Ok(Arc::new(texts.finish()))
}

/// The text of an address of 16 octets; of other octets none.
pub(crate) fn put_address(octets: &[u8], text: &mut String) {
    let Ok(octets) = octets.try_into() else { return };
    let address = address(octets);
    let IpAddr::V4(v4) = address else {
        // Writing to a String cannot fail.
        let _ = write!(text, "{address}");
        return;
    };
    // As it shows itself, without the machinery.
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
    use lucarne_flows::columns::address_octets;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_are_written_as_they_show_themselves(address: IpAddr, octet: u8) {
            for address in [address, IpAddr::from([octet, 0, 9, 100])] {
                let mut text = String::new();
                put_address(&address_octets(address), &mut text);
                prop_assert_eq!(text, address.to_canonical().to_string());
            }
        }
    }
}
