//! The spool as a whole, on real files: what is written comes out, whatever ends the process, and what is lost is told.

use std::{net::Ipv4Addr, path::Path};

use lucarne_flows::{
    columns::FlowColumns,
    ipfix::{Decoder, Header},
};
use lucarne_model::{
    AccountId, Bytes, ConnState, EndReason, FlowLoss, FlowRecord, History, HostId, InstanceId, InterfaceId, LossCause,
    Moment, SubnetId, VpcId,
    flow::{Direction, Location, Path as FlowPath, Side, Verdict},
};

use super::{
    frame,
    reader::Reader,
    store::{Settings, Store, path, segments},
};

const HOST: HostId = HostId::from_bits(9);
const NOW: Moment = Moment::from_secs(1_768_478_402);

/// A made-up record; only its number matters.
pub(crate) fn record(number: u64, host: HostId) -> FlowRecord {
    FlowRecord {
        flow_id: number,
        account: AccountId::OPERATOR,
        instance: InstanceId::from_bits(1),
        interface: InterfaceId::from_bits(2),
        subnet: SubnetId::from_bits(3),
        vpc: VpcId::from_bits(4),
        host,
        location: Location::default(),
        groups: Vec::new(),
        rule: None,
        verdict: Verdict::Accept,
        end_reason: EndReason::Idle,
        direction: Direction::Egress,
        path: FlowPath::SameHost,
        side: Side::Initiator,
        start: Moment::from_secs(1_768_478_400),
        end: Moment::from_secs(1_768_478_401),
        packets: 1,
        bytes: 60,
        source: Ipv4Addr::new(10, 0, 0, 1).into(),
        destination: Ipv4Addr::new(10, 0, 0, 2).into(),
        source_port: 1,
        destination_port: 2,
        protocol: 17,
        icmp_type: None,
        icmp_code: None,
        tos: 0,
        tcp_flags: 0,
        ttl: 64,
        source_prefix_length: None,
        destination_prefix_length: None,
        next_hop: None,
        history: History::default(),
        conn_state: ConnState::Oth,
        round_trip: None,
        retransmissions: 0,
        zero_windows: 0,
        ingress_interface: 0,
        egress_interface: 0,
        mitigation: None,
    }
}

/// The number behind the last record that is in the files.
pub(crate) fn end(dir: &Path) -> u64 {
    let last = segments(dir).unwrap().last().copied().unwrap_or(0);
    frame::valid(&std::fs::read(path(dir, last)).unwrap(), last).end
}

fn open(dir: &Path, capacity: Bytes) -> Store {
    Store::open(Settings { dir: dir.to_owned(), capacity, host: HOST }, NOW).unwrap()
}

fn records(numbers: std::ops::Range<u64>) -> Vec<FlowRecord> {
    numbers.map(|number| record(number, HOST)).collect()
}

/// All that a connection would send from number `from` on: flow ids, and losses.
fn read(dir: &Path, from: u64) -> (Vec<u64>, Vec<FlowLoss>) {
    let durable = end(dir);
    let mut reader = Reader::open(dir.to_owned(), from, durable).unwrap();
    let (mut octets, mut decoder) = (reader.templates().unwrap(), Decoder::new());
    while reader.next() < durable {
        octets.extend(reader.read(durable).unwrap().map(|chunk| chunk.messages).unwrap_or_default());
    }
    let (mut ids, mut losses, mut rest) = (Vec::new(), Vec::new(), &octets[..]);
    while let Some(header) = rest.first_chunk().and_then(Header::parse) {
        let (message, behind) = rest.split_at(header.length.into());
        let mut columns = FlowColumns::default();
        let decoded = decoder.decode(message, &mut columns).unwrap();
        assert_eq!(decoded.unknown_sets, 0);
        ids.extend(columns.flow_id);
        losses.extend(decoded.losses);
        rest = behind;
    }
    (ids, losses)
}

