//! What the table keeps of one flow: a hot line of 64 bytes for each direction, and a cold part that packets do not touch.
//!
//! Owns the layout and the making of a [`FlowRecord`] from it.

use std::{net::IpAddr, sync::Arc};

use lucarne_model::{
    AccountId, ConnState, EndReason, FlowRecord, History, HostId, InstanceId, InterfaceId, Moment, RuleId,
    SecurityGroupId, SubnetId, VpcId,
    flow::{Direction, Location, Path, Side, Verdict},
    security_group::ICMP,
};

use crate::{
    key::{FlowKey, flow_id},
    phase::Phase,
};

/// Whose flow it is: what the records of one port have in common. A port gets a new one when its groups change.
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
}

/// What the table notes of one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Bytes of the IP packet.
    pub bytes: u32,
    /// As in the header, 12 bits; 0 for other protocols.
    pub tcp_flags: u16,
    pub tos: u8,
    /// Type and code; zeros for other protocols.
    pub icmp: [u8; 2],
}

/// One direction of a flow, aligned to be one cache line. Both lines of a flow hold its key and phase, so that a packet
/// needs only the line of its own direction.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub(super) struct Line {
    pub(super) key: FlowKey,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// The first packet of the interval.
    pub(super) first: Moment,
    /// The last packet ever; zero as long as none came.
    pub(super) last: Moment,
    /// What the switch found out for this direction, and the epoch of its plan in which that holds.
    pub(super) memo: u32,
    pub(super) epoch: u32,
    pub(super) tcp_flags: u16,
    pub(super) tos: u8,
    pub(super) icmp: [u8; 2],
    pub(super) phase: Phase,
    /// Whether this is the direction of the first packet.
    pub(super) opened: bool,
}

const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    #[inline]
    pub(super) fn count(&mut self, packet: &Packet, now: Moment) {
        if self.packets == 0 {
            self.first = now;
            self.tos = packet.tos;
            self.icmp = packet.icmp;
        }
        self.packets += 1;
        self.bytes += u64::from(packet.bytes);
        self.last = now;
        self.tcp_flags |= packet.tcp_flags;
    }

    pub(super) const fn side(&self) -> Side {
        if self.opened { Side::Initiator } else { Side::Responder }
    }
    pub(super) fn was_used(&self) -> bool {
        self.last != Moment::EPOCH
    }

    /// Begins a new interval.
    pub(super) fn clear(&mut self) {
        self.packets = 0;
        self.bytes = 0;
        self.tcp_flags = 0;
    }

    /// The record of this interval. Without packets it says only how the flow ended, at the time of its last packet.
    pub(super) fn record(&self, direction: Direction, cold: &Cold, end_reason: EndReason) -> FlowRecord {
        let (key, owner) = (self.key, &*cold.owner);
        let (local, remote) = (IpAddr::V4(key.local()), IpAddr::V4(key.remote()));
        let (local_port, remote_port) = key.reported_ports();
        let egress = direction == Direction::Egress;
        let (source, destination) = if egress { (local, remote) } else { (remote, local) };
        let (source_port, destination_port) =
            if egress { (local_port, remote_port) } else { (remote_port, local_port) };
        let icmp = (key.protocol() == ICMP).then_some(self.icmp);
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
            rule: cold.rule,
            verdict: if key.reason().is_some() { Verdict::Reject } else { Verdict::Accept },
            end_reason,
            direction,
            path: Path::Nowhere,
            side: self.side(),
            start: if self.packets > 0 { self.first.min(self.last) } else { self.last },
            end: self.last,
            packets: self.packets,
            bytes: self.bytes,
            source,
            destination,
            source_port,
            destination_port,
            protocol: key.protocol(),
            icmp_type: icmp.map(|[kind, _]| kind),
            icmp_code: icmp.map(|[_, code]| code),
            tos: self.tos,
            ttl: 0,
            tcp_flags: self.tcp_flags,
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

/// The rest of a flow.
#[derive(Clone, Debug)]
pub(super) struct Cold {
    pub(super) owner: Arc<Owner>,
    pub(super) rule: Option<RuleId>,
    /// When the interval began: at first when the flow did.
    pub(super) interval_began: Moment,
    /// When it reached a phase that ends it.
    pub(super) ended: Moment,
    /// The epoch of the plan under which it was last judged.
    pub(super) judged: u32,
    /// Of the timer that counts.
    pub(super) stamp: u32,
}
