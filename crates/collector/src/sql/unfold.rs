//! Records over a scan of files whose rows are folded: both directions of a flow in one.
//!
//! Owns the step of the engine's plan that unfolds; what lies in a row is the matter of [`crate::part::stored`].

use std::{fmt, sync::Arc};

use datafusion::{
    arrow::datatypes::SchemaRef,
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

use crate::part::stored::Halves;

#[derive(Debug)]
pub(super) struct Unfold {
    halves: Halves,
    rows: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl Unfold {
    /// The wanted columns, over a scan of rows with the columns that are read for them.
    pub(super) fn over(halves: Halves, rows: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(halves.wanted().clone()),
            Partitioning::UnknownPartitioning(rows.output_partitioning().partition_count()),
            rows.pipeline_behavior(),
            rows.boundedness(),
        );
        Self { halves, rows, properties: Arc::new(properties) }
    }
}

impl DisplayAs for Unfold {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unfold")
    }
}

impl ExecutionPlan for Unfold {
    fn name(&self) -> &str {
        "Unfold"
    }

    fn schema(&self) -> SchemaRef {
        self.halves.wanted().clone()
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
        match <[_; 1]>::try_from(children) {
            Ok([rows]) => Ok(Arc::new(Self::over(self.halves.clone(), rows))),
            Err(_) => Err(DataFusionError::Internal("what is unfolded is one scan".into())),
        }
    }

    /// Of each batch first the forward records, then the reverse ones.
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let halves = self.halves.clone();
        let records = self.rows.execute(partition, context)?.map(move |rows| {
            let records = halves.records(&rows?)?.into_iter().filter(|records| records.num_rows() > 0);
            Ok::<_, DataFusionError>(stream::iter(records.map(Ok)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), records.try_flatten())))
    }
}
