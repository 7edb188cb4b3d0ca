//! What is a question: one `SELECT`, and nothing that writes, sets, loads or names a file.
//!
//! Owns that decision, on the parsed text, before anything is planned. It is a list of what is allowed: what a later
//! release of the parser learns is refused until it is let in here. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::ops::ControlFlow;

use datafusion::sql::{
    parser::{DFParser, Statement},
    sqlparser::{
        ast::{Query, SetExpr, Statement as SqlStatement, TableFactor, Visit, Visitor},
        dialect::PostgreSqlDialect,
    },
};
use lucarne_model::flow_sql::SqlQuestion;

use super::SqlError;

/// The one `SELECT` that the text is.
pub(super) fn one_select(sql: &str) -> Result<Statement, SqlError> {
    if sql.len() > SqlQuestion::MAX_LENGTH {
        return Err(SqlError::TooLong);
    }
    let mut statements = DFParser::parse_sql_with_dialect(sql, &PostgreSqlDialect {}).map_err(SqlError::of_parsing)?;
    let (Some(statement), true) = (statements.pop_front(), statements.is_empty()) else {
        return Err(SqlError::NotAllowed("the text has none, or more than one".to_owned()));
    };
    let Statement::Statement(parsed) = &statement else { return Err(refused(&statement)) };
    let SqlStatement::Query(_) = parsed.as_ref() else { return Err(refused(&statement)) };
    match parsed.visit(&mut Inspection) {
        ControlFlow::Continue(()) => Ok(statement),
        ControlFlow::Break(why) => Err(SqlError::NotAllowed(why.to_owned())),
    }
}

/// Names a statement by its first words.
fn refused(statement: &Statement) -> SqlError {
    let text = statement.to_string();
    let words: Vec<&str> = text.split_whitespace().take(2).collect();
    SqlError::NotAllowed(format!("`{}` is none", words.join(" ").chars().take(60).collect::<String>()))
}

/// Looks into every query of a statement, those in parentheses and in `WITH` too.
struct Inspection;

impl Visitor for Inspection {
    type Break = &'static str;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        if query.with.as_ref().is_some_and(|with| with.recursive) {
            return ControlFlow::Break("WITH RECURSIVE has no end that could be foreseen");
        }
        if !query.locks.is_empty() || query.for_clause.is_some() || query.format_clause.is_some() {
            return ControlFlow::Break("FOR and FORMAT are not parts of a question");
        }
        inspect_body(&query.body)
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::Table { args: None, .. }
            | TableFactor::Derived { .. }
            | TableFactor::NestedJoin { .. }
            | TableFactor::UNNEST { .. } => ControlFlow::Continue(()),
            _ => ControlFlow::Break("functions cannot stand for tables"),
        }
    }
}

fn inspect_body(body: &SetExpr) -> ControlFlow<&'static str> {
    match body {
        SetExpr::Select(select) if select.into.is_some() => ControlFlow::Break("SELECT INTO makes a table"),
        SetExpr::Select(_) | SetExpr::Values(_) | SetExpr::Table(_) => ControlFlow::Continue(()),
        // Comes by itself as a query of its own.
        SetExpr::Query(_) => ControlFlow::Continue(()),
        SetExpr::SetOperation { left, right, .. } => {
            inspect_body(left)?;
            inspect_body(right)
        }
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
            ControlFlow::Break("it changes rows")
        }
    }
}

#[cfg(test)]
mod tests {
    use lucarne_model::ErrorCode;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn questions_are_let_through() {
        for sql in [
            "SELECT * FROM flows",
            "select source, count(*) from flows where bytes > 10 group by source order by 2 desc limit 5;",
            "WITH a AS (SELECT source FROM flows) SELECT * FROM a JOIN flows USING (source)",
            "SELECT source FROM flows UNION ALL (SELECT destination FROM flows)",
            "VALUES (1), (2)",
            "SELECT * FROM flows WHERE source IN (SELECT destination FROM flows WHERE bytes > 1)",
        ] {
            one_select(sql).unwrap();
        }
    }

    #[test]
    fn what_is_no_question_is_refused_with_its_name() {
        for (sql, told) in [
            ("", "none, or more"),
            ("SELECT 1; SELECT 2", "more than one"),
            ("SELECT 1; DROP TABLE flows", "more than one"),
            ("DROP TABLE flows", "DROP TABLE"),
            ("CREATE TABLE x AS SELECT * FROM flows", "CREATE TABLE"),
            ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", "CREATE EXTERNAL"),
            ("COPY flows TO '/tmp/x' STORED AS CSV", "COPY"),
            ("COPY (SELECT 1) TO '/tmp/x'", "COPY"),
            ("SET datafusion.execution.batch_size = 1", "SET"),
            ("RESET datafusion.execution.batch_size", "RESET"),
            ("SHOW ALL", "SHOW"),
            ("EXPLAIN ANALYZE SELECT 1", "EXPLAIN"),
            ("INSERT INTO flows VALUES (1)", "INSERT INTO"),
            ("UPDATE flows SET bytes = 0", "UPDATE"),
            ("DELETE FROM flows", "DELETE"),
            ("PREPARE p AS SELECT 1", "PREPARE"),
            ("WITH x AS (DELETE FROM flows RETURNING *) SELECT * FROM x", "changes rows"),
            ("SELECT * INTO x FROM flows", "makes a table"),
            ("WITH RECURSIVE t AS (SELECT 1 UNION ALL SELECT * FROM t) SELECT * FROM t", "no end"),
            ("SELECT * FROM generate_series(1, 1000000000000)", "cannot stand for tables"),
            ("SELECT * FROM read_csv('/etc/passwd')", "cannot stand for tables"),
            ("SELECT * FROM flows WHERE bytes IN (SELECT * FROM range(1, 9))", "cannot stand for tables"),
        ] {
            let error = one_select(sql).unwrap_err();
            assert_eq!(error.code(), ErrorCode::SqlNotAllowed, "{sql}: {error}");
            assert!(error.to_string().contains(told), "{sql}: {error}");
        }
    }

    #[test]
    fn what_is_no_sql_or_too_long_is_invalid() {
        for sql in ["SELEC", "SELECT * FORM flows", "SELECT 'x", &"(".repeat(4000), &"x".repeat(9000)] {
            assert_eq!(one_select(sql).unwrap_err().code(), ErrorCode::InvalidSql, "{sql}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-zA-Z0-9 (),.*'\";=<>-]{0,200}") { let _ = one_select(&text); }
    }
}
