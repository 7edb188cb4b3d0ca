//! Memory that is free goes back to the system: the one place of this crate that needs `unsafe`.
//!
//! Owns the asking. The C library gives back only what is free at the upper end of a heap, and what lies below a single small
//! thing that lives it keeps; after parts were written and merged that was 20 times what was in use. Allocators that
//! give back by themselves still had 7 times (mimalloc 2.0) and 12 times as much (jemalloc 5.3) right after the same work,
//! and were no faster. When to ask is decided by the [`Sealer`](crate::sealer::Sealer), which makes most of what is freed.
#![allow(unsafe_code)]

/// Gives back all pages that nothing lies on, of all threads' heaps.
pub(crate) fn give_back() {
    // SAFETY: it takes a number, may be called at any time from any thread, and only touches memory that is free.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt as _};

    use super::*;

    const PAGE: usize = 4096;
    /// A block is small enough to lie in a heap, and large enough to have pages of its own.
    const BLOCK: usize = 16 * PAGE;
    const BLOCKS: usize = 512;

    /// How many of these addresses lie on a page that is in memory, by what the kernel tells of each page.
    fn resident(addresses: &[usize]) -> usize {
        const PRESENT: u64 = 1 << 63;
        let map = File::open("/proc/self/pagemap").unwrap();
        let is_resident = |address: &&usize| {
            let mut entry = [0; 8];
            map.read_exact_at(&mut entry, (**address / PAGE * 8) as u64).unwrap();
            u64::from_ne_bytes(entry) & PRESENT != 0
        };
        addresses.iter().filter(is_resident).count()
    }

    /// Between things that live, which keep the C library from giving anything back by itself.
    #[test]
    fn what_is_freed_between_things_that_live_goes_back() {
        let mut blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| vec![1; BLOCK]).collect();
        let lives: Vec<Vec<u8>> = (1..=BLOCKS / 16).rev().map(|number| blocks.remove(16 * number - 1)).collect();
        let middles: Vec<usize> = blocks.iter().map(|block| block.as_ptr() as usize + BLOCK / 2).collect();
        assert_eq!(resident(&middles), middles.len());
        drop(blocks);
        assert!(resident(&middles) > BLOCKS / 2, "nothing was kept, and so nothing is shown");
        give_back();
        // Another test may have come to lie on some.
        assert!(resident(&middles) < BLOCKS / 4, "{} of {} are still there", resident(&middles), middles.len());
        assert!(lives.iter().flatten().all(|octet| *octet == 1));
    }
}
