//! The sums of records: rows that each stand for all records which have some columns in common.
//!
//! Owns the [`Level`]s, which say what columns those are, and how records become sums and sums coarser ones. A part has its
//! sums in a small file beside it ([`file`]), made while it is merged; they follow from its rows, are told by no receipt, and
//! nothing is lost with them. Who asks for sums gets the same whether a row of them stands for one record or for thousands:
//! packets, octets, counts, the first start and the last end of any records that are told apart by columns of the level. The
//! rows of the coarser levels are Arrow's; those of the finest are many, and [`peers`] says how they lie. Beside them lie the
//! part's [`conversations`], which are no level: they are told apart by both ends.

pub(crate) mod conversations;
pub(crate) mod file;
pub(crate) mod peers;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use arrow_array::{
    Array as _, ArrayRef, ArrowPrimitiveType, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMillisecondArray, UInt16Array, UInt64Array,
    cast::AsArray as _,
    types::{Int64Type, TimestampMillisecondType as Millis, UInt64Type},
};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, SchemaRef};
use lucarne_flows::columns::address_octets;
use lucarne_model::EndReason;

use self::{
    conversations::Conversations,
    peers::{PeerSum, Peers},
};
use super::stored::Halves;
use crate::columns::{self, Columns, column, spelt_out};

/// What a file of sums has rows of, coarsest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// For each instance and direction.
    Instance,
    /// For each protocol and port besides, of whatever was decided and why.
    Service,
    /// For each address at the other end besides, and who of the two sent.
    Peer,
}

/// The columns by which rows of sums are told apart.
const KEYS: [&str; 12] = [
    "account",
    "vpc",
    "instance",
    "direction",
    "verdict",
    "path",
    "protocol",
    "port",
    "end_reason",
    "rule",
    "side",
    "peer",
];
/// The columns that are added up, and the two that are the first and the last.
const SUMS: [&str; 6] = ["packets", "bytes", "records", "flows", "start", "end"];

impl Level {
    const ALL: [Self; 3] = [Self::Instance, Self::Service, Self::Peer];

    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Instance => &KEYS[..4],
            Self::Service => &KEYS[..10],
            Self::Peer => &KEYS,
        }
    }

    /// The coarsest of which the rows have these columns.
    pub(crate) fn with<'a>(names: impl Iterator<Item = &'a str>) -> Option<Self> {
        let keys: Vec<&str> = names.filter(|name| !SUMS.contains(name)).collect();
        let has = |level: &Self| keys.iter().all(|name| level.keys().contains(name));
        Self::ALL.into_iter().find(has)
    }

    pub(crate) fn schema(self) -> SchemaRef {
        let names = self.keys().iter().chain(&SUMS);
        Arc::new(Schema::new(names.filter_map(|name| schema().field_with_name(name).ok().cloned()).collect::<Vec<_>>()))
    }
}

/// Whether it is a column by which rows of sums are told apart.
pub(crate) fn is_key(name: &str) -> bool {
    KEYS.contains(&name)
}

/// All columns of sums. Those that records have too are as theirs; `port` is that of the one who was asked, `peer` the address
/// at the other end, `records` says how many the row stands for, and `flows` how many of them end a flow on the side of who
/// began it.
pub(crate) fn schema() -> SchemaRef {
    static ALL: LazyLock<SchemaRef> = LazyLock::new(|| {
        let records = columns::schema(Columns::Shown);
        let field = |name: &&str| match *name {
            "port" => Some(Field::new("port", DataType::UInt16, false)),
            "peer" => Some(Field::new("peer", DataType::Utf8, false)),
            "records" | "flows" => Some(Field::new(*name, DataType::Int64, false)),
            name => records.field_with_name(name).ok().cloned(),
        };
        Arc::new(Schema::new(KEYS.iter().chain(&SUMS).filter_map(field).collect::<Vec<_>>()))
    });
    ALL.clone()
}

/// The columns of records that a column of sums is made of.
pub(crate) fn grounds(name: &str) -> &[&str] {
    match name {
        "port" => &["side", "source_port", "destination_port"],
        "peer" => &["direction", "source", "destination"],
        "flows" => &["side", "end_reason"],
        "records" => &[],
        _ => KEYS.iter().chain(&SUMS).position(|known| *known == name).map_or(&[], |at| {
            static ALL: LazyLock<Vec<&str>> = LazyLock::new(|| [&KEYS[..], &SUMS[..]].concat());
            &ALL[at..=at]
        }),
    }
}

/// Records as sums of one record each, with the columns that are wanted.
pub(crate) fn of_records(records: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let array = |field: &FieldRef| -> Result<ArrayRef, ArrowError> {
        Ok(match field.name().as_str() {
            "port" => Arc::new(ports(records)?),
            "peer" => Arc::new(peer_addresses(records)?),
            "flows" => Arc::new(flows(records)?),
            "records" => Arc::new(Int64Array::from_value(1, records.num_rows())),
            name => records.column_by_name(name).ok_or_else(|| missing(name))?.clone(),
        })
    };
    let arrays = wanted.fields().iter().map(array).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(records.num_rows()));
    RecordBatch::try_new_with_options(wanted.clone(), arrays, &options)
}

