//! How values of the record's types look in Arrow arrays, and are read back.
//!
//! Owns one [`Layout`] for each kind of value, and the words of each closed vocabulary ([`Word`]). Ids, addresses and names are text, so that any Parquet reader shows them
//! as we do; the file's dictionaries make that cost no more than numbers would. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{
    str::FromStr,
    sync::{Arc, LazyLock},
};

use arrow_array::{
    Array, ArrayRef, ListArray, StringArray, StructArray, TimestampMillisecondArray, UInt8Array, UInt16Array,
    UInt32Array, UInt64Array,
    types::{ArrowPrimitiveType, UInt8Type, UInt16Type, UInt32Type, UInt64Type},
};
use arrow_schema::{DataType, Field, FieldRef, Fields, TimeUnit};
use lucarne_model::{
    ConnState, EndReason, Moment, SecurityGroupId,
    flow::{Direction, Path, RoundTrip, Side, Verdict},
};

/// How values of type `T` are kept.
pub(super) trait Layout<T> {
    type Array: Array + 'static;
    const NULLABLE: bool = false;
    fn data_type() -> DataType;
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

/// A word of a closed vocabulary, by its code a place among the names of all.
pub(super) trait Word: Copy {
    fn code(self) -> u8;
    /// Each word's name at its code.
    fn names() -> &'static ArrayRef;
}

macro_rules! words {
    ($($type:ident: $all:expr, $code:expr, $name:expr;)*) => {$(
        impl Word for $type {
            fn code(self) -> u8 {
                ($code)(self)
            }
            fn names() -> &'static ArrayRef {
                static NAMES: LazyLock<ArrayRef> =
                    LazyLock::new(|| names($all.iter().map(|word| (word.code(), ($name)(*word)))));
                &NAMES
            }
        }
    )*};
}
words! {
    Verdict: [Verdict::Accept, Verdict::Reject], |word| word as u8, Named::name;
    Direction: [Direction::Ingress, Direction::Egress], |word| word as u8, Named::name;
    Side: [Side::Initiator, Side::Responder], |word| word as u8, Named::name;
    Path: Path::ALL, Path::code, Named::name;
    EndReason: EndReason::ALL, EndReason::code, EndReason::name;
    ConnState: ConnState::ALL, ConnState::code, ConnState::name;
}

fn names(words: impl Iterator<Item = (u8, &'static str)>) -> ArrayRef {
    let mut names = Vec::new();
    for (code, name) in words {
        let at = usize::from(code);
        names.resize(names.len().max(at + 1), "");
        names[at] = name;
    }
    Arc::new(StringArray::from_iter_values(names))
}

impl<T: Named> Layout<T> for Name {
    type Array = StringArray;
    fn data_type() -> DataType {
        DataType::Utf8
    }
    fn read(array: &StringArray, row: usize) -> Option<T> {
        T::from_name(array.value(row))
    }
}

impl<T: FromStr> Layout<T> for Text {
    type Array = StringArray;
    fn data_type() -> DataType {
        DataType::Utf8
    }
    fn read(array: &StringArray, row: usize) -> Option<T> {
        array.value(row).parse().ok()
    }
}

impl<T: FromStr> Layout<Option<T>> for TextOrNull {
    type Array = StringArray;
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        DataType::Utf8
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
            fn read(array: &$array, row: usize) -> Option<$type> { Some(array.value(row)) }
        }
        impl Layout<Option<$type>> for NumberOrNull {
            type Array = $array;
            const NULLABLE: bool = true;
            fn data_type() -> DataType { <$arrow as ArrowPrimitiveType>::DATA_TYPE }
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
    fn read(array: &TimestampMillisecondArray, row: usize) -> Option<Moment> {
        u64::try_from(array.value(row)).ok()?.checked_mul(1000).map(Moment)
    }
}

impl Texts {
    /// What a list holds.
    pub(super) fn item() -> FieldRef {
        Arc::new(Field::new_list_field(DataType::Utf8, true))
    }
}

impl Layout<Vec<SecurityGroupId>> for Texts {
    type Array = ListArray;
    fn data_type() -> DataType {
        DataType::List(Self::item())
    }
    fn read(array: &ListArray, row: usize) -> Option<Vec<SecurityGroupId>> {
        let values = array.value(row);
        let texts = values.as_any().downcast_ref::<StringArray>()?;
        texts.iter().map(|text| text?.parse().ok()).collect()
    }
}

impl Measures {
    pub(super) fn fields() -> Fields {
        let number = |name: &str| Field::new(name, DataType::UInt32, false);
        Fields::from_iter(["count", "min", "mean", "max", "smoothed"].map(number))
    }
}

impl Layout<Option<RoundTrip>> for Measures {
    type Array = StructArray;
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        DataType::Struct(Self::fields())
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
    fn every_word_has_a_name() {
        let named = |names: &ArrayRef, most: usize| assert_eq!(names.len(), most + 1);
        named(Verdict::names(), Verdict::Reject as usize);
        named(Direction::names(), Direction::Egress as usize);
        named(Side::names(), Side::Responder as usize);
    }

    #[test]
    fn names_are_those_of_the_api() {
        check([Verdict::Accept, Verdict::Reject]);
        check([Direction::Ingress, Direction::Egress]);
        check([Side::Initiator, Side::Responder]);
        check(Path::ALL);
    }
}
