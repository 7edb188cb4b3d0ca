//! From an address of a guest's kernel to its physical memory, by the guest's own page tables.
//!
//! Owns the walk, for 64-bit kernels with four or five levels (AMD64 Architecture Programmer's Manual, volume 2, chapter 5).
//! The tables are the guest's, which may have put anything there: a walk takes at most five steps, each to an entry of which
//! only the bits are used that a processor uses, and what it finds is an address like any other that a request could name.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

const PAGE: u64 = 4096;
/// Bits 12 to 51 of an entry: where the next table or the page is.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
/// In an entry that could name a table: it names a large page.
const LARGE: u64 = 1 << 7;
const CR0_PAGING: u64 = 1 << 31;
const CR4_FIVE_LEVELS: u64 = 1 << 12;
const EFER_LONG_MODE: u64 = 1 << 10;

/// Why there is no memory at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMemory {
    #[error("no processor of the guest is in 64-bit mode: a kernel's addresses are not known")]
    OtherMode,
    #[error("{0:#x} is no address of that kernel's width")]
    BeyondWidth(u64),
    #[error("no memory is mapped at {0:#x}")]
    Unmapped(u64),
}

/// How the guest's kernel addresses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    root: u64,
    levels: u32,
}

impl Paging {
    /// As said by these registers of one of its processors.
    pub const fn new(cr0: u64, cr3: u64, cr4: u64, efer: u64) -> Result<Self, NoMemory> {
        if cr0 & CR0_PAGING == 0 || efer & EFER_LONG_MODE == 0 {
            return Err(NoMemory::OtherMode);
        }
        let levels = if cr4 & CR4_FIVE_LEVELS == 0 { 4 } else { 5 };
        Ok(Self { root: cr3 & ADDRESS, levels })
    }

    /// Where `address` is in physical memory, and how many octets from there on are mapped as one. `entry` reads eight octets of
    /// physical memory.
    pub fn find<E: From<NoMemory>>(
        self,
        address: u64,
        mut entry: impl FnMut(u64) -> Result<u64, E>,
    ) -> Result<(u64, u64), E> {
        // All bits above those that the tables translate are equal.
        let unused = 64 - (12 + 9 * self.levels);
        if (address.cast_signed() << unused >> unused).cast_unsigned() != address {
            return Err(NoMemory::BeyondWidth(address).into());
        }
        let mut table = self.root;
        for level in (0..self.levels).rev() {
            let shift = 12 + 9 * level;
            let found = entry(table + (address >> shift & 0x1ff) * 8)?;
            if found & PRESENT == 0 {
                return Err(NoMemory::Unmapped(address).into());
            }
            let is_page = level == 0 || found & LARGE != 0 && level <= 2;
            if is_page {
                let size = PAGE << (9 * level);
                let within = address & (size - 1);
                return Ok(((found & ADDRESS & !(size - 1)) + within, size - within));
            }
            table = found & ADDRESS;
        }
        Err(NoMemory::Unmapped(address).into())
    }

