//! The step of the engine's plan that finds the lopsided ones among all conversations, a slice of them after the other.
//!
//! Owns that it fits into its memory however many there are. Of a slice no more open conversations are held than [`most`] says: of
//! more, those of one half of all places that a hash can have, and so on; the others' turn comes after them, and the slice is
//! read again for it. Then each part's settled ones are taken away, which need no room. Records of parts without
//! conversations, and of the log, are added up in the same way first, and wait as the same octets.

use std::{
    collections::{HashMap, hash_map},
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{
            ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, StringArray, TimestampMillisecondArray,
            UInt8Array, UInt16Array, UInt64Array,
        },
        datatypes::SchemaRef,
    },
    common::tree_node::TreeNodeRecursion,
    error::{DataFusionError, Result},
    execution::{
        SendableRecordBatchStream, TaskContext,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr},
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
use tokio::sync::OnceCell;

use super::{engine::PARTITIONS, mapped::only};
use crate::part::{
    ConversationsOf, Part, SumsError,
    sums::conversations::{Conversations, Ends, Runs, SLICES, Share, Slices},
};

/// Rows of a batch.
const BATCH: usize = 8192;
/// The conversations that no record settles.
#[derive(Debug)]
pub(super) struct Lopsided {
    parts: Arc<[Arc<Part>]>,
    /// All records that are meant and in no part's conversations.
    rows: Arc<dyn ExecutionPlan>,
    wanted: SchemaRef,
    /// Conversations that a stream holds at once.
    most: usize,
    begun: Arc<OnceCell<Begun>>,
    properties: Arc<PlanProperties>,
}

impl Lopsided {
    /// Of records and parts with conversations, within this memory; the rows have the wanted columns.
    pub(super) fn new(parts: Vec<Arc<Part>>, rows: Arc<dyn ExecutionPlan>, wanted: SchemaRef, memory: usize) -> Self {
        Self::over(parts.into(), rows, wanted, most(memory))
    }

    fn over(parts: Arc<[Arc<Part>]>, rows: Arc<dyn ExecutionPlan>, wanted: SchemaRef, most: usize) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(wanted.clone()),
            Partitioning::UnknownPartitioning(PARTITIONS),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { parts, rows, wanted, most, begun: Arc::default(), properties: Arc::new(properties) }
    }
}

/// How many conversations fit into an eighth of the memory, in a table that is as full as tables are before they grow: most of
/// the rest is the engine's, which keeps batches of which it wants a few rows.
fn most(memory: usize) -> usize {
    let places = (memory / 8 / Conversations::EACH).max(16);
    (1 << places.ilog2()) / 8 * 7
}

impl DisplayAs for Lopsided {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: parts={}", self.name(), self.parts.len())
    }
}

impl ExecutionPlan for Lopsided {
    fn name(&self) -> &str {
        "Lopsided"
    }

    fn schema(&self) -> SchemaRef {
        self.wanted.clone()
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
        Ok(Arc::new(Self::over(self.parts.clone(), rows, self.wanted.clone(), self.most)))
    }

    /// Of each stream are every so many slices.
    fn execute(&self, stream: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (parts, begun, wanted) = (self.parts.clone(), self.begun.clone(), self.wanted.clone());
        let (rows, most) = (self.rows.clone(), self.most);
        let held = MemoryConsumer::new("conversations").register(context.memory_pool());
        let batches = async move {
            let begun = begun.get_or_try_init(|| Begun::begin(parts, rows, most, &context)).await?.clone();
            let finding = Finding { begun, held, slice: stream, places: Places::ALL };
            let found = stream::try_unfold(finding, |finding| finding.next());
            let batches = found.map_ok(move |(names, mut found)| {
                let wanted = wanted.clone();
                stream::iter(std::iter::from_fn(move || {
                    let rows: Vec<(Ends, Share)> = found.by_ref().take(BATCH).collect();
                    (!rows.is_empty()).then(|| batch(&names, &rows, &wanted))
                }))
            });
            Ok::<_, DataFusionError>(batches.try_flatten())
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream::once(batches).try_flatten())))
    }
}

/// Places of conversations, from the first to the last one of a share of all.
#[derive(Clone, Copy, Debug)]
struct Places {
    first: u64,
    last: u64,
}

impl Places {
    const ALL: Self = Self { first: 0, last: u64::MAX };

    fn half(self) -> Self {
        Self { last: self.first + (self.last - self.first) / 2, ..self }
    }

