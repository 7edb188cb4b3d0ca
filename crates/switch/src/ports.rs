//! Ports: where frames come from and go to.
//!
//! Owns the trait [`Port`] and the one way from a port into the pipeline, [`forward`]. This folder is the only part of the
//! crate that opens sockets of guests; what the frames mean is the business of [`Switch`].
//!
//! - [`unix`]: unix datagrams to QEMU;
//! - [`pcap`]: frames of a capture, for benches and replays.

use std::io;

use lucarne_model::Moment;

use crate::{Output, PortIndex, Switch};
pub use batch::Batch;

mod batch;
pub mod pcap;
pub mod unix;
mod unread;

/// Anything that takes and gives batches of Ethernet frames without waiting.
pub trait Port {
    /// Puts frames that have come behind those in `into`, until it is full or no more wait.
    ///
    /// # Errors
    /// What the system or the capture says. The frames before it are in `into`; the port may be asked again.
    fn receive(&mut self, into: &mut Batch) -> io::Result<()>;

    /// Sends frames in order and returns how many are done with: sent, or dropped and counted. Fewer than there are when
    /// the other side takes no more at the moment; the rest may be offered again.
    fn send(&mut self, frames: &Batch) -> usize;
}

/// Frames of one port that are taken together.
pub const TOGETHER: usize = 64;

/// Takes the frames of a batch through the switch, as those of the guest behind `from`. They are rewritten in place.
pub fn forward(batch: &mut Batch, from: PortIndex, switch: &mut Switch, now: Moment, out: &mut impl Output) {
    // One alone would only be looked up twice.
    if batch.len() > 1 {
        switch.approach(from, batch.iter());
    }
    batch.for_each_mut(|frame| switch.handle_guest_frame(from, frame, now, out));
}
