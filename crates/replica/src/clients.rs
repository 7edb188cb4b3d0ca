//! What replays and loads have in common for whoever carries their frames.
//!
//! Owns the face alone: frames that came and the time go in, frames to be sent and the time of the next turn come out.

use lucarne_model::Moment;

use crate::{load::asking::Asking, replay::player::Player};

/// Clients that are no machines.
pub trait Clients {
    /// Does what is due, and tells when to ask again; none when everything is over.
    fn poll(&mut self, now: Moment) -> Option<Moment>;
    /// Takes a frame that came from the duplicate.
    fn handle_frame(&mut self, now: Moment, frame: &[u8]);
    /// Frames to be sent, in order.
    fn frames(&mut self) -> impl Iterator<Item = Vec<u8>> + '_;
}

impl Clients for Player {
    fn poll(&mut self, now: Moment) -> Option<Moment> {
        Self::poll(self, now)
    }
    fn handle_frame(&mut self, now: Moment, frame: &[u8]) {
        Self::handle_frame(self, now, frame);
    }
    fn frames(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        Self::frames(self)
    }
}

impl Clients for Asking {
    fn poll(&mut self, now: Moment) -> Option<Moment> {
        Self::poll(self, now)
    }
    fn handle_frame(&mut self, now: Moment, frame: &[u8]) {
        Self::handle_frame(self, now, frame);
    }
    fn frames(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        Self::frames(self)
    }
}
