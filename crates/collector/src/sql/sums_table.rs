//! The table `flow_sums` as one question sees it: the records of `flows`, added up where that is known already.
//!
//! Owns which parts are answered from their sums: those of which every record is in the time asked for, whatever else is
//! asked about columns that their rows are told apart by. All others, and the log's records, come as sums of one record each;
//! where the address at the other end is wanted, [`AddedUpByPeer`] puts both together. So any sum over the table is the one over `flows`, and which rows it is made of is nobody's matter.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{RecordBatch, RecordBatchOptions},
        datatypes::SchemaRef,
    },
    catalog::{Session, TableProvider},
    common::{DFSchema, ScalarValue},
    datasource::TableType,
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, utils::conjunction},
    physical_plan::{
        ExecutionPlan,
        filter::FilterExec,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
        union::UnionExec,
    },
};

use super::{
    by_peer::AddedUpByPeer,
    engine::PARTITIONS,
    mapped::{Mapped, Mapping},
    table::FlowsTable,
};
use crate::{
    hour::Hour,
    part::{
        Part,
        sums::{self, Level},
    },
};

/// What one question sees.
#[derive(Debug)]
pub(super) struct SumsTable(pub(super) Arc<FlowsTable>);

#[async_trait]
impl TableProvider for SumsTable {
    fn schema(&self) -> SchemaRef {
        sums::schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted = match projection {
            Some(wanted) => Arc::new(self.schema().project(wanted)?),
            None => self.schema(),
        };
        let (mut added_up, mut others) = (Vec::new(), Vec::new());
        let asked: Vec<&str> =
            filters.iter().flat_map(|filter| filter.column_refs()).map(|c| c.name.as_str()).collect();
        let level = Level::with(wanted.fields().iter().map(|field| field.name().as_str()).chain(asked));
        for part in self.0.parts() {
            let is_meant = level.is_some_and(|level| {
                filters.iter().all(|filter| is_of_all(filter, part.place.hour)) && part.is_summed(level)
            });
            let of = if is_meant { &mut added_up } else { &mut others };
            of.push(part.clone());
            // Reading what was not read yet must not hold up whoever stops the question.
            tokio::task::yield_now().await;
        }
        let rows = self.one_by_one(state, others, &wanted, filters, limit).await?;
        if level == Some(Level::Peer) && filters.iter().all(|filter| About::of(filter).is_some()) {
            return by_peer(state, added_up, rows, filters);
        }
        let Some(level) = level.filter(|_| !added_up.is_empty()) else { return Ok(rows) };
        let share = added_up.len().div_ceil(PARTITIONS);
        let streams = added_up.chunks(share).map(|parts| {
            let (parts, schema) = (parts.to_vec(), wanted.clone());
            Arc::new(AddedUp { parts, level, schema }) as Arc<dyn PartitionStream>
        });
        let streams = streams.collect();
        let added_up = StreamingTableExec::try_new(wanted, streams, None, [], false, limit)?;
        UnionExec::try_new(vec![rows, Arc::new(added_up)])
    }
}

impl SumsTable {
    /// The records of the log and of parts, each as the sum of one.
    async fn one_by_one(
        &self,
        state: &dyn Session,
        parts: Vec<Arc<Part>>,
        wanted: &SchemaRef,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let flows = self.0.with_parts(parts);
        let schema = flows.schema();
        let grounds = wanted.fields().iter().flat_map(|field| sums::grounds(field.name()));
        let mut read = grounds.map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
        read.sort_unstable();
        read.dedup();
        let is_theirs =
            |filter: &&Expr| filter.column_refs().iter().all(|column| schema.index_of(&column.name).is_ok());
        let filters: Vec<Expr> = filters.iter().filter(is_theirs).cloned().collect();
        let records = flows.scan(state, Some(&read), &filters, limit).await?;
        Ok(Arc::new(Mapped::over(OneByOne(wanted.clone()), records)))
    }
}

