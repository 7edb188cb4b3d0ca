//! The cuts that this host's switch takes part in, by replica: which frames wait for which, and the ports of duplicates that
//! stand still.
//!
//! Owns the [`Cut`]s and what was kept for duplicates: copies of frames, and connections. When steps of a cut are taken is the
//! worker's business, what follows from them [`crate::cut`]'s.

use std::collections::BTreeMap;

use lucarne_flows::Connection;
use lucarne_model::{HostId, InterfaceId, ReplicaId, VpcId};

use crate::cut::{Cut, Origin};

/// Frames that a duplicate's port keeps while its guest stands still: fewer than its queue takes.
const FOR_ONE_DUPLICATE: usize = 384;

/// A cut on this host, and what was kept at it.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) vpc: VpcId,
    vni: u32,
    pub(super) cut: Cut,
    /// As they stood when the host marked.
    pub(super) connections: BTreeMap<InterfaceId, Vec<Connection>>,
}

impl Taken {
    /// The network's number in the tunnel.
    pub(super) fn vni(&self) -> u32 {
        self.vni
    }
}

/// All cuts that are known.
#[derive(Debug, Default)]
pub(super) struct Cutting {
    cuts: BTreeMap<ReplicaId, Taken>,
    /// What came for the guests of ports that stand still.
    still: BTreeMap<InterfaceId, Vec<Vec<u8>>>,
}

/// What becomes of a frame for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    GoesOn,
    Kept,
    /// No more is kept for the guest.
    Full,
}

impl Cutting {
    pub(super) fn begin(&mut self, replica: ReplicaId, (vpc, vni): (VpcId, u32), cut: Cut) {
        self.cuts.insert(replica, Taken { vpc, vni, cut, connections: BTreeMap::new() });
    }

    pub(super) fn get(&self, replica: ReplicaId) -> Option<&Taken> {
        self.cuts.get(&replica)
    }
    pub(super) fn get_mut(&mut self, replica: ReplicaId) -> Option<&mut Taken> {
        self.cuts.get_mut(&replica)
    }
    pub(super) fn remove(&mut self, replica: ReplicaId) -> Option<Taken> {
        self.cuts.remove(&replica)
    }

    /// A cut of this network that keeps frames.
    pub(super) fn of_network(&self, vpc: VpcId) -> Option<ReplicaId> {
        self.cuts.iter().find(|(_, taken)| taken.vpc == vpc && taken.cut.keeps()).map(|(replica, _)| *replica)
    }

    /// Cuts that keep more than they may.
    pub(super) fn overfull(&self) -> Vec<ReplicaId> {
        self.cuts.iter().filter(|(_, taken)| taken.cut.is_overfull()).map(|(replica, _)| *replica).collect()
    }

    /// Keeps a frame for a guest, if a cut of its network or its own standing still asks for it.
    pub(super) fn keep(&mut self, vpc: VpcId, to: InterfaceId, origin: Origin, frame: &[u8]) -> Fate {
        if let Some(taken) = self.cuts.values_mut().find(|taken| taken.vpc == vpc && taken.cut.keeps()) {
            taken.cut.keep(to, origin, frame);
            return Fate::Kept;
        }
        match self.still.get_mut(&to) {
            None => Fate::GoesOn,
            Some(kept) if kept.len() >= FOR_ONE_DUPLICATE => Fate::Full,
            Some(kept) => {
                kept.push(frame.to_vec());
                Fate::Kept
            }
        }
    }

    /// Whether the frame waits for a mark.
    pub(super) fn withhold(&mut self, host: HostId, vni: u32, frame: &[u8]) -> bool {
        let withholds = |taken: &&mut Taken| taken.vni == vni && taken.cut.withholds_from(host);
        let taken = self.cuts.values_mut().find(withholds);
        taken.map(|taken| taken.cut.withhold(host, frame)).is_some()
    }

    /// From here on what comes for the port is kept.
    pub(super) fn stand_still(&mut self, port: InterfaceId) {
        self.still.entry(port).or_default();
    }

    /// What came for the port while its guest stood still.
    pub(super) fn go_on(&mut self, port: InterfaceId) -> Vec<Vec<u8>> {
        self.still.remove(&port).unwrap_or_default()
    }

    /// Forgets what was kept for ports that are no more.
    pub(super) fn keep_ports(&mut self, is_port: impl Fn(InterfaceId) -> bool) {
        self.still.retain(|port, _| is_port(*port));
    }
}
