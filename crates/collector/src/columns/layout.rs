//! How values of the record's types are laid out as Arrow arrays, and read back.
//!
//! Owns one [`Layout`] for each kind of value. Ids, addresses and names are text, so that any Parquet reader shows them
//! as we do; the file's dictionaries make that cost no more than numbers would. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{
    fmt::{Display, Write as _},
    str::FromStr,
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, ListArray, StringArray, StructArray, TimestampMillisecondArray, UInt8Array, UInt16Array,
    UInt32Array, UInt64Array,
    builder::{ListBuilder, StringBuilder, UInt32Builder},
    types::{ArrowPrimitiveType, UInt8Type, UInt16Type, UInt32Type, UInt64Type},
};
use arrow_schema::{DataType, Field, Fields, TimeUnit};
use lucarne_model::{
    Moment, SecurityGroupId,
    flow::{Direction, Path, RoundTrip, Side, Verdict},
};

/// How values of type `T` are kept.
pub(super) trait Layout<T> {
    type Array: Array + 'static;
    const NULLABLE: bool = false;
    fn data_type() -> DataType;
    fn write<'a>(values: impl Iterator<Item = &'a T>) -> ArrayRef
    where
        T: 'a;
    /// The value of a row that is within the array; none when it cannot be a `T`.
    fn read(array: &Self::Array, row: usize) -> Option<T>;
}

/// As the text that people see.
pub(super) enum Text {}
pub(super) enum TextOrNull {}
pub(super) enum Number {}
pub(super) enum NumberOrNull {}
/// Milliseconds since 1970, UTC.
pub(super) enum Time {}
pub(super) enum Texts {}
/// By name, of a closed vocabulary.
pub(super) enum Name {}
/// A struct of numbers, or null.
pub(super) enum Measures {}

/// What has a name in the API.
pub(super) trait Named: Sized + Copy {
    fn name(self) -> &'static str;
    fn from_name(name: &str) -> Option<Self>;
}

macro_rules! named {
    ($type:ident { $($variant:ident = $name:literal),* }) => {
        impl Named for $type {
            fn name(self) -> &'static str { match self { $(Self::$variant => $name),* } }
            fn from_name(name: &str) -> Option<Self> { match name { $($name => Some(Self::$variant),)* _ => None } }
        }
    };
}
named!(Verdict { Accept = "accept", Reject = "reject" });
named!(Direction { Ingress = "ingress", Egress = "egress" });
named!(Side { Initiator = "initiator", Responder = "responder" });
named!(Path {
    SameHost = "same-host", OtherHost = "other-host", OtherLocation = "other-location", Internet = "internet",
    Site = "site", Peer = "peer", Service = "service", Nowhere = "nowhere"
});

impl<T: Named> Layout<T> for Name {
    type Array = StringArray;
    fn data_type() -> DataType {
        DataType::Utf8
    }
    fn write<'a>(values: impl Iterator<Item = &'a T>) -> ArrayRef
    where
        T: 'a,
    {
        Arc::new(StringArray::from_iter_values(values.map(|value| value.name())))
    }
    fn read(array: &StringArray, row: usize) -> Option<T> {
        T::from_name(array.value(row))
    }
}

/// Texts of values, in the order of rows: a value that is the one before again, as most are, is not written anew.
fn texts<'a, T: Display + PartialEq + 'a>(values: impl Iterator<Item = Option<&'a T>>) -> StringArray {
    let mut texts = StringBuilder::new();
    let mut last = None;
    let mut text = String::new();
    for value in values {
        if value.is_some() && value != last {
            text.clear();
            // Writing to a String cannot fail.
            let _ = value.map(|value| write!(text, "{value}"));
            last = value;
        }
        texts.append_option(value.map(|_| &text));
    }
    texts.finish()
}

impl<T: Display + FromStr + PartialEq> Layout<T> for Text {
    type Array = StringArray;
    fn data_type() -> DataType {
        DataType::Utf8
    }
    fn write<'a>(values: impl Iterator<Item = &'a T>) -> ArrayRef
    where
        T: 'a,
    {
        Arc::new(texts(values.map(Some)))
    }
    fn read(array: &StringArray, row: usize) -> Option<T> {
        array.value(row).parse().ok()
    }
}

impl<T: Display + FromStr + PartialEq> Layout<Option<T>> for TextOrNull {
    type Array = StringArray;
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        DataType::Utf8
    }
    fn write<'a>(values: impl Iterator<Item = &'a Option<T>>) -> ArrayRef
    where
        T: 'a,
    {
        Arc::new(texts(values.map(Option::as_ref)))
    }
    fn read(array: &StringArray, row: usize) -> Option<Option<T>> {
        if array.is_null(row) { Some(None) } else { array.value(row).parse().ok().map(Some) }
    }
}

