//! `guest.memory.read`.
//!
//! Owns that what is read is of one instant, and that a guest does not stand still for as long as it takes to bring memory
//! back from a disk.

use lucarne_seal::operation::GuestMemoryRead;

use super::Found;
use crate::{
    content::Content,
    guest_memory::{GuestMemory, Passage},
    monitor::Monitor,
    order::{Failure, Machine},
    standstill::Standstill,
};

pub(super) fn read(
    read: &GuestMemoryRead,
    machine: &Machine,
    (monitor, passage): (&mut Monitor, &mut Passage),
    content: &mut Content,
) -> Result<Found, Failure> {
    let mut octets = Vec::with_capacity(read.length.get() as usize);
    if machine.pager.is_some() {
        // Once while it runs: what is not in the host's memory comes back now.
        take(read, monitor, passage, &mut octets)?;
        octets.clear();
    }
    let standstill = Standstill::begin(monitor, machine)?;
    take(read, standstill.monitor, passage, &mut octets)?;
    let paused = standstill.end()?;
    content.push(&octets)?;
    Ok(Found::at_once(paused))
}

fn take(
    read: &GuestMemoryRead,
    monitor: &mut Monitor,
    passage: &mut Passage,
    into: &mut Vec<u8>,
) -> Result<(), Failure> {
    let mut memory = GuestMemory::of(monitor, passage)?;
    let pieces = memory.pieces(read.space, read.address.0, read.length.get())?;
    pieces.into_iter().try_for_each(|(address, length)| memory.read(address, length, into))
}
