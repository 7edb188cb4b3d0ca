//! A tenant's made-up records: each number gives one, always the same, and no two have the same flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lucarne_flows::router_view::{PortNaming, RouterRecord, as_one_router};
use lucarne_model::{
    AccountId, ConnState, EndReason, History, InstanceId, InterfaceId, Moment, RuleId, SecurityGroupId, SubnetId,
    TenantFlowRecord, VpcId,
    flow::{Direction, Location, Path, RoundTrip, Side, Verdict},
    history::Happening,
};

/// 2026-01-15, in the middle of the day.
pub(crate) const NOW: Moment = Moment::from_secs(1_768_478_400);

/// Of two VMs, whose numbers follow from the addresses: in turn TCP, UDP and ICMP, every fifth of IPv6.
pub(crate) fn record(number: u64) -> TenantFlowRecord {
    let (protocol, has_ports) = [(6, true), (17, true), (1, false)][number as usize % 3];
    let is_ipv6 = number.is_multiple_of(5);
    let is_rejected = number.is_multiple_of(7);
    let history = History::default().with(Happening::Syn, Side::Initiator);
    let (source, destination) = (2 + number % 4, 6 + number % 3);
    TenantFlowRecord {
        flow_id: number,
        account: AccountId::from_bits(3),
        instance: InstanceId::from_bits(u128::from(source)),
        interface: InterfaceId::from_bits(u128::from(source)),
        subnet: SubnetId::from_bits(u128::from(source % 2)),
        vpc: VpcId::from_bits(1),
        location: Location::default(),
        groups: (0..number % 3).map(|group| SecurityGroupId::from_bits(group.into())).collect(),
        rule: (!is_rejected).then_some(RuleId::from_bits(number.into())),
        verdict: if is_rejected { Verdict::Reject } else { Verdict::Accept },
        end_reason: if is_rejected { EndReason::DeniedByGroupAtSource } else { EndReason::ActiveSlice },
        direction: Direction::Egress,
        path: if is_rejected { Path::Nowhere } else { Path::OtherHost },
        side: Side::Initiator,
        start: Moment(NOW.as_micros() + number * 1_001_000),
        end: Moment(NOW.as_micros() + number * 1_001_000 + 250_000),
        packets: number + 1,
        bytes: 60 * (number + 1),
        source: address(source, is_ipv6),
        destination: address(destination, is_ipv6),
        source_port: if has_ports { 30_000 + number as u16 } else { 0 },
        destination_port: if has_ports { 443 } else { 0 },
        protocol: if protocol == 1 && is_ipv6 { 58 } else { protocol },
        icmp_type: (protocol == 1).then_some(8),
        icmp_code: (protocol == 1).then_some((number % 3) as u8),
        tos: (number % 64) as u8,
        ttl: 64,
        tcp_flags: if protocol == 6 { 0x12 } else { 0 },
        source_prefix_length: Some(24),
        destination_prefix_length: Some(24),
        next_hop: number.is_multiple_of(2).then(|| address(1, is_ipv6)),
        history,
        conn_state: ConnState::of(protocol, history),
        round_trip: (!is_rejected).then_some(RoundTrip { count: 2, min: 90, mean: 100, max: 110, smoothed: 95 }),
        retransmissions: (number % 9) as u32,
        zero_windows: (number % 2) as u32,
    }
}

fn address(host: u64, is_ipv6: bool) -> IpAddr {
    match is_ipv6 {
        true => Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(host)).into(),
        false => Ipv4Addr::from_bits(0x0a00_0000 + host as u32).into(),
    }
}

pub(crate) fn numbered(count: u64) -> Vec<TenantFlowRecord> {
    (0..count).map(record).collect()
}

/// The same as a file has them.
pub(crate) fn routed(count: u64) -> Vec<RouterRecord> {
    as_one_router(numbered(count), PortNaming::Subnet)
}
