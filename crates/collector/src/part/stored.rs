//! How a row of a part looks in its two files: the columns of the forward record, and behind them what the reverse one has
//! of its own.
//!
//! Owns both ways between records and rows. What follows from other columns is not kept: a flow's id (a hash of its VPC
//! and ends; only flows of ICMP, whose identifier is in no column, keep theirs), and all of a reverse record that the
//! forward one says. Times and round trips are kept as differences, which are small:
//!
//! | column | holds |
//! |---|---|
//! | `duration` | `end` - `start` of the forward record, in milliseconds |
//! | `reverse_start`, `reverse_end` | what is added to the forward record's, in milliseconds |
//! | `reverse_NAME` | the reverse record's value; `reverse_packets` is null where the row is of one record, and the others mean nothing there |
//! | `round_trip`, `reverse_round_trip` | `mean` - `min` and `max` - `mean` in the place of `mean` and `max`; `smoothed` - `mean` in zigzag order |

mod halves;
mod values;

use std::sync::{Arc, LazyLock};

use std::collections::BTreeMap;

use arrow_array::{Array as _, ArrayRef, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, SchemaRef};

pub(crate) use self::halves::Halves;
use crate::columns::{self, BadColumn, Columns, Picked, column};

pub(crate) const FLOW_ID: &str = "flow_id";
const DURATION: &str = "duration";
const REVERSE: &str = "reverse_";

/// What a record's value is to the other record of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// The same.
    Same,
    /// What the other has in this column.
    Swapped(&'static str),
    /// The other of two words.
    Opposite([&'static str; 2]),
    /// The number behind it.
    Next,
    /// Nothing: each has its own.
    Own,
}

fn sharing(column: &str) -> Sharing {
    match column {
        "serial" => Sharing::Next,
        "direction" => Sharing::Opposite(["ingress", "egress"]),
        "side" => Sharing::Opposite(["initiator", "responder"]),
        "source" => Sharing::Swapped("destination"),
        "destination" => Sharing::Swapped("source"),
        "source_port" => Sharing::Swapped("destination_port"),
        "destination_port" => Sharing::Swapped("source_port"),
        "source_prefix_length" => Sharing::Swapped("destination_prefix_length"),
        "destination_prefix_length" => Sharing::Swapped("source_prefix_length"),
        "start" | "end" | "packets" | "bytes" | "icmp_type" | "icmp_code" | "tos" | "ttl" | "tcp_flags"
        | "next_hop" | "round_trip" | "retransmissions" | "zero_windows" | "ingress_interface" | "egress_interface" => {
            Sharing::Own
        }
        _ => Sharing::Same,
    }
}

/// Whether a row's two records have the same value in the column, and it is kept as it is shown.
pub(crate) fn is_shared(column: &str) -> bool {
    sharing(column) == Sharing::Same && column != FLOW_ID
}

/// The column that has the other record's value, for the ends of a flow.
pub(crate) fn swapped(column: &str) -> Option<&'static str> {
    match sharing(column) {
        Sharing::Swapped(other) => Some(other),
        _ => None,
    }
}

/// The column of which a null says that a row is of one record.
const fn marker(columns: Columns) -> &'static str {
    match columns {
        Columns::Shown | Columns::All => "reverse_packets",
        Columns::Own => "reverse_ingress_interface",
    }
}

fn reverse_name(column: &str) -> String {
    format!("{REVERSE}{column}")
}

/// The schema of the files of shown columns, and of those of the operator's own; of both side by side for
/// [`Columns::All`].
pub(crate) fn schema(columns: Columns) -> SchemaRef {
    static SHOWN: LazyLock<SchemaRef> = LazyLock::new(|| schema_of(Columns::Shown));
    static OWN: LazyLock<SchemaRef> = LazyLock::new(|| schema_of(Columns::Own));
    static ALL: LazyLock<SchemaRef> =
        LazyLock::new(|| Arc::new(Schema::new([&SHOWN, &OWN].map(|schema| schema.fields().to_vec()).concat())));
    let schema: &LazyLock<SchemaRef> = match columns {
        Columns::Shown => &SHOWN,
        Columns::Own => &OWN,
        Columns::All => &ALL,
    };
    SchemaRef::clone(schema)
}

