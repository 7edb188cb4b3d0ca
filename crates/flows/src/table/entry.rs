//! What the table keeps of one flow: a hot line of 64 bytes for each direction, and a cold part that packets rarely touch.
//!
//! Owns the layout and the making of a [`FlowRecord`] from it. What packets tell beside their number is read in
//! [`measure`](super::measure).

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use lucarne_model::{
    AccountId, Cidr, ConnState, EndReason, FlowRecord, History, HostId, InstanceId, InterfaceId, Moment,
    SecurityGroupId, SubnetId, VpcId,
    flow::{Direction, Location, Path, Side, Verdict},
    security_group::ICMP,
};

use super::{
    Allowed,
    measure::Measures,
    wheel::{Link, Linked},
};
use crate::{
    grounds::{Grounds, PackedGrounds},
    key::{FlowKey, flow_id},
    phase::Phase,
};

/// Whose flow it is: what the records of one port have in common. A port gets a new one with each plan that changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub account: AccountId,
    pub instance: InstanceId,
    pub interface: InterfaceId,
    pub subnet: SubnetId,
    pub vpc: VpcId,
    pub host: HostId,
    pub location: Location,
    pub groups: Vec<SecurityGroupId>,
    /// Bits of the subnet's prefix.
    pub prefix_length: u8,
    /// The port's index among the host's virtual router's.
    pub interface_index: u32,
    /// How often a flow that goes on is reported; none for the table's own setting.
    pub interval: Option<Duration>,
    /// Over whom the subnet's routes lead, the longest prefix first; none where they lead to the destination itself. Empty
    /// where all do.
    pub next_hops: Vec<(Cidr, Option<Ipv4Addr>)>,
}

impl Owner {
    /// Over whom packets to this destination go.
    fn next_hop(&self, destination: Ipv4Addr) -> Option<IpAddr> {
        let (_, over) = self.next_hops.iter().find(|(prefix, _)| prefix.contains(destination))?;
        over.map(IpAddr::V4)
    }
}

/// What the table notes of one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Bytes of the IP packet.
    pub bytes: u32,
    /// As in the header, 12 bits; 0 for other protocols.
    pub tcp_flags: u16,
    /// Octets behind the transport header.
    pub data: u16,
    /// These three of TCP, else 0.
    pub sequence: u32,
    pub acknowledgement: u32,
    pub window: u16,
    /// Of TCP, where the packet has them.
    pub timestamps: Option<Timestamps>,
    pub tos: u8,
    pub ttl: u8,
    /// Type and code; zeros for other protocols.
    pub icmp: [u8; 2],
}

/// The timestamps option of TCP (RFC 7323).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the receiver's value that this one answers; nothing without ACK.
    pub echo: u32,
}

/// The other end of a flow, as the switch found it when it judged the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarEnd {
    pub path: Path,
    /// Bits of the prefix of the subnet or route that it falls under; 0 where none but the default route does.
    pub prefix_length: u8,
    /// The index of the virtual router's port that leads there, below 2^24; 0 where it is not known.
    pub interface_index: u32,
}

impl FarEnd {
    /// Of packets that are dropped.
    pub const UNKNOWN: Self = Self { path: Path::Nowhere, prefix_length: 0, interface_index: 0 };
}

/// One direction of a flow, aligned to be one cache line. Both lines of a flow hold its key and phase, so that a packet
/// needs only the line of its own direction.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub(super) struct Line {
    pub(super) key: FlowKey,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// The last packet ever; zero as long as none came.
    pub(super) last: Moment,
    /// What the switch found out for this direction, and the epoch of its plan in which that holds.
    pub(super) memo: u32,
    pub(super) epoch: u32,
    /// TCP: the sequence number after the furthest octet sent.
    pub(super) highest: u32,
    /// TCP: the acknowledgement that answers the other direction's probe.
    pub(super) awaited: u32,
    pub(super) tcp_flags: u16,
    /// The letters of the history that this side has written, and the state of its probe: see `measure`.
    pub(super) seen: u16,
    /// Of ICMP the type and code of the first packet, of TCP the number of gaps.
    pub(super) aside: [u8; 2],
    pub(super) phase: Phase,
    /// Whether this is the direction of the first packet.
    pub(super) opened: bool,
}

