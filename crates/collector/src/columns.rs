//! The columns of a part: how a record's fields are laid out for Parquet, and read back.
//!
//! Owns the one table of columns, from which the schema, writing and reading derive; a new field of the record does not
//! compile until it has a row. Ids, addresses and names are text, so that any Parquet reader shows them as we do; account
//! and day are in the folders' names, as Hive has it. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{net::IpAddr, sync::Arc};

use arrow_array::{
    Array, ArrayRef, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array,
    builder::{ListBuilder, StringBuilder},
    types::{UInt8Type, UInt16Type, UInt32Type, UInt64Type},
};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use lucarne_model::{
    AccountId, ConnState, EndReason, FlowRecord, History, HostId, InstanceId, InterfaceId, MitigationId, Moment, RuleId,
    SecurityGroupId, SubnetId, VpcId,
    flow::{self, Direction, Location, Path, RoundTrip, Verdict},
};

use crate::Kept;

/// A batch that is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column `{0}` is missing, of another type, or has a value that does not exist")]
pub(crate) struct BadColumn(&'static str);

/// How values of type `T` are kept.
trait Layout<T> {
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
enum Text {}
enum Number {}
/// Microseconds since 1970, UTC.
enum Time {}
enum TextOrNull {}
enum NumberOrNull {}
enum Texts {}
/// Five numbers side by side, or none of them.
enum TimesOrNull {}

/// What has a name in the API.
trait Named: Sized + Copy {
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
named!(Path {
    SameHost = "same-host", OtherHost = "other-host", OtherLocation = "other-location", Internet = "internet",
    Site = "site", Peer = "peer", Service = "service", Nowhere = "nowhere"
});
type FlowSide = flow::Side;
named!(FlowSide { Initiator = "initiator", Responder = "responder" });

/// By name, of a closed vocabulary.
enum Name {}
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

impl<T: ToString + std::str::FromStr> Layout<T> for Text {
    type Array = StringArray;
    fn data_type() -> DataType {
        DataType::Utf8
    }
    fn write<'a>(values: impl Iterator<Item = &'a T>) -> ArrayRef
    where
        T: 'a,
    {
        Arc::new(StringArray::from_iter_values(values.map(T::to_string)))
    }
    fn read(array: &StringArray, row: usize) -> Option<T> {
        array.value(row).parse().ok()
    }
}

impl<T: ToString + std::str::FromStr> Layout<Option<T>> for TextOrNull {
    type Array = StringArray;
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        DataType::Utf8
    }
    fn write<'a>(values: impl Iterator<Item = &'a Option<T>>) -> ArrayRef
    where
        T: 'a,
    {
        Arc::new(values.map(|value| value.as_ref().map(T::to_string)).collect::<StringArray>())
    }
    fn read(array: &StringArray, row: usize) -> Option<Option<T>> {
        if array.is_null(row) { Some(None) } else { array.value(row).parse().ok().map(Some) }
    }
}

macro_rules! numbers {
    ($($type:ty, $array:ty, $arrow:ty;)*) => {$(
        impl Layout<$type> for Number {
            type Array = $array;
            fn data_type() -> DataType { <$arrow as arrow_array::types::ArrowPrimitiveType>::DATA_TYPE }
            fn write<'a>(values: impl Iterator<Item = &'a $type>) -> ArrayRef {
                Arc::new(<$array>::from_iter_values(values.copied()))
            }
            fn read(array: &$array, row: usize) -> Option<$type> { Some(array.value(row)) }
        }
        impl Layout<Option<$type>> for NumberOrNull {
            type Array = $array;
            const NULLABLE: bool = true;
            fn data_type() -> DataType { <$arrow as arrow_array::types::ArrowPrimitiveType>::DATA_TYPE }
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
    type Array = TimestampMicrosecondArray;
    fn data_type() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }
    fn write<'a>(values: impl Iterator<Item = &'a Moment>) -> ArrayRef {
        let micros = values.map(|moment| i64::try_from(moment.as_micros()).unwrap_or(i64::MAX));
        Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
    }
    fn read(array: &TimestampMicrosecondArray, row: usize) -> Option<Moment> {
        u64::try_from(array.value(row)).ok().map(Moment)
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

fn round_trip_fields() -> Fields {
    let names = ["count", "min", "mean", "max", "smoothed"];
    names.iter().map(|name| Field::new(*name, DataType::UInt32, false)).collect()
}

impl Layout<Option<RoundTrip>> for TimesOrNull {
    type Array = StructArray;
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        DataType::Struct(round_trip_fields())
    }
    fn write<'a>(values: impl Iterator<Item = &'a Option<RoundTrip>>) -> ArrayRef {
        let nothing = RoundTrip { count: 0, min: 0, mean: 0, max: 0, smoothed: 0 };
        let (nulls, values): (Vec<bool>, Vec<RoundTrip>) =
            values.map(|value| (value.is_some(), value.unwrap_or(nothing))).unzip();
        let parts: [fn(&RoundTrip) -> u32; 5] = [|r| r.count, |r| r.min, |r| r.mean, |r| r.max, |r| r.smoothed];
        let columns = parts.map(|part| Arc::new(values.iter().map(part).collect::<UInt32Array>()) as ArrayRef);
        Arc::new(StructArray::new(round_trip_fields(), columns.to_vec(), Some(nulls.into())))
    }
    fn read(array: &StructArray, row: usize) -> Option<Option<RoundTrip>> {
        if array.is_null(row) {
            return Some(None);
        }
        let part = |at: usize| Some(array.columns().get(at)?.as_any().downcast_ref::<UInt32Array>()?.value(row));
        let (count, min, mean, max, smoothed) = (part(0)?, part(1)?, part(2)?, part(3)?, part(4)?);
        Some(Some(RoundTrip { count, min, mean, max, smoothed }))
    }
}