fn missing(name: &str) -> ArrowError {
    ArrowError::SchemaError(format!("column `{name}` is missing"))
}

fn typed<'a, A: arrow_array::Array + 'static>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a A, ArrowError> {
    column(batch, name).map_err(|_| missing(name))
}

fn by_initiator(records: &RecordBatch) -> Result<impl Iterator<Item = bool>, ArrowError> {
    let sides: &StringArray = typed(records, "side")?;
    Ok((0..sides.len()).map(|row| sides.value(row) == "initiator"))
}

fn ports(records: &RecordBatch) -> Result<UInt16Array, ArrowError> {
    let (source, destination): (&UInt16Array, &UInt16Array) =
        (typed(records, "source_port")?, typed(records, "destination_port")?);
    let ends = source.values().iter().zip(destination.values());
    let asked =
        by_initiator(records)?.zip(ends).map(|(sent, (source, destination))| if sent { destination } else { source });
    Ok(asked.copied().collect::<Vec<u16>>().into())
}

fn peer_addresses(records: &RecordBatch) -> Result<StringArray, ArrowError> {
    let directions: &StringArray = typed(records, "direction")?;
    let (source, destination): (&StringArray, &StringArray) =
        (typed(records, "source")?, typed(records, "destination")?);
    let peer = |row| if directions.value(row) == "egress" { destination.value(row) } else { source.value(row) };
    Ok((0..records.num_rows()).map(|row| Some(peer(row))).collect())
}

fn flows(records: &RecordBatch) -> Result<Int64Array, ArrowError> {
    let reasons: &StringArray = typed(records, "end_reason")?;
    let goes_on = EndReason::ActiveSlice.name();
    let ends = by_initiator(records)?.enumerate().map(|(row, sent)| i64::from(sent && reasons.value(row) != goes_on));
    Ok(ends.collect::<Vec<i64>>().into())
}

/// What is known of the records of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    packets: u64,
    bytes: u64,
    records: i64,
    flows: i64,
    /// Milliseconds.
    start: i64,
    end: i64,
}

/// Rows of sums that are added up to those of a level.
#[derive(Debug)]
struct Adding {
    level: Level,
    converter: RowConverter,
    /// Where in `sums` those are that have a key.
    places: HashMap<Box<[u8]>, usize, foldhash::fast::FixedState>,
    sums: Vec<Sum>,
}

impl Adding {
    fn of(level: Level) -> Result<Self, ArrowError> {
        let types = level.schema();
        let types =
            types.fields().iter().take(level.keys().len()).map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(types.collect())?;
        Ok(Self { level, converter, places: HashMap::default(), sums: Vec::new() })
    }

    /// Gives for each of the rows the place of the one that it was added to.
    fn add(&mut self, rows: &RecordBatch) -> Result<Vec<u32>, ArrowError> {
        let keys = self.level.keys().iter().map(|name| rows.column_by_name(name).cloned().ok_or_else(|| missing(name)));
        let keys = self.converter.convert_columns(&keys.collect::<Result<Vec<_>, _>>()?)?;
        let mut taken = Vec::with_capacity(rows.num_rows());
        for (sum, key) in Sum::all(rows)?.into_iter().zip(&keys) {
            let place = match self.places.get(key.as_ref()) {
                Some(place) => {
                    self.sums[*place].add(sum);
                    *place
                }
                None => {
                    self.places.insert(key.as_ref().into(), self.sums.len());
                    self.sums.push(sum);
                    self.sums.len() - 1
                }
            };
            taken.push(place as u32);
        }
        Ok(taken)
    }

    /// The rows, in the order of their keys, and where each place has come to lie.
    fn finish(self) -> Result<(RecordBatch, Vec<u32>), ArrowError> {
        let Self { level, converter, places, sums } = self;
        let mut places: Vec<(Box<[u8]>, usize)> = places.into_iter().collect();
        places.sort_unstable();
        let parser = converter.parser();
        let mut arrays = converter.convert_rows(places.iter().map(|(key, _)| parser.parse(key)))?;
        let sorted: Vec<Sum> = places.iter().map(|(_, place)| sums[*place]).collect();
        arrays.extend(SUMS.iter().filter_map(|name| Sum::array(name, sorted.iter().copied())));
        let mut lies = vec![0; sums.len()];
        (0..).zip(&places).for_each(|(row, (_, place))| lies[*place] = row);
        Ok((RecordBatch::try_new(level.schema(), arrays)?, lies))
    }
}

impl Sum {
    /// Those of rows; of a column that is not there nothing is known.
    pub(crate) fn all(rows: &RecordBatch) -> Result<Vec<Self>, ArrowError> {
        let unknown = Self { packets: 0, bytes: 0, records: 0, flows: 0, start: i64::MAX, end: i64::MIN };
        let mut all = vec![unknown; rows.num_rows()];
        fill::<UInt64Type>(rows, "packets", &mut all, |sum, packets| sum.packets = packets)?;
        fill::<UInt64Type>(rows, "bytes", &mut all, |sum, bytes| sum.bytes = bytes)?;
        fill::<Int64Type>(rows, "records", &mut all, |sum, records| sum.records = records)?;
        fill::<Int64Type>(rows, "flows", &mut all, |sum, flows| sum.flows = flows)?;
        fill::<Millis>(rows, "start", &mut all, |sum, start| sum.start = start)?;
        fill::<Millis>(rows, "end", &mut all, |sum, end| sum.end = end)?;
        Ok(all)
    }

