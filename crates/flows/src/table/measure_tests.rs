//! What is told of a connection beside its counters, packet by packet.

use std::time::Duration;

use lucarne_model::{
    ConnState, FlowRecord, Moment,
    flow::{Direction, RoundTrip},
    security_group::{ICMP, TCP, UDP},
};

use super::{
    FlowKey, FlowTable, Opening, Packet, Side, Slot,
    tests::{allowed, settings},
};
use crate::phase::{ACK, FIN, Phase, RST, SYN};

const OUT: Direction = Direction::Egress;
const IN: Direction = Direction::Ingress;

/// One connection, opened by the guest.
struct Exchange {
    table: FlowTable,
    slot: Slot,
    now: Moment,
}

impl Exchange {
    fn new(protocol: u8, first: Packet) -> Self {
        let (mut table, now) = (FlowTable::new(settings(), 3), Moment::from_secs(1000));
        let phase = if protocol == TCP { Phase::SynSent } else { Phase::Asked };
        let opening = Opening { direction: OUT, side: Side::Initiator, phase, allowed: allowed(), memo: 0, epoch: 1 };
        let key = FlowKey::new(1, 0x0a00_0001, 0x0a00_0002, 1000, 80, protocol);
        let slot = table.open(key, opening, &first, now, &mut |_| {});
        Self { table, slot, now }
    }

    /// A handshake with 100 microseconds to the answer and 30 from there.
    fn opened() -> Self {
        let mut tcp = Self::new(TCP, segment(1000, 0, 0, SYN));
        tcp.after(100).send(IN, segment(5000, 1001, 0, SYN | ACK));
        tcp.after(30).send(OUT, segment(1001, 5001, 0, ACK));
        tcp
    }

    fn after(&mut self, micros: u64) -> &mut Self {
        self.now = self.now.plus(Duration::from_micros(micros));
        self
    }
    fn send(&mut self, direction: Direction, packet: Packet) {
        self.table.count(self.slot, direction, &packet, self.now);
    }

    /// The records of the interval: what went out, what came in.
    fn records(&mut self) -> (FlowRecord, FlowRecord) {
        let mut records = Vec::new();
        self.table.report(self.slot, lucarne_model::EndReason::ActiveSlice, &mut |record| records.push(record));
        let came = records.pop().unwrap();
        (records.pop().unwrap(), came)
    }
}

fn segment(sequence: u32, acknowledgement: u32, data: u16, tcp_flags: u16) -> Packet {
    let bytes = 40 + u32::from(data);
    Packet { bytes, tcp_flags, data, sequence, acknowledgement, window: 1000, ttl: 64, ..Packet::default() }
}

fn datagram() -> Packet {
    Packet { bytes: 60, data: 32, ttl: 64, ..Packet::default() }
}

fn only(micros: u32) -> Option<RoundTrip> {
    Some(RoundTrip { count: 1, min: micros, mean: micros, max: micros, smoothed: micros })
}

#[test]
fn the_handshake_measures_both_ways() {
    let (out, came) = Exchange::opened().records();
    assert_eq!((out.round_trip, came.round_trip), (only(100), only(30)));
    assert_eq!((out.history.to_string().as_str(), out.conn_state), ("ShA", ConnState::S1));
}

#[test]
fn data_measures_until_its_end_is_acknowledged() {
    let mut tcp = Exchange::opened();
    tcp.records();
    tcp.send(OUT, segment(1001, 5001, 500, ACK));
    tcp.after(10).send(OUT, segment(1501, 5001, 500, ACK));
    tcp.after(10).send(IN, segment(5001, 1200, 0, ACK)); // not all of it yet
    tcp.after(180).send(IN, segment(5001, 1501, 0, ACK));
    tcp.after(5).send(IN, segment(5001, 2001, 0, ACK)); // was no probe
    let (out, came) = tcp.records();
    let expected = RoundTrip { count: 1, min: 200, mean: 200, max: 200, smoothed: (100 * 7 + 200) / 8 };
    assert_eq!((out.round_trip, came.round_trip), (Some(expected), None));
}

#[test]
fn what_was_sent_twice_is_counted_and_not_measured() {
    let mut tcp = Exchange::opened();
    tcp.records();
    for _ in 0..11 {
        tcp.after(1000).send(OUT, segment(1001, 5001, 500, ACK));
    }
    tcp.after(50).send(IN, segment(5001, 1501, 0, ACK));
    let (out, came) = tcp.records();
    assert_eq!((out.retransmissions, out.round_trip, came.retransmissions), (10, None, 0));
    assert_eq!(out.history.to_string(), "ShADTTa", "the letter again at the tenth");
    // And the measuring goes on with what is new.
    tcp.send(OUT, segment(1501, 5001, 10, ACK));
    tcp.after(70).send(IN, segment(5001, 1511, 0, ACK));
    assert_eq!(tcp.records().0.round_trip.map(|round_trip| round_trip.max), Some(70));
}

