//! Functions that make text, lists or octets, each refused before it makes more than the question's memory has room for.
//!
//! The engine counts what sorting, grouping and joining hold, and nothing of what functions make of one batch: nested, a few
//! of them multiply until the machine has no more. Owns the estimate of how much a call can make, which is never too low, and
//! the share that each call has: the question's memory divided by the steps of its text that copy. What makes as much as a
//! number in the text says is not there at all ([`BOUNDLESS`]), and `||` is a function here like `concat`.

use std::{
    any::Any,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use datafusion::{
    arrow::{
        array::{Array as _, AsArray as _, GenericStringArray},
        compute::kernels::concat_elements::concat_elements_utf8,
        datatypes::{DataType, FieldRef},
    },
    common::{
        ScalarValue,
        tree_node::{Transformed, TransformedResult as _, TreeNode as _, TreeNodeRecursion},
    },
    error::{DataFusionError, Result},
    logical_expr::{
        ColumnarValue, Documentation, Expr, ExprSchemable as _, LogicalPlan, Operator, ReturnFieldArgs,
        ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        interval_arithmetic::Interval,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr},
        preimage::PreimageResult,
        simplify::{ExprSimplifyResult, SimplifyContext},
        sort_properties::{ExprProperties, SortProperties},
    },
    sql::sqlparser::ast::BinaryOperator,
};

/// Functions that are left out: how much one row of theirs takes is a number in the text, and counted by nobody.
pub(super) const BOUNDLESS: [&str; 7] =
    ["array_repeat", "array_resize", "generate_series", "lpad", "range", "repeat", "rpad"];
/// Functions that copy nothing, or that the engine makes another expression of.
const COPY_NOTHING: [&str; 6] = ["get_field", "struct", "named_struct", "coalesce", "nvl", "nvl2"];
/// Functions that the engine would put others in the place of, which nobody bounds.
const REPLACED: [&str; 2] = ["concat", "concat_ws"];
/// How many times as long as its arguments what any other function makes can be: an octet as two digits, a letter as the
/// octets of its capital.
const GROWTH: usize = 4;
/// Octets that a row may take beside that: a number as text, a digest, an offset.
const FOR_EACH_ROW: usize = 64;

/// How many octets one call of a function may make, for all functions of one question.
#[derive(Clone, Debug)]
pub(super) struct Share(Arc<AtomicUsize>);

