//! The columns of a part: how a record's fields are laid out for Parquet and SQL, and read back.
//!
//! Owns the one table of columns, from which schemas, writing and reading derive; a new field of the record does not
//! compile until it has a row. What is shown to tenants and what is the operator's own are two lists, held against the
//! record's two types by the compiler, and kept in two files. How values look is the matter of [`layout`]. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod layout;

use std::sync::{Arc, LazyLock};

use arrow_array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use lucarne_model::{
    AccountId, ConnState, EndReason, FlowRecord, History, HostId, InstanceId, InterfaceId, MitigationId, Moment,
    RuleId, SecurityGroupId, SubnetId, TenantFlowRecord, VpcId,
    flow::{Direction, Location, Path, RoundTrip, Side, Verdict},
};
use std::net::IpAddr;

use self::layout::{Layout, Measures, Name, Named as _, Number, NumberOrNull, Text, TextOrNull, Texts, Time};
use crate::Kept;

/// A batch that is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column `{0}` is missing, of another type, or has a value that does not exist")]
pub(crate) struct BadColumn(&'static str);

/// Whose columns are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// `serial` (the record's number) and what tenants see, by the names of [`TenantFlowRecord`].
    Shown,
    /// What is the operator's own, in rows that stand beside those of [`Columns::Shown`].
    Own,
    /// Both, shown ones first.
    All,
}

macro_rules! columns {
    (shown { $($field:ident: $type:ty, $layout:ty;)* } own { $($own:ident: $own_type:ty, $own_layout:ty;)* }) => {
        fn shown_fields() -> Vec<Field> {
            vec![Field::new("serial", DataType::UInt64, false), $(field::<$type, $layout>(stringify!($field)),)*]
        }
        fn own_fields() -> Vec<Field> {
            vec![$(field::<$own_type, $own_layout>(stringify!($own)),)*]
        }

        /// The column `name` of the rows.
        pub(crate) fn array(name: &str, rows: &[&Kept]) -> Result<ArrayRef, ArrowError> {
            match name {
                "serial" => Ok(<Number as Layout<u64>>::write(rows.iter().map(|row| &row.serial))),
                $(stringify!($field) => Ok(<$layout as Layout<$type>>::write(rows.iter().map(|row| &row.record.$field))),)*
                $(stringify!($own) => Ok(<$own_layout as Layout<$own_type>>::write(rows.iter().map(|row| &row.record.$own))),)*
                _ => Err(ArrowError::SchemaError(format!("there is no column `{name}`"))),
            }
        }

        /// Does not compile unless `shown` above lists just the fields that tenants see.
        const _: fn(TenantFlowRecord) = |TenantFlowRecord { $($field: _,)* }| ();

        /// Batches as rows.
        pub(crate) struct Rows<'a> {
            serial: &'a UInt64Array,
            $($field: &'a <$layout as Layout<$type>>::Array,)*
            $($own: &'a <$own_layout as Layout<$own_type>>::Array,)*
        }

        impl<'a> Rows<'a> {
            /// The rows of two batches that stand side by side.
            pub(crate) fn of(shown: &'a RecordBatch, own: &'a RecordBatch) -> Result<Self, BadColumn> {
                if shown.num_rows() != own.num_rows() {
                    return Err(BadColumn("host"));
                }
                Ok(Self {
                    serial: column(shown, "serial")?,
                    $($field: column(shown, stringify!($field))?,)*
                    $($own: column(own, stringify!($own))?,)*
                })
            }

            /// A row of the batches.
            pub(crate) fn get(&self, row: usize) -> Result<Kept, BadColumn> {
                let record = FlowRecord {
                    $($field: <$layout as Layout<$type>>::read(self.$field, row)
                        .ok_or(BadColumn(stringify!($field)))?,)*
                    $($own: <$own_layout as Layout<$own_type>>::read(self.$own, row)
                        .ok_or(BadColumn(stringify!($own)))?,)*
                };
                Ok(Kept { serial: self.serial.value(row), record })
            }
        }
    };
}

columns! {
    shown {
        flow_id: u64, Number;
        account: AccountId, Text;
        instance: InstanceId, Text;
        interface: InterfaceId, Text;
        subnet: SubnetId, Text;
        vpc: VpcId, Text;
        location: Location, Text;
        groups: Vec<SecurityGroupId>, Texts;
        rule: Option<RuleId>, TextOrNull;
        verdict: Verdict, Name;
        end_reason: EndReason, Text;
        direction: Direction, Name;
        path: Path, Name;
        side: Side, Name;
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
        round_trip: Option<RoundTrip>, Measures;
        retransmissions: u32, Number;
        zero_windows: u32, Number;
    }
    own {
        host: HostId, Text;
        ingress_interface: u32, Number;
        egress_interface: u32, Number;
        mitigation: Option<MitigationId>, TextOrNull;
    }
}

fn field<T, L: Layout<T>>(name: &str) -> Field {
    Field::new(name, L::data_type(), L::NULLABLE)
}

/// The schema of the columns.
pub(crate) fn schema(columns: Columns) -> SchemaRef {
    static SHOWN: LazyLock<SchemaRef> = LazyLock::new(|| Arc::new(Schema::new(shown_fields())));
    static OWN: LazyLock<SchemaRef> = LazyLock::new(|| Arc::new(Schema::new(own_fields())));
    static ALL: LazyLock<SchemaRef> = LazyLock::new(|| Arc::new(Schema::new([shown_fields(), own_fields()].concat())));
    let schema: &LazyLock<SchemaRef> = match columns {
        Columns::Shown => &SHOWN,
        Columns::Own => &OWN,
        Columns::All => &ALL,
    };
    SchemaRef::clone(schema)
}

/// The rows as one batch.
pub(crate) fn batch(columns: Columns, rows: &[&Kept]) -> Result<RecordBatch, ArrowError> {
    let schema = schema(columns);
    let arrays = schema.fields().iter().map(|field| array(field.name(), rows)).collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema, arrays)
}

pub(crate) fn column<'a, A: Array + 'static>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a A, BadColumn> {
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

    fn rows() -> Vec<Kept> {
        (0..).zip(numbered(0..50)).map(|(serial, record)| Kept { serial, record }).collect()
    }

    #[test]
    fn rows_read_back_as_written() {
        let rows = rows();
        let refs: Vec<&Kept> = rows.iter().collect();
        let (shown, own) = (batch(Columns::Shown, &refs).unwrap(), batch(Columns::Own, &refs).unwrap());
        let read = Rows::of(&shown, &own).unwrap();
        for (index, row) in rows.into_iter().enumerate() {
            assert_eq!(read.get(index), Ok(row));
        }
    }

    #[test]
    fn no_column_is_both_shown_and_the_operators_own() {
        let (shown, own) = (schema(Columns::Shown), schema(Columns::Own));
        assert!(own.fields().iter().all(|field| shown.field_with_name(field.name()).is_err()));
        assert_eq!(schema(Columns::All).fields().len(), shown.fields().len() + own.fields().len());
    }

    #[test]
    fn a_batch_without_a_column_is_refused_by_its_name() {
        let shown = batch(Columns::Shown, &[]).unwrap().project(&[0, 1, 2]).unwrap();
        let own = batch(Columns::Own, &[]).unwrap();
        assert_eq!(Rows::of(&shown, &own).err(), Some(BadColumn("instance")));
    }
}
