//! `guest.registers`.
//!
//! Owns that all processors' registers are of one instant.

use serde::Serialize;

use crate::{
    guest_memory,
    monitor::Monitor,
    order::{Failure, Machine},
    processors::Processor,
    standstill::Standstill,
};

#[derive(Clone, Debug, Serialize)]
pub(super) struct Registers {
    processors: Vec<Processor>,
}

/// The registers, and for how many nanoseconds the guest stood still for them.
pub(super) fn read(mut monitor: Monitor, machine: &Machine) -> Result<(Registers, u64), Failure> {
    let standstill = Standstill::begin(&mut monitor, machine)?;
    let processors = guest_memory::registers(standstill.monitor)?;
    Ok((Registers { processors }, standstill.end()?))
}
