//! Sums by the address at the other end: which there are of a part, and how they lie in slices.
//!
//! Owns that every sum of one peer is in one slice, the same one in every part, so that a question about all peers takes one
//! slice after the other and holds no more than that; and the octets of a slice. In a slice the sums lie column by column, in
//! the order of their peers and then of the rows of [`Level::Service`](super::Level) that they are a share of: differences
//! where numbers grow, octets of the same weight together, in Zstandard's.

use std::{collections::HashMap, io};

use arrow_array::{RecordBatch, StringArray};
use arrow_schema::ArrowError;
use foldhash::fast::FixedState;
use zstd::bulk::{Compressor, Decompressor};

use super::{Sum, file::SumsError, missing, peer_of, typed};

/// How many slices there are.
pub(crate) const SLICES: usize = 64;
/// Sums of a part above which it has none by peer: they would take more memory than a merge should.
const MOST: usize = 1 << 19;
/// Of Zstandard: as for a part that is likely to stay.
const EFFORT: i32 = 6;

/// The slice that all sums of a peer are in. Part of the files' version.
pub(crate) fn slice_of(peer: u128) -> usize {
    let mixed = (peer as u64 ^ (peer >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as usize % SLICES
}

/// The sum of a peer's records that are a share of a row of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerSum {
    pub(crate) peer: u128,
    pub(crate) share: Share,
    pub(crate) sum: Sum,
}

/// Of which row of services, and whether it is what the responder sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Share {
    pub(crate) service: u32,
    pub(crate) is_responders: bool,
}

/// The sums of a part that is being written.
#[derive(Debug)]
pub(super) struct Peers {
    /// None where there were too many.
    sums: Option<HashMap<(u128, Share), Sum, FixedState>>,
}

impl Default for Peers {
    fn default() -> Self {
        Self { sums: Some(HashMap::default()) }
    }
}

impl Peers {
    /// Adds rows, of which each was added to the service of that number.
    pub(super) fn add(&mut self, rows: &RecordBatch, services: &[u32]) -> Result<(), ArrowError> {
        let Some(sums) = &mut self.sums else { return Ok(()) };
        let (peers, sides): (&StringArray, &StringArray) = (typed(rows, "peer")?, typed(rows, "side")?);
        for (row, (sum, service)) in Sum::all(rows)?.into_iter().zip(services).enumerate() {
            let peer = peer_of(peers.value(row)).ok_or_else(|| missing("peer"))?;
            let share = Share { service: *service, is_responders: is_responders(sides.value(row)) };
            sums.entry((peer, share)).and_modify(|known| known.add(sum)).or_insert(sum);
        }
        if sums.len() > MOST {
            self.sums = None;
        }
        Ok(())
    }

    /// The slices, once it is known in which row each service has come to lie.
    pub(super) fn finish(self, lies: &[u32]) -> Option<Vec<Vec<PeerSum>>> {
        let mut slices = vec![Vec::new(); SLICES];
        for ((peer, share), sum) in self.sums? {
            let share = Share { service: *lies.get(share.service as usize)?, ..share };
            slices[slice_of(peer)].push(PeerSum { peer, share, sum });
        }
        slices.iter_mut().for_each(|slice| slice.sort_unstable_by_key(|of| (of.peer, of.share)));
        Some(slices)
    }
}

pub(crate) fn is_responders(side: &str) -> bool {
    side == "responder"
}

/// Columns that have a number for each peer: the two halves of its difference to the one before, and how many sums it has.
const OF_PEERS: usize = 3;
/// And those with one for each sum: its share, packets, octets, records, flows, start and duration.
const ALL: usize = OF_PEERS + 7;

/// The octets of a slice: how many sums and peers it has, its earliest start, and its columns.
pub(super) fn write(slice: &[PeerSum]) -> io::Result<Vec<u8>> {
    let earliest = slice.iter().map(|of| of.sum.start).min().unwrap_or(0);
    let columns = columns(slice, earliest);
    let mut packer = Compressor::new(EFFORT)?;
    let mut octets = [slice.len() as u32, columns[0].len() as u32].map(u32::to_le_bytes).concat();
    octets.extend(earliest.to_le_bytes());
    for column in &columns {
        let packed = packer.compress(&planes(column))?;
        octets.extend((packed.len() as u32).to_le_bytes());
        octets.extend(packed);
    }
    Ok(octets)
}

/// The sums of a slice's octets.
pub(super) fn read(octets: &[u8]) -> Result<Vec<PeerSum>, SumsError> {
    let mut rest = Rest(octets);
    let [sums, peers] = [rest.number()?, rest.number()?];
    let earliest = i64::from_le_bytes(rest.octets()?);
    if sums > MOST || peers > sums {
        return Err(SumsError::Damaged);
    }
    let mut unpacker = Decompressor::new()?;
    let mut columns = [const { Vec::new() }; ALL];
    for (at, column) in columns.iter_mut().enumerate() {
        let count = if at < OF_PEERS { peers } else { sums };
        let length = rest.number()?;
        let planes = unpacker.decompress(rest.take(length)?, count * size_of::<u64>())?;
        *column = numbers(&planes, count).ok_or(SumsError::Damaged)?;
    }
    sums_of(&columns, earliest).ok_or(SumsError::Damaged)
}

