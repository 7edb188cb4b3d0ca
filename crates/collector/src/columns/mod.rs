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

use self::layout::{Layout, Measures, Name, Named as _, Number, NumberOrNull, Text, TextOrNull, Texts, Time};
pub(crate) use self::picked::{Picked, Whole, put_address, spelt_out};
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

        /// How each column of a chunk is made where it lies, in the order of [`Columns::All`].
        static ARRAYS: &[(&str, fn(&Whole<'_>) -> Result<ArrayRef, ArrowError>)] = &[
            ("serial", |w| Ok(w.serials())),
            $((stringify!($field), $array),)*
            $((stringify!($own), $own_array),)*
        ];

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
        flow_id: u64, Number, |w| Ok(w.numbers::<UInt64Type>(|flows| &flows.flow_id));
        account: AccountId, Text, |w| w.texts(|flows| &flows.identity, |of| of.account);
        instance: InstanceId, Text, |w| w.texts(|flows| &flows.identity, |of| of.instance);
        interface: InterfaceId, Text, |w| w.texts(|flows| &flows.identity, |of| of.interface);
        subnet: SubnetId, Text, |w| w.texts(|flows| &flows.identity, |of| of.subnet);
        vpc: VpcId, Text, |w| w.texts(|flows| &flows.identity, |of| of.vpc);
        location: Location, Text, |w| w.texts(|flows| &flows.location, |location| location.clone());
        groups: Vec<SecurityGroupId>, Texts, |w| w.lists(|flows| &flows.groups);
        rule: Option<RuleId>, TextOrNull, |w| w.texts_or_null(|flows| &flows.rule);
        verdict: Verdict, Name, |w| w.words(|flows| &flows.verdict);
        end_reason: EndReason, Text, |w| w.words(|flows| &flows.end_reason);
        direction: Direction, Name, |w| w.words(|flows| &flows.direction);
        path: Path, Name, |w| w.words(|flows| &flows.path);
        side: Side, Name, |w| w.words(|flows| &flows.side);
        start: Moment, Time, |w| Ok(w.times(|flows| &flows.start));
        end: Moment, Time, |w| Ok(w.times(|flows| &flows.end));
        packets: u64, Number, |w| Ok(w.numbers::<UInt64Type>(|flows| &flows.packets));
        bytes: u64, Number, |w| Ok(w.numbers::<UInt64Type>(|flows| &flows.bytes));
        source: IpAddr, Text, |w| w.addresses(|flows| &flows.source);
        destination: IpAddr, Text, |w| w.addresses(|flows| &flows.destination);
        source_port: u16, Number, |w| Ok(w.numbers::<UInt16Type>(|flows| &flows.source_port));
        destination_port: u16, Number, |w| Ok(w.numbers::<UInt16Type>(|flows| &flows.destination_port));
        protocol: u8, Number, |w| Ok(w.numbers::<UInt8Type>(|flows| &flows.protocol));
        icmp_type: Option<u8>, NumberOrNull, |w| Ok(w.small_numbers(&w.flows().icmp_type));
        icmp_code: Option<u8>, NumberOrNull, |w| Ok(w.small_numbers(&w.flows().icmp_code));
        tos: u8, Number, |w| Ok(w.numbers::<UInt8Type>(|flows| &flows.tos));
        ttl: u8, Number, |w| Ok(w.numbers::<UInt8Type>(|flows| &flows.ttl));
        tcp_flags: u16, Number, |w| Ok(w.numbers::<UInt16Type>(|flows| &flows.tcp_flags));
        source_prefix_length: Option<u8>, NumberOrNull, |w| Ok(w.lengths(|flows| &flows.source_prefix_length));
        destination_prefix_length: Option<u8>, NumberOrNull, |w| Ok(w.lengths(|flows| &flows.destination_prefix_length));
        next_hop: Option<IpAddr>, TextOrNull, |w| w.addresses_or_null(|flows| &flows.next_hop);
        history: History, Text, |w| w.texts(|flows| &flows.history, |history| *history);
        conn_state: ConnState, Text, |w| w.words(|flows| &flows.conn_state);
        round_trip: Option<RoundTrip>, Measures, |w| Ok(w.round_trips());
        retransmissions: u32, Number, |w| Ok(w.numbers::<UInt32Type>(|flows| &flows.retransmissions));
        zero_windows: u32, Number, |w| Ok(w.numbers::<UInt32Type>(|flows| &flows.zero_windows));
    }
    own {
        host: HostId, Text, |w| w.texts(|flows| &flows.identity, |of| of.host);
        ingress_interface: u32, Number, |w| Ok(w.numbers::<UInt32Type>(|flows| &flows.ingress_interface));
        egress_interface: u32, Number, |w| Ok(w.numbers::<UInt32Type>(|flows| &flows.egress_interface));
        mitigation: Option<MitigationId>, TextOrNull, |w| w.texts_or_null(|flows| &flows.mitigation);
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
pub(crate) fn path_name(path: Path) -> &'static str {
    path.name()
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray as _;
    use lucarne_flows::columns::FlowColumns;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        chunk::Chunk,
        test_records::{numbered, record},
    };

    fn batch(columns: Columns, records: &[FlowRecord]) -> RecordBatch {
        Whole(&Chunk::of(0, records)).batch(None, &schema(columns)).unwrap()
    }

    fn rows(shown: &RecordBatch, own: &RecordBatch) -> Vec<Kept> {
        let rows = Rows::of(shown, own).unwrap();
        (0..shown.num_rows()).map(|row| rows.get(row).unwrap()).collect()
    }

    /// The records as columns hold them.
    fn kept(first: u64, records: &[FlowRecord]) -> Vec<Kept> {
        let flows = FlowColumns::of(records);
        (first..).zip(flows.rows()).map(|(serial, record)| Kept { serial, record }).collect()
    }

    proptest! {
        /// All rows, none, or some in any order, spelt out at once or by way of the arrays where they lie.
        #[test]
        fn rows_read_back_as_written(numbers in prop::collection::vec(0u64..5000, 0..80), picks: Vec<prop::sample::Index>) {
            let records: Vec<FlowRecord> = numbers.into_iter().map(record).collect();
            let chunk = Chunk::of(7, &records);
            let expected = kept(7, &records);
            let all = |rows: Option<&[u32]>, columns| Whole(&chunk).batch(rows, &schema(columns)).unwrap();
            prop_assert_eq!(&rows(&all(None, Columns::Shown), &all(None, Columns::Own)), &expected);
            let picks = if records.is_empty() { Vec::new() } else { picks };
            let picks: Vec<u32> = picks.iter().map(|pick| pick.index(records.len()) as u32).collect();
            let expected: Vec<Kept> = picks.iter().map(|row| expected[*row as usize].clone()).collect();
            let some = Some(&picks[..]);
            prop_assert_eq!(&rows(&all(some, Columns::Shown), &all(some, Columns::Own)), &expected);
            let arrays = Whole(&chunk).arrays().unwrap();
            let picked = Picked::new(&chunk, &arrays, &picks);
            for columns in [Columns::Shown, Columns::Own] {
                let spelt = |field: &arrow_schema::FieldRef| spelt_out(&picked.array(field.name()).unwrap()).unwrap();
                let arrays: Vec<ArrayRef> = schema(columns).fields().iter().map(spelt).collect();
                prop_assert_eq!(&all(some, columns), &RecordBatch::try_new(schema(columns), arrays).unwrap());
            }
        }
    }

    /// What is wide enough for an array is not copied, and lives as long as the array.
    #[test]
    fn arrays_lie_in_the_chunk() {
        let chunk = Chunk::of(0, &numbered(0..50));
        let arrays = Whole(&chunk).arrays().unwrap();
        let bytes = arrays.column_by_name("bytes").unwrap().as_primitive::<UInt64Type>();
        assert_eq!(bytes.values().as_ptr(), chunk.columns.bytes.as_ptr());
        let vpcs = arrays.column_by_name("vpc").unwrap().as_any_dictionary();
        let codes = vpcs.keys().as_primitive::<UInt32Type>();
        assert_eq!(codes.values().as_ptr(), chunk.columns.identity.codes().as_ptr());
        let expected = chunk.columns.bytes.clone();
        drop(chunk);
        assert_eq!(bytes.values(), &expected[..]);
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