macro_rules! numbers {
    ($($type:ty, $array:ty, $arrow:ty;)*) => {$(
        impl Layout<$type> for Number {
            type Array = $array;
            fn data_type() -> DataType { <$arrow as ArrowPrimitiveType>::DATA_TYPE }
            fn write<'a>(values: impl Iterator<Item = &'a $type>) -> ArrayRef {
                Arc::new(<$array>::from_iter_values(values.copied()))
            }
            fn read(array: &$array, row: usize) -> Option<$type> { Some(array.value(row)) }
        }
        impl Layout<Option<$type>> for NumberOrNull {
            type Array = $array;
            const NULLABLE: bool = true;
            fn data_type() -> DataType { <$arrow as ArrowPrimitiveType>::DATA_TYPE }
            fn write<'a>(values: impl Iterator<Item = &'a Option<$type>>) -> ArrayRef {
                Arc::new(values.copied().collect::<$array>())
            }
            fn read(array: &$array, row: usize) -> Option<Option<$type>> {
                Some(array.is_valid(row).then(|| array.value(row)))
            }
        }
    )*};
}
numbers! {
    u8, UInt8Array, UInt8Type;
    u16, UInt16Array, UInt16Type;
    u32, UInt32Array, UInt32Type;
    u64, UInt64Array, UInt64Type;
}

impl Layout<Moment> for Time {
    type Array = TimestampMillisecondArray;
    fn data_type() -> DataType {
        DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
    }
    fn write<'a>(values: impl Iterator<Item = &'a Moment>) -> ArrayRef {
        let millis = values.map(|moment| i64::try_from(moment.as_millis()).unwrap_or(i64::MAX));
        Arc::new(TimestampMillisecondArray::from_iter_values(millis).with_timezone("UTC"))
    }
    fn read(array: &TimestampMillisecondArray, row: usize) -> Option<Moment> {
        u64::try_from(array.value(row)).ok()?.checked_mul(1000).map(Moment)
    }
}

impl Layout<Vec<SecurityGroupId>> for Texts {
    type Array = ListArray;
    fn data_type() -> DataType {
        DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)))
    }
    fn write<'a>(values: impl Iterator<Item = &'a Vec<SecurityGroupId>>) -> ArrayRef {
        let mut lists = ListBuilder::new(StringBuilder::new());
        for groups in values {
            groups.iter().for_each(|group| lists.values().append_value(group.to_string()));
            lists.append(true);
        }
        Arc::new(lists.finish())
    }
    fn read(array: &ListArray, row: usize) -> Option<Vec<SecurityGroupId>> {
        let values = array.value(row);
        let texts = values.as_any().downcast_ref::<StringArray>()?;
        texts.iter().map(|text| text?.parse().ok()).collect()
    }
}

impl Layout<Option<RoundTrip>> for Measures {
    type Array = StructArray;
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        let number = |name: &str| Field::new(name, DataType::UInt32, false);
        DataType::Struct(Fields::from_iter(["count", "min", "mean", "max", "smoothed"].map(number)))
    }
    fn write<'a>(values: impl Iterator<Item = &'a Option<RoundTrip>>) -> ArrayRef {
        let mut columns: [UInt32Builder; 5] = Default::default();
        let mut present = Vec::new();
        for value in values {
            let numbers = value.map_or([0; 5], |trip| [trip.count, trip.min, trip.mean, trip.max, trip.smoothed]);
            columns.iter_mut().zip(numbers).for_each(|(column, number)| column.append_value(number));
            present.push(value.is_some());
        }
        let DataType::Struct(fields) = <Self as Layout<Option<RoundTrip>>>::data_type() else {
            return Arc::new(StructArray::new_empty_fields(present.len(), Some(present.into())));
        };
        let columns = columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        Arc::new(StructArray::new(fields, columns, Some(present.into())))
    }
    fn read(array: &StructArray, row: usize) -> Option<Option<RoundTrip>> {
        if array.is_null(row) {
            return Some(None);
        }
        let number = |name| Some(array.column_by_name(name)?.as_any().downcast_ref::<UInt32Array>()?.value(row));
        let (count, min, mean) = (number("count")?, number("min")?, number("mean")?);
        Some(Some(RoundTrip { count, min, mean, max: number("max")?, smoothed: number("smoothed")? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a vocabulary's names against those of the API.
    fn check<T: Named + serde::Serialize + PartialEq + std::fmt::Debug>(all: impl IntoIterator<Item = T>) {
        for value in all {
            assert_eq!(serde_json::to_value(value).unwrap(), value.name());
            assert_eq!(T::from_name(value.name()), Some(value));
        }
    }

    #[test]
    fn names_are_those_of_the_api() {
        check([Verdict::Accept, Verdict::Reject]);
        check([Direction::Ingress, Direction::Egress]);
        check([Side::Initiator, Side::Responder]);
        check(Path::ALL);
    }
}