macro_rules! columns {
    ($($field:ident: $type:ty, $layout:ty;)*) => {
        /// The schema of parts: `serial` (the record's number), then the fields of [`FlowRecord`] by their names.
        pub(crate) fn schema() -> SchemaRef {
            Arc::new(Schema::new(vec![
                Field::new("serial", DataType::UInt64, false),
                $(Field::new(
                    stringify!($field),
                    <$layout as Layout<$type>>::data_type(),
                    <$layout as Layout<$type>>::NULLABLE,
                ),)*
            ]))
        }

        /// The rows as one batch of [`schema`].
        pub(crate) fn batch(rows: &[Kept]) -> Result<RecordBatch, ArrowError> {
            RecordBatch::try_new(schema(), vec![
                <Number as Layout<u64>>::write(rows.iter().map(|row| &row.serial)),
                $(<$layout as Layout<$type>>::write(rows.iter().map(|row| &row.record.$field)),)*
            ])
        }

        /// A batch as rows.
        pub(crate) struct Rows<'a> {
            account: AccountId,
            serial: &'a UInt64Array,
            $($field: &'a <$layout as Layout<$type>>::Array,)*
        }

        impl<'a> Rows<'a> {
            /// The rows of a batch that was read from a part of `account`.
            pub(crate) fn of(account: AccountId, batch: &'a RecordBatch) -> Result<Self, BadColumn> {
                Ok(Self {
                    account,
                    serial: column(batch, "serial")?,
                    $($field: column(batch, stringify!($field))?,)*
                })
            }

            /// A row of the batch.
            pub(crate) fn get(&self, row: usize) -> Result<Kept, BadColumn> {
                let record = FlowRecord {
                    account: self.account,
                    $($field: <$layout as Layout<$type>>::read(self.$field, row)
                        .ok_or(BadColumn(stringify!($field)))?,)*
                };
                Ok(Kept { serial: self.serial.value(row), record })
            }
        }
    };
}

columns! {
    flow_id: u64, Number;
    instance: InstanceId, Text;
    interface: InterfaceId, Text;
    subnet: SubnetId, Text;
    vpc: VpcId, Text;
    host: HostId, Text;
    location: Location, Text;
    groups: Vec<SecurityGroupId>, Texts;
    rule: Option<RuleId>, TextOrNull;
    verdict: Verdict, Name;
    end_reason: EndReason, Text;
    direction: Direction, Name;
    path: Path, Name;
    side: FlowSide, Name;
    start: Moment, Time;
    end: Moment, Time;
    packets: u64, Number;
    bytes: u64, Number;
    source: IpAddr, Text;
    destination: IpAddr, Text;
    source_port: u16, Number;
    destination_port: u16, Number;
    protocol: u8, Number;
    icmp_type: Option<u8>, NumberOrNull;
    icmp_code: Option<u8>, NumberOrNull;
    tos: u8, Number;
    ttl: u8, Number;
    tcp_flags: u16, Number;
    source_prefix_length: Option<u8>, NumberOrNull;
    destination_prefix_length: Option<u8>, NumberOrNull;
    next_hop: Option<IpAddr>, TextOrNull;
    history: History, Text;
    conn_state: ConnState, Text;
    round_trip: Option<RoundTrip>, TimesOrNull;
    retransmissions: u32, Number;
    zero_windows: u32, Number;
    ingress_interface: u32, Number;
    egress_interface: u32, Number;
    mitigation: Option<MitigationId>, TextOrNull;
}

fn column<'a, A: Array + 'static>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a A, BadColumn> {
    batch.column_by_name(name).and_then(|array| array.as_any().downcast_ref()).ok_or(BadColumn(name))
}

/// What a closed vocabulary's value is called in its column.
pub(crate) fn verdict_name(verdict: Verdict) -> &'static str {
    verdict.name()
}
pub(crate) fn direction_name(direction: Direction) -> &'static str {
    direction.name()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_records::numbered;

    #[test]
    fn rows_read_back_as_written() {
        let rows: Vec<_> = (0..).zip(numbered(0..50)).map(|(serial, record)| Kept { serial, record }).collect();
        let batch = batch(&rows).unwrap();
        // Accounts are not in the batch, so these are read back under one.
        let account = rows[0].record.account;
        let read = Rows::of(account, &batch).unwrap();
        for (index, mut row) in rows.into_iter().enumerate() {
            row.record.account = account;
            assert_eq!(read.get(index), Ok(row));
        }
    }

    #[test]
    fn names_are_those_of_the_api() {
        for verdict in [Verdict::Accept, Verdict::Reject] {
            assert_eq!(serde_json::to_value(verdict).unwrap(), verdict.name());
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            assert_eq!(serde_json::to_value(direction).unwrap(), direction.name());
        }
        for path in Path::ALL {
            assert_eq!(serde_json::to_value(path).unwrap(), path.name());
        }
        for side in [FlowSide::Initiator, FlowSide::Responder] {
            assert_eq!(serde_json::to_value(side).unwrap(), side.name());
        }
    }

    #[test]
    fn a_batch_without_a_column_is_refused_by_its_name() {
        let batch = batch(&[]).unwrap().project(&[0, 1]).unwrap();
        assert_eq!(Rows::of(AccountId::OPERATOR, &batch).err(), Some(BadColumn("instance")));
    }
}
