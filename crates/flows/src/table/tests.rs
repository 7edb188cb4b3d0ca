//! The table against a model: whatever happens, every packet is in exactly one record.

use std::{collections::BTreeMap, time::Duration};

use lucarne_model::{
    AccountId, HostId, InstanceId, InterfaceId, SubnetId, VpcId,
    flow::{Location, Path, RoundTrip, Verdict},
    security_group::{TCP, UDP},
};
use proptest::prelude::*;

use super::*;
use crate::phase::{ACK, FIN, RST, SYN};

fn owner() -> Arc<Owner> {
    Arc::new(Owner {
        account: AccountId::from_bits(1),
        instance: InstanceId::from_bits(1),
        interface: InterfaceId::from_bits(1),
        subnet: SubnetId::from_bits(1),
        vpc: VpcId::from_bits(1),
        host: HostId::from_bits(1),
        location: Location::default(),
        groups: Vec::new(),
        prefix_length: 24,
        interface_index: 2,
        interval: None,
        next_hops: Vec::new(),
    })
}

/// Flows of the first three in four are of port 1, the rest of port 2.
fn key(n: u16) -> FlowKey {
    let port = if n % 4 == 3 { 2 } else { 1 };
    FlowKey::new(port, 0x0a00_0001, 0x0a00_0002, n, 80, if n.is_multiple_of(2) { TCP } else { UDP })
}

fn opening(direction: Direction, phase: Phase, epoch: u32) -> Opening {
    Opening { direction, side: Side::Initiator, phase, allowed: allowed(), memo: 5, epoch }
}

pub(super) fn allowed() -> Allowed {
    let far = FarEnd { path: Path::SameHost, prefix_length: 24, interface_index: 3 };
    Allowed { owner: owner(), grounds: Grounds::Nothing, far }
}

/// A small table.
pub(super) fn settings() -> Settings {
    Settings { capacity: 16, ..Settings::default() }
}

/// What a packet that is dropped for this reason is given with.
fn rejection<'a>(reason: EndReason, owner: &'a Arc<Owner>) -> Rejection<'a> {
    Rejection { direction: Direction::Ingress, denial: reason.into(), owner, epoch: 1 }
}

fn packet(bytes: u32, tcp_flags: u16) -> Packet {
    Packet { bytes, tcp_flags, ..Packet::default() }
}

#[derive(Clone, Debug)]
enum Step {
    Packet { flow: u16, direction: Direction, packet: Packet },
    Reject { flow: u16, reason: EndReason },
    Wait(Duration),
    NewEpoch,
    Refuse(u16),
}

