//! Which parts, and which rows of a part, can hold a record that is asked for: a question's conditions on records as
//! conditions on folded rows.
//!
//! Owns that the conditions on rows hold wherever those on a record of theirs do; they may hold elsewhere, since each
//! record is looked at again after it. And that a moment of another unit than the column's, as `now()` gives, is as good
//! as one of its own. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use datafusion::{
    arrow::datatypes::DataType,
    common::{
        Column, Result, ScalarValue,
        tree_node::{Transformed, TreeNode as _},
    },
    logical_expr::{BinaryExpr, Expr, Operator, or},
    prelude::lit,
};

use crate::part::{APART, stored};

/// The condition on a row that holds where `condition` does for one of its records; none if there is none to be had.
pub(super) fn on_rows(condition: &Expr) -> Option<Expr> {
    let columns = condition.column_refs();
    let all = |is: fn(&str) -> bool| columns.iter().all(|column| is(&column.name));
    if all(stored::is_shared) {
        return Some(condition.clone());
    }
    if all(|name| name == "end") {
        return about_the_time(condition, APART.as_millis().try_into().ok()?);
    }
    // A condition on ends and on what is shared: either record has the ends as they stand, the other one swapped.
    if all(|name| stored::is_shared(name) || stored::swapped(name).is_some()) {
        return Some(or(condition.clone(), swapped(condition).ok()?));
    }
    None
}

/// The condition for parts, of which the names tell the time and the account.
pub(super) fn on_parts(condition: &Expr) -> Expr {
    about_the_time(condition, 0).unwrap_or_else(|| condition.clone())
}

fn swapped(condition: &Expr) -> Result<Expr> {
    let swap = |expr: Expr| match expr {
        Expr::Column(column) => Ok(match stored::swapped(&column.name) {
            Some(other) => Transformed::yes(Expr::Column(Column { name: other.to_owned(), ..column })),
            None => Transformed::no(Expr::Column(column)),
        }),
        other => Ok(Transformed::no(other)),
    };
    Ok(condition.clone().transform(swap)?.data)
}

/// A comparison of a record's time with a moment, widened by so many milliseconds.
fn about_the_time(condition: &Expr, apart: i64) -> Option<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return None };
    let (column, op, moment) = match (time_column(left), time_column(right)) {
        (Some(column), None) => (column, *op, millis(right)?),
        (None, Some(column)) => (column, op.swap()?, millis(left)?),
        _ => return None,
    };
    let at = |moment: Option<i64>| Some(lit(ScalarValue::TimestampMillisecond(Some(moment?), Some("UTC".into()))));
    let since = || Some(column.clone().gt_eq(at(moment.checked_sub(apart))?));
    let until = || Some(column.clone().lt_eq(at(moment.checked_add(apart))?));
    match op {
        Operator::Gt | Operator::GtEq => since(),
        Operator::Lt | Operator::LtEq => until(),
        Operator::Eq => Some(since()?.and(until()?)),
        _ => None,
    }
}

/// A column of times, in whatever unit it is compared.
fn time_column(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Column(column) if ["start", "end"].contains(&column.name.as_str()) => Some(expr.clone()),
        Expr::Cast(cast) if matches!(cast.field.data_type(), DataType::Timestamp(..)) => time_column(&cast.expr),
        _ => None,
    }
}

/// A moment in whole milliseconds, rounded down: so a record's time, which is of whole ones, is at or before it whenever it
/// is at or before the moment.
fn millis(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::TimestampSecond(moment, _), _) => moment.as_ref()?.checked_mul(1000),
        Expr::Literal(ScalarValue::TimestampMillisecond(moment, _), _) => *moment,
        Expr::Literal(ScalarValue::TimestampMicrosecond(moment, _), _) => moment.map(|moment| moment.div_euclid(1000)),
        Expr::Literal(ScalarValue::TimestampNanosecond(moment, _), _) => {
            moment.map(|moment| moment.div_euclid(1_000_000))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{arrow::datatypes::TimeUnit, logical_expr::cast, prelude::col};

    use super::*;

    fn time(millis: i64) -> Expr {
        lit(ScalarValue::TimestampMillisecond(Some(millis), Some("UTC".into())))
    }

    #[test]
    fn conditions_on_what_both_records_share_stand_as_they_are() {
        let condition = col("instance").eq(lit("i-1")).or(col("protocol").gt(lit(6)));
        assert_eq!(on_rows(&condition), Some(condition));
    }

    #[test]
    fn ends_may_be_those_of_either_record() {
        let condition = col("source").eq(lit("10.0.0.1")).and(col("destination_port").eq(lit(53)));
        let other = col("destination").eq(lit("10.0.0.1")).and(col("source_port").eq(lit(53)));
        assert_eq!(on_rows(&condition), Some(or(condition, other)));
    }

    #[test]
    fn times_are_widened_by_how_far_a_rows_records_may_be_apart() {
        for (condition, expected) in [
            (col("end").gt(time(100_000)), col("end").gt_eq(time(36_000))),
            (time(100_000).gt(col("end")), col("end").lt_eq(time(164_000))),
            (col("end").eq(time(100_000)), col("end").gt_eq(time(36_000)).and(col("end").lt_eq(time(164_000)))),
        ] {
            assert_eq!(on_rows(&condition), Some(expected));
        }
    }

    #[test]
    fn moments_of_another_unit_are_as_good() {
        let nanos = lit(ScalarValue::TimestampNanosecond(Some(100_000_999_999), Some("UTC".into())));
        let end = cast(col("end"), DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())));
        assert_eq!(on_rows(&end.clone().gt(nanos.clone())), Some(col("end").gt_eq(time(36_000))));
        assert_eq!(on_parts(&nanos.gt_eq(end)), col("end").lt_eq(time(100_000)));
        assert_eq!(on_parts(&col("bytes").gt(lit(1))), col("bytes").gt(lit(1)));
    }

    #[test]
    fn what_each_record_has_of_its_own_says_nothing_of_the_row() {
        for condition in [
            col("bytes").gt(lit(1)),
            col("direction").eq(lit("egress")),
            col("flow_id").eq(lit(1)),
            col("end").not_eq(time(1)),
            col("end").gt(col("start")),
            col("instance").eq(lit("i-1")).or(col("packets").eq(lit(1))),
        ] {
            assert_eq!(on_rows(&condition), None, "{condition}");
        }
    }
}
