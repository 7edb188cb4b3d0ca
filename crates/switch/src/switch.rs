//! The switch's face: what may be called, with which plan, and what it counts.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_model::{HostId, InterfaceId, Moment};

use crate::{
    counters::{FrameCounters, PortCounters, Tally},
    output::{Output, PortIndex},
    plan::Plan,
    settings::Settings,
};

/// The switch of one host: pure, without clock, I/O or threads.
#[derive(Debug)]
pub struct Switch {
    host: HostId,
    settings: Settings,
    plan: Plan,
    tally: Tally,
}

impl Switch {
    /// An empty switch. `seed` is random and secret, drawn anew at each start: it keeps guests from choosing packets that
    /// collide in the flow table.
    pub fn new(host: HostId, settings: Settings, seed: u64) -> Self {
        let _ = seed;
        Self { host, settings, plan: Plan::default(), tally: Tally::default() }
    }

    /// Makes `plan` hold from the next frame on. The same plan again changes nothing.
    pub fn apply(&mut self, plan: &Plan, now: Moment, out: &mut impl Output) {
        let _ = (now, out, &self.host, &self.settings);
        self.plan = plan.clone();
    }

    /// The port of an interface, while it is in the plan.
    pub fn port(&self, interface: InterfaceId) -> Option<PortIndex> {
        self.plan.ports.iter().position(|port| port.interface == interface).map(|index| PortIndex(index as u32))
    }

    /// A frame that the guest behind `from` sent. Rewritten in place when it is given on.
    pub fn handle_guest_frame(&mut self, from: PortIndex, frame: &mut [u8], now: Moment, out: &mut impl Output) {
        let _ = (from, frame, now, out);
    }

    /// A frame that the switch of the host `from` sent for the network `vni`, already authenticated.
    pub fn handle_tunnel_frame(&mut self, from: HostId, vni: u32, frame: &[u8], now: Moment, out: &mut impl Output) {
        let _ = (from, vni, frame, now, out);
    }

    /// A frame of the metadata service for the guest behind `to`.
    pub fn handle_metadata_frame(&mut self, to: PortIndex, frame: &[u8], out: &mut impl Output) {
        let _ = (to, frame, out);
    }

    /// Ends what is over and reports what goes on; a bounded amount of work at each call.
    pub fn poll(&mut self, now: Moment, out: &mut impl Output) { let _ = (now, out); }

    /// When [`poll`](Self::poll) next has something to do; none while there are no flows.
    pub fn next_poll(&self) -> Option<Moment> { None }

    pub fn frame_counters(&self) -> FrameCounters { self.tally.counters() }

    pub fn port_counters(&self, port: PortIndex) -> Option<PortCounters> {
        let _ = port;
        None
    }

    /// Entries in the flow table now.
    pub fn live_flows(&self) -> usize { 0 }
}
