//! pmacct's `nfacctd` takes what comes over UDP and prints sums.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use lucarne_flows::router_view::RouterRecord;
use serde_json::Value;

use super::{
    Flow, add, datagrams,
    program::{Collector, until},
    records::{numbered, routed},
    routed_datagrams, sums,
};

#[test]
fn pmacct_counts_the_packets_and_bytes_of_each_flow() {
    let records = numbered(300);
    assert_counted(&datagrams(&records), &sums(&records));
}

#[test]
fn pmacct_counts_what_the_router_saw() {
    let routed = routed(300);
    assert_counted(&routed_datagrams(&routed), &sums(routed.iter().map(|RouterRecord { record, .. }| record)));
}

fn assert_counted(messages: &[Vec<u8>], expected: &BTreeMap<Flow, [u64; 2]>) {
    let folder = tempfile::tempdir().unwrap();
    let port = Collector::free_port();
    let [configuration, log, printed] = ["nfacctd.conf", "log", "printed"].map(|name| folder.path().join(name));
    fs::write(&configuration, configured(port, &log, &printed)).unwrap();
    let nfacctd = Collector::start(Command::new("nfacctd").arg("-f").arg(&configuration), port);
    // It listens before the process that prints is ready, and what comes between is never printed.
    until("nfacctd begins to print", || {
        fs::read_to_string(&log).ok().filter(|log| log.contains("Purging cache - START"))
    });
    nfacctd.give(messages);
    let total = |sums: &BTreeMap<Flow, [u64; 2]>| sums.values().map(|[packets, _]| packets).sum::<u64>();
    let found = until("nfacctd prints as many packets", || {
        Some(read(&printed)).filter(|found| total(found) >= total(expected))
    });
    nfacctd.end("-INT");
    assert_eq!(found, *expected);
    assert_eq!(read(&printed), *expected, "something came after all was there");
}

fn configured(port: u16, log: &Path, printed: &Path) -> String {
    format!(
        "daemonize: false\nlogfile: {}\nnfacctd_ip: 127.0.0.1\nnfacctd_port: {port}\nplugins: print\n\
         aggregate: src_host,src_port,dst_host,dst_port,proto\n\
         print_output: json\nprint_output_file: {}\nprint_output_file_append: true\nprint_refresh_time: 1\n",
        log.display(),
        printed.display()
    )
}

/// What is printed so far; a line that is not yet whole counts for nothing.
fn read(printed: &Path) -> BTreeMap<Flow, [u64; 2]> {
    let mut found = BTreeMap::new();
    for line in fs::read_to_string(printed).unwrap_or_default().lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let address = |name: &str| line[name].as_str().and_then(|text| text.parse().ok());
        let (Some(source), Some(destination)) = (address("ip_src"), address("ip_dst")) else { continue };
        let number = |name: &str| line[name].as_u64().unwrap_or_else(|| panic!("no number `{name}` in {line}"));
        let [source_port, destination_port] = ["port_src", "port_dst"].map(|name| number(name) as u16);
        let flow = (source, source_port, destination, destination_port, protocol(&line["ip_proto"]));
        add(&mut found, flow, ["packets", "bytes"].map(number));
    }
    found
}

/// pmacct has the names of `/etc/protocols`.
fn protocol(name: &Value) -> u8 {
    match name.as_str() {
        Some("icmp") => 1,
        Some("tcp") => 6,
        Some("udp") => 17,
        Some("ipv6-icmp") => 58,
        _ => panic!("no protocol that was sent: {name}"),
    }
}
