//! `guest.pause`, `guest.resume`, `guest.stop`, `guest.reset`.
//!
//! Owns what each does to a machine, and in which states it does nothing or is refused. A paused guest stays so until it is
//! resumed, also when its agent starts anew. A start is the agent's to see to: there is no machine
//! yet that could be asked.

use lucarne_seal::operation::Operation;
use serde::Serialize;
use serde_json::json;

use crate::{
    monitor::Monitor,
    order::{Failure, Machine},
    standstill,
};

/// What became of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Switched {
    /// Not if it was so already.
    changed: bool,
}

pub(super) fn switch(operation: &Operation, monitor: &mut Monitor, machine: &Machine) -> Result<Switched, Failure> {
    let changed = match operation {
        Operation::GuestPause(_) => standstill::pause(monitor, machine)?,
        Operation::GuestResume(_) => standstill::resume(monitor, machine)?,
        Operation::GuestStop(_) => {
            standstill::refuse_if_busy(monitor)?;
            monitor.ask("take the guest's power away", "quit", json!({}))?;
            true
        }
        Operation::GuestReset(_) => {
            standstill::refuse_if_busy(monitor)?;
            monitor.ask("press the guest's reset button", "system_reset", json!({}))?;
            true
        }
        other => return Err(Failure::Impossible(format!("this host does not carry out {}", other.name()))),
    };
    Ok(Switched { changed })
}
