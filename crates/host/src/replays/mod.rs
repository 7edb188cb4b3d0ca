//! Replays and loads on this host: what was recorded of a network, or what is made up, is asked of its duplicate, from ports of the
//! duplicate's own.
//!
//! A played client is a guest without a machine: it has a port of the switch like any other, so that what holds for guests (true
//! sources, groups, ACLs, no way out) holds for it. Who is played, when, and what answers are worth is the business of the room's
//! [`Player`](lucarne_replica::replay::player::Player) and [`Asking`](lucarne_replica::load::asking::Asking).
//!
//! - [`playbill`], which are under way, what is told of them, and what goes when the controller says so;
//! - `recorded`, a replay: the recording fetched and read, the ports awaited; `made_up`, a load;
//! - `rehearsal`, what both need before they are played; `performance`, the thread that plays;
//! - `shelf`, what of one is on disk.

mod made_up;
mod performance;
pub(crate) mod playbill;
mod recorded;
mod rehearsal;
mod shelf;
#[cfg(test)]
mod tests;

use lucarne_model::{ErrorCode, instance::StateReason};

pub(crate) use self::{made_up::MadeUp, playbill::follow, recorded::Recorded};

/// Why one did not come to its end.
fn failed(code: ErrorCode, message: impl Into<String>) -> StateReason {
    StateReason { code, message: message.into() }
}
