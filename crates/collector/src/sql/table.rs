//! The table `flows` as one question sees it: the log's records and the parts, each record once.
//!
//! Owns the scan: which parts can hold what is asked for (by account and time, from their names alone), and that what is
//! left is read with the same columns whether it comes from memory or a file. Within a part DataFusion leaves out groups
//! and pages by their statistics and bloom filters. What is the operator's own does not exist in a tenant's table; where
//! an operator asks for it, both files of a part are read side by side, and whole.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray, RecordBatch, StringArray, TimestampMillisecondArray},
        datatypes::SchemaRef,
    },
    catalog::{Session, TableProvider},
    common::{Column, DFSchema, pruning::PruningStatistics},
    datasource::{
        listing::PartitionedFile,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource, parquet::CachedParquetFileReaderFactory},
        source::DataSourceExec,
    },
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext, object_store::ObjectStoreUrl, runtime_env::RuntimeEnv},
    logical_expr::{Expr, TableProviderFilterPushDown, TableType, utils::conjunction},
    physical_expr::PhysicalExpr,
    physical_optimizer::pruning::PruningPredicateBuilder,
    physical_plan::{
        ExecutionPlan,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
        union::UnionExec,
    },
};
use lucarne_model::AccountId;

use super::{
    mapped::{Mapped, Mapping},
    pushdown::{on_parts, on_rows},
};
use crate::{
    catalog::{Chunks, Everything},
    columns::{self, Columns, Whole},
    part::{
        Part, PartBatches, PartError,
        stored::{self, Halves},
    },
};

/// How the engine calls the folder of parts.
pub(super) fn parts_url() -> Result<ObjectStoreUrl> {
    ObjectStoreUrl::parse("parts://local/")
}

/// What one question sees. It holds the parts' files open to be read as long as it lives.
#[derive(Debug)]
pub(super) struct FlowsTable {
    account: Option<AccountId>,
    columns: Columns,
    everything: Everything,
}

impl FlowsTable {
    pub(super) fn new(account: Option<AccountId>, everything: Everything) -> Self {
        Self { account, columns: columns_of(account), everything }
    }

    pub(super) fn parts(&self) -> &[Arc<Part>] {
        &self.everything.parts
    }

    /// The same with no parts but these.
    pub(super) fn with_parts(&self, parts: Vec<Arc<Part>>) -> Self {
        let everything = Everything { unsealed: self.everything.unsealed.clone(), parts };
        Self { account: self.account, columns: self.columns, everything }
    }

    fn parts_that_may_match(&self, predicate: Option<&Arc<dyn PhysicalExpr>>) -> Vec<&Arc<Part>> {
        let parts = Names(&self.everything.parts);
        let wanted = predicate.and_then(|predicate| {
            let pruning = PruningPredicateBuilder::new().with_file_schema(self.schema()).build(predicate.clone())?;
            pruning.prune(&parts).ok()
        });
        let is_wanted = |index: usize| wanted.as_ref().is_none_or(|wanted| wanted.get(index).copied().unwrap_or(true));
        let parts = self.everything.parts.iter().enumerate();
        parts.filter(|(index, _)| is_wanted(*index)).map(|(_, part)| part).collect()
    }

    /// Whether columns are wanted that only the operator's own files have.
    fn wants_own(&self, projection: Option<&Vec<usize>>) -> bool {
        let shown = columns::schema(Columns::Shown).fields().len();
        let wants = |projection: &Vec<usize>| projection.iter().any(|column| *column >= shown);
        self.columns == Columns::All && projection.is_none_or(wants)
    }

    /// Lays out no column of the log's records but those that are wanted.
    fn scan_log(&self, projection: Option<&Vec<usize>>, limit: Option<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(wanted) => Arc::new(self.schema().project(wanted)?),
            None => self.schema(),
        };
        let log = Log { account: self.account, schema: schema.clone(), chunks: self.everything.unsealed.clone() };
        let plan = StreamingTableExec::try_new(schema, vec![Arc::new(log)], None, [], false, limit)?;
        Ok(Arc::new(plan))
    }

    fn stream(
        &self,
        rows: impl PartitionStream + 'static,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = StreamingTableExec::try_new(self.schema(), vec![Arc::new(rows)], projection, [], false, limit)?;
        Ok(Arc::new(plan))
    }

    /// Reads what accounts may see, which comes first among the columns.
    fn scan_parts(
        &self,
        environment: &RuntimeEnv,
        parts: &[&Arc<Part>],
        predicate: Option<Arc<dyn PhysicalExpr>>,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let halves = match projection {
            Some(wanted) => Halves::of(Columns::Shown, wanted),
            None => Halves::all(Columns::Shown),
        };
        let footers = environment.cache_manager.get_file_metadata_cache();
        let readers = CachedParquetFileReaderFactory::new(environment.object_store(parts_url()?)?, footers);
        let mut source = ParquetSource::new(stored::schema(Columns::Shown))
            .with_parquet_file_reader_factory(Arc::new(readers))
            .with_pushdown_filters(true)
            .with_reorder_filters(true)
            .with_enable_page_index(true)
            .with_bloom_filter_on_read(true);
        if let Some(predicate) = predicate {
            source = source.with_predicate(predicate);
        }
        let files = parts.iter().map(|part| PartitionedFile::new(part.place.name(), part.size)).collect();
        let config = FileScanConfigBuilder::new(parts_url()?, Arc::new(source))
            .with_file_group(FileGroup::new(files))
            .with_projection_indices(Some(halves.read().to_vec()))?
            .with_limit(limit)
            .build();
        Ok(Arc::new(Mapped::over(halves, DataSourceExec::from_data_source(config))))
    }
}

