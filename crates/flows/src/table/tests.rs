//! The table against a model: whatever happens, every packet is in exactly one record.

use std::{collections::BTreeMap, time::Duration};

use lucarne_model::{
    AccountId, HostId, InstanceId, InterfaceId, SubnetId, VpcId,
    flow::Location,
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
    })
}

fn key(n: u16) -> FlowKey {
    FlowKey::new(1, 0x0a00_0001, 0x0a00_0002, n, 80, if n.is_multiple_of(2) { TCP } else { UDP })
}

fn opening(direction: Direction, phase: Phase, epoch: u32) -> Opening {
    Opening { direction, side: Side::Initiator, phase, owner: owner(), rule: None, memo: 5, epoch }
}

fn packet(bytes: u32, tcp_flags: u16) -> Packet {
    Packet { bytes, tcp_flags, ..Packet::default() }
}

#[derive(Clone, Debug)]
enum Step {
    Packet { flow: u16, direction: Direction, bytes: u32, flags: u16 },
    Reject { flow: u16, reason: EndReason },
    Wait(Duration),
    NewEpoch,
    Refuse(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let direction = prop_oneof![Just(Direction::Egress), Just(Direction::Ingress)];
    let flags = prop_oneof![Just(SYN), Just(SYN | ACK), Just(ACK), Just(FIN | ACK), Just(RST)];
    let reason = prop_oneof![Just(EndReason::Invalid), Just(EndReason::NoRoute)];
    prop_oneof![
        10 => (0u16..40, direction, 20u32..1500, flags)
            .prop_map(|(flow, direction, bytes, flags)| Step::Packet { flow, direction, bytes, flags }),
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
        let settings = Settings { capacity, ..Settings::default() };
        let (sent, records, now) = (BTreeMap::new(), Vec::new(), Moment::from_secs(1000));
        Self { table: FlowTable::new(settings, 3), now, epoch: 1, sent, records }
    }

    fn note(&mut self, direction: Direction, bytes: u32) {
        let sum = self.sent.entry(direction).or_default();
        *sum = (sum.0 + 1, sum.1 + u64::from(bytes));
    }

    fn packet(&mut self, flow: u16, direction: Direction, bytes: u32, flags: u16) {
        self.note(direction, bytes);
        let packet = packet(bytes, if flow.is_multiple_of(2) { flags } else { 0 });
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
            Step::Packet { flow, direction, bytes, flags } => self.packet(flow, direction, bytes, flags),
            Step::Reject { flow, reason } => {
                self.note(Direction::Ingress, 40);
                let (flow, emit) = ((key(flow), Direction::Ingress), &mut |record| self.records.push(record));
                self.table.reject(flow, reason, &owner(), &packet(40, SYN), self.now, emit);
            }
            Step::Wait(span) => {
                self.now = self.now.plus(span);
                self.poll(&mut |question| match question.key.local_port() % 3 {
                    0 => Err(EndReason::NoRoute),
                    _ => Ok((owner(), None)),
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
        capacity in prop_oneof![Just(4usize), Just(16), Just(1024)], steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut run = Run::new(capacity);
        for step in &steps {
            run.perform(step);
            prop_assert!(run.table.len() <= capacity);
        }
        run.table.finish_all(EndReason::AgentRestart, &mut |record| run.records.push(record));
        prop_assert!(run.table.is_empty());
        prop_assert_eq!(run.recorded(), run.sent);
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
    run.poll(&mut |_| Ok((owner(), None)));
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
    run.table.renew(slot, Direction::Ingress, 9, 2, owner(), None);
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
#[test]
fn a_connection_is_reported_one_interval_after_its_first_packet() {
    let mut run = Run::new(4);
    for (direction, flags) in [(Direction::Egress, SYN), (Direction::Ingress, SYN | ACK), (Direction::Egress, ACK)] {
        run.packet(0, direction, 40, flags);
    }
    run.now = run.now.plus(Settings::default().interval);
    run.poll(&mut |_| Ok((owner(), None)));
    assert_eq!(run.records.len(), 2);
    assert!(run.records.iter().all(|record| record.end_reason == EndReason::ActiveSlice));
}

#[test]
fn what_stands_in_the_way_of_a_new_flow_is_the_silent_unanswered_one() {
    let mut run = Run::new(2);
    run.packet(1, Direction::Egress, 40, 0);
    run.packet(1, Direction::Ingress, 40, 0);
    run.now = run.now.plus(Duration::from_secs(1));
    run.packet(3, Direction::Egress, 40, 0);
    run.packet(5, Direction::Egress, 40, 0);
    assert!(run.table.find(key(1)).is_some() && run.table.find(key(5)).is_some());
    assert_eq!(run.records[0].end_reason, EndReason::EvictedForSpace);
}
