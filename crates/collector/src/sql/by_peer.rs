//! The step of the engine's plan that adds up sums by the address at the other end, a slice of all addresses after the other.
//!
//! Owns that a question about millions of addresses fits into its memory: all sums of an address come out of one of
//! [`SLICES`] streams, which the engine is told, so that it groups each stream by itself; and no more than a few of them are
//! worked on at once. What is in no sums, records as sums of one each, is added up first and waits in its slices. The text of
//! columns is read once and then stands as a number.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arrow_row::{RowConverter, SortField};
use datafusion::{
    arrow::{
        array::{
            Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, RecordBatchOptions, StringArray, UInt32Array,
        },
        compute::take,
        datatypes::SchemaRef,
    },
    common::tree_node::TreeNodeRecursion,
    error::{DataFusionError, Result},
    execution::{
        SendableRecordBatchStream, TaskContext,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr, expressions::Column},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
        coalesce_partitions::CoalescePartitionsExec,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
};
use foldhash::fast::FixedState;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lucarne_flows::columns::address;
use tokio::sync::{OnceCell, Semaphore};

use super::{engine::PARTITIONS, mapped::only};
use crate::part::{
    Part, PeerSum, SumsError,
    sums::{
        self, Level, Sum,
        peers::{SLICES, Share, is_responders, slice_of},
    },
};

/// Rows of a batch.
const BATCH: usize = 8192;
/// Octets that a sum takes in memory, with the room that a table of them has left.
const EACH: usize = 2 * size_of::<(Key, Sum)>();

/// By what sums are told apart: the address, and the number of all else that is wanted.
type Key = (u128, u32);
type Added = HashMap<Key, Sum, FixedState>;

/// The sums of parts and of rows, as the wanted columns tell them apart.
#[derive(Debug)]
pub(super) struct AddedUpByPeer {
    parts: Arc<[Arc<Part>]>,
    /// A condition on the parts' rows of services.
    condition: Option<Arc<dyn PhysicalExpr>>,
    /// Sums of one record each, of all records that are meant and in no sums; of the wanted columns.
    rows: Arc<dyn ExecutionPlan>,
    /// Those that are worked on at once.
    turns: Arc<Semaphore>,
    begun: Arc<OnceCell<Begun>>,
    properties: Arc<PlanProperties>,
}

impl AddedUpByPeer {
    pub(super) fn new(
        parts: Vec<Arc<Part>>,
        condition: Option<Arc<dyn PhysicalExpr>>,
        rows: Arc<dyn ExecutionPlan>,
    ) -> Self {
        Self::over(parts.into(), condition, rows)
    }

    fn over(parts: Arc<[Arc<Part>]>, condition: Option<Arc<dyn PhysicalExpr>>, rows: Arc<dyn ExecutionPlan>) -> Self {
        let schema = rows.schema();
        let partitioning = match Column::new_with_schema("peer", &schema) {
            Ok(peer) => Partitioning::Hash(vec![Arc::new(peer)], SLICES),
            Err(_) => Partitioning::UnknownPartitioning(SLICES),
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            partitioning,
            EmissionType::Final,
            Boundedness::Bounded,
        );
        let turns = Arc::new(Semaphore::new(PARTITIONS));
        Self { parts, condition, rows, turns, begun: Arc::default(), properties: Arc::new(properties) }
    }
}

impl DisplayAs for AddedUpByPeer {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: parts={}", self.name(), self.parts.len())
    }
}

impl ExecutionPlan for AddedUpByPeer {
    fn name(&self) -> &str {
        "AddedUpByPeer"
    }

    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.rows]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = only(children, self.name())?;
        Ok(Arc::new(Self::over(self.parts.clone(), self.condition.clone(), rows)))
    }

    fn execute(&self, slice: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let (parts, turns, begun) = (self.parts.clone(), self.turns.clone(), self.begun.clone());
        let (condition, rows, wanted) = (self.condition.clone(), self.rows.clone(), schema.clone());
        let batches = async move {
            let turn = turns.acquire_owned().await.map_err(|error| DataFusionError::External(Box::new(error)))?;
            let begin = || Begun::begin(&parts, condition.as_ref(), rows, &wanted, &context);
            let begun = begun.get_or_try_init(begin).await?;
            let held = MemoryConsumer::new("sums by peer").register(context.memory_pool());
            let sums = begun.slice(&parts, slice, &held)?;
            let batches: Vec<Result<RecordBatch>> =
                sums.chunks(BATCH).map(|sums| begun.keys.batch(sums, &wanted)).collect();
            drop(sums);
            // The next slice's turn comes when the last batch of this one was taken.
            Ok::<_, DataFusionError>(stream::iter(batches).inspect(move |_| {
                let _ = (&turn, &held);
            }))
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::once(batches).try_flatten())))
    }
}