impl Share {
    pub(super) fn of(memory: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(memory)))
    }

    /// Divides the memory among the steps of the plan that copy.
    pub(super) fn divide(&self, plan: &LogicalPlan) -> Result<()> {
        let mut copies = 0_usize;
        plan.apply_with_subqueries(|node| {
            for expression in node.expressions() {
                expression.apply(|part| {
                    let is_copy =
                        matches!(part, Expr::ScalarFunction(_) | Expr::Case(_) | Expr::Cast(_) | Expr::TryCast(_));
                    copies += usize::from(is_copy);
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        self.0.store(self.0.load(Relaxed) / copies.max(1), Relaxed);
        Ok(())
    }

    /// The plan with the functions bounded that the planner put in by itself: for lists, and for `||` between them.
    pub(super) fn bound(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let bound = |part: Expr| match part {
            Expr::ScalarFunction(mut call) if !is_bounded(&call.func) => {
                call.func = bounded(call.func, self);
                Ok(Transformed::yes(Expr::ScalarFunction(call)))
            }
            other => Ok(Transformed::no(other)),
        };
        let bound = |node: LogicalPlan| node.map_expressions(|expression| expression.transform_up(bound));
        plan.transform_up_with_subqueries(bound).data()
    }

    fn check(&self, octets: usize) -> Result<()> {
        if octets <= self.0.load(Relaxed) {
            return Ok(());
        }
        Err(DataFusionError::ResourcesExhausted("a function would make too much of a batch".into()))
    }
}

/// The engine's functions that are allowed, bounded by the share.
pub(super) fn functions(all: Vec<Arc<ScalarUDF>>, share: &Share) -> Vec<Arc<ScalarUDF>> {
    let allowed = all.into_iter().filter(|function| !BOUNDLESS.contains(&function.name()));
    allowed.map(|function| bounded(function, share)).collect()
}

fn bounded(function: Arc<ScalarUDF>, share: &Share) -> Arc<ScalarUDF> {
    if COPY_NOTHING.contains(&function.name()) {
        return function;
    }
    Arc::new(ScalarUDF::new_from_impl(Bounded { function, share: share.clone() }))
}

fn is_bounded(function: &ScalarUDF) -> bool {
    let implementation: &dyn Any = function.inner().as_ref();
    implementation.is::<Bounded>() || COPY_NOTHING.contains(&function.name())
}

/// A function of the engine's, asked only for what there is room for.
#[derive(Debug)]
struct Bounded {
    function: Arc<ScalarUDF>,
    share: Share,
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.hash(state);
    }
}

/// All but the call is the function's own.
impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.function.name()
    }
    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.function.schema_name(args)
    }
    fn signature(&self) -> &Signature {
        self.function.signature()
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.function.inner().return_type(types)
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.function.return_field_from_args(args)
    }
    fn is_strict(&self) -> bool {
        self.function.inner().is_strict()
    }
    fn with_updated_config(&self, config: &datafusion::config::ConfigOptions) -> Option<ScalarUDF> {
        let function = Arc::new(self.function.inner().with_updated_config(config)?);
        Some(ScalarUDF::new_from_impl(Self { function, share: self.share.clone() }))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if is_variable(args.return_field.data_type()) {
            self.share.check(most(self.name(), &args.args, args.number_rows))?;
        }
        self.function.invoke_with_args(args)
    }
    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        if REPLACED.contains(&self.name()) {
            return Ok(ExprSimplifyResult::Original(args));
        }
        self.function.simplify(args, info)
    }
    fn short_circuits(&self) -> bool {
        self.function.short_circuits()
    }
    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.function.conditional_arguments(args)
    }
    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        self.function.evaluate_bounds(inputs)
    }
    fn propagate_constraints(&self, interval: &Interval, inputs: &[&Interval]) -> Result<Option<Vec<Interval>>> {
        self.function.propagate_constraints(interval, inputs)
    }
    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.function.output_ordering(inputs)
    }
    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.function.preserves_lex_ordering(inputs)
    }
    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.function.strictly_order_preserving(inputs)
    }
    fn preimage(&self, args: &[Expr], literal: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        self.function.preimage(args, literal, info)
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(types)
    }
    fn documentation(&self) -> Option<&Documentation> {
        self.function.documentation()
    }
}

/// Whether a value's size is not given by its type.
fn is_variable(of: &DataType) -> bool {
    of.primitive_width().is_none() && !matches!(of, DataType::Boolean | DataType::Null)
}

/// The most octets that the function can make of these arguments.
fn most(name: &str, args: &[ColumnarValue], rows: usize) -> usize {
    let first = args.first().map_or(0, |arg| octets(arg, rows));
    let others = || args.iter().skip(1).map(longest);
    let made = match name {
        // Each octet may become what is put in its place; or, of a list, may have a separator behind it.
        "replace" | "array_replace" | "array_replace_n" | "array_replace_all" | "array_to_string" => {
            first.saturating_add(rows).saturating_mul(others().fold(1, usize::saturating_add))
        }
        // What is put in may itself speak of what was found, and what was found is as long as the text; and so often as the
        // pattern has groups.
        "regexp_replace" | "regexp_match" => {
            let put_in = others().fold(1, usize::saturating_add);
            let speaks = args.iter().skip(2).any(speaks_of_groups) || name == "regexp_match";
            let found = if speaks { args.first().map_or(1, longest).max(1) } else { 1 };
            first.saturating_add(rows).saturating_mul(put_in).saturating_mul(found)
        }
        // A letter of a format is a word at most.
        "to_char" => rows.saturating_mul(others().fold(1, usize::saturating_add)).saturating_mul(FOR_EACH_ROW),
        "concat_ws" => {
            let separators = args.len().saturating_mul(args.first().map_or(0, longest)).saturating_mul(rows);
            sum(args, rows).saturating_add(separators)
        }
        "concat" | JOINED => sum(args, rows),
        _ => sum(args, rows).saturating_mul(GROWTH),
    };
    made.saturating_add(rows.saturating_mul(FOR_EACH_ROW))
}