const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    pub(super) const fn side(&self) -> Side {
        if self.opened { Side::Initiator } else { Side::Responder }
    }
    pub(super) fn was_used(&self) -> bool {
        self.last != Moment::EPOCH
    }

    /// Type and code of the first packet; zeros for other protocols.
    pub(super) const fn icmp(&self) -> [u8; 2] {
        if self.key.protocol() == ICMP { self.aside } else { [0; 2] }
    }
    pub(super) const fn set_icmp(&mut self, icmp: [u8; 2]) {
        if self.key.protocol() == ICMP {
            self.aside = icmp;
        }
    }

    /// One gap more of TCP; how many there are then.
    pub(super) fn count_gap(&mut self) -> u16 {
        let gaps = u16::from_ne_bytes(self.aside).saturating_add(1);
        self.aside = gaps.to_ne_bytes();
        gaps
    }
}

/// Both directions, side by side: 0 is egress.
pub(super) type Lines = [Line; 2];

pub(super) const fn side_by_side(direction: Direction) -> usize {
    match direction {
        Direction::Egress => 0,
        Direction::Ingress => 1,
    }
}
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// The rest of a flow. What is of one direction stands in pairs, egress first.
#[derive(Clone, Debug)]
pub(super) struct Cold {
    pub(super) owner: Arc<Owner>,
    /// When the interval began: at first when the flow did.
    pub(super) interval_began: Moment,
    pub(super) history: History,
    /// The epoch of the plan under which it was last judged.
    pub(super) judged: u32,
    /// The first packet of the interval, in microseconds after it began.
    first: [u32; 2],
    pub(super) measures: [Measures; 2],
    link: Link,
    grounds: PackedGrounds,
    path: Path,
    far_prefix: u8,
    far_interface: [u8; 3],
    /// Of the interval's first packet, as is the next.
    tos: [u8; 2],
    ttl: [u8; 2],
}

/// 1,000,000 flows of two lines, this, and 16.8 bytes of index are 252.5 MiB.
const _: () = assert!(size_of::<Cold>() == 120);

impl Linked for Cold {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

impl Cold {
    pub(super) fn new(owner: Arc<Owner>, grounds: Grounds, far: FarEnd, judged: u32, now: Moment) -> Self {
        let mut cold = Self {
            owner,
            interval_began: now,
            history: History::default(),
            judged,
            first: [0; 2],
            measures: [Measures::default(); 2],
            link: Link::default(),
            grounds: grounds.into(),
            path: far.path,
            far_prefix: 0,
            far_interface: [0; 3],
            tos: [0; 2],
            ttl: [0; 2],
        };
        cold.set_far(far);
        cold
    }

    pub(super) fn allow(&mut self, allowed: Allowed, epoch: u32) {
        let Allowed { owner, grounds, far } = allowed;
        (self.owner, self.judged) = (owner, epoch);
        self.set_grounds(grounds);
        self.set_far(far);
    }

    pub(super) fn far(&self) -> FarEnd {
        let [high, middle, low] = self.far_interface;
        let interface_index = u32::from_be_bytes([0, high, middle, low]);
        FarEnd { path: self.path, prefix_length: self.far_prefix, interface_index }
    }

    pub(super) fn set_grounds(&mut self, grounds: Grounds) {
        self.grounds = grounds.into();
    }

    pub(super) fn set_far(&mut self, far: FarEnd) {
        let [_, bytes @ ..] = far.interface_index.to_be_bytes();
        (self.path, self.far_prefix, self.far_interface) = (far.path, far.prefix_length, bytes);
    }

    /// Notes what is told of the first packet of an interval.
    pub(super) fn begin(&mut self, at: usize, packet: &Packet, now: Moment) {
        let micros = now.since(self.interval_began).as_micros();
        self.first[at] = u32::try_from(micros).unwrap_or(u32::MAX);
        (self.tos[at], self.ttl[at]) = (packet.tos, packet.ttl);
    }

