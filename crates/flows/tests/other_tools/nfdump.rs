//! `nfcapd` takes what comes over UDP, `nfdump` prints it.

use std::process::Command;

use lucarne_flows::router_view::RouterRecord;
use lucarne_model::{Moment, TenantFlowRecord};

use super::{
    Flow, datagrams,
    program::{Collector, output},
    records::{numbered, routed},
    routed_datagrams,
};

/// A line of `nfdump`, as the format below asks for it; times in milliseconds since 1970.
type Line = (Flow, [u64; 4]);

const FORMAT: &str = "fmt:%sa|%sp|%da|%dp|%pr|%it|%ic|%tsr|%td|%pkt|%byt";

#[test]
fn nfdump_prints_each_flow_with_its_times_and_counts() {
    let records = numbered(300);
    assert_printed(&datagrams(&records), records.iter().map(line).collect());
}

#[test]
fn nfdump_prints_each_flow_as_the_router_saw_it() {
    let routed = routed(300);
    let expected = routed.iter().map(|RouterRecord { record, .. }| line(record)).collect();
    assert_printed(&routed_datagrams(&routed), expected);
}

fn assert_printed(messages: &[Vec<u8>], mut expected: Vec<Line>) {
    let folder = tempfile::tempdir().unwrap();
    let port = Collector::free_port();
    let mut command = Command::new("nfcapd");
    command.args(["-p", &port.to_string(), "-b", "127.0.0.1", "-t", "3600", "-w"]).arg(folder.path());
    let nfcapd = Collector::start(&mut command, port);
    nfcapd.give(messages);
    nfcapd.end("-TERM");
    let printed = output(Command::new("nfdump").arg("-R").arg(folder.path()).args(["-q", "-N", "-6", "-o", FORMAT]));
    let printed = String::from_utf8(printed.stdout).unwrap();
    let mut found: Vec<Line> = printed.lines().filter(|line| !line.is_empty()).map(read).collect();
    found.sort();
    expected.sort();
    assert_eq!(found.len(), expected.len());
    found.iter().zip(&expected).for_each(|(found, expected)| assert_eq!(found, expected));
}

fn line(record: &TenantFlowRecord) -> Line {
    let icmp = record.icmp_type.map(|icmp_type| u16::from(icmp_type) << 8 | u16::from(record.icmp_code.unwrap_or(0)));
    let destination_port = icmp.unwrap_or(record.destination_port);
    let flow = (record.source, record.source_port, record.destination, destination_port, record.protocol);
    let millis = |moment: Moment| moment.as_micros() / 1000;
    let duration = millis(record.end) - millis(record.start);
    (flow, [millis(record.start), duration, record.packets, record.bytes])
}

fn read(line: &str) -> Line {
    let values: Vec<&str> = line.split('|').map(str::trim).collect();
    let &[
        source,
        source_port,
        destination,
        destination_port,
        protocol,
        icmp_type,
        icmp_code,
        start,
        lasted,
        packets,
        bytes,
    ] = values.as_slice()
    else {
        panic!("not as asked for: {line}")
    };
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("`{text}` in {line}"));
    // `SECONDS.mmm`.
    let milliseconds = |text: &str| number(&text.replace('.', ""));
    let protocol = number(protocol) as u8;
    let destination_port = match protocol {
        1 | 58 => number(icmp_type) << 8 | number(icmp_code),
        _ => number(destination_port),
    };
    let flow = (
        source.parse().unwrap(),
        number(source_port) as u16,
        destination.parse().unwrap(),
        destination_port as u16,
        protocol,
    );
    (flow, [milliseconds(start), milliseconds(lasted), number(packets), number(bytes)])
}