    /// As many behind these; none if there are none.
    fn behind(self) -> Option<Self> {
        let first = self.last.checked_add(1)?;
        Some(Self { first, last: first.saturating_add(self.last - self.first) })
    }

    fn has(self, place: u64) -> bool {
        (self.first..=self.last).contains(&place)
    }
}

/// What both streams have in common.
#[derive(Clone, Debug)]
struct Begun {
    most: usize,
    sources: Arc<[Source]>,
    /// The names of all sources, in their order; a name's number is one more than its place.
    names: Arc<[Box<str>]>,
    /// Where conversations have their places, by no rule that could be known before.
    places: RandomState,
    /// For what is in memory.
    _held: Arc<MemoryReservation>,
}

/// Where conversations are from, and the numbers that stand for the names of its own.
#[derive(Debug)]
struct Source {
    of: SourceOf,
    names: Vec<u32>,
}

#[derive(Debug)]
enum SourceOf {
    Part(Arc<Part>),
    Records(Slices),
}

impl Begun {
    async fn begin(
        parts: Arc<[Arc<Part>]>,
        rows: Arc<dyn ExecutionPlan>,
        most: usize,
        context: &Arc<TaskContext>,
    ) -> Result<Self> {
        let held = MemoryConsumer::new("records of conversations").register(context.memory_pool());
        let mut records = Conversations::holding(most);
        let mut rows = CoalescePartitionsExec::new(rows).execute(0, context.clone())?;
        while let Some(rows) = rows.next().await {
            records.add(&rows?)?;
            held.try_resize(records.size())?;
        }
        let records = records.finish()?;
        held.try_resize(records.open.iter().chain(&records.settled).map(Vec::len).sum())?;
        let mut sources = vec![(records.names.clone(), SourceOf::Records(records))];
        for part in parts.iter() {
            let names = part.conversations(ConversationsOf::Names).map_err(external)?;
            let names = str::from_utf8(&names).map_err(|error| DataFusionError::External(Box::new(error)))?;
            sources.push((names.split('\n').map(Box::from).collect(), SourceOf::Part(part.clone())));
            // Whoever stops the question need not wait for all of them.
            tokio::task::yield_now().await;
        }
        let mut names: Vec<Box<str>> = sources.iter().flat_map(|(names, _)| names).cloned().collect();
        names.sort_unstable();
        names.dedup();
        let numbered = |(own, of): (Vec<Box<str>>, _)| {
            let number = |name| names.binary_search(name).map_or(0, |place| place as u32 + 1);
            Source { names: own.iter().map(number).collect(), of }
        };
        let sources = sources.into_iter().map(numbered).collect();
        Ok(Self { most, sources, names: names.into(), places: RandomState::new(), _held: Arc::new(held) })
    }

    /// Of the slice and these places, or the first of them, the conversations that no record settles.
    async fn find(&self, slice: usize, mut places: Places, held: &MemoryReservation) -> Result<(Found, Places)> {
        let mut open: HashMap<Ends, Share, FixedState> = HashMap::default();
        for source in self.sources.iter() {
            let octets = source.octets(ConversationsOf::Open(slice))?;
            let mut runs = Runs::of(&octets)?;
            while let Some(run) = runs.open().map_err(external)? {
                for (ends, share) in run {
                    let (ends, share) = (source.ends(ends)?, source.share(share)?);
                    if !places.has(self.places.hash_one(ends)) {
                        continue;
                    }
                    open.entry(ends).and_modify(|known| known.add(&share, u32::max)).or_insert(share);
                    while open.len() >= self.most && places.first < places.last {
                        places = places.half();
                        open.retain(|ends, _| places.has(self.places.hash_one(ends)));
                    }
                }
                held.try_resize(open.capacity() * Conversations::EACH)?;
            }
            tokio::task::yield_now().await;
        }
        for source in self.sources.iter() {
            if open.is_empty() {
                break;
            }
            let octets = source.octets(ConversationsOf::Settled(slice))?;
            let mut runs = Runs::of(&octets)?;
            while let Some(run) = runs.settled().map_err(external)? {
                for ends in run {
                    open.remove(&source.ends(ends)?);
                }
            }
            tokio::task::yield_now().await;
        }
        open.retain(|_, share| !share.is_settled());
        Ok((open.into_iter(), places))
    }
}

type Found = hash_map::IntoIter<Ends, Share>;

