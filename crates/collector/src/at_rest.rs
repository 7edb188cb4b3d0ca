//! The steps that records go through, and the room that they take at rest, without a collector that runs: for measurements.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::Path,
    sync::Arc,
};

use arrow_array::{Array as _, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Schema};
use lucarne_flows::{
    columns::FlowColumns,
    ipfix::{Decoder, Mark},
};
use lucarne_model::{FlowRecord, Moment};

use crate::{
    chunk::Chunk,
    columns::{Columns, Whole, schema, spelt_out},
    durable,
    log::{self, Log},
    part::{self, Effort, Folders, NewPart, Part, Writer, sums::Level},
    received::Received,
    sealer::{self, write_parts},
};

/// Messages that are handed on together, as by a connection that is never empty.
const TOGETHER: usize = 512;
/// What is appended to the log at once.
const GROUP: usize = 32;

/// Records as they were received.
#[derive(Debug)]
pub struct Inflow(Vec<Received>);

/// Records as the hot table has them.
#[derive(Clone, Debug)]
pub struct Hot(Vec<Arc<Chunk>>);

/// Records as rows of a part, before they are written.
#[derive(Debug, Default)]
pub struct Shown {
    rows: Vec<RecordBatch>,
    /// With addresses as texts, as others' writers take them.
    with_texts: Vec<RecordBatch>,
}

/// Records in parts of one hour.
#[derive(Debug)]
pub struct Sealed(Vec<Arc<Part>>);

/// Octets of the files of some records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtRest {
    /// Of what accounts see.
    pub shown: u64,
    /// Of what is the operator's own.
    pub own: u64,
    /// Of what is added up of them already.
    pub sums: u64,
    /// Of each column that accounts see, largest first; the rest of [`AtRest::shown`] is bloom filters, indices and footers.
    pub columns: Vec<(String, u64)>,
}

impl Inflow {
    /// Decodes the messages of some senders to columns: of each in turn as much as is handed on together.
    pub fn decode(senders: Vec<Vec<Vec<u8>>>) -> io::Result<Self> {
        let mut all = Vec::new();
        in_turn(senders, TOGETHER, |received| {
            all.push(received);
            Ok(())
        })?;
        Ok(Self(all))
    }

    /// Decodes them to arrays, what repeats as dictionaries, in batches of so many records that are let go one after the
    /// other, as by whoever reads a stream; gives their octets.
    pub fn stream(senders: Vec<Vec<Vec<u8>>>, together: usize) -> io::Result<usize> {
        let mut octets = 0;
        in_turn(senders, together, |received| {
            let chunk = Arc::new(Chunk { first: log::serial(1, 0), columns: received.columns });
            octets += Whole(&chunk).arrays().map_err(io::Error::other)?.get_array_memory_size();
            Ok(())
        })?;
        Ok(octets)
    }

    /// Makes the records durable in a log below the folder.
    pub fn log(self, state_dir: &Path, now: Moment) -> io::Result<Hot> {
        let dir = state_dir.join(sealer::LOG_DIR);
        durable::create_dir(&dir)?;
        let mut log = Log::new(dir, 1);
        log.rotate(&[], now)?;
        let mut hot = Vec::new();
        let mut rest = self.0.into_iter().peekable();
        while rest.peek().is_some() {
            let marks = [Mark { session: 1, next: log.records() as u64 }];
            let group = log.prepare(rest.by_ref().take(GROUP).collect(), &marks, now);
            let group = group.ok_or_else(|| io::Error::other("the log has no segment"))?;
            log.append(&group)?;
            hot.extend(group.chunks);
        }
        Ok(Hot(hot))
    }
}

/// Decodes the messages of some senders: of each in turn those of so many records.
fn in_turn(
    senders: Vec<Vec<Vec<u8>>>,
    together: usize,
    mut take: impl FnMut(Received) -> io::Result<()>,
) -> io::Result<()> {
    let mut waiting: VecDeque<_> = senders.into_iter().map(|messages| (Decoder::new(), messages.into_iter())).collect();
    while let Some((mut decoder, mut messages)) = waiting.pop_front() {
        let mut received = Received::default();
        while received.len() < together
            && let Some(message) = messages.next()
        {
            let decoded = decoder.decode(&message, &mut received.columns).map_err(io::Error::other)?;
            received.keep(&decoded.runs, message);
        }
        if received.len() > 0 {
            take(received)?;
            waiting.push_back((decoder, messages));
        }
    }
    Ok(())
}

