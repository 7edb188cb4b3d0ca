//! The table `lopsided_flows` as one question sees it: of the conversations of its records those that are lopsided.
//!
//! Owns its columns, and which parts are answered from their conversations: those of which every record is in the time asked
//! for. All others, and the log's records, are added up by [`Lopsided`], the step that this table is. A condition on `start` or
//! `end` says which records are meant; what else is asked is asked of the rows.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    catalog::{Session, TableProvider},
    common::DFSchema,
    datasource::TableType,
    error::Result,
    logical_expr::{Expr, TableProviderFilterPushDown, utils::conjunction},
    physical_plan::{ExecutionPlan, filter::FilterExec},
};

use super::{
    lopsided::Lopsided,
    sums_table::{About, is_of_all},
    table::FlowsTable,
};
use crate::part::sums::conversations::GROUNDS;

/// What one question sees.
#[derive(Debug)]
pub(super) struct LopsidedTable {
    pub(super) flows: Arc<FlowsTable>,
    /// Octets that the question may hold.
    pub(super) memory: usize,
}

/// All columns: the conversation, what its records say of it, and the two times that conditions on records are about.
pub(super) fn schema() -> SchemaRef {
    static ALL: LazyLock<SchemaRef> = LazyLock::new(|| {
        let of = |name: &str, data_type: DataType| Field::new(name, data_type, name.ends_with("_instance"));
        let time = || DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        Arc::new(Schema::new(vec![
            of("vpc", DataType::Utf8),
            of("initiator", DataType::Utf8),
            of("initiator_instance", DataType::Utf8),
            of("responder", DataType::Utf8),
            of("responder_instance", DataType::Utf8),
            of("protocol", DataType::UInt8),
            of("initiator_port", DataType::UInt16),
            of("port", DataType::UInt16),
            of("packets_sent", DataType::UInt64),
            of("packets_arrived", DataType::UInt64),
            of("answers_sent", DataType::UInt64),
            of("answers_arrived", DataType::UInt64),
            of("inside", DataType::Boolean),
            of("ended", DataType::Boolean),
            of("first_seen", time()),
            of("last_seen", time()),
            of("start", time()),
            of("end", time()),
        ]))
    });
    ALL.clone()
}

#[async_trait]
impl TableProvider for LopsidedTable {
    fn schema(&self) -> SchemaRef {
        schema()
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
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted = match projection {
            Some(wanted) => Arc::new(self.schema().project(wanted)?),
            None => self.schema(),
        };
        let of_records: Vec<Expr> = filters.iter().filter(|filter| is_of_records(filter)).cloned().collect();
        let (mut added_up, mut others) = (Vec::new(), Vec::new());
        for part in self.flows.parts() {
            let is_meant = of_records.iter().all(|filter| is_of_all(filter, part.place.hour));
            let of = if is_meant && part.has_conversations() { &mut added_up } else { &mut others };
            of.push(part.clone());
            // Reading what was not read yet must not hold up whoever stops the question.
            tokio::task::yield_now().await;
        }
        let flows = self.flows.with_parts(others);
        let mut read = GROUNDS.iter().map(|name| flows.schema().index_of(name)).collect::<Result<Vec<_>, _>>()?;
        read.sort_unstable();
        let mut records = flows.scan(state, Some(&read), &of_records, None).await?;
        if let Some(condition) = conjunction(of_records) {
            let condition = state.create_physical_expr(condition, &DFSchema::try_from(records.schema())?)?;
            records = Arc::new(FilterExec::try_new(condition, records)?);
        }
        Ok(Arc::new(Lopsided::new(added_up, records, wanted, self.memory)))
    }
}

/// Whether each record that a row is made of has what the condition asks for, or none has; so that it is asked of records.
fn is_of_records(condition: &Expr) -> bool {
    match About::of(condition) {
        Some(About::Since(_) | About::Before(_)) => true,
        Some(About::Keys) => condition.column_refs().iter().all(|column| ["vpc", "protocol"].contains(&&*column.name)),
        None => false,
    }
}
