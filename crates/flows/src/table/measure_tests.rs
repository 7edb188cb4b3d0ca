//! What is told of a connection beside its counters, packet by packet.

use std::time::Duration;

use lucarne_model::{
    ConnState, FlowRecord, Moment,
    flow::{Direction, RoundTrip},
    security_group::{ICMP, TCP, UDP},
};

use super::{
    FlowKey, FlowTable, Opening, Packet, Side, Slot, Timestamps,
    tests::{allowed, settings},
};
use crate::phase::{ACK, FIN, Phase, RST, SYN};

const OUT: Direction = Direction::Egress;
const IN: Direction = Direction::Ingress;

/// One connection, opened by the guest.
pub(super) struct Exchange {
    table: FlowTable,
    slot: Slot,
    now: Moment,
}

impl Exchange {
    pub(super) fn new(protocol: u8, first: Packet) -> Self {
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

    pub(super) fn after(&mut self, micros: u64) -> &mut Self {
        self.now = self.now.plus(Duration::from_micros(micros));
        self
    }
    pub(super) fn send(&mut self, direction: Direction, packet: Packet) {
        self.table.count(self.slot, direction, &packet, self.now);
    }

    /// The records of the interval: what went out, what came in.
    pub(super) fn records(&mut self) -> (FlowRecord, FlowRecord) {
        let mut records = Vec::new();
        self.table.report(self.slot, lucarne_model::EndReason::ActiveSlice, &mut |record| records.push(record));
        let came = records.pop().unwrap();
        (records.pop().unwrap(), came)
    }
}

pub(super) fn segment(sequence: u32, acknowledgement: u32, data: u16, tcp_flags: u16) -> Packet {
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

/// A packet of a connection with timestamps.
fn stamped(value: u32, echo: u32, packet: Packet) -> Packet {
    Packet { timestamps: Some(Timestamps { value, echo }), ..packet }
}

#[test]
fn with_timestamps_what_was_sent_twice_is_measured_by_its_echo() {
    let mut tcp = Exchange::opened();
    tcp.records();
    tcp.send(OUT, stamped(10, 5, segment(1001, 5001, 500, ACK)));
    tcp.after(200_000).send(OUT, stamped(210, 5, segment(1001, 5001, 500, ACK)));
    // The answer to the first one was only late: it is not 300 microseconds.
    tcp.after(300).send(IN, stamped(6, 10, segment(5001, 1501, 0, ACK)));
    tcp.after(700).send(IN, stamped(7, 210, segment(5001, 1501, 0, ACK)));
    let (out, _) = tcp.records();
    assert_eq!(out.round_trip.map(|trip| (trip.count, trip.max)), Some((1, 1000)));
}

#[test]
fn with_timestamps_an_answer_to_something_later_measures_nothing() {
    let mut tcp = Exchange::opened();
    tcp.records();
    tcp.send(OUT, stamped(10, 5, segment(1001, 5001, 500, ACK)));
    tcp.after(50_000).send(OUT, stamped(60, 5, segment(1501, 5001, 500, ACK)));
    // The answer to the first one was lost; this is the second one's.
    tcp.after(400).send(IN, stamped(6, 60, segment(5001, 2001, 0, ACK)));
    assert_eq!(tcp.records().0.round_trip, None);
    // One acknowledgement of two segments echoes the first.
    tcp.send(OUT, stamped(70, 6, segment(2001, 5001, 500, ACK)));
    tcp.after(20).send(OUT, stamped(71, 6, segment(2501, 5001, 500, ACK)));
    tcp.after(400).send(IN, stamped(7, 70, segment(5001, 3001, 0, ACK)));
    assert_eq!(tcp.records().0.round_trip.map(|trip| (trip.count, trip.max)), Some((1, 420)));
}

#[test]
fn with_timestamps_a_lost_syn_does_not_spoil_the_handshake() {
    let mut tcp = Exchange::new(TCP, stamped(1, 0, segment(1000, 0, 0, SYN)));
    tcp.after(1_000_000).send(OUT, stamped(1001, 0, segment(1000, 0, 0, SYN)));
    tcp.after(90).send(IN, stamped(5, 1001, segment(5000, 1001, 0, SYN | ACK)));
    let (out, _) = tcp.records();
    assert_eq!((out.round_trip, out.retransmissions), (only(90), 0));
    assert_eq!(out.history.to_string(), "Sh", "the same SYN has one letter");
}

/// Three octets hold 16.8 seconds; more is told as that.
#[test]
fn an_answer_that_takes_longer_than_can_be_told_is_told_as_the_longest() {
    let mut exchange = Exchange::new(UDP, datagram());
    exchange.after(29_000_000).send(IN, datagram());
    let trip = exchange.records().0.round_trip.unwrap();
    assert_eq!((trip.min, trip.mean, trip.max), (0xff_ffff, 0xff_ffff, 0xff_ffff));
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
    let (out, _) = tcp.records();
    assert_eq!((out.history.to_string().as_str(), out.conn_state), ("ShAQi", ConnState::Rstr));
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
