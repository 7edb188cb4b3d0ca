//! The switch's face: what may be called, and which part of the pipeline does it.
//!
//! Owns the parts: the compiled plan ([`Fabric`]), the flow table, the counts. A guest's frame goes through
//! [`crate::guest`]; whatever reaches a guest goes through [`crate::delivery`]; both ask [`crate::admission`] whether a
//! packet's flow is allowed. Each frame ends in exactly one of [`FrameCounters`], each IP packet of a port in exactly one
//! flow record.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use lucarne_flows::FlowTable;
use lucarne_model::{
    EndReason, FlowRecord, HostId, InstanceId, InterfaceId, Moment, flow::Direction, network::InterfaceCounters,
};

use crate::{
    counters::{FrameCounters, Malformed, PortCounters, Tally},
    exchange,
    fabric::{Fabric, Port},
    memory,
    mitigation::Caps,
    output::{Output, PortIndex},
    parse::{self, Frame},
    plan::Plan,
    settings::Settings,
};

/// The switch of one host: pure, without clock, I/O or threads.
#[derive(Debug)]
pub struct Switch {
    pub(crate) settings: Settings,
    pub(crate) fabric: Fabric,
    pub(crate) table: FlowTable,
    pub(crate) tally: Tally,
    pub(crate) caps: Caps,
}

impl Switch {
    /// An empty switch. `seed` is random and secret, drawn anew at each start: it keeps guests from choosing packets that
    /// collide in the flow table.
    pub fn new(host: HostId, settings: Settings, seed: u64) -> Self {
        let table = FlowTable::new(settings.flows, seed);
        let fabric = Fabric::new(host, settings.location.clone(), seed);
        Self { settings, fabric, table, tally: Tally::default(), caps: Caps::default() }
    }

    /// Asks the system for large pages where the flow table lies: a packet then waits less for memory.
    pub fn prefer_large_pages(&self) {
        memory::prefer_large_pages(&self.table);
    }

    /// Makes `plan` hold from the next frame on. The same plan again changes nothing. Flows of ports that go away end at
    /// once; connections that are no longer allowed end at their next packet, or when their timer comes up.
    pub fn apply(&mut self, plan: &Plan, now: Moment, out: &mut impl Output) {
        for (port, why) in self.fabric.apply(plan, now) {
            self.table.finish_port(port.0, why, &mut |record| out.record(record));
        }
        self.caps.keep(self.fabric.mitigations());
    }

    /// The port of an interface, while it is in the plan.
    pub fn port(&self, interface: InterfaceId) -> Option<PortIndex> {
        self.fabric.index(interface)
    }

    /// Brings the flows of frames near that the guest behind `from` sent, and that come next: their look-ups then wait for
    /// memory together, and not each behind the one before.
    pub fn approach<'a>(&self, from: PortIndex, frames: impl Iterator<Item = &'a [u8]>) {
        self.table.approach(frames.filter_map(|frame| match parse::parse(frame, self.settings.mtu) {
            Ok(Frame::Ipv4(headers)) => Some(exchange::key(from.0, Direction::Egress, &headers)),
            _ => None,
        }));
    }

    /// A frame that the guest behind `from` sent. Rewritten in place when it is given on.
    pub fn handle_guest_frame(&mut self, from: PortIndex, frame: &mut [u8], now: Moment, out: &mut impl Output) {
        self.tally.received += 1;
        self.take_from_guest(from, frame, now, out);
    }

    /// A frame that the switch of the host `from` sent for the network `vni`, already authenticated.
    pub fn handle_tunnel_frame(&mut self, from: HostId, vni: u32, frame: &[u8], now: Moment, out: &mut impl Output) {
        self.tally.received += 1;
        self.take_from_tunnel(from, vni, frame, now, out);
    }

    /// A frame of the metadata service, or of another service of the router, for the guest behind `to`.
    pub fn handle_metadata_frame(&mut self, to: PortIndex, frame: &[u8], now: Moment, out: &mut impl Output) {
        self.tally.received += 1;
        if self.fabric.port(to).is_none() {
            return self.tally.malformed(Malformed::UnknownPort);
        }
        self.count_answer(to, frame, now, out);
        self.tally.to_guests += 1;
        out.to_guest(to, frame);
    }

    /// Ends what is over and reports what goes on; a bounded amount of work at each call.
    pub fn poll(&mut self, now: Moment, out: &mut impl Output) {
        let Self { fabric, table, .. } = self;
        table.poll(now, fabric.epoch, &mut |question| fabric.judge_again(question), &mut |record| out.record(record));
    }

    /// When [`poll`](Self::poll) next has something to do; none while there are no flows.
    pub fn next_poll(&self) -> Option<Moment> {
        self.table.next_poll()
    }

    /// Ends every flow for `why`, so that each has its last record: [`EndReason::AgentRestart`] when the switch stops and
    /// another will take the connections up.
    pub fn flush(&mut self, why: EndReason, out: &mut impl Output) {
        self.table.finish_all(why, &mut |record| out.record(record));
    }

    pub fn frame_counters(&self) -> FrameCounters {
        self.tally.counters()
    }

    pub fn port_counters(&self, port: PortIndex) -> Option<PortCounters> {
        self.fabric.port(port).map(|port| port.counters)
    }

    /// What flows have counted by now, as [`FlowTable::look`] shows it.
    pub fn look_at_flows(&self, from: usize, since: Moment, show: &mut dyn FnMut(FlowRecord)) -> Option<usize> {
        self.table.look(from, since, show)
    }

    /// Connections that are open now, by the instance whose interface sees them.
    pub fn live_connections(&self) -> BTreeMap<InstanceId, u32> {
        let ports = self.fabric.at_home();
        ports.map(|(at, port)| (port.owner.instance, self.table.open_connections(at))).collect()
    }

    /// What the interfaces of this host counted, by the instance that has them.
    pub fn interface_counters(&self) -> BTreeMap<InstanceId, InterfaceCounters> {
        let told = |port: &Port| {
            let PortCounters { egress, ingress, .. } = port.counters;
            InterfaceCounters {
                since: port.counted_since,
                packets_sent: egress.packets,
                bytes_sent: egress.bytes,
                packets_received: ingress.packets,
                bytes_received: ingress.bytes,
            }
        };
        self.fabric.at_home().map(|(_, port)| (port.owner.instance, told(port))).collect()
    }

    /// Entries in the flow table now.
    pub fn live_flows(&self) -> usize {
        self.table.len()
    }
}
