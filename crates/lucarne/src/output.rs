//! What commands print: tables for people, JSON and YAML for programs.
//!
//! Owns how values look in tables. JSON is the API's own, unchanged.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use lucarne_model::{Bytes, Moment, Pages, flow_sql::SqlColumn};
use serde_json::{Map, Value};

use crate::{
    failure::{Failure, LocalCode},
    kind::Column,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

impl Format {
    /// Prints a list.
    pub(crate) fn print_list(self, items: &[Value], columns: &[Column]) -> Result<(), Failure> {
        match self {
            Self::Table => print(&table(items, columns)),
            Self::Json | Self::Yaml => self.print_value(&Value::Array(items.to_vec())),
        }
    }

    /// Prints one thing with all its fields.
    pub(crate) fn print_value(self, value: &Value) -> Result<(), Failure> {
        print(&self.value_text(value)?)
    }

    /// Prints what a change gave: its id for people and scripts, all of it for programs that ask.
    pub(crate) fn print_change(self, value: &Value, id: &str) -> Result<(), Failure> {
        match self {
            Self::Table => print(&format!("{id}\n")),
            Self::Json | Self::Yaml if value.is_null() => self.print_value(&serde_json::json!({"id": id})),
            Self::Json | Self::Yaml => self.print_value(value),
        }
    }

    fn value_text(self, value: &Value) -> Result<String, Failure> {
        let refuse = |cause: String| Failure::local(LocalCode::UnexpectedAnswer, cause);
        match self {
            Self::Table => Ok(fields(value)),
            Self::Json => {
                serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|e| refuse(e.to_string()))
            }
            Self::Yaml => serde_saphyr::to_string(value).map_err(|cause| refuse(cause.to_string())),
        }
    }
}

/// Writes to standard output. A reader that has gone away (`| head`) is not a failure of the command.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::local(LocalCode::FileUnwritable, format!("standard output: {cause}")))
        }
        _ => Ok(()),
    }
}

/// One row for each item, without lines, so that `awk` reads it as well as people do.
pub(crate) fn table(items: &[Value], columns: &[Column]) -> String {
    let mut table = bare_table();
    table.set_header(columns.iter().map(|(title, _)| *title));
    for item in items {
        table.add_row(columns.iter().map(|(_, path)| cell(path, at(item, path))));
    }
    trimmed(&table)
}

/// The rows of an answer, whatever columns it has.
pub(crate) fn rows(columns: &[SqlColumn], rows: &[Map<String, Value>]) -> String {
    let mut table = bare_table();
    table.set_header(columns.iter().map(|column| column.name.to_uppercase().replace('_', " ")));
    for row in rows {
        // Of their names only this one says how a number is to be read.
        let path = |name: &str| if name == "protocol" { "protocol" } else { "" };
        table.add_row(columns.iter().map(|column| {
            let name = column.name.as_str();
            cell(path(name), row.get(name).unwrap_or(&Value::Null))
        }));
    }
    trimmed(&table)
}

/// The same as RFC 4180 has it; lists and structs as JSON.
pub(crate) fn csv(columns: &[SqlColumn], rows: &[Map<String, Value>]) -> String {
    let mut text = csv_line(columns.iter().map(|column| column.name.clone()));
    for row in rows {
        text += &csv_line(columns.iter().map(|column| match row.get(&column.name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }));
    }
    text
}

fn csv_line(values: impl Iterator<Item = String>) -> String {
    let quoted = |value: String| match value.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", value.replace('"', "\"\"")),
        false => value,
    };
    values.map(quoted).collect::<Vec<_>>().join(",") + "\r\n"
}

/// One row for each field, nested ones by their path.
fn fields(value: &Value) -> String {
    let mut table = bare_table();
    let mut rows = Vec::new();
    flatten("", value, &mut rows);
    for (path, text) in rows {
        table.add_row([path, text]);
    }
    trimmed(&table)
}

fn flatten(path: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (key, inner) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, inner, rows);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, inner) in items.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), inner, rows);
            }
        }
        _ => rows.push((path.to_owned(), cell(path, value))),
    }
}

fn bare_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table
}

/// Without the blanks that padding leaves at the ends of lines.
fn trimmed(table: &Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end()));
        text.push('\n');
    }
    text
}

fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    path.split('.').fold(value, |inner, key| &inner[key])
}

