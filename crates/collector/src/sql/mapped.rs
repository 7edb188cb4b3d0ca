//! A step of the engine's plan that makes other batches of each batch, by a rule of ours.
//!
//! Owns the step; the rules are the matter of those who state them.

use std::{fmt, sync::Arc};

use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    common::tree_node::TreeNodeRecursion,
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties,
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{StreamExt as _, TryStreamExt as _, stream};

/// What becomes of a batch.
pub(super) trait Mapping: fmt::Debug + Send + Sync + 'static {
    const NAME: &'static str;

    /// Of what comes out.
    fn schema(&self) -> SchemaRef;
    fn map(&self, rows: &RecordBatch) -> Result<Vec<RecordBatch>>;
}

#[derive(Debug)]
pub(super) struct Mapped<M> {
    mapping: Arc<M>,
    rows: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl<M: Mapping> Mapped<M> {
    pub(super) fn over(mapping: M, rows: Arc<dyn ExecutionPlan>) -> Self {
        Self::of(Arc::new(mapping), rows)
    }

    fn of(mapping: Arc<M>, rows: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(mapping.schema()),
            Partitioning::UnknownPartitioning(rows.output_partitioning().partition_count()),
            rows.pipeline_behavior(),
            rows.boundedness(),
        );
        Self { mapping, rows, properties: Arc::new(properties) }
    }
}

/// The one step that a step of that name is over.
pub(super) fn only(children: Vec<Arc<dyn ExecutionPlan>>, name: &str) -> Result<Arc<dyn ExecutionPlan>> {
    match <[_; 1]>::try_from(children) {
        Ok([rows]) => Ok(rows),
        Err(_) => Err(DataFusionError::Internal(format!("`{name}` is over one step"))),
    }
}

impl<M: Mapping> DisplayAs for Mapped<M> {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(M::NAME)
    }
}

impl<M: Mapping> ExecutionPlan for Mapped<M> {
    fn name(&self) -> &str {
        M::NAME
    }

    fn schema(&self) -> SchemaRef {
        self.mapping.schema()
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
        Ok(Arc::new(Self::of(self.mapping.clone(), only(children, M::NAME)?)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mapping = self.mapping.clone();
        let mapped = self.rows.execute(partition, context)?.map(move |rows| {
            let mapped = mapping.map(&rows?)?.into_iter().filter(|rows| rows.num_rows() > 0);
            Ok::<_, DataFusionError>(stream::iter(mapped.map(Ok)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), mapped.try_flatten())))
    }
}