#[test]
fn sequence_numbers_go_round() {
    let mut tcp = Exchange::new(TCP, segment(u32::MAX - 100, 0, 0, SYN));
    tcp.after(100).send(IN, segment(u32::MAX, u32::MAX - 99, 0, SYN | ACK));
    tcp.send(OUT, segment(u32::MAX - 99, 0, 0, ACK));
    tcp.send(OUT, segment(u32::MAX - 99, 0, 300, ACK));
    tcp.after(40).send(IN, segment(0, 200, 0, ACK));
    let (out, _) = tcp.records();
    assert_eq!((out.retransmissions, out.round_trip.map(|r| (r.count, r.min, r.max))), (0, Some((2, 40, 100))));
}

#[test]
fn closed_windows_are_counted_where_they_are_said() {
    let mut tcp = Exchange::opened();
    for _ in 0..3 {
        tcp.send(IN, Packet { window: 0, ..segment(5001, 1001, 0, ACK) });
    }
    let (out, came) = tcp.records();
    assert_eq!((out.zero_windows, came.zero_windows), (0, 3));
    assert_eq!(came.history.to_string(), "ShAaw");
}

#[test]
fn the_history_has_each_letter_once_and_the_state_follows() {
    let mut tcp = Exchange::opened();
    for n in 0..50 {
        tcp.send(OUT, segment(1001 + n, 5001 + n, 1, ACK));
        tcp.send(IN, segment(5001 + n, 1002 + n, 1, ACK));
    }
    tcp.send(IN, segment(5051, 1051, 0, FIN | ACK));
    tcp.send(OUT, segment(1051, 5052, 0, ACK));
    tcp.send(OUT, segment(1051, 5052, 0, FIN | ACK));
    let (out, came) = tcp.records();
    assert_eq!((out.history.to_string().as_str(), out.conn_state), ("ShADdfF", ConnState::Sf));
    assert_eq!((came.history, came.conn_state), (out.history, out.conn_state));
    assert_eq!((out.side, came.side), (Side::Initiator, Side::Responder));
}

#[test]
fn contradicting_flags_have_letters_too() {
    let mut tcp = Exchange::opened();
    tcp.send(OUT, segment(1001, 5001, 0, SYN | FIN));
    tcp.send(IN, segment(5001, 1001, 0, FIN | RST));
    assert_eq!(tcp.records().0.history.to_string(), "ShAFQfri");
}

#[test]
fn a_request_and_its_answer_measure_without_tcp() {
    for (protocol, state) in [(UDP, ConnState::Sf), (ICMP, ConnState::Oth)] {
        let mut exchange = Exchange::new(protocol, datagram());
        exchange.after(80).send(IN, datagram());
        exchange.after(5).send(IN, datagram());
        exchange.after(1000).send(OUT, datagram());
        exchange.after(60).send(IN, datagram());
        let (out, came) = exchange.records();
        let expected = RoundTrip { count: 2, min: 60, mean: 70, max: 80, smoothed: (80 * 7 + 60) / 8 };
        assert_eq!((out.round_trip, came.round_trip), (Some(expected), None));
        assert_eq!((out.history.to_string().as_str(), out.conn_state), ("Dd", state));
    }
}

/// Nobody knows which of two requests an answer is to.
#[test]
fn an_answer_to_two_requests_measures_nothing() {
    let mut exchange = Exchange::new(UDP, datagram());
    exchange.after(500).send(OUT, datagram());
    exchange.after(80).send(IN, datagram());
    assert_eq!(exchange.records().0.round_trip, None);
}

#[test]
fn the_first_packet_of_each_interval_gives_time_to_live_and_service() {
    let mut tcp = Exchange::opened();
    assert_eq!(tcp.records().0.ttl, 64);
    tcp.send(OUT, Packet { ttl: 61, tos: 8, ..segment(1001, 5001, 1, ACK) });
    tcp.send(OUT, Packet { ttl: 64, tos: 0, ..segment(1002, 5001, 1, ACK) });
    tcp.send(IN, segment(5001, 1003, 0, ACK));
    let (out, _) = tcp.records();
    assert_eq!((out.ttl, out.tos, out.start), (61, 8, tcp.now));
}