impl Source {
    fn octets(&self, of: ConversationsOf) -> Result<std::borrow::Cow<'_, [u8]>> {
        Ok(match (&self.of, of) {
            (SourceOf::Part(part), of) => part.conversations(of).map_err(external)?.into(),
            (SourceOf::Records(slices), ConversationsOf::Open(slice)) => slices.open[slice][..].into(),
            (SourceOf::Records(slices), ConversationsOf::Settled(slice)) => slices.settled[slice][..].into(),
            (SourceOf::Records(_), ConversationsOf::Names) => Default::default(),
        })
    }

    fn name(&self, number: u32) -> Result<u32> {
        let place = (number as usize).wrapping_sub(1);
        self.names.get(place).copied().ok_or_else(|| external(SumsError::Damaged))
    }

    fn ends(&self, ends: Ends) -> Result<Ends> {
        Ok(Ends { vpc: self.name(ends.vpc)?, ..ends })
    }

    fn share(&self, share: Share) -> Result<Share> {
        let name = |number| if number == 0 { Ok(0) } else { self.name(number) };
        let [began, asked] = share.instances;
        Ok(Share { instances: [name(began)?, name(asked)?], ..share })
    }
}

/// A stream's way through its slices.
struct Finding {
    begun: Begun,
    held: MemoryReservation,
    slice: usize,
    places: Places,
}

impl Finding {
    async fn next(self) -> Result<Option<((Arc<[Box<str>]>, Found), Self)>> {
        let Self { begun, held, slice, places } = self;
        if slice >= SLICES {
            return Ok(None);
        }
        let (found, places) = begun.find(slice, places, &held).await?;
        let (slice, places) = match places.behind() {
            Some(places) => (slice, places),
            None => (slice + PARTITIONS, Places::ALL),
        };
        Ok(Some(((begun.names.clone(), found), Self { begun, held, slice, places })))
    }
}

fn external(error: SumsError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn batch(names: &[Box<str>], found: &[(Ends, Share)], wanted: &SchemaRef) -> Result<RecordBatch> {
    let text = |number: u32| names.get((number as usize).wrapping_sub(1)).map(AsRef::as_ref);
    let texts = |number: fn(&(Ends, Share)) -> u32| -> ArrayRef {
        Arc::new(found.iter().map(|of| text(number(of))).collect::<StringArray>())
    };
    let addresses = |octets: fn(&Ends) -> u128| -> ArrayRef {
        let text = |(ends, _): &(Ends, Share)| Some(address(octets(ends).to_be_bytes()).to_string());
        Arc::new(found.iter().map(text).collect::<StringArray>())
    };
    let ports = |port: fn(&Ends) -> u16| -> ArrayRef {
        Arc::new(UInt16Array::from_iter_values(found.iter().map(|(ends, _)| port(ends))))
    };
    let packets = |which: usize| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(found.iter().map(|(_, share)| share.packets[which])))
    };
    let is_so = |so: fn(&Share) -> bool| -> ArrayRef {
        Arc::new(BooleanArray::from_iter(found.iter().map(|(_, share)| Some(so(share)))))
    };
    let times = |time: fn(&Share) -> i64| -> ArrayRef {
        let times = TimestampMillisecondArray::from_iter_values(found.iter().map(|(_, share)| time(share)));
        Arc::new(times.with_timezone("UTC"))
    };
    let array = |name: &str| -> Result<ArrayRef> {
        Ok(match name {
            "vpc" => texts(|(ends, _)| ends.vpc),
            "initiator" => addresses(|ends| ends.initiator),
            "initiator_instance" => texts(|(_, share)| share.instances[0]),
            "responder" => addresses(|ends| ends.responder),
            "responder_instance" => texts(|(_, share)| share.instances[1]),
            "protocol" => Arc::new(UInt8Array::from_iter_values(found.iter().map(|(ends, _)| ends.protocol))),
            "initiator_port" => ports(|ends| ends.initiator_port),
            "port" => ports(|ends| ends.port),
            "packets_sent" => packets(0),
            "packets_arrived" => packets(1),
            "answers_sent" => packets(2),
            "answers_arrived" => packets(3),
            "inside" => is_so(|share| !share.outside),
            "ended" => is_so(|share| share.ended),
            "first_seen" | "start" => times(|share| share.first),
            "last_seen" | "end" => times(|share| share.last),
            name => return Err(DataFusionError::Internal(format!("a conversation has no `{name}`"))),
        })
    };
    let arrays = wanted.fields().iter().map(|field| array(field.name())).collect::<Result<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(found.len()));
    Ok(RecordBatch::try_new_with_options(wanted.clone(), arrays, &options)?)
}
