//! The table `foreign_flows`: records of other exporters, for the operator alone.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{Session, TableProvider},
    common::DFSchema,
    datasource::{
        listing::PartitionedFile,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource},
        source::DataSourceExec,
    },
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext, object_store::ObjectStoreUrl},
    logical_expr::{Expr, TableProviderFilterPushDown, TableType, utils::conjunction},
    physical_plan::{
        ExecutionPlan,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
        union::UnionExec,
    },
};
use lucarne_flows::foreign::ForeignRecord;

use crate::foreign::{self, ForeignSnapshot};

/// How the engine calls the folder of these records.
pub(super) fn url() -> Result<ObjectStoreUrl> {
    ObjectStoreUrl::parse("foreign://local/")
}

/// What one question sees.
#[derive(Debug)]
pub(super) struct ForeignTable(pub(super) ForeignSnapshot);

#[async_trait]
impl TableProvider for ForeignTable {
    fn schema(&self) -> SchemaRef {
        foreign::schema()
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
        let waiting = Arc::new(Waiting { schema: self.schema(), chunks: self.0.waiting.clone() });
        let waiting = StreamingTableExec::try_new(self.schema(), vec![waiting], projection, [], false, limit)?;
        if self.0.files.is_empty() {
            return Ok(Arc::new(waiting));
        }
        let mut source = ParquetSource::new(self.schema()).with_pushdown_filters(true);
        if let Some(all) = conjunction(filters.to_vec()) {
            let schema = DFSchema::try_from(self.schema())?;
            source = source.with_predicate(state.create_physical_expr(all, &schema)?);
        }
        let files = self.0.files.iter().map(|file| PartitionedFile::new(file.name.clone(), file.size)).collect();
        let config = FileScanConfigBuilder::new(url()?, Arc::new(source))
            .with_file_group(FileGroup::new(files))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        UnionExec::try_new(vec![Arc::new(waiting), DataSourceExec::from_data_source(config)])
    }
}

/// Records that are in no file yet.
#[derive(Debug)]
struct Waiting {
    schema: SchemaRef,
    chunks: Vec<Arc<[ForeignRecord]>>,
}

impl PartitionStream for Waiting {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self.chunks.clone().into_iter();
        let batches = batches.map(|records| foreign::batch(&records).map_err(DataFusionError::from));
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(batches)))
    }
}