    /// All pieces of physical memory that `length` octets from `address` on are in, in order; neighbours are one piece.
    pub fn pieces<E: From<NoMemory>>(
        self,
        address: u64,
        length: u64,
        mut entry: impl FnMut(u64) -> Result<u64, E>,
    ) -> Result<Vec<(u64, u64)>, E> {
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        let mut done = 0;
        while done < length {
            let at = address.checked_add(done).ok_or(NoMemory::Unmapped(u64::MAX))?;
            let (physical, mapped) = self.find(at, &mut entry)?;
            let taken = mapped.min(length - done);
            match pieces.last_mut() {
                Some((first, so_far)) if *first + *so_far == physical => *so_far += taken,
                _ => pieces.push((physical, taken)),
            }
            done += taken;
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const LONG: (u64, u64) = (CR0_PAGING, EFER_LONG_MODE);

    /// Physical memory of which only what was written is not zero.
    #[derive(Default)]
    struct Memory(BTreeMap<u64, u64>);

    impl Memory {
        /// Maps a page of `PAGE << 9 * level` octets, with tables of its own from `next` on.
        fn map(&mut self, levels: u32, address: u64, to: u64, (level, next): (u32, &mut u64)) {
            let mut table = 0x1000;
            for at in (level + 1..levels).rev() {
                let slot = table + (address >> (12 + 9 * at) & 0x1ff) * 8;
                table = *self.0.entry(slot).or_insert_with(|| {
                    *next += PAGE;
                    *next | PRESENT | 0x8000_0000_0000_0062
                }) & ADDRESS;
            }
            let slot = table + (address >> (12 + 9 * level) & 0x1ff) * 8;
            self.0.insert(slot, to | PRESENT | if level > 0 { LARGE } else { 0 });
        }
        fn entry(&self, at: u64) -> Result<u64, NoMemory> {
            Ok(self.0.get(&at).copied().unwrap_or(0))
        }
    }

    fn paging(levels: u32) -> Paging {
        Paging::new(LONG.0, 0x1fff, if levels == 5 { CR4_FIVE_LEVELS } else { 0 }, LONG.1).unwrap()
    }

    proptest! {
        /// What was mapped is found, at each level and size of page, and what was not is not.
        #[test]
        fn every_octet_of_a_mapped_page_is_found(five: bool, level in 0..3u32, high: bool, bits: u64, to: u64, within: u64) {
            let levels = if five { 5 } else { 4 };
            let size = PAGE << (9 * level);
            let width = 12 + 9 * levels;
            let low = bits & ((1 << (width - 1)) - 1) & !(size - 1);
            let address = if high { low | u64::MAX << (width - 1) } else { low };
            let to = to & ADDRESS & !(size - 1);
            let within = within % size;
            let (mut memory, mut next) = (Memory::default(), 0x10_0000);
            memory.map(levels, address, to, (level, &mut next));
            let found = paging(levels).find(address + within, |at| memory.entry(at));
            prop_assert_eq!(found, Ok((to + within, size - within)));
            let other = address ^ size;
            prop_assert_eq!(paging(levels).find(other, |at| memory.entry(at)), Err(NoMemory::Unmapped(other)));
        }

        /// Tables that mean harm, pointing anywhere and to themselves, cost no more than five reads.
        #[test]
        fn no_tables_make_a_walk_long(five: bool, address: u64, entries in prop::collection::vec(any::<u64>(), 1..8)) {
            let mut reads = 0;
            let _ = paging(if five { 5 } else { 4 }).find(address, |_| {
                reads += 1;
                Ok::<_, NoMemory>(entries[reads % entries.len()] | PRESENT)
            });
            prop_assert!(reads <= 5);
        }

        /// Pieces are as long as what was asked for, whatever the tables say.
        #[test]
        fn pieces_make_up_the_whole(address: u64, length in 1..(16u64 << 20), entry: u64) {
            let pieces = paging(4).pieces(address, length, |_| Ok::<_, NoMemory>(entry | PRESENT));
            if let Ok(pieces) = pieces {
                prop_assert_eq!(pieces.iter().map(|(_, length)| length).sum::<u64>(), length);
            }
        }
    }

    #[test]
    fn neighbours_are_read_at_once_and_a_hole_is_an_error() {
        let (mut memory, mut next) = (Memory::default(), 0x10_0000);
        let kernel = 0xffff_ffff_8100_0000;
        for (page, to) in [(0, 0x5000), (1, 0x6000), (2, 0x9000)] {
            memory.map(4, kernel + page * PAGE, to, (0, &mut next));
        }
        let pieces = |length| paging(4).pieces(kernel + 0x10, length, |at| memory.entry(at));
        assert_eq!(pieces(0x2800), Ok(vec![(0x5010, 0x1ff0), (0x9000, 0x810)]));
        assert_eq!(pieces(0x3000), Err(NoMemory::Unmapped(kernel + 0x3000)));
    }

    #[test]
    fn what_is_no_kernels_address_is_refused() {
        let nothing = |_| Ok::<_, NoMemory>(0);
        assert_eq!(paging(4).find(1 << 47, nothing), Err(NoMemory::BeyondWidth(1 << 47)));
        assert_eq!(paging(5).find(1 << 47, nothing), Err(NoMemory::Unmapped(1 << 47)));
        assert_eq!(Paging::new(0, 0, 0, EFER_LONG_MODE), Err(NoMemory::OtherMode));
    }
}
