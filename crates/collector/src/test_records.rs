//! Made-up records for tests: each number gives one, always the same, and they differ in every field.

use std::{net::Ipv4Addr, ops::Range};

use lucarne_model::{
    AccountId, EndReason, FlowRecord, HostId, InstanceId, InterfaceId, Moment, RuleId, SecurityGroupId, SubnetId,
    VpcId,
    flow::{Direction, Verdict},
};

/// 2026-01-15, in the middle of the day.
pub(crate) const NOW: Moment = Moment::from_secs(1_768_478_400);

/// Account 0 or 1 by the number's evenness; each ends a second after the one before.
pub(crate) fn record(number: u64) -> FlowRecord {
    let reject = number.is_multiple_of(7);
    let bits = u128::from(number % 5);
    FlowRecord {
        flow_id: number,
        account: AccountId::from_bits(number % 2),
        instance: InstanceId::from_bits(bits + 1),
        interface: InterfaceId::from_bits(bits + 2),
        subnet: SubnetId::from_bits(bits + 3),
        vpc: VpcId::from_bits(bits + 4),
        host: HostId::from_bits(bits + 5),
        groups: (0..bits).map(SecurityGroupId::from_bits).collect(),
        rule: (!reject).then_some(RuleId::from_bits(bits)),
        verdict: if reject { Verdict::Reject } else { Verdict::Accept },
        end_reason: EndReason::ALL[number as usize % EndReason::ALL.len()],
        direction: if number.is_multiple_of(3) { Direction::Ingress } else { Direction::Egress },
        start: Moment(NOW.as_micros() + number * 1_000_000 - 500),
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
    }
}

pub(crate) fn numbered(numbers: Range<u64>) -> Vec<FlowRecord> {
    numbers.map(record).collect()
}
