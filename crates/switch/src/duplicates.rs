//! A port that begins with what another had at a cut: its connections, and the frames that were in flight to it.
//!
//! Owns what the pipeline makes of them. The duplicate's own network judges the connections, and the frames as they arrive: what
//! its rules forbid it does not get. Which frames were in flight is known to [`crate::cut`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use lucarne_flows::table::Connection;
use lucarne_model::{InterfaceId, Moment, VpcId, flow::Direction};

use crate::{
    exchange,
    output::{Output, PortIndex},
    parse::{self, Frame},
    service,
    switch::Switch,
};

impl Switch {
    /// The number of a network in the tunnel, while it is in the plan.
    pub fn vni(&self, vpc: VpcId) -> Option<u32> {
        self.fabric.vni(vpc)
    }

    /// The connections of a network's ports as they stand.
    pub fn connections(&self, vpc: VpcId) -> BTreeMap<InterfaceId, Vec<Connection>> {
        let owner = |port: u32| self.fabric.port(PortIndex(port)).map(|port| &port.owner);
        let found = self.table.connections(|port| owner(port).is_some_and(|owner| owner.vpc == vpc));
        found.into_iter().filter_map(|(port, connections)| Some((owner(port)?.interface, connections))).collect()
    }

    /// Lets a port begin with connections that were another's, as far as it may have them.
    pub fn adopt(&mut self, to: PortIndex, connections: &[Connection], now: Moment, out: &mut impl Output) {
        for connection in connections {
            if let Ok(allowed) = self.fabric.judge_again(&connection.question(to.0)) {
                let allowed = (allowed, self.fabric.epoch);
                self.table.adopt((to.0, connection), allowed, now, &mut |record| out.record(record));
            }
        }
    }

    /// A frame that was in flight to the guest of which the one behind `to` is the duplicate.
    pub fn handle_copied_frame(&mut self, to: PortIndex, frame: &[u8], now: Moment, out: &mut impl Output) {
        let Some(port) = self.fabric.port(to) else { return };
        match parse::parse(frame, self.settings.mtu) {
            Ok(Frame::Ipv4(headers)) => {
                let key = exchange::key(to.0, Direction::Ingress, &headers);
                if service::is_served(port, key) {
                    return self.handle_metadata_frame(to, frame, now, out);
                }
                self.tally.received += 1;
                self.deliver(to, frame, &headers, now, out);
            }
            _ => self.handle_metadata_frame(to, frame, now, out),
        }
    }
}
