//! Flow ids as the table shows them, over a scan of files that leave most of them out.
//!
//! Owns which columns must be read for it; what an id follows from is the matter of [`stored`].

use std::sync::{Arc, LazyLock};

use datafusion::{
    arrow::{
        array::{Array as _, ArrayRef, UInt64Array},
        datatypes::{DataType, Field, SchemaRef},
    },
    config::ConfigOptions,
    error::{DataFusionError, Result},
    logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf},
    physical_expr::{PhysicalExpr, ScalarFunctionExpr, expressions::Column},
    physical_plan::{ExecutionPlan, projection::ProjectionExec},
};

use crate::part::stored::{self, FLOW_ID, GROUNDS, Grounds};

/// How wanted columns are had from those that are read.
pub(super) struct Restored {
    stored: SchemaRef,
    /// Columns of the file's schema: those that are wanted, then what else a flow's id follows from.
    pub(super) read: Vec<usize>,
    wanted: usize,
}

impl Restored {
    pub(super) fn of(stored: &SchemaRef, wanted: &[usize]) -> Result<Self> {
        let mut read = wanted.to_vec();
        if wanted.contains(&stored.index_of(FLOW_ID)?) {
            for name in GROUNDS {
                let ground = stored.index_of(name)?;
                if !read.contains(&ground) {
                    read.push(ground);
                }
            }
        }
        Ok(Self { stored: stored.clone(), read, wanted: wanted.len() })
    }

    /// The wanted columns, over a scan of those that are read.
    pub(super) fn over(
        self,
        scan: Arc<dyn ExecutionPlan>,
        options: &Arc<ConfigOptions>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let name = |index: &usize| self.stored.field(*index).name().clone();
        let names: Vec<String> = self.read.iter().map(name).collect();
        let names = names.get(..self.wanted).unwrap_or_default();
        if !names.iter().any(|name| name == FLOW_ID) {
            return Ok(scan);
        }
        let schema = scan.schema();
        let column = |name: &str| Ok(Arc::new(Column::new_with_schema(name, &schema)?) as Arc<dyn PhysicalExpr>);
        let shown = |name: &String| {
            let shown = if name == FLOW_ID {
                let arguments = [FLOW_ID].iter().chain(&GROUNDS).map(|name| column(name)).collect::<Result<_>>()?;
                let field = Arc::new(Field::new(FLOW_ID, DataType::UInt64, false));
                let function = Arc::new(FLOW_ID_OF.clone());
                Arc::new(ScalarFunctionExpr::new(FLOW_ID, function, arguments, field, options.clone()))
            } else {
                column(name)?
            };
            Ok((shown, name.clone()))
        };
        let columns = names.iter().map(shown).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ProjectionExec::try_new(columns, scan)?))
    }
}

/// What was kept of an id, and what it follows from, to the id.
static FLOW_ID_OF: LazyLock<ScalarUDF> = LazyLock::new(|| {
    use DataType::{UInt8, UInt16, UInt64, Utf8};
    let types = vec![UInt64, Utf8, Utf8, Utf8, UInt16, UInt16, UInt8];
    create_udf("flow_id_of", types, UInt64, Volatility::Immutable, Arc::new(flow_id_of))
});

fn flow_id_of(arguments: &[ColumnarValue]) -> Result<ColumnarValue> {
    let arrays = ColumnarValue::values_to_arrays(arguments)?;
    let ids = arrays.split_first().and_then(|(kept, grounds)| {
        Some(stored::flow_ids(kept.as_any().downcast_ref::<UInt64Array>()?, &Grounds::of(grounds)?))
    });
    let ids = ids.ok_or_else(|| DataFusionError::Internal("the columns of a part are not as they should be".into()))?;
    Ok(ColumnarValue::Array(Arc::new(ids) as ArrayRef))
}
