//! What we write is read by other people's programs, flow by flow: Wireshark, nfdump, pmacct, and a reader of AWS's text
//! that knows nothing but AWS's page about it. And what others' exporters write is read by us.

#![allow(clippy::unwrap_used)] // a test says by it what must not fail

mod aws;
mod capture;
mod exporters;
mod nfdump;
mod pmacct;
mod program;
mod records;
mod wireshark;

use std::{collections::BTreeMap, net::IpAddr};

use lucarne_flows::{ipfix::Exporter, router_view::RouterRecord};
use lucarne_model::TenantFlowRecord;

/// What every tool can name of a flow: addresses, ports and protocol.
type Flow = (IpAddr, u16, IpAddr, u16, u8);

/// Packets and bytes of each flow. All ICMP of two addresses is one, since it has no ports.
fn sums<'a>(records: impl IntoIterator<Item = &'a TenantFlowRecord>) -> BTreeMap<Flow, [u64; 2]> {
    let mut sums = BTreeMap::new();
    for record in records {
        let flow = (record.source, record.source_port, record.destination, record.destination_port, record.protocol);
        add(&mut sums, flow, [record.packets, record.bytes]);
    }
    sums
}

fn add(sums: &mut BTreeMap<Flow, [u64; 2]>, flow: Flow, [packets, bytes]: [u64; 2]) {
    let sum = sums.entry(flow).or_default();
    *sum = [sum[0] + packets, sum[1] + bytes];
}

/// The messages of some batches, as they go to a tenant's collector over UDP.
fn datagrams(records: &[TenantFlowRecord]) -> Vec<Vec<u8>> {
    let mut exporter = Exporter::new(9);
    records.chunks(50).flat_map(|batch| exporter.encode_for_tenant(batch, records::NOW)).collect()
}

/// The messages of a network's file, as whoever has it may send them on.
fn routed_datagrams(records: &[RouterRecord]) -> Vec<Vec<u8>> {
    let mut exporter = Exporter::new(9);
    records.chunks(50).flat_map(|batch| exporter.encode_routed(batch, records::NOW)).collect()
}