fn schema_of(columns: Columns) -> SchemaRef {
    let shown = columns::schema(columns);
    let forward = shown.fields().iter().map(|field| match field.name().as_str() {
        "start" => Field::new(DURATION, DataType::UInt64, false),
        FLOW_ID => field.as_ref().clone().with_nullable(true),
        _ => field.as_ref().clone(),
    });
    let own = shown.fields().iter().filter(|field| sharing(field.name()) == Sharing::Own);
    let reverse = own.map(|field| {
        let name = reverse_name(field.name());
        match field.name().as_str() {
            "start" | "end" => Field::new(name, DataType::Int64, false),
            _ => {
                let is_nullable = field.is_nullable() || name == marker(columns);
                field.as_ref().clone().with_name(name).with_nullable(is_nullable)
            }
        }
    });
    Arc::new(Schema::new(forward.chain(reverse).collect::<Vec<_>>()))
}

/// Rows as they are kept in one of the two files: their forward records, and their reverse ones. Where there is no reverse
/// record the forward one stands for it: to say in each column that there is none would cost more than all but a few of
/// the columns themselves. Texts that repeat are dictionaries here and addresses their octets; what is read back has them
/// spelt out, as [`schema`] says.
pub(super) fn batch(columns: Columns, forward: &Picked<'_>, reverse: &Picked<'_>) -> Result<RecordBatch, ArrowError> {
    let schema = schema(columns);
    let arrays = schema.fields().iter().map(|field| match field.name().as_str() {
        DURATION => Ok(values::durations(forward)),
        FLOW_ID => Ok(values::kept_flow_ids(forward)),
        "reverse_start" => Ok(values::differences(&forward.flows.start, forward, reverse)),
        "reverse_end" => Ok(values::differences(&forward.flows.end, forward, reverse)),
        name => match name.strip_prefix(REVERSE) {
            None => of(name, forward),
            Some(reversed) if name == marker(columns) => {
                let is_reversed: NullBuffer = forward.rows().iter().zip(reverse.rows()).map(|(a, b)| a != b).collect();
                values::with_nulls(&of(reversed, reverse)?, &is_reversed)
            }
            Some(reversed) => of(reversed, reverse),
        },
    });
    let arrays = arrays.collect::<Result<Vec<ArrayRef>, _>>()?;
    let typed =
        |(field, array): (&FieldRef, &ArrayRef)| field.as_ref().clone().with_data_type(array.data_type().clone());
    let fields: Vec<Field> = schema.fields().iter().zip(&arrays).map(typed).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
}

/// A column of records as it is kept.
fn of(name: &str, records: &Picked<'_>) -> Result<ArrayRef, ArrowError> {
    let array = records.array(name)?;
    match name {
        "round_trip" => values::narrow_round_trips(&array),
        // A file has no dictionary of whole lists.
        "groups" => columns::spelt_out(&array),
        _ => Ok(array),
    }
}

