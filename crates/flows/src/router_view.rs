//! A network's flows as one router between its subnets would have seen them.
//!
//! Each end of a flow has records of its own, made by its own host at its own intervals. A router has one record for each
//! direction: what came in at one of its ports, and where it went out or that it was dropped. So of a direction whose
//! sender is in the network the sender's records count, and the receiver's say only where it went out and what was dropped
//! there; of a direction from elsewhere the receiver's count. Owns that folding; what is in the records is not judged.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use lucarne_model::{
    InstanceId, Moment, SubnetId, TenantFlowRecord, VpcId,
    flow::{Direction, Verdict},
};
use serde::{Deserialize, Serialize};

/// What stands for a port of the router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortNaming {
    /// A port for each subnet.
    #[default]
    Subnet,
    /// A port for each instance.
    Instance,
}

/// A port of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RouterPort {
    /// None: the packets were dropped.
    Nowhere,
    /// Towards what is not in the network.
    Outside,
    Subnet(SubnetId),
    Instance(InstanceId),
}

impl fmt::Display for RouterPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.pad("-"),
            Self::Outside => f.pad("outside"),
            Self::Subnet(id) => id.fmt(f),
            Self::Instance(id) => id.fmt(f),
        }
    }
}

/// A record as the router has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterRecord {
    pub input: RouterPort,
    pub output: RouterPort,
    /// Of the end where it was counted.
    pub record: TenantFlowRecord,
}

impl RouterRecord {
    /// By which records are in order.
    pub fn order(&self) -> impl Ord + use<> {
        (self.record.start, self.record.flow_id, self.record.direction)
    }
}

/// What names one direction of one flow at whichever end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    flow_id: u64,
    vpc: VpcId,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    protocol: u8,
}

impl Way {
    fn of(record: &TenantFlowRecord) -> Self {
        Self {
            flow_id: record.flow_id,
            vpc: record.vpc,
            source: (record.source, record.source_port),
            destination: (record.destination, record.destination_port),
            protocol: record.protocol,
        }
    }
}

/// The records of one way.
#[derive(Debug, Default)]
struct Ends {
    sent: Vec<TenantFlowRecord>,
    received: Vec<TenantFlowRecord>,
}

/// Folds the records of both ends. Every packet that entered the router is in one record of the result, in the order of
/// their starts.
pub fn as_one_router(records: Vec<TenantFlowRecord>, naming: PortNaming) -> Vec<RouterRecord> {
    let mut ports = Ports::named_by(naming);
    records.iter().for_each(|record| ports.learn(record));
    ports.fold(records)
}

/// The ports of the result in a fixed order: the first has the interface number 1, and no port has 0.
pub fn numbered_ports(records: &[RouterRecord]) -> Vec<RouterPort> {
    let ports: BTreeSet<RouterPort> = records.iter().flat_map(|routed| [routed.input, routed.output]).collect();
    ports.into_iter().filter(|port| *port != RouterPort::Nowhere).collect()
}

/// Which port leads to an address, as far as the records say.
#[derive(Debug)]
pub struct Ports {
    naming: PortNaming,
    of: BTreeMap<(VpcId, IpAddr), RouterPort>,
}

impl Ports {
    /// Of no record yet.
    pub fn named_by(naming: PortNaming) -> Self {
        Self { naming, of: BTreeMap::new() }
    }

    /// Takes note of where the record says that its own end is; the last one counts.
    pub fn learn(&mut self, record: &TenantFlowRecord) {
        let port = match self.naming {
            PortNaming::Subnet => RouterPort::Subnet(record.subnet),
            PortNaming::Instance => RouterPort::Instance(record.instance),
        };
        let own = match record.direction {
            Direction::Egress => record.source,
            Direction::Ingress => record.destination,
        };
        self.of.insert((record.vpc, own), port);
    }