fn sum(args: &[ColumnarValue], rows: usize) -> usize {
    args.iter().map(|arg| octets(arg, rows)).fold(0, usize::saturating_add)
}

/// Of all rows; a single value may stand in each of them.
fn octets(value: &ColumnarValue, rows: usize) -> usize {
    match value {
        ColumnarValue::Array(array) => {
            array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
        }
        ColumnarValue::Scalar(value) => value.size().saturating_mul(rows),
    }
}

/// Of one row at most.
fn longest(value: &ColumnarValue) -> usize {
    match value {
        ColumnarValue::Array(array) => match array.data_type() {
            DataType::Utf8 => array.as_string::<i32>().iter().flatten().map(str::len).max().unwrap_or(0),
            DataType::LargeUtf8 => array.as_string::<i64>().iter().flatten().map(str::len).max().unwrap_or(0),
            DataType::Utf8View => array.as_string_view().iter().flatten().map(str::len).max().unwrap_or(0),
            _ => octets(value, array.len()),
        },
        ColumnarValue::Scalar(scalar) => text(scalar).map_or_else(|| scalar.size(), str::len),
    }
}

fn text(value: &ScalarValue) -> Option<&str> {
    value.try_as_str().flatten()
}

fn speaks_of_groups(value: &ColumnarValue) -> bool {
    match value {
        ColumnarValue::Scalar(scalar) => text(scalar).is_none_or(|text| text.contains(['\\', '$'])),
        ColumnarValue::Array(_) => true,
    }
}

const JOINED: &str = "text_join";

/// `||` between texts, as a function that is bounded like the others: null where either side is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Joined(Signature);

impl ScalarUDFImpl for Joined {
    fn name(&self) -> &str {
        JOINED
    }
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [left, right] = args else { return Ok(JOINED.into()) };
        Ok(format!("{} {} {}", left.schema_name(), Operator::StringConcat, right.schema_name()))
    }
    fn signature(&self) -> &Signature {
        &self.0
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(vec![DataType::Utf8; types.len()])
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return Err(DataFusionError::Execution("`||` stands between two texts".into()));
        };
        if let (ColumnarValue::Scalar(left), ColumnarValue::Scalar(right)) = (left, right) {
            let joined = text(left).zip(text(right)).map(|(left, right)| format!("{left}{right}"));
            return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(joined)));
        }
        let [left, right] = [left, right].map(|side| side.to_array(args.number_rows));
        let (left, right) = (left?, right?);
        let joined: GenericStringArray<i32> = concat_elements_utf8(left.as_string(), right.as_string())?;
        Ok(ColumnarValue::Array(Arc::new(joined)))
    }
}

/// Plans `||` between texts as [`Joined`]; between lists it is the engine's own.
#[derive(Debug)]
pub(super) struct Joins(Arc<ScalarUDF>);

impl Joins {
    pub(super) fn new(share: &Share) -> Self {
        let signature = Signature::user_defined(Volatility::Immutable);
        Self(bounded(Arc::new(ScalarUDF::new_from_impl(Joined(signature))), share))
    }
}

impl ExprPlanner for Joins {
    fn plan_binary_op(
        &self,
        expression: RawBinaryExpr,
        schema: &datafusion::common::DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let is_text = |side: &Expr| {
            let of = side.get_type(schema)?;
            Ok::<_, DataFusionError>(!of.is_nested() && !of.is_binary())
        };
        if expression.op == BinaryOperator::StringConcat && is_text(&expression.left)? && is_text(&expression.right)? {
            let RawBinaryExpr { left, right, .. } = expression;
            return Ok(PlannerResult::Planned(self.0.call(vec![left, right])));
        }
        Ok(PlannerResult::Original(expression))
    }
}