/// Adds up how many records of rows ended in each minute since 1970.
pub(super) fn count_minutes(shown: &RecordBatch, minutes: &mut BTreeMap<u64, u64>) -> Result<(), BadColumn> {
    let ends: &TimestampMillisecondArray = column(shown, "end")?;
    let apart: &Int64Array = column(shown, "reverse_end")?;
    let marks = shown.column_by_name(marker(Columns::Shown)).ok_or(BadColumn::missing("reverse_packets"))?;
    let (mut minute, mut count) = (0, 0);
    let mut add = |end: i64| {
        let of = u64::try_from(end).unwrap_or(0) / 60_000;
        if of != minute {
            if count > 0 {
                *minutes.entry(minute).or_default() += count;
            }
            (minute, count) = (of, 0);
        }
        count += 1;
    };
    for (row, (end, apart)) in ends.values().iter().zip(apart.values()).enumerate() {
        add(*end);
        if marks.is_valid(row) {
            add(end.wrapping_add(*apart));
        }
    }
    if count > 0 {
        *minutes.entry(minute).or_default() += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lucarne_flows::{FlowKey, columns::FlowColumns, key::flow_id};
    use lucarne_model::{
        FlowRecord, Moment,
        flow::{Direction, RoundTrip},
    };
    use proptest::prelude::*;
    use std::net::IpAddr;

    use super::*;
    use crate::{Kept, chunk::Chunk, columns::Rows, part::fold, test_records::record};

    /// The other direction of a record, alike in all that a flow's two directions share.
    fn answer(record: &FlowRecord, number: u64) -> FlowRecord {
        FlowRecord {
            direction: record.direction.reverse(),
            side: match record.side {
                lucarne_model::flow::Side::Initiator => lucarne_model::flow::Side::Responder,
                lucarne_model::flow::Side::Responder => lucarne_model::flow::Side::Initiator,
            },
            source: record.destination,
            destination: record.source,
            source_port: record.destination_port,
            destination_port: record.source_port,
            source_prefix_length: record.destination_prefix_length,
            destination_prefix_length: record.source_prefix_length,
            start: record.start.plus(std::time::Duration::from_millis(number % 7)),
            end: Moment(record.end.as_micros() + 1000 * (number % 900)),
            packets: record.packets / 2,
            bytes: record.bytes * 3,
            icmp_type: record.icmp_type.map(|_| 0),
            tos: record.tos ^ 4,
            ttl: 63,
            tcp_flags: 0x1b,
            next_hop: None,
            round_trip: Some(RoundTrip { count: 1, min: 50, mean: 40, max: 45, smoothed: u32::MAX }),
            retransmissions: 3,
            zero_windows: 0,
            ingress_interface: record.egress_interface,
            egress_interface: record.ingress_interface,
            ..record.clone()
        }
    }

    fn with_id_that_follows(record: FlowRecord) -> FlowRecord {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (record.source, record.destination) else { return record };
        let (source, destination) = (source.to_bits(), destination.to_bits());
        let key = FlowKey::new(0, source, destination, record.source_port, record.destination_port, record.protocol);
        FlowRecord { flow_id: flow_id(record.vpc, key), ..record }
    }

    /// Records of which some are answered by the one behind them, numbered from 0 on.
    fn records(numbers: &[(u64, bool, bool)]) -> Vec<FlowRecord> {
        let mut records: Vec<FlowRecord> = Vec::new();
        for (number, is_answered, follows) in numbers {
            let mut asked = record(*number);
            asked.start = Moment(asked.start.as_micros() / 1000 * 1000);
            asked.end = Moment(asked.end.as_micros() / 1000 * 1000);
            if *follows {
                asked = with_id_that_follows(asked);
            }
            let reply = is_answered.then(|| answer(&asked, *number));
            records.extend([asked].into_iter().chain(reply));
        }
        records
    }

    /// The rows of records that lie one behind the other, and of which as many are left out as `step` says.
    fn folded(flows: &FlowColumns, step: usize) -> fold::Rows {
        fold::fold(flows, &(0..flows.len() as u32).step_by(step).collect::<Vec<_>>())
    }

    /// Both files' batches.
    fn stored(flows: &FlowColumns) -> [RecordBatch; 2] {
        let fold::Rows { forward, reverse } = folded(flows, 1);
        let chunk = Arc::new(Chunk { first: 100, columns: flows.clone() });
        let arrays = columns::Whole(&chunk).arrays().unwrap();
        let [forward, reverse] = [&forward, &reverse].map(|rows| Picked::new(&chunk, &arrays, rows));
        [Columns::Shown, Columns::Own].map(|columns| {
            let written = batch(columns, &forward, &reverse).unwrap();
            let arrays = written.columns().iter().map(|array| columns::spelt_out(array).unwrap());
            RecordBatch::try_new(schema(columns), arrays.collect()).unwrap()
        })
    }

    fn records_of(shown: &RecordBatch, own: &RecordBatch) -> Vec<Kept> {
        let [shown, own] = [(Columns::Shown, shown), (Columns::Own, own)]
            .map(|(columns, batch)| Halves::all(columns).records(batch).unwrap());
        let halves = shown.iter().zip(&own).flat_map(|(shown, own)| {
            let rows = Rows::of(shown, own).unwrap();
            (0..shown.num_rows()).map(|row| rows.get(row).unwrap()).collect::<Vec<_>>()
        });
        let mut all: Vec<Kept> = halves.collect();
        all.sort_by_key(|kept| kept.serial);
        all
    }

    proptest! {
        /// Whatever is folded with whatever, each record comes back to the last field.
        #[test]
        fn rows_give_back_their_records(numbers in prop::collection::vec((0u64..5000, any::<bool>(), any::<bool>()), 0..60)) {
            let records = records(&numbers);
            let [shown, own] = stored(&FlowColumns::of(&records));
            let mut minutes = BTreeMap::new();
            count_minutes(&shown, &mut minutes).unwrap();
            let mut expected = BTreeMap::new();
            records.iter().for_each(|record| *expected.entry(record.end.as_secs() / 60).or_default() += 1);
            prop_assert_eq!(minutes, expected);
            let kept: Vec<Kept> = (100..).zip(records).map(|(serial, record)| Kept { serial, record }).collect();
            prop_assert_eq!(records_of(&shown, &own), kept);
        }
    }

    #[test]
    fn an_answer_shares_the_row_of_what_it_answers_and_ids_that_follow_are_left_out() {
        let flows = FlowColumns::of(&records(&[(1, true, true), (2, true, true), (3, false, false)]));
        let fold::Rows { forward, reverse } = folded(&flows, 1);
        assert_eq!((forward, reverse), (vec![0, 2, 4], vec![1, 3, 4]));
        assert_eq!(stored(&flows)[0].column_by_name(FLOW_ID).unwrap().null_count(), 2);
    }

    /// A record whose answer differs in what both should share has a row of its own, and so has the answer.
    #[test]
    fn records_that_differ_in_what_is_shared_do_not_share_a_row() {
        let asked = record(1);
        let same = answer(&asked, 1);
        let changed = [
            FlowRecord { rule: None, ..same.clone() },
            FlowRecord { flow_id: 7, ..same.clone() },
            FlowRecord { direction: Direction::Egress, ..same.clone() },
            FlowRecord { source_port: 1, ..same.clone() },
            FlowRecord { end: same.end.plus(fold::APART * 2), ..same.clone() },
        ];
        let rows_of = |reply: &FlowRecord| {
            let next = FlowColumns::of([&asked, reply]);
            let one_between = FlowColumns::of([&asked, &record(2), reply]);
            (folded(&next, 1).forward.len(), folded(&one_between, 2).forward.len())
        };
        assert_eq!(rows_of(&same), (1, 2));
        changed.into_iter().for_each(|reply| assert_eq!(rows_of(&reply), (2, 2), "{reply:?}"));
    }

    #[test]
    fn every_shown_column_can_be_had_from_what_is_kept() {
        for columns in [Columns::Shown, Columns::Own, Columns::All] {
            let stored = schema(columns);
            for field in columns::schema(columns).fields() {
                let halves = Halves::of(columns, &[columns::schema(columns).index_of(field.name()).unwrap()]);
                assert!(halves.read().iter().all(|index| *index < stored.fields().len()), "{}", field.name());
                let records = halves.records(&RecordBatch::new_empty(stored.clone())).unwrap();
                assert!(records.iter().all(|batch| batch.schema_ref().fields().len() == 1));
            }
        }
    }
}