#[test]
fn what_is_put_comes_out_from_any_number_on_over_segments_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = None;
    for start in (0..2000).step_by(500) {
        let mut store = open(dir.path(), Bytes::mib(1));
        let known = *session.get_or_insert(store.session());
        assert_eq!((store.session(), store.durable_end()), (known, start));
        for from in (start..start + 500).step_by(20) {
            store.put(&records(from..from + 20), NOW);
        }
        assert_eq!(store.sync(), start + 500);
    }
    assert!(segments(dir.path()).unwrap().len() > 4);
    for from in [0, 1, 19, 20, 777, 1999] {
        let (ids, losses) = read(dir.path(), from);
        // A batch is sent whole: the collector leaves out what it has.
        assert_eq!(ids, (from - from % 20..2000).collect::<Vec<_>>());
        assert_eq!(losses, []);
    }
}

/// A kill or a power cut may end the newest segment anywhere.
#[test]
fn a_torn_tail_is_cut_off_and_its_numbers_are_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), Bytes::mib(1));
    store.put(&records(0..10), NOW);
    store.put(&records(10..20), NOW);
    store.sync();
    drop(store);
    let newest = path(dir.path(), 0);
    let octets = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &octets[..octets.len() - 3]).unwrap();
    let mut store = open(dir.path(), Bytes::mib(1));
    assert_eq!(store.durable_end(), 10);
    store.put(&records(100..105), NOW);
    assert_eq!(store.sync(), 15);
    assert_eq!(read(dir.path(), 0).0, (0..10).chain(100..105).collect::<Vec<_>>());
}

#[test]
fn damage_in_an_older_segment_costs_what_is_behind_it_there_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), Bytes::mib(1));
    for from in (0..1000).step_by(20) {
        store.put(&records(from..from + 20), NOW);
    }
    store.sync();
    let firsts = segments(dir.path()).unwrap();
    let damaged = path(dir.path(), firsts[1]);
    let mut octets = std::fs::read(&damaged).unwrap();
    let last = octets.len() - 1;
    octets[last] ^= 1;
    std::fs::write(&damaged, octets).unwrap();
    assert_eq!(read(dir.path(), 0).0, (0..firsts[2] - 20).chain(firsts[2]..1000).collect::<Vec<_>>());
}

#[test]
fn a_full_spool_loses_the_newest_and_tells_it_once_when_there_is_room_again_also_over_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), Bytes::mib(1));
    let made = 10_000;
    for from in (0..made).step_by(100) {
        store.put(&records(from..from + 100), NOW);
    }
    let kept = store.sync();
    assert!(kept > 1000 && kept < made);
    drop(store); // killed
    let mut store = open(dir.path(), Bytes::mib(1));
    store.put(&records(0..100), NOW);
    assert!(store.has_untold());
    store.acknowledge(kept);
    store.put(&records(made..made + 10), NOW);
    let end = store.sync();
    drop(store);
    assert_eq!(open(dir.path(), Bytes::mib(1)).durable_end(), end);
    let (ids, losses) = read(dir.path(), kept);
    assert_eq!(ids, (made..made + 10).collect::<Vec<_>>());
    let (since, until) = (record(0, HOST).start, record(0, HOST).end);
    let lost = made - kept + 100;
    let told =
        FlowLoss { account: AccountId::OPERATOR, host: HOST, since, until, records: lost, cause: LossCause::SpoolFull };
    assert_eq!(losses, [told]);
}

#[test]
fn a_folder_that_was_set_back_goes_on_behind_what_the_collector_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), Bytes::mib(1));
    store.put(&records(0..10), NOW);
    store.sync();
    store.acknowledge(5000);
    assert_eq!(store.durable_end(), 5000);
    store.put(&records(10..20), NOW);
    assert_eq!(store.sync(), 5010);
    assert_eq!(read(dir.path(), 5000).0, (10..20).collect::<Vec<_>>());
}