/// What all slices have in common.
#[derive(Debug)]
struct Begun {
    keys: Keys,
    /// For each part and each of its rows of services, the number of what is wanted of it; none where it is not meant.
    services: Vec<Vec<Option<u32>>>,
    /// By slice, what is in no sums; taken by the slice.
    others: Vec<Mutex<Added>>,
    /// For the memory of these.
    _held: MemoryReservation,
}

impl Begun {
    async fn begin(
        parts: &[Arc<Part>],
        condition: Option<&Arc<dyn PhysicalExpr>>,
        rows: Arc<dyn ExecutionPlan>,
        wanted: &SchemaRef,
        context: &Arc<TaskContext>,
    ) -> Result<Self> {
        let held = MemoryConsumer::new("records by peer").register(context.memory_pool());
        let mut keys = Keys::of(wanted)?;
        let mut others = vec![Added::default(); SLICES];
        let mut rows = CoalescePartitionsExec::new(rows).execute(0, context.clone())?;
        while let Some(rows) = rows.next().await {
            let rows = rows?;
            let (numbers, peers) = (keys.numbers(&rows)?, column(&rows, "peer"));
            for (row, (sum, number)) in Sum::all(&rows)?.into_iter().zip(numbers).enumerate() {
                let peer = match peers {
                    Some(peers) => sums::peer_of(peers.value(row)).ok_or_else(|| broken("peer"))?,
                    None => 0,
                };
                add(&mut others[slice_of(peer)], (peer, number), sum);
            }
            held.try_resize(others.iter().map(HashMap::capacity).sum::<usize>() * size_of::<(Key, Sum)>())?;
        }
        let mut services = Vec::with_capacity(parts.len());
        for part in parts {
            let mut numbers = Vec::new();
            for rows in part.sums(Level::Service).map_err(external)? {
                let meant =
                    condition.map(|condition| condition.evaluate(&rows)?.into_array(rows.num_rows())).transpose()?;
                let meant = meant.as_ref().map(|meant| meant.as_boolean());
                let of_rows = keys.numbers(&rows)?.into_iter().enumerate();
                numbers
                    .extend(of_rows.map(|(row, number)| meant.is_none_or(|meant| holds(meant, row)).then_some(number)));
            }
            services.push(numbers);
            // Whoever stops the question need not wait for all of them.
            tokio::task::yield_now().await;
        }
        keys.lay_out()?;
        Ok(Self { keys, services, others: others.into_iter().map(Mutex::new).collect(), _held: held })
    }

    /// The sums of a slice, in no order.
    fn slice(&self, parts: &[Arc<Part>], slice: usize, held: &MemoryReservation) -> Result<Vec<(Key, Sum)>> {
        let others = self.others.get(slice).ok_or_else(|| broken("slice"))?;
        let mut all = std::mem::take(&mut *others.lock().unwrap_or_else(PoisonError::into_inner));
        for (part, services) in parts.iter().zip(&self.services) {
            // Of an account that has nothing of what is asked for nothing need be read.
            if services.iter().all(Option::is_none) {
                continue;
            }
            for PeerSum { peer, share: Share { service, is_responders }, sum } in
                part.sums_by_peer(slice).map_err(external)?
            {
                let number = services.get(service as usize).ok_or_else(|| broken("service"))?;
                let Some(number) = number else { continue };
                let peer = if self.keys.has_peer { peer } else { 0 };
                add(&mut all, (peer, self.keys.with_side(*number, is_responders)), sum);
            }
            held.try_resize(all.capacity() * size_of::<(Key, Sum)>())?;
        }
        held.try_resize(all.len() * EACH)?;
        Ok(all.into_iter().collect())
    }
}

fn add(all: &mut Added, key: Key, sum: Sum) {
    all.entry(key).and_modify(|known| known.add(sum)).or_insert(sum);
}