pub(super) struct Rest<'a>(pub(super) &'a [u8]);

impl<'a> Rest<'a> {
    pub(super) fn octets<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], SumsError> {
        let (octets, rest) = self.0.split_first_chunk().ok_or(SumsError::Damaged)?;
        self.0 = rest;
        Ok(*octets)
    }

    pub(super) fn number(&mut self) -> Result<usize, SumsError> {
        Ok(u32::from_le_bytes(self.octets()?) as usize)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], SumsError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(SumsError::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }
}

fn columns(slice: &[PeerSum], earliest: i64) -> [Vec<u64>; ALL] {
    let mut columns = [const { Vec::new() }; ALL];
    let mut peer_before = 0;
    for of_peer in slice.chunk_by(|a, b| a.peer == b.peer) {
        let Some(PeerSum { peer, .. }) = of_peer.first() else { continue };
        let behind = peer.wrapping_sub(peer_before);
        peer_before = *peer;
        let numbers = [(behind >> 64) as u64, behind as u64, of_peer.len() as u64];
        columns.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
        let mut share_before = 0;
        for PeerSum { share, sum, .. } in of_peer {
            let share = u64::from(share.service) << 1 | u64::from(share.is_responders);
            let numbers = [
                share.wrapping_sub(share_before),
                sum.packets,
                sum.bytes,
                sum.records as u64,
                sum.flows as u64,
                sum.start.wrapping_sub(earliest) as u64,
                sum.end.wrapping_sub(sum.start) as u64,
            ];
            share_before = share;
            columns[OF_PEERS..].iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
        }
    }
    columns
}

fn sums_of(columns: &[Vec<u64>; ALL], earliest: i64) -> Option<Vec<PeerSum>> {
    let [high, low, counts, shares, packets, bytes, records, flows, starts, durations] = columns;
    let mut sums = Vec::with_capacity(shares.len());
    let mut peer = 0_u128;
    for ((high, low), count) in high.iter().zip(low).zip(counts) {
        peer = peer.wrapping_add(u128::from(*high) << 64 | u128::from(*low));
        let mut share = 0_u64;
        for _ in 0..*count {
            let at = sums.len();
            share = share.wrapping_add(*shares.get(at)?);
            let start = earliest.wrapping_add(starts[at] as i64);
            let sum = Sum {
                packets: packets[at],
                bytes: bytes[at],
                records: records[at] as i64,
                flows: flows[at] as i64,
                start,
                end: start.wrapping_add(durations[at] as i64),
            };
            let share = Share { service: u32::try_from(share >> 1).ok()?, is_responders: share & 1 == 1 };
            sums.push(PeerSum { peer, share, sum });
        }
    }
    (sums.len() == shares.len()).then_some(sums)
}

/// The octets of numbers: the lowest of all, then the next; none of a weight that no number reaches.
pub(super) fn planes(numbers: &[u64]) -> Vec<u8> {
    let reached = numbers.iter().fold(0, |all, number| all | number);
    let width = (u64::BITS - reached.leading_zeros()).div_ceil(8);
    (0..width).flat_map(|weight| numbers.iter().map(move |number| (number >> (8 * weight)) as u8)).collect()
}

pub(super) fn numbers(planes: &[u8], count: usize) -> Option<Vec<u64>> {
    let mut numbers = vec![0; count];
    if !planes.len().is_multiple_of(count.max(1)) {
        return None;
    }
    for (weight, plane) in planes.chunks_exact(count.max(1)).enumerate() {
        numbers.iter_mut().zip(plane).for_each(|(number, octet)| *number |= u64::from(*octet) << (8 * weight));
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_sum() -> impl Strategy<Value = PeerSum> {
        let peer = prop_oneof![any::<u128>(), (0..5_u128).prop_map(|last| 0xffff_0a00_0000 + last)];
        let counts = (any::<u64>(), 0..1_000_000_u64, 0..100_i64, 0..100_i64);
        (peer, (0..9_u32, any::<bool>()), counts, (any::<i64>(), 0..4_000_000_i64)).prop_map(
            |(peer, (service, is_responders), (packets, bytes, records, flows), (start, lasts))| {
                let sum = Sum { packets, bytes, records, flows, start, end: start.wrapping_add(lasts) };
                PeerSum { peer, share: Share { service, is_responders }, sum }
            },
        )
    }

    proptest! {
        #[test]
        fn a_slice_comes_back_as_it_was(mut slice in prop::collection::vec(any_sum(), 0..200)) {
            slice.sort_unstable_by_key(|of| (of.peer, of.share));
            prop_assert_eq!(read(&write(&slice).unwrap()).unwrap(), slice);
        }

        /// Damage is found by its digest; and what is read all the same makes nobody panic.
        #[test]
        fn octets_of_any_kind_are_read_or_refused(
            slice in prop::collection::vec(any_sum(), 0..20), at in any::<prop::sample::Index>(), octet in any::<u8>()
        ) {
            let mut octets = write(&slice).unwrap();
            let at = at.index(octets.len());
            octets[at] = octet;
            let _ = read(&octets);
            let _ = read(&octets[..at]);
        }
    }
}
