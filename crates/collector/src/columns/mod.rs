//! The columns of a part: how a record's fields are laid out for Parquet and SQL, and read back.
//!
//! Owns the one table of columns, from which schemas, writing and reading derive; a new field of the record does not
//! compile until it has a row. What is shown to tenants and what is the operator's own are two lists, held against the
//! record's two types by the compiler, and kept in two files. How columns in memory become arrays is the matter of
//! [`Picked`], how values are read back that of [`layout`]. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod layout;
mod picked;

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use self::layout::{Layout, Measures, Name, Named, Number, NumberOrNull, Text, TextOrNull, Texts, Time};
pub(crate) use self::picked::Picked;
#[cfg(test)]
pub(crate) use self::picked::spelt_out;
use crate::Kept;
use arrow_array::{
    Array, ArrayRef, RecordBatch, UInt64Array,
    types::{UInt8Type, UInt16Type, UInt32Type, UInt64Type},
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use lucarne_model::{
    AccountId, ConnState, EndReason, FlowRecord, History, HostId, InstanceId, InterfaceId, MitigationId, Moment,
    RuleId, SecurityGroupId, SubnetId, TenantFlowRecord, VpcId,
    flow::{Direction, Location, Path, RoundTrip, Side, Verdict},
};

/// A batch that is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column `{0}` is missing, of another type, or has a value that does not exist")]
pub(crate) struct BadColumn(&'static str);

impl BadColumn {
    pub(crate) const fn missing(name: &'static str) -> Self {
        Self(name)
    }
}

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
    (
        shown { $($field:ident: $type:ty, $layout:ty, $array:expr;)* }
        own { $($own:ident: $own_type:ty, $own_layout:ty, $own_array:expr;)* }
    ) => {
        fn shown_fields() -> Vec<Field> {
            vec![Field::new("serial", DataType::UInt64, false), $(field::<$type, $layout>(stringify!($field)),)*]
        }
        fn own_fields() -> Vec<Field> {
            vec![$(field::<$own_type, $own_layout>(stringify!($own)),)*]
        }

        /// The column `name` of the picked records.
        fn array(name: &str, picked: &Picked<'_>) -> Result<ArrayRef, ArrowError> {
            let make: fn(&Picked<'_>) -> ArrayRef = match name {
                "serial" => |p| p.serials(),
                $(stringify!($field) => $array,)*
                $(stringify!($own) => $own_array,)*
                _ => return Err(ArrowError::SchemaError(format!("there is no column `{name}`"))),
            };
            Ok(make(picked))
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
        flow_id: u64, Number, |p| p.numbers::<UInt64Type>(&p.flows.flow_id);
        account: AccountId, Text, |p| p.texts(&p.flows.identity, |of| of.account);
        instance: InstanceId, Text, |p| p.texts(&p.flows.identity, |of| of.instance);
        interface: InterfaceId, Text, |p| p.texts(&p.flows.identity, |of| of.interface);
        subnet: SubnetId, Text, |p| p.texts(&p.flows.identity, |of| of.subnet);
        vpc: VpcId, Text, |p| p.texts(&p.flows.identity, |of| of.vpc);
        location: Location, Text, |p| p.texts(&p.flows.location, |location| location);
        groups: Vec<SecurityGroupId>, Texts, |p| p.lists(&p.flows.groups);
        rule: Option<RuleId>, TextOrNull, |p| p.texts_or_null(&p.flows.rule);
        verdict: Verdict, Name, |p| p.words(&p.flows.verdict, Named::name);
        end_reason: EndReason, Text, |p| p.words(&p.flows.end_reason, EndReason::name);
        direction: Direction, Name, |p| p.words(&p.flows.direction, Named::name);
        path: Path, Name, |p| p.words(&p.flows.path, Named::name);
        side: Side, Name, |p| p.words(&p.flows.side, Named::name);
        start: Moment, Time, |p| p.times(&p.flows.start);
        end: Moment, Time, |p| p.times(&p.flows.end);
        packets: u64, Number, |p| p.numbers::<UInt64Type>(&p.flows.packets);
        bytes: u64, Number, |p| p.numbers::<UInt64Type>(&p.flows.bytes);
        source: IpAddr, Text, |p| p.addresses(&p.flows.source);
        destination: IpAddr, Text, |p| p.addresses(&p.flows.destination);
        source_port: u16, Number, |p| p.numbers::<UInt16Type>(&p.flows.source_port);
        destination_port: u16, Number, |p| p.numbers::<UInt16Type>(&p.flows.destination_port);
        protocol: u8, Number, |p| p.numbers::<UInt8Type>(&p.flows.protocol);
        icmp_type: Option<u8>, NumberOrNull, |p| p.small_numbers(&p.flows.icmp_type);
        icmp_code: Option<u8>, NumberOrNull, |p| p.small_numbers(&p.flows.icmp_code);
        tos: u8, Number, |p| p.numbers::<UInt8Type>(&p.flows.tos);
        ttl: u8, Number, |p| p.numbers::<UInt8Type>(&p.flows.ttl);
        tcp_flags: u16, Number, |p| p.numbers::<UInt16Type>(&p.flows.tcp_flags);
        source_prefix_length: Option<u8>, NumberOrNull, |p| p.lengths(&p.flows.source_prefix_length);
        destination_prefix_length: Option<u8>, NumberOrNull, |p| p.lengths(&p.flows.destination_prefix_length);
        next_hop: Option<IpAddr>, TextOrNull, |p| p.addresses_or_null(&p.flows.next_hop);
        history: History, Text, |p| p.texts(&p.flows.history, |history| history);
        conn_state: ConnState, Text, |p| p.words(&p.flows.conn_state, ConnState::name);
        round_trip: Option<RoundTrip>, Measures, |p| p.round_trips();
        retransmissions: u32, Number, |p| p.numbers::<UInt32Type>(&p.flows.retransmissions);
        zero_windows: u32, Number, |p| p.numbers::<UInt32Type>(&p.flows.zero_windows);
    }
    own {
        host: HostId, Text, |p| p.texts(&p.flows.identity, |of| of.host);
        ingress_interface: u32, Number, |p| p.numbers::<UInt32Type>(&p.flows.ingress_interface);
        egress_interface: u32, Number, |p| p.numbers::<UInt32Type>(&p.flows.egress_interface);
        mitigation: Option<MitigationId>, TextOrNull, |p| p.texts_or_null(&p.flows.mitigation);
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
    use lucarne_flows::columns::FlowColumns;

    use super::*;
    use crate::test_records::numbered;

    fn batch(columns: Columns, records: &[FlowRecord]) -> RecordBatch {
        let flows = FlowColumns::of(records);
        let rows: Vec<u32> = (0..flows.len() as u32).collect();
        Picked { flows: &flows, first: 0, rows: &rows }.batch(&schema(columns)).unwrap()
    }

    #[test]
    fn rows_read_back_as_written() {
        let records = numbered(0..50);
        let (shown, own) = (batch(Columns::Shown, &records), batch(Columns::Own, &records));
        let read = Rows::of(&shown, &own).unwrap();
        for (index, record) in records.into_iter().enumerate() {
            assert_eq!(read.get(index), Ok(Kept { serial: index as u64, record }));
        }
    }

    /// Each row once, in the order that is asked for.
    #[test]
    fn picked_rows_come_in_their_order() {
        let records = numbered(0..50);
        let flows = FlowColumns::of(&records);
        let picked = Picked { flows: &flows, first: 7, rows: &[40, 3, 9] };
        let (shown, own) =
            (picked.batch(&schema(Columns::Shown)).unwrap(), picked.batch(&schema(Columns::Own)).unwrap());
        let read = Rows::of(&shown, &own).unwrap();
        for (at, row) in [40, 3, 9].into_iter().enumerate() {
            assert_eq!(read.get(at), Ok(Kept { serial: 7 + row as u64, record: records[row].clone() }));
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
        let shown = batch(Columns::Shown, &[]).project(&[0, 1, 2]).unwrap();
        let own = batch(Columns::Own, &[]);
        assert_eq!(Rows::of(&shown, &own).err(), Some(BadColumn("instance")));
    }
}