/// Numbers near each other and near the end of their circle, so that they meet.
fn segment(flags: impl Strategy<Value = u16>) -> impl Strategy<Value = Packet> {
    let number = || prop_oneof![0u32..50, (u32::MAX - 20)..=u32::MAX, any::<u32>()];
    let stamps = prop::option::of((0u32..5, 0u32..5).prop_map(|(value, echo)| Timestamps { value, echo }));
    let rest = (0u16..30, prop_oneof![Just(0u16), Just(1000)], stamps);
    (20u32..1500, flags, number(), number(), rest).prop_map(
        |(bytes, tcp_flags, sequence, acknowledgement, (data, window, timestamps))| Packet {
            bytes,
            tcp_flags,
            sequence,
            acknowledgement,
            data,
            window,
            timestamps,
            ..Packet::default()
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let direction = prop_oneof![Just(Direction::Egress), Just(Direction::Ingress)];
    let flags = prop_oneof![Just(SYN), Just(SYN | ACK), Just(ACK), Just(FIN | ACK), Just(RST)];
    let reason = prop_oneof![Just(EndReason::Invalid), Just(EndReason::NoRoute)];
    prop_oneof![
        10 => (0u16..40, direction, segment(flags))
            .prop_map(|(flow, direction, packet)| Step::Packet { flow, direction, packet }),
        3 => (0u16..40, reason).prop_map(|(flow, reason)| Step::Reject { flow, reason }),
        3 => (0u64..40_000).prop_map(|millis| Step::Wait(Duration::from_millis(millis))),
        1 => Just(Step::NewEpoch),
        1 => (0u16..40).prop_map(Step::Refuse),
    ]
}

/// A table, what went in, and what came out.
struct Run {
    table: FlowTable,
    now: Moment,
    epoch: u32,
    sent: BTreeMap<Direction, (u64, u64)>,
    records: Vec<FlowRecord>,
}

impl Run {
    fn new(capacity: usize) -> Self {
        Self::with(Settings { capacity, ..Settings::default() })
    }

    fn with(settings: Settings) -> Self {
        let (sent, records, now) = (BTreeMap::new(), Vec::new(), Moment::from_secs(1000));
        Self { table: FlowTable::new(settings, 3), now, epoch: 1, sent, records }
    }

    fn note(&mut self, direction: Direction, bytes: u32) {
        let sum = self.sent.entry(direction).or_default();
        *sum = (sum.0 + 1, sum.1 + u64::from(bytes));
    }

    fn packet(&mut self, flow: u16, direction: Direction, bytes: u32, flags: u16) {
        self.send(flow, direction, packet(bytes, flags));
    }

    fn send(&mut self, flow: u16, direction: Direction, packet: Packet) {
        self.note(direction, packet.bytes);
        let tcp_flags = if flow.is_multiple_of(2) { packet.tcp_flags } else { 0 };
        let packet = Packet { tcp_flags, ..packet };
        match self.table.find(key(flow)) {
            Some(slot) => self.table.count(slot, direction, &packet, self.now),
            None => {
                let phase = if flow.is_multiple_of(2) { Phase::SynSent } else { Phase::Asked };
                let opening = opening(direction, phase, self.epoch);
                self.table.open(key(flow), opening, &packet, self.now, &mut |record| self.records.push(record));
            }
        }
    }

    fn perform(&mut self, step: &Step) {
        match *step {
            Step::Packet { flow, direction, packet } => self.send(flow, direction, packet),
            Step::Reject { flow, reason } => {
                self.note(Direction::Ingress, 40);
                let (owner, emit) = (owner(), &mut |record| self.records.push(record));
                self.table.reject(key(flow), rejection(reason, &owner), &packet(40, SYN), self.now, emit);
            }
            Step::Wait(span) => {
                self.now = self.now.plus(span);
                self.poll(&mut |question| match question.key.local_port() % 3 {
                    0 => Err(EndReason::NoRoute.into()),
                    _ => Ok(allowed()),
                });
            }
            Step::NewEpoch => self.epoch += 1,
            Step::Refuse(flow) => {
                if let Some(slot) = self.table.find(key(flow)) {
                    self.table.refuse(slot, self.now);
                }
            }
        }
    }

    fn poll(&mut self, judge: &mut dyn FnMut(&Question) -> Judgement) {
        self.table.poll(self.now, self.epoch, judge, &mut |record| self.records.push(record));
    }

    /// The connections of a port that are open, one by one.
    fn open_of(&self, port: u32) -> u32 {
        let lines = self.table.lines.iter().map(|[line, _]| line);
        lines.filter(|line| line.phase.is_open() && line.key.port() == port).count() as u32
    }

    fn recorded(&self) -> BTreeMap<Direction, (u64, u64)> {
        let mut sums = BTreeMap::<_, (u64, u64)>::new();
        for record in self.records.iter().filter(|record| record.packets > 0) {
            let sum = sums.entry(record.direction).or_default();
            *sum = (sum.0 + record.packets, sum.1 + record.bytes);
        }
        sums
    }
}

proptest! {
    #[test]
    fn every_packet_is_in_exactly_one_record(
        capacity in prop_oneof![Just(1usize), Just(4), Just(16), Just(1024)],
        port_capacity in prop_oneof![Just(1usize), Just(8), Just(1024)],
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut run = Run::with(Settings { capacity, port_capacity, ..Settings::default() });
        for step in &steps {
            run.perform(step);
            prop_assert!(run.table.len() <= capacity);
            for port in [1, 2] {
                prop_assert_eq!(run.table.open_connections(port), run.open_of(port));
            }
        }
        run.table.finish_all(EndReason::AgentRestart, &mut |record| run.records.push(record));
        prop_assert!(run.table.is_empty());
        prop_assert_eq!(run.recorded(), run.sent);
        for record in &run.records {
            let round_trip = record.round_trip.unwrap_or(RoundTrip { count: 0, min: 0, mean: 0, max: 0, smoothed: 0 });
            prop_assert!(round_trip.min <= round_trip.mean && round_trip.mean <= round_trip.max, "{:?}", record);
            prop_assert!(u64::from(record.retransmissions.max(record.zero_windows)) <= record.packets);
        }
    }
}

#[test]
fn every_flow_ends_by_itself_when_packets_stop() {
    let mut run = Run::new(64);
    for flow in 0..40 {
        run.packet(flow, Direction::Ingress, 100, SYN);
    }
    let settings = Settings::default();
    run.now = run.now.plus(settings.half_open.max(settings.udp_idle));
    run.poll(&mut |_| Ok(allowed()));
    assert!(run.table.is_empty());
    assert!(run.records.iter().any(|record| record.end_reason == EndReason::NoAnswerFromVm));
}

#[test]
fn a_memo_holds_in_its_epoch_only_and_for_its_direction() {
    let mut run = Run::new(4);
    run.packet(0, Direction::Egress, 40, SYN);
    let slot = run.table.find(key(0)).unwrap();
    assert_eq!(run.table.memo(slot, Direction::Egress, 1), Some(5));
    assert_eq!(run.table.memo(slot, Direction::Egress, 2), None);
    assert_eq!(run.table.memo(slot, Direction::Ingress, 1), None);
    run.table.renew(slot, Direction::Ingress, 9, 2, allowed());
    assert_eq!(run.table.memo(slot, Direction::Ingress, 2), Some(9));
}

/// A dropped packet must neither find nor disturb the connection between the same ends.
#[test]
fn dropped_packets_stand_beside_the_connection() {
    let mut run = Run::new(4);
    run.packet(0, Direction::Egress, 40, SYN);
    run.perform(&Step::Reject { flow: 0, reason: EndReason::Invalid });
    run.perform(&Step::Reject { flow: 0, reason: EndReason::NoRoute });
    assert_eq!(run.table.len(), 3);
    assert_eq!(run.table.phase(run.table.find(key(0)).unwrap()), Phase::SynSent);
}

/// The timer of a handshake is far off; once open, the connection is reported at the interval like any other.
/// Between two reports a look shows what is counted so far, of what was used lately, and the reports are as without it.
#[test]
fn a_look_at_the_table_shows_what_is_counted_and_changes_nothing() {
    let mut run = Run::new(8);
    run.packet(1, Direction::Egress, 100, SYN);
    run.packet(1, Direction::Ingress, 60, SYN | ACK);
    let look = |run: &Run, since: Moment| {
        let mut seen = Vec::new();
        assert_eq!(
            run.table.look(0, since, &mut |record| seen.push((record.direction, record.packets, record.bytes))),
            None
        );
        seen
    };
    let both = vec![(Direction::Egress, 1, 100), (Direction::Ingress, 1, 60)];
    assert_eq!(look(&run, Moment::EPOCH), both);
    assert_eq!(look(&run, Moment::EPOCH), both, "looking changed something");
    assert_eq!(look(&run, run.now.plus(Duration::from_secs(1))), []);
    assert!(run.records.is_empty());
}

#[test]
fn a_connection_is_reported_one_interval_after_its_first_packet() {
    let mut run = Run::new(4);
    for (direction, flags) in [(Direction::Egress, SYN), (Direction::Ingress, SYN | ACK), (Direction::Egress, ACK)] {
        run.packet(0, direction, 40, flags);
    }
    run.now = run.now.plus(Settings::default().interval);
    run.poll(&mut |_| Ok(allowed()));
    assert_eq!(run.records.len(), 2);
    assert!(run.records.iter().all(|record| record.end_reason == EndReason::ActiveSlice));
}

/// UDP exchanges of port 1: odd numbers that are not 3 beyond a multiple of 4.
fn ask(run: &mut Run, n: u16) {
    run.packet(n * 4 + 1, Direction::Egress, 40, 0);
}
fn answer(run: &mut Run, n: u16) {
    run.packet(n * 4 + 1, Direction::Ingress, 40, 0);
}
fn is_there(run: &Run, n: u16) -> bool {
    run.table.find(key(n * 4 + 1)).is_some()
}

#[test]
fn a_flood_of_attempts_is_gathered_and_leaves_the_answered_alone() {
    let mut run = Run::new(8);
    ask(&mut run, 0);
    answer(&mut run, 0);
    for n in 1..1000 {
        ask(&mut run, n);
    }
    assert!(is_there(&run, 0) && is_there(&run, 999));
    assert!(run.records.is_empty(), "a flood makes no records");
    run.table.finish_all(EndReason::AgentRestart, &mut |record| run.records.push(record));
    let gathered: Vec<_> = run.records.iter().filter(|r| r.end_reason == EndReason::EvictedForSpace).collect();
    assert_eq!(gathered.len(), 1);
    assert_eq!((gathered[0].packets, gathered[0].bytes), (993, 993 * 40));
    assert_eq!((gathered[0].verdict, gathered[0].side), (Verdict::Accept, Side::Initiator));
    assert!(gathered[0].source.is_unspecified() && gathered[0].destination.is_unspecified());
    assert_eq!(run.recorded(), run.sent);
}

#[test]
fn an_open_connection_that_is_given_up_has_a_record_of_its_own() {
    let mut run = Run::new(2);
    for n in 0..3 {
        ask(&mut run, n);
        answer(&mut run, n);
        run.now = run.now.plus(Duration::from_secs(1));
    }
    assert!(!is_there(&run, 0) && is_there(&run, 1) && is_there(&run, 2), "the longest silent goes");
    assert_eq!(run.records.iter().map(|r| r.end_reason).collect::<Vec<_>>(), [EndReason::EvictedForSpace; 2]);
    assert!(run.records.iter().all(|record| !record.source.is_unspecified()));
}

#[test]
fn a_port_with_too_many_flows_pushes_out_its_own() {
    let settings = Settings { capacity: 1000, port_capacity: 100, ..Settings::default() };
    let mut run = Run::with(settings);
    for n in (3..403).step_by(4) {
        run.packet(n, Direction::Egress, 40, 0); // of port 2
    }
    for n in 200..5000 {
        ask(&mut run, n);
    }
    assert!((3..403).step_by(4).all(|n| run.table.find(key(n)).is_some()));
    assert_eq!(run.table.len(), 200);
}

#[test]
fn a_million_flows_fit_in_256_mebibytes() {
    let settings = Settings { capacity: 1_000_000, port_capacity: 1_000_000, ..Settings::default() };
    let (mut table, owner, now) = (FlowTable::new(settings, 3), owner(), Moment::from_secs(1000));
    for n in 0..1_000_000u32 {
        let allowed = Allowed { owner: Arc::clone(&owner), ..allowed() };
        let (direction, side) = (Direction::Egress, Side::Initiator);
        let opening = Opening { direction, side, phase: Phase::SynSent, allowed, memo: 0, epoch: 1 };
        let key = FlowKey::new(1, 0x0a00_0001, n, 1, 80, TCP);
        let slot = table.open(key, opening, &packet(40, SYN), now, &mut |_| {});
        table.count(slot, Direction::Ingress, &packet(40, SYN | ACK), now);
        table.count(slot, Direction::Egress, &packet(40, ACK), now);
    }
    assert_eq!(table.len(), 1_000_000);
    let bytes = table.footprint();
    assert!(bytes <= 256 << 20, "{bytes} bytes");
    assert!(bytes >= 250 << 20, "the documentation says 252 MiB, it is {bytes} bytes");
}

#[test]
fn a_flow_is_reported_as_often_as_its_owner_wants() {
    let mut run = Run::new(4);
    run.packet(1, Direction::Egress, 40, 0);
    let slot = run.table.find(key(1)).unwrap();
    let owner = Arc::new(Owner { interval: Some(Duration::from_secs(1)), ..(*owner()).clone() });
    run.table.renew(slot, Direction::Egress, 0, 1, Allowed { owner, ..allowed() });
    for second in 0..30 {
        run.packet(1, Direction::Egress, 40, 0);
        run.now = Moment::from_secs(1000 + second).plus(Duration::from_millis(500));
        run.poll(&mut |_| Ok(allowed()));
    }
    // The first look was set before the owner changed.
    assert_eq!(run.records.len(), 20);
}

#[test]
fn a_port_that_takes_connections_over_goes_on_with_them_and_counts_its_own_packets() {
    let (mut run, other) = (Run::new(16), 9);
    let [out, inward] = DIRECTIONS;
    for (direction, flags) in [(inward, SYN), (out, SYN | ACK), (inward, ACK)] {
        run.packet(0, direction, 60, flags);
    }
    run.perform(&Step::Reject { flow: 0, reason: EndReason::Invalid });
    let found = run.table.connections(|port| port == 1);
    assert_eq!((found.len(), found[&1].len()), (1, 1), "what is dropped is no connection");
    let question = found[&1][0].question(other);
    assert_eq!((question.key, question.direction), (key(0).at(other), inward), "who opened it is not forgotten");
    for _ in 0..2 {
        run.table.adopt((other, &found[&1][0]), (allowed(), 1), run.now, &mut |_| {});
    }
    assert_eq!(run.table.len(), 3);
    run.now = run.now.plus(Duration::from_secs(1));
    run.poll(&mut |_| Ok(allowed()));
    let slot = run.table.find(key(0).at(other)).unwrap();
    assert_eq!(run.table.phase(slot), Phase::Established);
    run.table.count(slot, out, &packet(100, ACK), run.now);
    let mut records = Vec::new();
    run.table.finish_port(other, EndReason::InstanceStopped, &mut |record| records.push(record));
    let told: Vec<_> = records.iter().map(|record| (record.direction, record.side, record.packets)).collect();
    assert_eq!(told, [(out, Side::Responder, 1), (inward, Side::Initiator, 0)]);
    // The handshake of the one, with its closed windows, and then what the other saw.
    assert_eq!(records[0].history.to_string(), "SWhwAa");
}
