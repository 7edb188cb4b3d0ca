//! The columns of other exporters' records, by the names of [`ForeignRecord`]'s fields. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use arrow_array::{
    ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use lucarne_flows::foreign::ForeignRecord;
use lucarne_model::Moment;

fn text<T: ToString>(records: &[ForeignRecord], value: impl Fn(&ForeignRecord) -> T) -> ArrayRef {
    Arc::new(records.iter().map(|record| Some(value(record).to_string())).collect::<StringArray>())
}

fn time(records: &[ForeignRecord], value: impl Fn(&ForeignRecord) -> Moment) -> ArrayRef {
    let micros = records.iter().map(|record| i64::try_from(value(record).as_micros()).unwrap_or(i64::MAX));
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
}

/// Whether the column came after the first files, which have nulls there.
fn is_late(column: &str) -> bool {
    column == "sampling_rate"
}

macro_rules! columns {
    ($($field:ident: $data_type:expr, $array:expr;)*) => {
        pub(super) fn schema() -> SchemaRef {
            Arc::new(Schema::new(vec![$(Field::new(stringify!($field), $data_type, is_late(stringify!($field))),)*]))
        }

        /// Does not compile unless each field has its column.
        const _: fn(ForeignRecord) = |ForeignRecord { $($field: _,)* }| ();

        pub(super) fn batch(records: &[ForeignRecord]) -> Result<RecordBatch, ArrowError> {
            RecordBatch::try_new(schema(), vec![$($array(records),)*])
        }
    };
}

macro_rules! numbers {
    ($array:ident, $field:ident) => {
        |records: &[ForeignRecord]| -> ArrayRef {
            Arc::new($array::from_iter_values(records.iter().map(|record| record.$field)))
        }
    };
}

const TIME: TimeUnit = TimeUnit::Microsecond;

columns! {
    exporter: DataType::Utf8, |records: &[ForeignRecord]| text(records, |record| record.exporter);
    domain: DataType::UInt32, numbers!(UInt32Array, domain);
    start: DataType::Timestamp(TIME, Some("UTC".into())), |records: &[ForeignRecord]| time(records, |record| record.start);
    end: DataType::Timestamp(TIME, Some("UTC".into())), |records: &[ForeignRecord]| time(records, |record| record.end);
    source: DataType::Utf8, |records: &[ForeignRecord]| text(records, |record| record.source);
    destination: DataType::Utf8, |records: &[ForeignRecord]| text(records, |record| record.destination);
    source_port: DataType::UInt16, numbers!(UInt16Array, source_port);
    destination_port: DataType::UInt16, numbers!(UInt16Array, destination_port);
    protocol: DataType::UInt8, numbers!(UInt8Array, protocol);
    tos: DataType::UInt8, numbers!(UInt8Array, tos);
    tcp_flags: DataType::UInt16, numbers!(UInt16Array, tcp_flags);
    packets: DataType::UInt64, numbers!(UInt64Array, packets);
    bytes: DataType::UInt64, numbers!(UInt64Array, bytes);
    ingress_interface: DataType::UInt32, numbers!(UInt32Array, ingress_interface);
    egress_interface: DataType::UInt32, numbers!(UInt32Array, egress_interface);
    sampling_rate: DataType::UInt32, numbers!(UInt32Array, sampling_rate);
}