impl Hot {
    /// Of records that were made up.
    pub fn of(records: &[FlowRecord]) -> Self {
        Self(vec![Arc::new(Chunk { first: log::serial(1, 0), columns: FlowColumns::of(records) })])
    }

    pub fn records(&self) -> usize {
        self.0.iter().map(|chunk| chunk.len()).sum()
    }

    /// Makes arrays of the records where they lie, with what repeats as dictionaries, and gives their octets.
    pub fn arrays(&self) -> io::Result<usize> {
        let batches = self.0.iter().map(|chunk| {
            let batch = Whole(chunk).arrays().map_err(io::Error::other)?;
            Ok(batch.get_array_memory_size())
        });
        batches.sum()
    }

    /// What accounts see of the records, in the rows and the order of a part.
    pub fn shown(&self) -> io::Result<Shown> {
        let Some(chunk) = sealer::together(&self.0) else { return Ok(Shown::default()) };
        let arrays = Whole(&chunk).arrays().map_err(io::Error::other)?;
        let mut rows: Vec<u32> = (0..chunk.len() as u32).collect();
        sealer::sort(&chunk.columns, &mut rows);
        let rows = part::shown_rows(&chunk, &arrays, &rows).map_err(io::Error::other)?;
        let with_texts = rows.iter().map(with_texts).collect::<Result<_, _>>().map_err(io::Error::other)?;
        Ok(Shown { rows, with_texts })
    }

    /// Turns the records into arrays as SQL sees them, and gives their octets.
    pub fn lay_out(&self) -> io::Result<usize> {
        let batches = self.0.iter().map(|chunk| {
            let batch = Whole(chunk).batch(None, &schema(Columns::All)).map_err(io::Error::other)?;
            Ok(batch.get_array_memory_size())
        });
        batches.sum()
    }

    /// Writes the records below the folder as parts, durable, as if they had come in so many segments of the log.
    pub fn seal(&self, state_dir: &Path, effort: Effort, segments: usize) -> io::Result<Sealed> {
        let folders = Folders::of(state_dir);
        let mut parts = Vec::new();
        for (chunks, segment) in self.0.chunks(self.0.len().div_ceil(segments.max(1)).max(1)).zip(1..) {
            let written = write_parts(&folders, segment, effort, chunks).map_err(io::Error::other)?;
            parts.extend(written.into_iter().map(|NewPart { part, .. }| part));
        }
        Ok(Sealed(parts))
    }
}

impl Shown {
    /// Makes the file of them, in memory, and gives its octets.
    pub fn write(&self, effort: Effort, writer: Writer) -> io::Result<usize> {
        let rows = match writer {
            Writer::Ours => &self.rows,
            Writer::Parquets => &self.with_texts,
        };
        Ok(part::shown_file(rows, effort, writer).map_err(io::Error::other)?.len())
    }
}

/// Rows with addresses as texts.
fn with_texts(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let is_address = |array: &ArrayRef| matches!(array.data_type(), DataType::FixedSizeBinary(_));
    let spelt = |array: &ArrayRef| if is_address(array) { spelt_out(array) } else { Ok(array.clone()) };
    let arrays = rows.columns().iter().map(spelt).collect::<Result<Vec<_>, _>>()?;
    let fields = rows.schema_ref().fields().iter().zip(&arrays);
    let fields = fields.map(|(field, array)| field.as_ref().clone().with_data_type(array.data_type().clone()));
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), arrays)
}

impl Sealed {
    /// Writes the part that covers these, which must be of one account, location and hour.
    pub fn merge(&self, state_dir: &Path) -> io::Result<Self> {
        let merged = part::merge(&Folders::of(state_dir), &self.0).map_err(io::Error::other)?;
        Ok(Self(merged.into_iter().map(|NewPart { part, .. }| part).collect()))
    }

    pub fn at_rest(&self) -> io::Result<AtRest> {
        let mut at_rest = AtRest::default();
        let mut columns: BTreeMap<String, u64> = BTreeMap::new();
        for part in &self.0 {
            at_rest.shown += part.size;
            at_rest.own += fs::metadata(&part.own_path)?.len();
            at_rest.sums += if part.is_summed(Level::Instance) { fs::metadata(&part.sums_path)?.len() } else { 0 };
            for (name, octets) in part::column_sizes(part).map_err(io::Error::other)? {
                *columns.entry(name).or_default() += octets;
            }
        }
        at_rest.columns = columns.into_iter().collect();
        at_rest.columns.sort_by_key(|(_, octets)| std::cmp::Reverse(*octets));
        Ok(at_rest)
    }
}
