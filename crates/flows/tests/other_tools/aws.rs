//! AWS's text, read by somebody who knows AWS's page "Flow log records" and nothing of us: fields by name, each of the
//! type that AWS's Parquet files give it.

use std::{collections::BTreeMap, net::IpAddr};

use lucarne_flows::{
    export::{AwsFormat, Line},
    router_view::RouterRecord,
};

use super::{Flow, add, records::routed, sums};

/// Whether a text is of a field's type.
type IsValid = fn(&str) -> bool;

/// AWS's fields of versions 2 to 5 and their types.
const FIELDS: [(&str, IsValid); 29] = [
    ("version", is_number),
    ("account-id", |text| text.len() == 12 && is_number(text)),
    ("interface-id", |text| text.starts_with("eni-")),
    ("srcaddr", is_address),
    ("dstaddr", is_address),
    ("srcport", is_port),
    ("dstport", is_port),
    ("protocol", |text| text.parse::<u8>().is_ok()),
    ("packets", is_number),
    ("bytes", is_number),
    ("start", is_number),
    ("end", is_number),
    ("action", |text| ["ACCEPT", "REJECT"].contains(&text)),
    ("log-status", |text| text == "OK"),
    ("vpc-id", |text| text.starts_with("vpc-")),
    ("subnet-id", |text| text.starts_with("subnet-")),
    ("instance-id", |text| text.starts_with("i-")),
    ("tcp-flags", |text| text.parse::<u8>().is_ok()),
    ("type", |text| ["IPv4", "IPv6", "EFA"].contains(&text)),
    ("pkt-srcaddr", is_address),
    ("pkt-dstaddr", is_address),
    ("region", |text| !text.is_empty()),
    ("az-id", |text| !text.is_empty()),
    ("sublocation-type", |text| ["wavelength", "outpost", "localzone"].contains(&text)),
    ("sublocation-id", |text| !text.is_empty()),
    ("pkt-src-aws-service", |text| !text.is_empty()),
    ("pkt-dst-aws-service", |text| !text.is_empty()),
    ("flow-direction", |text| ["ingress", "egress"].contains(&text)),
    ("traffic-path", |text| text.parse::<u8>().is_ok_and(|path| (1..=8).contains(&path))),
];

fn is_number(text: &str) -> bool {
    text.parse::<u64>().is_ok()
}
fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}
fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

#[test]
fn a_reader_of_awss_text_finds_every_field_by_its_name_and_of_its_type() {
    let format: String = FIELDS.map(|(name, _)| format!("${{{name}}}")).join(" ");
    let routed = routed(300);
    let text = written(&format.parse().unwrap(), &routed);
    let mut found = BTreeMap::new();
    for line in lines(&text) {
        for (name, is_valid) in FIELDS {
            assert!(line[name] == "-" || is_valid(line[name]), "{name} is `{}`", line[name]);
        }
        add(&mut found, flow(&line), ["packets", "bytes"].map(|name| line[name].parse().unwrap()));
    }
    assert_eq!(found, sums(routed.iter().map(|RouterRecord { record, .. }| record)));
}

/// What a reader makes of a file without a format: version 2, in AWS's order.
#[test]
fn the_default_format_is_awss_own() {
    let text = written(&"default".parse().unwrap(), &routed(3));
    let names = FIELDS[..14].iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ");
    assert_eq!(text.lines().next(), Some(names.as_str()));
    assert!(lines(&text).iter().all(|line| line["version"] == "2"));
}

fn written(format: &AwsFormat, routed: &[RouterRecord]) -> String {
    let mut text = format.header();
    for RouterRecord { input, output, record } in routed {
        format.line(Line { record, ports: Some((*input, *output)) }, &mut text);
    }
    text
}

/// Values by the names in the first line.
fn lines(text: &str) -> Vec<BTreeMap<&str, &str>> {
    let mut lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let names = lines.next().unwrap();
    let values = lines.inspect(|values| assert_eq!(values.len(), names.len()));
    values.map(|values| names.iter().copied().zip(values).collect()).collect()
}

fn flow(line: &BTreeMap<&str, &str>) -> Flow {
    let port = |name: &str| line[name].parse().unwrap();
    let protocol = line["protocol"].parse().unwrap();
    (line["srcaddr"].parse().unwrap(), port("srcport"), line["dstaddr"].parse().unwrap(), port("dstport"), protocol)
}
