//! Made-up records for tests: each number gives one, always the same, and they differ in every field.

use std::{net::Ipv4Addr, ops::Range};

use lucarne_model::{
    AccountId, ConnState, EndReason, FlowRecord, History, HostId, InstanceId, InterfaceId, MitigationId, Moment,
    RuleId, SecurityGroupId, SubnetId, VpcId,
    flow::{Direction, Location, Path, RoundTrip, Side, Verdict},
    history::Happening,
};

/// 2026-01-15, in the middle of the day.
pub(crate) const NOW: Moment = Moment::from_secs(1_768_478_400);

/// The host that saw them all: a collector lets each host speak of itself alone.
pub(crate) const HOST: HostId = HostId::from_bits(5);

/// Account 0 or 1 by the number's evenness; each ends a second after the one before.
pub(crate) fn record(number: u64) -> FlowRecord {
    let reject = number.is_multiple_of(7);
    let bits = u128::from(number % 5);
    let opened = History::default().with(Happening::Syn, Side::Initiator).with(Happening::Handshake, Side::Responder);
    FlowRecord {
        flow_id: number,
        account: AccountId::from_bits(number % 2),
        instance: InstanceId::from_bits(bits + 1),
        interface: InterfaceId::from_bits(bits + 2),
        subnet: SubnetId::from_bits(bits + 3),
        vpc: VpcId::from_bits(bits + 4),
        host: HOST,
        location: if number.is_multiple_of(5) { "east-1".parse().unwrap_or_default() } else { Location::default() },
        groups: (0..bits).map(SecurityGroupId::from_bits).collect(),
        rule: (!reject).then_some(RuleId::from_bits(bits)),
        verdict: if reject { Verdict::Reject } else { Verdict::Accept },
        end_reason: EndReason::ALL[number as usize % EndReason::ALL.len()],
        direction: if number.is_multiple_of(3) { Direction::Ingress } else { Direction::Egress },
        path: Path::ALL[number as usize % Path::ALL.len()],
        side: if number.is_multiple_of(5) { Side::Responder } else { Side::Initiator },
        start: Moment(NOW.as_micros() + number * 1_000_000 - 500_000),
        end: Moment(NOW.as_micros() + number * 1_000_000),
        packets: number + 1,
        bytes: 60 * number,
        source: Ipv4Addr::from_bits(0x0a00_0000 + (number % 200) as u32).into(),
        destination: Ipv4Addr::from_bits(0x0a00_0100 + (number % 11) as u32).into(),
        source_port: 30_000 + (number % 1000) as u16,
        destination_port: 80,
        protocol: if number.is_multiple_of(4) { 1 } else { 6 },
        icmp_type: number.is_multiple_of(4).then_some(8),
        icmp_code: number.is_multiple_of(4).then_some((number % 3) as u8),
        tos: (number % 256) as u8,
        tcp_flags: 0x12,
        ttl: 64 - (number % 4) as u8,
        source_prefix_length: number.is_multiple_of(2).then_some(24),
        destination_prefix_length: number.is_multiple_of(3).then_some(16),
        next_hop: number.is_multiple_of(5).then_some(Ipv4Addr::new(10, 0, 0, 1).into()),
        history: if number.is_multiple_of(2) { opened } else { History::default() },
        conn_state: ConnState::ALL[number as usize % ConnState::ALL.len()],
        round_trip: number.is_multiple_of(3).then_some(RoundTrip {
            count: 2,
            min: 90,
            mean: 100,
            max: 110,
            smoothed: 95,
        }),
        retransmissions: (number % 9) as u32,
        zero_windows: (number % 2) as u32,
        ingress_interface: (number % 7) as u32,
        egress_interface: (number % 6) as u32,
        mitigation: number.is_multiple_of(13).then_some(MitigationId::from_bits(bits)),
    }
}

pub(crate) fn numbered(numbers: Range<u64>) -> Vec<FlowRecord> {
    numbers.map(record).collect()
}