    /// Folds all records of some flows, once all records of the network were learned.
    pub fn fold(&self, records: Vec<TenantFlowRecord>) -> Vec<RouterRecord> {
        let mut ways: BTreeMap<Way, Ends> = BTreeMap::new();
        for record in records {
            let ends = ways.entry(Way::of(&record)).or_default();
            match record.direction {
                Direction::Egress => ends.sent.push(record),
                Direction::Ingress => ends.received.push(record),
            }
        }
        let mut routed: Vec<RouterRecord> = ways.into_values().flat_map(|ends| fold(ends, self)).collect();
        routed.sort_by_key(RouterRecord::order);
        routed
    }

    fn to(&self, vpc: VpcId, address: IpAddr) -> RouterPort {
        self.of.get(&(vpc, address)).copied().unwrap_or(RouterPort::Outside)
    }

    fn routed(&self, record: TenantFlowRecord) -> RouterRecord {
        let input = self.to(record.vpc, record.source);
        let output = match record.verdict {
            Verdict::Accept => self.to(record.vpc, record.destination),
            Verdict::Reject => RouterPort::Nowhere,
        };
        RouterRecord { input, output, record }
    }
}

fn fold(ends: Ends, ports: &Ports) -> Vec<RouterRecord> {
    let Ends { sent, received } = ends;
    if sent.is_empty() {
        return received.into_iter().map(|record| ports.routed(record)).collect();
    }
    let is_accepted = |record: &TenantFlowRecord| record.verdict == Verdict::Accept;
    let (mut carried, refused_at_source): (Vec<_>, Vec<_>) = sent.into_iter().partition(is_accepted);
    let dropped: Vec<_> = received.into_iter().filter(|record| !is_accepted(record)).collect();
    for drop in &dropped {
        take_out(&mut carried, drop);
    }
    let all = settle(carried).into_iter().chain(refused_at_source).chain(dropped);
    all.map(|record| ports.routed(record)).collect()
}

/// Takes the packets of a drop at the receiver's end out of what the sender's end counted as carried: first where the
/// intervals meet, then where they are nearest.
fn take_out(carried: &mut [TenantFlowRecord], drop: &TenantFlowRecord) {
    let mut nearest: Vec<&mut TenantFlowRecord> = carried.iter_mut().collect();
    nearest.sort_by_key(|record| distance((record.start, record.end), (drop.start, drop.end)));
    let (mut packets, mut bytes) = (drop.packets, drop.bytes);
    for record in nearest {
        let (p, b) = (packets.min(record.packets), bytes.min(record.bytes));
        record.packets -= p;
        record.bytes -= b;
        (packets, bytes) = (packets - p, bytes - b);
    }
}

/// Time between two intervals; none where they meet.
fn distance(a: (Moment, Moment), b: (Moment, Moment)) -> std::time::Duration {
    b.0.since(a.1).max(a.0.since(b.1))
}