    /// The first packet of the interval.
    pub(super) fn first(&self, at: usize) -> Moment {
        self.interval_began.plus(Duration::from_micros(self.first[at].into()))
    }

    /// Takes over how another flow's direction began, where that was earlier or `is_first`.
    pub(super) fn join(&mut self, at: usize, other: &Self, is_first: bool) {
        let began = other.first(at);
        if is_first || began < self.first(at) {
            // What began before this interval is told as of its beginning.
            let micros = began.since(self.interval_began).as_micros();
            self.first[at] = u32::try_from(micros).unwrap_or(u32::MAX);
            (self.tos[at], self.ttl[at]) = (other.tos[at], other.ttl[at]);
        }
        self.interval_began = self.interval_began.min(began);
        let (ours, theirs) = (&mut self.measures[at], &other.measures[at]);
        let retransmissions = u32::from(ours.retransmissions).saturating_add(theirs.retransmissions.into());
        ours.retransmissions = retransmissions.into();
        ours.zero_windows = ours.zero_windows.saturating_add(theirs.zero_windows);
    }

    /// The record of a line's interval. Without packets it says only how the flow ended, at the time of its last packet.
    pub(super) fn record(&self, line: &Line, direction: Direction, end_reason: EndReason) -> FlowRecord {
        let (key, owner, at) = (line.key, &*self.owner, side_by_side(direction));
        let egress = direction == Direction::Egress;
        let (local_port, remote_port) = key.reported_ports();
        let (source, destination) = in_order(egress, IpAddr::V4(key.local()), IpAddr::V4(key.remote()));
        let (source_port, destination_port) = in_order(egress, local_port, remote_port);
        let is_dropped = key.reason().is_some_and(EndReason::is_drop);
        let far = self.far();
        let (ingress_interface, egress_interface) = in_order(egress, owner.interface_index, far.interface_index);
        let local_prefix = (!key.is_gathered()).then_some(owner.prefix_length).filter(|length| *length > 0);
        let far_prefix = Some(far.prefix_length).filter(|length| *length > 0);
        let (source_prefix_length, destination_prefix_length) = in_order(egress, local_prefix, far_prefix);
        let icmp = (key.protocol() == ICMP && !key.is_gathered()).then_some(line.icmp());
        let (rule, mitigation) = match self.grounds.into() {
            Grounds::Nothing => (None, None),
            Grounds::Rule(rule) => (Some(rule), None),
            Grounds::Mitigation(mitigation) => (None, Some(mitigation)),
        };
        FlowRecord {
            flow_id: flow_id(owner.vpc, key),
            account: owner.account,
            instance: owner.instance,
            interface: owner.interface,
            subnet: owner.subnet,
            vpc: owner.vpc,
            host: owner.host,
            location: owner.location.clone(),
            groups: owner.groups.clone(),
            rule,
            mitigation,
            verdict: if is_dropped { Verdict::Reject } else { Verdict::Accept },
            end_reason,
            direction,
            path: far.path,
            side: line.side(),
            start: if line.packets > 0 { self.first(at).min(line.last) } else { line.last },
            end: line.last,
            packets: line.packets,
            bytes: line.bytes,
            source,
            destination,
            source_port,
            destination_port,
            protocol: key.protocol(),
            icmp_type: icmp.map(|[kind, _]| kind),
            icmp_code: icmp.map(|[_, code]| code),
            tos: self.tos[at],
            ttl: self.ttl[at],
            tcp_flags: line.tcp_flags,
            source_prefix_length,
            destination_prefix_length,
            next_hop: if egress && !is_dropped { owner.next_hop(key.remote()) } else { None },
            history: self.history,
            conn_state: ConnState::of(key.protocol(), self.history),
            round_trip: self.measures[at].round_trip(),
            retransmissions: self.measures[at].retransmissions.into(),
            zero_windows: self.measures[at].zero_windows.into(),
            ingress_interface,
            egress_interface: if is_dropped { 0 } else { egress_interface },
        }
    }
}

/// The local and the remote one of something as source and destination.
fn in_order<T>(egress: bool, local: T, remote: T) -> (T, T) {
    if egress { (local, remote) } else { (remote, local) }
}
