//! Where the switch puts what it decided: the one trait between the pipeline and the world.
//!
//! Owns the [`Output`] trait and the name of a port, [`PortIndex`]. Sockets, tunnels and the metadata service implement it
//! in the shell; benches, replays and tests with a vector.

use lucarne_model::{FlowRecord, HostId};

/// A port of this switch: small, and stable while the port is in the plan. See [`Switch::port`](crate::Switch::port).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIndex(pub(crate) u32);

impl PortIndex {
    /// For tables beside the switch: small numbers, given out from 0 and used again.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// Takes the frames and records that a call into [`Switch`](crate::Switch) brings forth, in order.
///
/// Frames are whole Ethernet frames without a check sequence, borrowed for the time of the call.
pub trait Output {
    /// To the guest behind `port`.
    fn to_guest(&mut self, port: PortIndex, frame: &[u8]);
    /// To the switch of another host, in the network `vni`.
    fn to_tunnel(&mut self, host: HostId, vni: u32, frame: &[u8]);
    /// From the guest behind `port` to the metadata service at 169.254.169.254. Its answers come back through
    /// [`Switch::handle_metadata_frame`](crate::Switch::handle_metadata_frame).
    fn to_metadata(&mut self, port: PortIndex, frame: &[u8]);
    /// To the collector.
    fn record(&mut self, record: FlowRecord);
}
