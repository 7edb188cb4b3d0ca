//! Which machines had a port closed to whom: kept while records come, so that the question needs no scan.
//!
//! Owns the tally, by source and port. It is bounded: when it is full its older half goes, and
//! [`ClosedPorts::complete_since`] tells from when on it has everything.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use lucarne_model::{
    EndReason, InstanceId, Moment,
    finding::ClosedPort,
    flow::{Direction, Side},
};

use super::Sighting;

#[derive(Debug)]
pub struct ClosedPorts {
    tally: HashMap<(IpAddr, u16), BTreeMap<(InstanceId, u8), ClosedPort>>,
    bound: usize,
    held: usize,
    complete_since: Moment,
}

impl ClosedPorts {
    /// Holds at most `bound` machines over all sources and ports, of about 120 octets each.
    pub fn new(bound: usize) -> Self {
        Self { tally: HashMap::new(), bound: bound.max(2), held: 0, complete_since: Moment::EPOCH }
    }

    pub fn observe(&mut self, record: impl Into<Sighting>) {
        let record = &record.into();
        if !is_tallied(record) {
            return;
        }
        let closed = ClosedPort {
            account: record.account,
            instance: record.instance,
            host: record.host,
            protocol: record.protocol,
            end_reason: record.end_reason,
            last_seen: record.end,
        };
        let machines = self.tally.entry((record.source, record.destination_port)).or_default();
        if machines.insert((record.instance, record.protocol), closed).is_none() {
            self.held += 1;
        }
        if self.held > self.bound {
            self.forget_older_half();
        }
    }

    /// The machines that had `port` closed to `source` at `since` or later, in order of their ids and
    /// protocols.
    pub fn closed_to(&self, source: IpAddr, port: u16, since: Moment) -> Vec<ClosedPort> {
        let machines = self.tally.get(&(source, port)).into_iter().flat_map(BTreeMap::values);
        machines.filter(|closed| closed.last_seen >= since).copied().collect()
    }

    pub const fn complete_since(&self) -> Moment {
        self.complete_since
    }

    fn forget_older_half(&mut self) {
        let mut times: Vec<Moment> =
            self.tally.values().flat_map(BTreeMap::values).map(|closed| closed.last_seen).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        self.tally.retain(|_, machines| {
            machines.retain(|_, closed| closed.last_seen > median);
            !machines.is_empty()
        });
        self.held = self.tally.values().map(BTreeMap::len).sum();
        self.complete_since = median;
    }
}

/// Whether the record tells of a closed port, at the machine that was asked.
pub(crate) fn is_tallied(record: &Sighting) -> bool {
    record.direction == Direction::Ingress && record.side == Side::Initiator && is_closed(record.end_reason)
}

/// Whether the port was closed, by the machine or on its behalf. A packet that a rate limit or a check of its form dropped
/// says nothing of the port.
const fn is_closed(end_reason: EndReason) -> bool {
    matches!(
        end_reason,
        EndReason::RefusedByVm
            | EndReason::DeniedByGroupAtDestination
            | EndReason::DeniedByNetworkAcl
            | EndReason::AbuseMitigation
    )
}