/// The sums of parts and of records, added up by peer. What is asked is asked of each record before: sums do not tell of the
/// time of one.
fn by_peer(
    state: &dyn Session,
    parts: Vec<Arc<Part>>,
    records: Arc<dyn ExecutionPlan>,
    filters: &[Expr],
) -> Result<Arc<dyn ExecutionPlan>> {
    let condition = |schema: SchemaRef, of: &[Expr]| {
        let schema = DFSchema::try_from(schema)?;
        conjunction(of.iter().cloned()).map(|all| state.create_physical_expr(all, &schema)).transpose()
    };
    let records = match condition(records.schema(), filters)? {
        Some(condition) => Arc::new(FilterExec::try_new(condition, records)?),
        None => records,
    };
    let services = Level::Service.schema();
    let is_theirs = |filter: &&Expr| {
        matches!(About::of(filter), Some(About::Keys))
            && filter.column_refs().iter().all(|column| services.index_of(&column.name).is_ok())
    };
    let of_services: Vec<Expr> = filters.iter().filter(is_theirs).cloned().collect();
    let of_services = condition(services.clone(), &of_services)?;
    Ok(Arc::new(AddedUpByPeer::new(parts, of_services, records)))
}

/// What a condition is about that can be asked of sums.
pub(super) enum About {
    /// Columns that rows of sums are told apart by.
    Keys,
    /// The end of each record: at or after this moment, in milliseconds.
    Since(u64),
    /// The start or the end of each record: before this moment.
    Before(u64),
}

impl About {
    pub(super) fn of(condition: &Expr) -> Option<Self> {
        if condition.column_refs().iter().all(|column| sums::is_key(&column.name)) {
            return (!condition.is_volatile()).then_some(Self::Keys);
        }
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return None };
        let (Expr::Column(column), Expr::Literal(ScalarValue::TimestampMillisecond(Some(moment), _), _)) =
            (left.as_ref(), right.as_ref())
        else {
            return None;
        };
        let moment = u64::try_from(*moment).ok()?;
        match (column.name.as_str(), op) {
            ("end", Operator::GtEq) => Some(Self::Since(moment)),
            ("end", Operator::Gt) => Some(Self::Since(moment.checked_add(1)?)),
            ("start" | "end", Operator::Lt) => Some(Self::Before(moment)),
            ("start" | "end", Operator::LtEq) => Some(Self::Before(moment.checked_add(1)?)),
            _ => None,
        }
    }
}

/// Whether the condition says of a sum of records that ended in the hour what it says of each of them. Such records also began
/// before the end of the hour: a part with others has no sums.
pub(super) fn is_of_all(condition: &Expr, hour: Hour) -> bool {
    match About::of(condition) {
        Some(About::Keys) => true,
        Some(About::Since(moment)) => hour.start().as_millis() >= moment,
        Some(About::Before(moment)) => hour.end().as_millis() <= moment,
        None => false,
    }
}

/// Records as sums of one each.
#[derive(Debug)]
struct OneByOne(SchemaRef);

impl Mapping for OneByOne {
    const NAME: &'static str = "OneByOne";

    fn schema(&self) -> SchemaRef {
        self.0.clone()
    }

    fn map(&self, records: &RecordBatch) -> Result<Vec<RecordBatch>> {
        Ok(vec![sums::of_records(records, &self.0)?])
    }
}

/// The sums of parts, one part after the other.
#[derive(Debug)]
struct AddedUp {
    parts: Vec<Arc<Part>>,
    level: Level,
    /// Of the wanted columns.
    schema: SchemaRef,
}

impl PartitionStream for AddedUp {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (level, schema) = (self.level, self.schema.clone());
        let batches = self.parts.clone().into_iter().flat_map(move |part| {
            let (read, error) = match part.sums(level) {
                Ok(batches) => (batches, None),
                Err(error) => (Vec::new(), Some(Err(DataFusionError::External(Box::new(error))))),
            };
            let schema = schema.clone();
            read.into_iter().map(move |rows| with_columns(&rows, &schema)).chain(error)
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(batches)))
    }
}

fn with_columns(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let places = schema.fields().iter().map(|field| rows.schema_ref().index_of(field.name()));
    let arrays = places.map(|place| Ok(rows.column(place?).clone())).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), arrays, &options)?)
}
