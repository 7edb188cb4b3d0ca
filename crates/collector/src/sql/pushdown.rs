//! Which rows of a file can hold a record that is asked for: a question's conditions on records as conditions on folded
//! rows.
//!
//! Owns that the conditions on rows hold wherever those on a record of theirs do; they may hold elsewhere, since each
//! record is looked at again after it. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use datafusion::{
    common::{
        Column, Result, ScalarValue,
        tree_node::{Transformed, TreeNode as _},
    },
    logical_expr::{BinaryExpr, Expr, Operator, or},
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
        return about_the_time(condition);
    }
    // A condition on ends and on what is shared: either record has the ends as they stand, the other one swapped.
    if all(|name| stored::is_shared(name) || stored::swapped(name).is_some()) {
        return Some(or(condition.clone(), swapped(condition).ok()?));
    }
    None
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

/// A comparison of the last packet's time with a moment, for either record of a row.
fn about_the_time(condition: &Expr) -> Option<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return None };
    let (column, op, moment) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(_), Expr::Literal(moment, _)) => (left, *op, moment),
        (Expr::Literal(moment, _), Expr::Column(_)) => (right, op.swap()?, moment),
        _ => return None,
    };
    let apart = i64::try_from(APART.as_millis()).ok()?;
    let at = |millis: i64| {
        let ScalarValue::TimestampMillisecond(Some(moment), zone) = moment else { return None };
        let moment = ScalarValue::TimestampMillisecond(Some(moment.checked_add(millis)?), zone.clone());
        Some(Box::new(Expr::Literal(moment, None)))
    };
    let compare = |op, right| Expr::BinaryExpr(BinaryExpr { left: column.clone(), op, right });
    match op {
        Operator::Gt | Operator::GtEq => Some(compare(Operator::GtEq, at(-apart)?)),
        Operator::Lt | Operator::LtEq => Some(compare(Operator::LtEq, at(apart)?)),
        Operator::Eq => Some(compare(Operator::GtEq, at(-apart)?).and(compare(Operator::LtEq, at(apart)?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

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
