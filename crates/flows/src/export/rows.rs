//! CSV (RFC 4180) and JSON lines: every field that a tenant may see, by its name in the API.
//!
//! Owns the order of CSV's columns. Both are made from the record's own JSON, so a new field of the record is in them as
//! soon as it is named here, and a test asks for that.

use serde_json::Value;

use super::Line;

/// The columns, in their order. Lists are parted by blanks, what is not there is empty.
const COLUMNS: &[&str] = &[
    "start",
    "end",
    "direction",
    "source",
    "source_port",
    "destination",
    "destination_port",
    "protocol",
    "packets",
    "bytes",
    "verdict",
    "end_reason",
    "rule",
    "groups",
    "instance",
    "interface",
    "subnet",
    "vpc",
    "account",
    "location",
    "path",
    "side",
    "flow_id",
    "icmp_type",
    "icmp_code",
    "tos",
    "ttl",
    "tcp_flags",
    "source_prefix_length",
    "destination_prefix_length",
    "next_hop",
    "history",
    "conn_state",
    "round_trip.count",
    "round_trip.min",
    "round_trip.mean",
    "round_trip.max",
    "round_trip.smoothed",
    "retransmissions",
    "zero_windows",
];
/// Columns of a file that tells flows as one router saw them.
const PORT_COLUMNS: &[&str] = &["in_interface", "out_interface"];

/// The first line. `routed` files have the router's ports too.
pub fn csv_header(routed: bool) -> String {
    let ports = if routed { PORT_COLUMNS } else { &[] };
    COLUMNS.iter().chain(ports).copied().collect::<Vec<_>>().join(",") + "\r\n"
}

/// The row of a record, its end included.
pub fn csv_row(line: Line<'_>, out: &mut String) {
    let document = document(line);
    let ports = if line.ports.is_some() { PORT_COLUMNS } else { &[] };
    for (index, column) in COLUMNS.iter().chain(ports).enumerate() {
        if index > 0 {
            out.push(',');
        }
        put_cell(at(&document, column), out);
    }
    out.push_str("\r\n");
}

/// The record as a line of JSON, its end included.
pub fn json_line(line: Line<'_>, out: &mut String) {
    out.push_str(&document(line).to_string());
    out.push('\n');
}

fn document(line: Line<'_>) -> Value {
    // A record has no maps and no numbers that JSON lacks, so this cannot fail.
    let mut document = serde_json::to_value(line.record).unwrap_or_default();
    if let (Some((input, output)), Some(fields)) = (line.ports, document.as_object_mut()) {
        fields.insert("in_interface".into(), input.to_string().into());
        fields.insert("out_interface".into(), output.to_string().into());
    }
    document
}

fn at<'v>(document: &'v Value, column: &str) -> &'v Value {
    column.split('.').fold(document, |value, key| &value[key])
}

fn put_cell(value: &Value, out: &mut String) {
    match value {
        Value::Null => {}
        Value::String(text) => put_text(text, out),
        Value::Array(items) => {
            let texts = items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
            put_text(&texts.collect::<Vec<_>>().join(" "), out);
        }
        other => out.push_str(&other.to_string()),
    }
}

/// Quoted where it has a sign that means something in CSV.
fn put_text(text: &str, out: &mut String) {
    if text.contains([',', '"', '\r', '\n']) {
        out.push('"');
        out.push_str(&text.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lucarne_model::flow::{Direction, RoundTrip};

    use super::*;
    use crate::router_view::tests::{packet, record};

    #[test]
    fn every_field_of_a_record_has_its_column() {
        let mut record = record(packet(1, 2), Direction::Egress, 3, 180);
        record.round_trip = Some(RoundTrip { count: 1, min: 2, mean: 3, max: 4, smoothed: 5 });
        let document = serde_json::to_value(&record).unwrap();
        let fields: BTreeSet<&str> = document.as_object().unwrap().keys().map(String::as_str).collect();
        let columns: BTreeSet<&str> = COLUMNS.iter().filter_map(|column| column.split('.').next()).collect();
        assert_eq!(fields, columns);
    }

    #[test]
    fn a_row_has_as_many_cells_as_the_header_has_names() {
        let record = record(packet(1, 2), Direction::Egress, 3, 180);
        let mut row = String::new();
        csv_row((&record).into(), &mut row);
        assert_eq!(row.split(',').count(), csv_header(false).split(',').count());
        assert!(row.contains(",10.0.0.1,") && row.ends_with("\r\n"), "{row}");
    }

    #[test]
    fn a_line_of_json_is_the_record() {
        let record = record(packet(1, 2), Direction::Egress, 3, 180);
        let mut line = String::new();
        json_line((&record).into(), &mut line);
        assert_eq!(serde_json::from_str::<lucarne_model::TenantFlowRecord>(&line).unwrap(), record);
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn text_with_csvs_own_signs_is_quoted() {
        let mut out = String::new();
        put_text("a,\"b\"", &mut out);
        assert_eq!(out, "\"a,\"\"b\"\"\"");
    }
}