/// Leaves out records of which nothing is left. The two ends cut their intervals at different times, so one may be left with
/// packets and no bytes, or the reverse: it joins its neighbour.
fn settle(carried: Vec<TenantFlowRecord>) -> Vec<TenantFlowRecord> {
    let is_half = |record: &TenantFlowRecord| (record.packets == 0) != (record.bytes == 0);
    let left = carried.into_iter().filter(|record| record.packets + record.bytes > 0);
    let (halves, mut whole): (Vec<_>, Vec<_>) = left.partition(is_half);
    for half in halves {
        let near = |record: &&mut TenantFlowRecord| distance((record.start, record.end), (half.start, half.end));
        match whole.iter_mut().min_by_key(near) {
            Some(record) => {
                record.packets += half.packets;
                record.bytes += half.bytes;
                record.start = record.start.min(half.start);
                record.end = record.end.max(half.end);
            }
            None => whole.push(half),
        }
    }
    whole
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use lucarne_model::{
        AccountId, ConnState, EndReason, History, InterfaceId,
        flow::{Location, Path, Side},
    };
    use proptest::prelude::*;

    use super::*;

    /// From the VM `.0` to the VM `.1`; VMs above 4 are not in the network.
    pub(crate) type Between = (u8, u8);

    pub(crate) const fn packet(source: u8, destination: u8) -> Between {
        (source, destination)
    }

    pub(crate) fn record(between: Between, direction: Direction, packets: u64, bytes: u64) -> TenantFlowRecord {
        let (source, destination) = between;
        let own = u128::from(if direction == Direction::Egress { source } else { destination });
        TenantFlowRecord {
            flow_id: u64::from(source) << 8 | u64::from(destination),
            account: AccountId::from_bits(1),
            instance: InstanceId::from_bits(own),
            interface: InterfaceId::from_bits(own),
            subnet: SubnetId::from_bits(own % 2),
            vpc: VpcId::from_bits(1),
            location: Location::default(),
            groups: Vec::new(),
            rule: None,
            verdict: Verdict::Accept,
            end_reason: EndReason::ActiveSlice,
            direction,
            path: Path::OtherHost,
            side: Side::Initiator,
            start: Moment::from_secs(10),
            end: Moment::from_secs(11),
            packets,
            bytes,
            source: Ipv4Addr::new(10, 0, 0, source).into(),
            destination: Ipv4Addr::new(10, 0, 0, destination).into(),
            source_port: 40_000,
            destination_port: 80,
            protocol: 6,
            icmp_type: None,
            icmp_code: None,
            tos: 0,
            ttl: 64,
            tcp_flags: 0x02,
            source_prefix_length: Some(24),
            destination_prefix_length: Some(24),
            next_hop: None,
            history: History::default(),
            conn_state: ConnState::of(6, History::default()),
            round_trip: None,
            retransmissions: 0,
            zero_windows: 0,
        }
    }

    fn rejected(record: TenantFlowRecord, end_reason: EndReason) -> TenantFlowRecord {
        TenantFlowRecord { verdict: Verdict::Reject, end_reason, ..record }
    }

    #[test]
    fn a_flow_between_two_vms_is_told_once_with_both_ports() {
        let ends = vec![record((1, 2), Direction::Egress, 5, 500), record((1, 2), Direction::Ingress, 5, 500)];
        let routed = as_one_router(ends, PortNaming::Instance);
        assert_eq!(routed.len(), 1);
        let port = |bits| RouterPort::Instance(InstanceId::from_bits(bits));
        assert_eq!((routed[0].input, routed[0].output), (port(1), port(2)));
        assert_eq!(numbered_ports(&routed), [port(1), port(2)]);
    }

    #[test]
    fn what_the_receivers_end_dropped_did_not_go_out() {
        let denied = rejected(record((1, 2), Direction::Ingress, 3, 180), EndReason::DeniedByGroupAtDestination);
        let routed = as_one_router(vec![record((1, 2), Direction::Egress, 3, 180), denied.clone()], PortNaming::Subnet);
        let expected = RouterRecord {
            input: RouterPort::Subnet(SubnetId::from_bits(1)),
            output: RouterPort::Nowhere,
            record: denied,
        };
        assert_eq!(routed, [expected]);
    }

    #[test]
    fn what_comes_from_elsewhere_is_counted_where_it_arrives() {
        let routed = as_one_router(vec![record((9, 2), Direction::Ingress, 4, 400)], PortNaming::Subnet);
        assert_eq!(routed[0].input, RouterPort::Outside);
        assert_eq!(routed[0].record.packets, 4);
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Fate {
        DroppedAtSource,
        Delivered,
        DroppedAtDestination,
    }

    /// The packets of one way, and how often each end reports.
    #[derive(Clone, Debug)]
    struct Traffic {
        between: Between,
        packets: Vec<(u64, u64, Fate)>,
        periods: (u64, u64),
    }

    const IN_NETWORK: u8 = 4;

    fn traffic() -> impl Strategy<Value = Traffic> {
        let fate = prop_oneof![Just(Fate::DroppedAtSource), Just(Fate::Delivered), Just(Fate::DroppedAtDestination)];
        let packets = prop::collection::vec((0u64..100, 40u64..1500, fate), 1..40);
        ((1u8..7, 1u8..7), packets, (1u64..40, 1u64..40)).prop_map(|((source, other), packets, periods)| {
            let destination = if source == other { source % 6 + 1 } else { other };
            Traffic { between: (source, destination), packets, periods }
        })
    }

    impl Traffic {
        /// What the end that sees `fates` reports, every `period`, for each verdict.
        fn reports(&self, direction: Direction, period: u64, reject: Fate, fates: &[Fate]) -> Vec<TenantFlowRecord> {
            let mut slices: BTreeMap<(u64, bool), TenantFlowRecord> = BTreeMap::new();
            for (at, size, fate) in self.packets.iter().filter(|(_, _, fate)| fates.contains(fate)) {
                let key = (at / period, *fate == reject);
                let new = || {
                    let fresh = record(self.between, direction, 0, 0);
                    let fresh = TenantFlowRecord { start: Moment(*at), end: Moment(*at), ..fresh };
                    if key.1 { rejected(fresh, EndReason::NoRoute) } else { fresh }
                };
                let slice = slices.entry(key).or_insert_with(new);
                slice.packets += 1;
                slice.bytes += size;
                (slice.start, slice.end) = (slice.start.min(Moment(*at)), slice.end.max(Moment(*at)));
            }
            slices.into_values().collect()
        }

        fn records(&self) -> Vec<TenantFlowRecord> {
            use Fate::{Delivered, DroppedAtDestination, DroppedAtSource};
            let all = [DroppedAtSource, Delivered, DroppedAtDestination];
            let (is_sender, is_receiver) = (self.between.0 <= IN_NETWORK, self.between.1 <= IN_NETWORK);
            let mut records = Vec::new();
            if is_sender {
                records.extend(self.reports(Direction::Egress, self.periods.0, DroppedAtSource, &all));
            }
            if is_receiver {
                records.extend(self.reports(Direction::Ingress, self.periods.1, DroppedAtDestination, &all[1..]));
            }
            records
        }

        /// Packets and bytes that entered the router: those that went on, and those that it dropped.
        fn truth(&self) -> [(u64, u64); 2] {
            let (is_sender, is_receiver) = (self.between.0 <= IN_NETWORK, self.between.1 <= IN_NETWORK);
            let mut truth = [(0, 0); 2];
            for (_, size, fate) in &self.packets {
                let seen = is_sender || is_receiver && *fate != Fate::DroppedAtSource;
                let dropped = match fate {
                    Fate::DroppedAtSource => true,
                    Fate::Delivered => false,
                    Fate::DroppedAtDestination => is_receiver,
                };
                if seen {
                    let side = &mut truth[usize::from(dropped)];
                    *side = (side.0 + 1, side.1 + size);
                }
            }
            truth
        }
    }

    proptest! {
        #[test]
        fn nothing_is_counted_twice_and_nothing_is_missing(all in prop::collection::vec(traffic(), 1..5)) {
            let mut by_way: BTreeMap<Between, Traffic> = BTreeMap::new();
            all.into_iter().for_each(|traffic| drop(by_way.insert(traffic.between, traffic)));
            let routed = as_one_router(by_way.values().flat_map(Traffic::records).collect(), PortNaming::Instance);
            for traffic in by_way.values() {
                let mut told = [(0, 0); 2];
                let way = record(traffic.between, Direction::Egress, 0, 0);
                let of_way = |routed: &&RouterRecord| Way::of(&routed.record) == Way::of(&way);
                for RouterRecord { output, record, .. } in routed.iter().filter(of_way) {
                    prop_assert_eq!(*output == RouterPort::Nowhere, record.verdict == Verdict::Reject);
                    let side = &mut told[usize::from(*output == RouterPort::Nowhere)];
                    *side = (side.0 + record.packets, side.1 + record.bytes);
                }
                prop_assert_eq!(told, traffic.truth());
            }
        }
    }
}