/// Both directions of a flow lie in one row of a part: of each batch first the forward records, then the reverse ones.
impl Mapping for Halves {
    const NAME: &'static str = "Unfold";

    fn schema(&self) -> SchemaRef {
        self.wanted().clone()
    }

    fn map(&self, rows: &RecordBatch) -> Result<Vec<RecordBatch>> {
        Ok(self.records(rows)?.into())
    }
}

/// The columns that a question for the account sees.
pub(super) fn columns_of(account: Option<AccountId>) -> Columns {
    account.map_or(Columns::All, |_| Columns::Shown)
}

#[async_trait]
impl TableProvider for FlowsTable {
    fn schema(&self) -> SchemaRef {
        columns::schema(self.columns)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// What is left out by statistics may still hold rows that are not meant: the engine looks at each row again.
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
        let schema = DFSchema::try_from(self.schema())?;
        let predicate = conjunction(filters.iter().map(on_parts));
        let predicate = predicate.map(|all| state.create_physical_expr(all, &schema)).transpose()?;
        let log = self.scan_log(projection, limit)?;
        let parts = self.parts_that_may_match(predicate.as_ref());
        if parts.is_empty() {
            return Ok(log);
        }
        let parts = if self.wants_own(projection) {
            let parts = parts.into_iter().cloned().collect();
            self.stream(BothFiles { schema: self.schema(), parts }, projection, limit)?
        } else {
            let rows = DFSchema::try_from(stored::schema(Columns::Shown))?;
            let predicate = conjunction(filters.iter().filter_map(on_rows));
            let predicate = predicate.map(|all| state.create_physical_expr(all, &rows)).transpose()?;
            self.scan_parts(state.runtime_env(), &parts, predicate, projection, limit)?
        };
        UnionExec::try_new(vec![log, parts])
    }
}

/// The log's records, turned into columns one chunk after the other, as they are asked for.
#[derive(Debug)]
struct Log {
    account: Option<AccountId>,
    /// Of the wanted columns.
    schema: SchemaRef,
    chunks: Chunks,
}

impl PartitionStream for Log {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (account, schema) = (self.account, self.schema.clone());
        let batches = self.chunks.clone().into_iter().map(move |chunk| {
            let rows = chunk.rows_of(account);
            let rows = (rows.len() < chunk.len()).then_some(&rows[..]);
            Whole(&chunk).batch(rows, &schema).map_err(DataFusionError::from)
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(batches)))
    }
}

/// All columns of parts, one part after the other.
#[derive(Debug)]
struct BothFiles {
    schema: SchemaRef,
    parts: Vec<Arc<Part>>,
}

impl PartitionStream for BothFiles {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = self.schema.clone();
        let batches = self.parts.clone().into_iter().flat_map(move |part| {
            let (opened, error) = match PartBatches::all(&part) {
                Ok(batches) => (Some(batches), None),
                Err(error) => (None, Some(Err(error))),
            };
            let schema = schema.clone();
            let batches = opened.into_iter().flatten().chain(error).flat_map(|read| match read {
                Ok(halves) => halves.map(Ok).into(),
                Err(error) => vec![Err(external(error))],
            });
            batches.map(move |both| {
                let (shown, own) = both?;
                let arrays = [shown.columns(), own.columns()].concat();
                Ok(RecordBatch::try_new(schema.clone(), arrays)?)
            })
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(batches)))
    }
}

fn external(error: PartError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// What the names of parts say of their rows: the account, and the hour in which flows ended.
struct Names<'a>(&'a [Arc<Part>]);

impl Names<'_> {
    fn times(&self, time: impl Fn(&Part) -> u64) -> ArrayRef {
        let millis = self.0.iter().map(|part| i64::try_from(time(part)).unwrap_or(i64::MAX));
        Arc::new(TimestampMillisecondArray::from_iter_values(millis).with_timezone("UTC"))
    }

    fn accounts(&self) -> ArrayRef {
        Arc::new(self.0.iter().map(|part| Some(part.place.account.to_string())).collect::<StringArray>())
    }
}

impl PruningStatistics for Names<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        match column.name.as_str() {
            "account" => Some(self.accounts()),
            "end" => Some(self.times(|part| part.place.hour.start().as_millis())),
            _ => None,
        }
    }

    /// A flow began before it ended, and the moment at which an hour ends is of the next one.
    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        match column.name.as_str() {
            "account" => Some(self.accounts()),
            "start" | "end" => Some(self.times(|part| part.place.hour.end().as_millis().saturating_sub(1))),
            _ => None,
        }
    }

    fn num_containers(&self) -> usize {
        self.0.len()
    }

    fn null_counts(&self, _: &Column) -> Option<ArrayRef> {
        None
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        None
    }

    fn contained(
        &self,
        _: &Column,
        _: &std::collections::HashSet<datafusion::scalar::ScalarValue>,
    ) -> Option<BooleanArray> {
        None
    }
}
