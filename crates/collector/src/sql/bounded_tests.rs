//! Questions whose functions would make more than any machine has, asked in a process of their own that has little.

use std::{
    env,
    process::{Command, Stdio},
};

use serde_json::json;

use super::{
    Limits,
    tests::{store_of, tenant},
};
use crate::test_records::numbered;

const COUNT: u64 = 5000;
/// Set in the process that asks.
const ALONE: &str = "SQL_TEST_ALONE";
/// Of address space: a question's 128 MiB many times over, and far less than any of those below would take.
const ROOM: &str = "--as=4294967296";

/// `text` in itself, so often.
fn nested(times: usize, first: &str, wrap: impl Fn(&str) -> String) -> String {
    (0..times).fold(first.to_owned(), |text, _| wrap(&text))
}

/// A table whose one column `t` is made of itself, so often.
fn grown(times: usize, grow: &str) -> String {
    let from = nested(times, "SELECT source AS t FROM flows", |from| format!("SELECT {grow} AS t FROM ({from}) AS x"));
    format!("SELECT sum(length(t)) FROM ({from}) AS y")
}

fn hungry() -> Vec<String> {
    let long = "x0".repeat(60);
    vec![
        grown(9, "t || t || t || t || t || t || t || t"),
        grown(12, "concat(t, t, t, t)"),
        grown(12, "concat_ws(t, t, t, t)"),
        format!("SELECT sum(length({})) FROM flows", nested(8, "vpc", |of| format!("replace({of}, '0', '{long}')"))),
        grown(12, "regexp_replace(t, '(.*)', '\\1\\1\\1\\1')"),
        grown(12, "array_to_string(make_array(t, t, t, t), t)"),
        grown(12, "array_to_string(array_concat(string_to_array(t, '.'), make_array(t, t, t)), t)"),
        format!(
            "SELECT sum(cardinality(l)) FROM ({}) AS y",
            nested(9, "SELECT groups AS l FROM flows", |from| {
                format!("SELECT l || l || l || l || l || l AS l FROM ({from}) AS x")
            })
        ),
        format!(
            "SELECT sum(cardinality(l)) FROM ({}) AS y",
            nested(12, "SELECT [vpc] AS l FROM flows", |from| {
                format!("SELECT array_concat(l, l, l, l) AS l FROM ({from}) AS x")
            })
        ),
        grown(9, "upper(t) || lower(t) || t || t || t || t || t"),
        grown(9, "CASE WHEN length(t) > 0 THEN t || t || t || t || t || t ELSE t END"),
        grown(9, "encode(t, 'hex') || t || t || t"),
        "SELECT length(string_agg(a.vpc || b.vpc, ',')) FROM flows a, flows b".into(),
        "SELECT cardinality(array_agg(a.vpc || b.vpc)) FROM flows a, flows b".into(),
    ]
}

#[tokio::test]
#[ignore = "asks in a process that has little memory"]
async fn alone() {
    if env::var_os(ALONE).is_none() {
        return;
    }
    let store = store_of(numbered(0..COUNT), Limits::default());
    for sql in hungry() {
        let (code, told) = store.refusal(&sql).await;
        assert_eq!(code, "SqlTooLarge", "{sql}: {told}");
        assert!(told.contains("128 MiB of memory"), "{sql}: {told}");
    }
    assert_eq!(store.rows(Some(tenant()), "SELECT 1 AS one").await, [json!({"one": 1})]);
}

#[test]
fn what_functions_make_is_bounded_before_it_is_made() {
    let this = env::current_exe().unwrap();
    let mut command = Command::new("prlimit");
    command.arg(ROOM).arg(this).args(["--exact", "sql::bounded_tests::alone", "--ignored", "--nocapture"]);
    let ended = command.env(ALONE, "1").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{}{said}", String::from_utf8_lossy(&ended.stdout));
}

#[tokio::test]
async fn what_people_ask_is_far_from_the_bound() {
    let store = store_of(numbered(0..COUNT), Limits::default());
    for (sql, expected) in [
        ("SELECT count(*) AS a FROM flows WHERE replace(source, '.', '-') LIKE '%-%'", COUNT / 2),
        ("SELECT count(*) AS a FROM flows WHERE regexp_replace(source, '^([0-9]+)[.]', '\\1 ') LIKE '% %'", COUNT / 2),
        (
            "SELECT count(*) AS a FROM flows WHERE length(upper(vpc) || '/' || lower(subnet) || '/' || instance) > 3",
            COUNT / 2,
        ),
        (
            "SELECT count(*) AS a FROM flows WHERE array_to_string(string_to_array(source, '.'), ':') LIKE '%:%'",
            COUNT / 2,
        ),
        ("SELECT count(*) AS a FROM flows WHERE concat_ws(' ', account, vpc, to_hex(bytes), source) <> ''", COUNT / 2),
        ("SELECT count(*) AS a FROM flows WHERE to_char(start, '%Y-%m-%d %H:%M') LIKE '20%'", COUNT / 2),
        (
            "SELECT count(*) AS a FROM flows WHERE 'a' || NULL IS NULL AND make_array(1) || make_array(2) <> make_array(3)",
            COUNT / 2,
        ),
        ("SELECT length('1' || 2 || 'x') AS a", 3),
    ] {
        assert_eq!(store.rows(Some(tenant()), sql).await, [json!({"a": expected})], "{sql}");
    }
}