    /// The column of that name; none if it is none of [`SUMS`].
    pub(crate) fn array(name: &str, sums: impl Iterator<Item = Self>) -> Option<ArrayRef> {
        let times = |array: TimestampMillisecondArray| -> ArrayRef { Arc::new(array.with_timezone("UTC")) };
        Some(match name {
            "packets" => Arc::new(UInt64Array::from_iter_values(sums.map(|sum| sum.packets))),
            "bytes" => Arc::new(UInt64Array::from_iter_values(sums.map(|sum| sum.bytes))),
            "records" => Arc::new(Int64Array::from_iter_values(sums.map(|sum| sum.records))),
            "flows" => Arc::new(Int64Array::from_iter_values(sums.map(|sum| sum.flows))),
            "start" => times(TimestampMillisecondArray::from_iter_values(sums.map(|sum| sum.start))),
            "end" => times(TimestampMillisecondArray::from_iter_values(sums.map(|sum| sum.end))),
            _ => return None,
        })
    }

    /// Numbers too large go round, as the engine's own sums do.
    pub(crate) fn add(&mut self, other: Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.records += other.records;
        self.flows += other.flows;
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
    }
}

fn fill<T: ArrowPrimitiveType>(
    rows: &RecordBatch,
    name: &str,
    sums: &mut [Sum],
    set: impl Fn(&mut Sum, T::Native),
) -> Result<(), ArrowError> {
    let Some(column) = rows.column_by_name(name) else { return Ok(()) };
    let values = column.as_primitive_opt::<T>().ok_or_else(|| missing(name))?;
    sums.iter_mut().zip(values.values()).for_each(|(sum, value)| set(sum, *value));
    Ok(())
}

/// An address as sums by peer have it.
pub(crate) fn peer_of(text: &str) -> Option<u128> {
    text.parse::<IpAddr>().ok().map(|address| u128::from_be_bytes(address_octets(address)))
}

/// The rows of a part that is being written, added up.
#[derive(Debug)]
pub(super) struct Summing {
    halves: Halves,
    services: Adding,
    peers: Peers,
    conversations: Conversations,
    /// A record began after it ended: what the part's hour says of ends says nothing of its start then.
    is_odd: bool,
}

impl Summing {
    pub(super) fn begin() -> Result<Self, ArrowError> {
        let sums = schema();
        let of_sums = sums.fields().iter().flat_map(|field| grounds(field.name())).copied();
        let names: BTreeSet<&str> = of_sums.chain(conversations::GROUNDS).collect();
        let halves = Halves::named(Columns::Shown, names);
        let (services, peers) = (Adding::of(Level::Service)?, Peers::default());
        let conversations = Conversations::holding(conversations::OF_PART);
        Ok(Self { halves, services, peers, conversations, is_odd: false })
    }

    /// Adds rows as the account's file of a part has them; texts may be dictionaries.
    pub(super) fn add(&mut self, shown: &RecordBatch) -> Result<(), ArrowError> {
        let rows = shown.project(self.halves.read())?;
        let arrays = rows.columns().iter().map(spelt_out).collect::<Result<Vec<_>, _>>()?;
        let fields = rows.schema_ref().fields().iter().zip(&arrays);
        let fields = fields.map(|(field, array)| field.as_ref().clone().with_data_type(array.data_type().clone()));
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), arrays)?;
        for records in self.halves.records(&rows)? {
            let times = |name| records.column_by_name(name).map(|times| times.as_primitive::<Millis>().values());
            self.is_odd |= match (times("start"), times("end")) {
                (Some(starts), Some(ends)) => starts.iter().zip(ends).any(|(start, end)| start > end),
                _ => true,
            };
            let sums = of_records(&records, &schema())?;
            let places = self.services.add(&sums)?;
            self.peers.add(&sums, &places)?;
            self.conversations.add(&records)?;
        }
        Ok(())
    }

    /// Of each level its rows; none where the part is to be answered from its records.
    pub(super) fn finish(self) -> Result<Option<Summed>, ArrowError> {
        if self.is_odd {
            return Ok(None);
        }
        let (services, lies) = self.services.finish()?;
        let mut instances = Adding::of(Level::Instance)?;
        instances.add(&services)?;
        let peers = self.peers.finish(&lies);
        let conversations = self.conversations.finish()?;
        Ok(Some(Summed { instances: instances.finish()?.0, services, peers, conversations }))
    }
}

/// The sums of a part.
#[derive(Debug)]
pub(super) struct Summed {
    instances: RecordBatch,
    services: RecordBatch,
    /// In slices; none where they were too many.
    peers: Option<Vec<Vec<PeerSum>>>,
    conversations: conversations::Slices,
}