/// The fields that are times and the fields that are amounts of bytes, by their last word.
const TIMES: &[&str] = &[
    "created",
    "launched",
    "changed",
    "enrolled",
    "proved",
    "last_heard",
    "start",
    "end",
    "expires",
    "last_delivered",
    "since",
    "until",
    "last",
    "first_seen",
    "last_seen",
    "from",
    "complete_since",
    "issued",
    "time",
    "beacon_time",
    "not_before",
    "not_after",
    "at",
];
const AMOUNTS: &[&str] = &[
    "memory",
    "minimum_memory",
    "size",
    "disk",
    "virtual_size",
    "volume_bytes",
    "minimum_operating",
    "minimum_starting",
    "fill_above",
    "drain_below",
    "claimed",
    "claimable",
    "total",
    "resident",
    "compressed",
    "shared",
    "overhead",
    "pool",
    "free",
    "sent",
    "left",
];
/// Shares of a whole.
const THOUSANDTHS: &[&str] = &["bucket"];

/// Counts of pages of 4 KiB: a target, and whatever stands in `pages`.
fn is_pages(path: &str) -> bool {
    path.rsplit('.').next() == Some("target") || path.split('.').rev().nth(1) == Some("pages")
}

fn cell(path: &str, value: &Value) -> String {
    let last = path.rsplit('.').next().unwrap_or(path);
    match value {
        Value::Null => "-".into(),
        Value::Number(number) => match number.as_u64() {
            Some(micros) if TIMES.contains(&last) => time(Moment(micros)),
            Some(pages) if is_pages(path) => Pages(pages).to_string(),
            Some(bytes) if AMOUNTS.contains(&last) => Bytes(bytes).to_string(),
            Some(thousandths) if THOUSANDTHS.contains(&last) => format!("{:.1} %", thousandths as f64 / 10.0),
            Some(thousandths) if last == "oversubscription" => format!("{:.2}", thousandths as f64 / 1000.0),
            Some(number) if last == "protocol" => protocol(number),
            _ => number.to_string(),
        },
        Value::String(text) => one_line(text),
        Value::Array(items) if items.iter().any(Value::is_object) => items.len().to_string(),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(|item| cell(path, item)).collect::<Vec<_>>().join(","),
        Value::Object(object) if object.is_empty() => "-".into(),
        other => other.to_string(),
    }
}

/// Control characters could move the cursor of the terminal that shows what a tenant has written.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(crate) fn time(moment: Moment) -> String {
    let timestamp = i64::try_from(moment.as_secs()).ok().and_then(|secs| jiff::Timestamp::from_second(secs).ok());
    timestamp.map_or_else(|| moment.0.to_string(), |timestamp| timestamp.to_string())
}

pub(crate) fn protocol(number: u64) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::INSTANCE;

    fn instance() -> Value {
        json!({"id": "i-1", "state": "running", "memory": 268_435_456, "vcpus": 1, "launched": 1_700_000_000_000_000u64,
            "security_groups": ["sg-1", "sg-2"], "volumes": [{"volume": "vol-1", "slot": 0}],
            "tags": {"Name": "web\u{1b}[2J"}, "state_reason": null})
    }

    #[test]
    fn a_table_has_one_line_for_each_item_and_units_that_people_read() {
        let text = table(&[instance()], INSTANCE.columns);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("ID"), "{text}");
        assert!(
            lines[1].starts_with("i-1") && lines[1].contains("256 MiB") && lines[1].contains("2023-11-14T22:13:20Z")
        );
        assert!(!text.contains('\u{1b}'), "a tenant's text must not steer the terminal");
    }

    #[test]
    fn json_is_the_apis_own_and_yaml_the_same_value() {
        let text = Format::Json.value_text(&instance()).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), instance());
        let yaml = Format::Yaml.value_text(&json!({"id": "i-1", "tags": {"Name": "web"}})).unwrap();
        assert_eq!(yaml, "id: i-1\ntags:\n  Name: web\n");
    }

    #[test]
    fn the_rows_of_an_answer_are_a_table_or_csv() {
        let columns = [SqlColumn::new("peer", "Utf8"), SqlColumn::new("protocol", "UInt8"), SqlColumn::new("n_b", "")];
        let row = |value: Value| value.as_object().cloned().unwrap();
        let answer = [row(json!({"peer": "10.0.0.1", "protocol": 6})), row(json!({"peer": "a,\"b\"", "n_b": [1, 2]}))];
        let lines: Vec<String> = rows(&columns, &answer).lines().map(str::to_owned).collect();
        assert!(lines[0].starts_with("PEER") && lines[0].ends_with("N B"), "{lines:?}");
        assert!(lines[1].contains("tcp") && lines[1].ends_with('-'), "{lines:?}");
        let written = csv(&columns, &answer);
        assert_eq!(written, "peer,protocol,n_b\r\n10.0.0.1,6,\r\n\"a,\"\"b\"\"\",,\"[1,2]\"\r\n");
    }

    #[test]
    fn showing_one_thing_says_every_field_by_its_path() {
        let text = fields(&instance());
        assert!(text.contains("volumes[0].volume") && text.contains("sg-1,sg-2"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("state_reason") && line.ends_with('-')), "{text}");
    }
}
