//! `guest.memory.write`.
//!
//! Owns that nothing is replaced but what was expected, that all of it is or nothing, and what is kept to undo it.

use lucarne_seal::{bounded::AddressSpace, operation::GuestMemoryWrite};
use serde::Serialize;

use super::Found;
use crate::{
    debugger::Debugger,
    guest_memory::{GuestMemory, Passage},
    monitor::Monitor,
    order::{Failure, Machine},
    standstill::Standstill,
    undo::{Place, Undo},
};

/// What was written where.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Patched {
    /// In physical memory, in order.
    pieces: Vec<Piece>,
    /// In microseconds since 1970; none: it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    reverts_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Piece {
    address: u64,
    length: u64,
}

pub(super) fn write(
    write: &GuestMemoryWrite,
    machine: &Machine,
    monitor: &mut Monitor,
    passage: &mut Passage,
) -> Result<(Patched, Found, Option<Undo>), Failure> {
    let (expected, replacement) = (write.change.expected(), write.change.replacement());
    let standstill = Standstill::begin(monitor, machine)?;
    let pieces = find(write.space, write.address.0, expected.len() as u64, standstill.monitor, passage)?;
    let undo = match write.revert_after_seconds.get() {
        0 => None,
        // Before anything is written: what cannot be undone later is not done.
        seconds => {
            let place = Place::Guest(pieces.clone());
            Some(Undo::keep(place, (expected, replacement), (seconds, standstill.monitor))?)
        }
    };
    let made = make(&pieces, (expected, replacement), standstill.monitor, passage);
    if let (Err(_), Some(undo)) = (&made, &undo) {
        undo.forget(standstill.monitor)?;
    }
    made?;
    let found = Found::at_once(standstill.end()?);
    let pieces = pieces.into_iter().map(|(address, length)| Piece { address, length }).collect();
    Ok((Patched { pieces, reverts_at: undo.as_ref().map(Undo::due) }, found, undo))
}

fn find(
    space: AddressSpace,
    address: u64,
    length: u64,
    monitor: &mut Monitor,
    passage: &mut Passage,
) -> Result<Vec<(u64, u64)>, Failure> {
    let mut memory = GuestMemory::of(monitor, passage)?;
    let pieces = memory.pieces(space, address, length)?;
    match pieces.iter().find(|(address, length)| !memory.map().is_writable(*address, *length)) {
        None => Ok(pieces),
        Some((address, _)) => Err(Failure::Impossible(format!("at {address:#x} is no memory that can be written"))),
    }
}

/// Replaces what is expected in these pieces of a guest's memory, and nothing else.
pub(crate) fn replace(
    pieces: &[(u64, u64)],
    octets: (&[u8], &[u8]),
    machine: &Machine,
    monitor: &mut Monitor,
) -> Result<(), Failure> {
    let mut passage = Passage::open(monitor, machine.process)?;
    let standstill = Standstill::begin(monitor, machine)?;
    let made = make(pieces, octets, standstill.monitor, &mut passage);
    standstill.end()?;
    passage.close(monitor)?;
    made
}

/// Makes the change in a guest that stands still: all of it, or nothing.
fn make(
    pieces: &[(u64, u64)],
    (expected, replacement): (&[u8], &[u8]),
    monitor: &mut Monitor,
    passage: &mut Passage,
) -> Result<(), Failure> {
    if !is_there(expected, pieces, monitor, passage)? {
        return Err(Failure::impossible("what is there is not what is expected"));
    }
    let written = write_pieces(replacement, pieces, monitor);
    if written.is_ok() && is_there(replacement, pieces, monitor, passage)? {
        return Ok(());
    }
    write_pieces(expected, pieces, monitor)?;
    written.and(Err(Failure::impossible("the memory did not take what was written, and is as it was")))
}

fn is_there(
    octets: &[u8],
    pieces: &[(u64, u64)],
    monitor: &mut Monitor,
    passage: &mut Passage,
) -> Result<bool, Failure> {
    let mut memory = GuestMemory::of(monitor, passage)?;
    let mut there = Vec::with_capacity(octets.len());
    pieces.iter().try_for_each(|(address, length)| memory.read(*address, *length, &mut there))?;
    Ok(there == octets)
}

fn write_pieces(octets: &[u8], pieces: &[(u64, u64)], monitor: &mut Monitor) -> Result<(), Failure> {
    let mut debugger = Debugger::attach(monitor)?;
    let mut rest = octets;
    let written = pieces.iter().try_for_each(|(address, length)| {
        let (piece, behind) = rest.split_at((*length as usize).min(rest.len()));
        rest = behind;
        debugger.write(*address, piece)
    });
    let left = debugger.leave(monitor);
    written.and(left)
}
