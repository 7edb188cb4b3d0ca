//! `tshark` reads a network's file, and judges the sequence of what goes over UDP.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use lucarne_flows::{
    ipfix::{
        Exporter,
        elements::{ENTERPRISE, own_elements},
    },
    router_view::RouterRecord,
};
use serde_json::{Map, Value};

use super::{
    Flow, add, datagrams,
    program::output,
    records::{NOW, numbered, routed},
    sums,
};

#[test]
fn tshark_reads_each_flow_of_a_file_and_finds_nothing_malformed() {
    let routed = routed(300);
    let mut exporter = Exporter::new(1).with_limit(Exporter::STREAM);
    let tree = dissected(&exporter.encode_routed(&routed, NOW).concat(), "flows.ipfix");
    let complaints: Vec<&str> = keys(&tree).into_iter().filter(|key| key.starts_with("_ws.")).collect();
    assert_eq!(complaints, Vec::<&str>::new());
    let expected = sums(routed.iter().map(|RouterRecord { record, .. }| record));
    let mut found = BTreeMap::new();
    let flows = flows(&tree);
    assert_eq!(flows.len(), routed.len());
    for flow in flows {
        let (flow, counts) = read(flow);
        add(&mut found, flow, counts);
    }
    assert_eq!(found, expected);
}

/// A column is either of IANA's, which tshark names, or of ours, which the file itself names.
#[test]
fn every_column_of_a_file_has_a_name() {
    let mut exporter = Exporter::new(1).with_limit(Exporter::STREAM);
    let tree = dissected(&exporter.encode_routed(&routed(5), NOW).concat(), "names.ipfix");
    let columns: Vec<&str> = keys(&tree).into_iter().filter(|key| key.starts_with("Field (")).collect();
    assert!(columns.len() > 4 * 40, "{columns:?}");
    let told = values(&tree, "cflow.information_element_id");
    let own: Vec<String> = own_elements().map(|element| element.number.to_string()).collect();
    assert!(own.iter().all(|number| told.contains(number)), "{told:?} lacks some of {own:?}");
    for column in columns {
        let name = column.split_once(": ").unwrap().1.trim();
        match name.split_once(" [pen: ") {
            Some((number, _)) => assert!(told.iter().any(|told| told == number), "nobody names {column}"),
            None => assert!(name.starts_with(|c: char| c.is_ascii_alphabetic()), "tshark does not know {column}"),
        }
    }
    let enterprises = values(&tree, "cflow.template_ipfix_field_pen");
    assert!(enterprises.iter().all(|number| *number == ENTERPRISE.to_string()));
}

/// Options count too (RFC 7011 section 3.1), which `nfcapd` 1.7.1 does not know: it tells of a gap where there is none.
#[test]
fn tshark_finds_a_gap_in_the_sequence_only_where_a_message_is_missing() {
    let whole = datagrams(&numbered(300));
    assert_eq!(gaps(&whole), 0);
    let lossy: Vec<_> = whole.iter().enumerate().filter(|(index, _)| *index != 7).map(|(_, m)| m.clone()).collect();
    assert_eq!(gaps(&lossy), 1);
}

fn gaps(messages: &[Vec<u8>]) -> usize {
    values(&dissected(&captured(messages), "sequence.pcap"), "cflow.sequence_analysis.expected_sn").len()
}

/// A capture of the messages in UDP over IPv4.
fn captured(messages: &[Vec<u8>]) -> Vec<u8> {
    const RAW_IP: u32 = 101;
    let numbers = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let mut capture = numbers(&[0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 65_535, RAW_IP]);
    for message in messages {
        let (udp, ip) = (8 + message.len() as u16, 28 + message.len() as u16);
        capture.extend(numbers(&[0, 0, ip.into(), ip.into()]));
        capture.extend([0x45, 0]);
        capture.extend(ip.to_be_bytes());
        capture.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        for number in [4739, 4739, udp, 0] {
            capture.extend(number.to_be_bytes());
        }
        capture.extend(message);
    }
    capture
}

/// All that tshark says of a file, with what stands in an object more than once as a list.
fn dissected(octets: &[u8], name: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, octets).unwrap();
    let said = output(&mut tshark(&file));
    serde_json::from_slice(&said.stdout).unwrap()
}

fn tshark(file: &Path) -> Command {
    let mut tshark = Command::new("tshark");
    tshark.args(["-T", "json", "--no-duplicate-keys", "-d", "udp.port==4739,cflow", "-r"]).arg(file);
    tshark
}

fn children(value: &Value) -> Box<dyn Iterator<Item = (&str, &Value)> + '_> {
    match value {
        Value::Object(object) => Box::new(object.iter().map(|(key, value)| (key.as_str(), value))),
        Value::Array(array) => Box::new(array.iter().map(|value| ("", value))),
        _ => Box::new(std::iter::empty()),
    }
}

fn keys(value: &Value) -> Vec<&str> {
    children(value).flat_map(|(key, value)| std::iter::once(key).chain(keys(value))).collect()
}

/// The texts under a key, wherever it stands.
fn values(value: &Value, wanted: &str) -> Vec<String> {
    let own = children(value).filter(|(key, _)| *key == wanted).filter_map(|(_, value)| value.as_str().map(Into::into));
    own.chain(children(value).flat_map(|(_, value)| values(value, wanted))).collect()
}

/// The records that have addresses.
fn flows(value: &Value) -> Vec<&Map<String, Value>> {
    let is_flow = |object: &&Map<String, Value>| object.contains_key("cflow.octets");
    let own = value.as_object().filter(is_flow);
    own.into_iter().chain(children(value).flat_map(|(_, value)| flows(value))).collect()
}

fn read(flow: &Map<String, Value>) -> (Flow, [u64; 2]) {
    let text = |names: &[&str]| {
        let value = names.iter().find_map(|name| flow.get(*name));
        value.and_then(Value::as_str).unwrap_or_else(|| panic!("none of {names:?} in {flow:?}"))
    };
    let number = |name: &str| text(&[name]).parse::<u64>().unwrap();
    let source = text(&["cflow.srcaddr", "cflow.srcaddrv6"]).parse().unwrap();
    let destination = text(&["cflow.dstaddr", "cflow.dstaddrv6"]).parse().unwrap();
    let ports = ["cflow.srcport", "cflow.dstport"].map(|name| number(name) as u16);
    let flow = (source, ports[0], destination, ports[1], number("cflow.protocol") as u8);
    (flow, [number("cflow.packets"), number("cflow.octets")])
}