fn holds(condition: &BooleanArray, row: usize) -> bool {
    condition.is_valid(row) && condition.value(row)
}

fn external(error: SumsError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn broken(what: &str) -> DataFusionError {
    DataFusionError::Internal(format!("a sum by peer has no {what}"))
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Option<&'a StringArray> {
    rows.column_by_name(name).and_then(|column| column.as_string_opt())
}

/// What is wanted to be told apart beside the address, numbered: the columns of services and, in the lowest bit, who sent.
#[derive(Debug)]
struct Keys {
    names: Vec<String>,
    converter: RowConverter,
    numbers: HashMap<Box<[u8]>, u32, FixedState>,
    /// By number, what is in `numbers`.
    known: Vec<Box<[u8]>>,
    /// The same, column by column, once all are known.
    columns: Vec<ArrayRef>,
    has_side: bool,
    has_peer: bool,
}

impl Keys {
    fn of(wanted: &SchemaRef) -> Result<Self> {
        let fields = wanted.fields().iter().filter(|field| Level::Service.schema().index_of(field.name()).is_ok());
        let fields: Vec<_> = fields.filter(|field| sums::is_key(field.name())).collect();
        let converter =
            RowConverter::new(fields.iter().map(|field| SortField::new(field.data_type().clone())).collect())?;
        let has = |name| wanted.index_of(name).is_ok();
        let names = fields.iter().map(|field| field.name().clone()).collect();
        let (numbers, known, columns) = (HashMap::default(), Vec::new(), Vec::new());
        Ok(Self { names, converter, numbers, known, columns, has_side: has("side"), has_peer: has("peer") })
    }

    /// Of each row its number; with the lowest bit of who sent where rows have that.
    fn numbers(&mut self, rows: &RecordBatch) -> Result<Vec<u32>> {
        let sides = column(rows, "side").filter(|_| self.has_side);
        let side = |row| sides.is_some_and(|sides| is_responders(sides.value(row)));
        if self.names.is_empty() {
            return Ok((0..rows.num_rows()).map(|row| u32::from(side(row))).collect());
        }
        let columns = self.names.iter().map(|name| rows.column_by_name(name).cloned().ok_or_else(|| broken(name)));
        let keys = self.converter.convert_columns(&columns.collect::<Result<Vec<_>>>()?)?;
        let mut numbers = Vec::with_capacity(rows.num_rows());
        for (row, key) in keys.iter().enumerate() {
            let number = match self.numbers.get(key.as_ref()) {
                Some(number) => *number,
                None => {
                    let number = self.known.len() as u32;
                    self.numbers.insert(key.as_ref().into(), number);
                    self.known.push(key.as_ref().into());
                    number
                }
            };
            numbers.push(number << 1 | u32::from(side(row)));
        }
        Ok(numbers)
    }

    fn lay_out(&mut self) -> Result<()> {
        let parser = self.converter.parser();
        self.columns = self.converter.convert_rows(self.known.iter().map(|key| parser.parse(key)))?;
        Ok(())
    }

    fn with_side(&self, number: u32, is_responders: bool) -> u32 {
        number | u32::from(self.has_side && is_responders)
    }

    fn batch(&self, sums: &[(Key, Sum)], wanted: &SchemaRef) -> Result<RecordBatch> {
        let places = UInt32Array::from_iter_values(sums.iter().map(|((_, number), _)| number >> 1));
        let array = |name: &str| -> Result<ArrayRef> {
            if let Some(sums) = Sum::array(name, sums.iter().map(|(_, sum)| *sum)) {
                return Ok(sums);
            }
            Ok(match name {
                "peer" => {
                    let text = sums.iter().map(|((peer, _), _)| Some(address(peer.to_be_bytes()).to_string()));
                    Arc::new(text.collect::<StringArray>())
                }
                "side" => {
                    let side = |number: u32| if number & 1 == 1 { "responder" } else { "initiator" };
                    Arc::new(sums.iter().map(|((_, number), _)| Some(side(*number))).collect::<StringArray>())
                }
                name => {
                    let at = self.names.iter().position(|known| known == name).ok_or_else(|| broken(name))?;
                    take(&self.columns[at], &places, None)?
                }
            })
        };
        let arrays = wanted.fields().iter().map(|field| array(field.name())).collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(sums.len()));
        Ok(RecordBatch::try_new_with_options(wanted.clone(), arrays, &options)?)
    }
}
