//! What a hostile guest puts into its page tables, walked as a sealed operation does for an address of its kernel.

use lucarne_sealer::page_tables::{NoMemory, Paging};

/// Two registers, an address and a length, and then the entries that every table is made of.
const FIXED: usize = 8 + 8 + 8 + 4;
/// CR0 with paging, and EFER in long mode: else there is no walk.
const LONG_MODE: (u64, u64) = (1 << 31, 1 << 10);
/// Bits of a physical address.
const PHYSICAL: u32 = 52;

/// However the tables point at each other, a walk reads one entry a level and finds no more than it was asked for, at addresses that
/// a processor could have.
pub(crate) fn page_tables(octets: &[u8]) -> bool {
    let Some((fixed, entries)) = octets.split_at_checked(FIXED) else { return false };
    let (entries, _) = entries.as_chunks::<8>();
    let (words, rest) = fixed.as_chunks::<8>();
    let ([cr3, cr4, address], Some(length)) = (words, rest.first_chunk::<4>()) else { return false };
    let [cr3, cr4, address] = [cr3, cr4, address].map(|word| u64::from_le_bytes(*word));
    let length = u64::from(u32::from_le_bytes(*length)) % (16 << 20) + 1;
    let Ok(paging) = Paging::new(LONG_MODE.0, cr3, cr4, LONG_MODE.1) else { return false };
    if entries.is_empty() {
        return false;
    }
    let mut reads = 0_u64;
    let pieces = paging.pieces(address, length, |at| {
        reads += 1;
        assert!(at.is_multiple_of(8) && at >> PHYSICAL == 0, "{at:#x} is no entry's address");
        // The same address has the same entry, as memory has.
        let number = (at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        Ok::<_, NoMemory>(u64::from_le_bytes(entries[number as usize % entries.len()]))
    });
    let pages = length.div_ceil(4096) + 1;
    assert!(reads <= 5 * pages, "{reads} reads for {pages} pages");
    if let Ok(pieces) = pieces {
        assert_eq!(pieces.iter().map(|(_, length)| length).sum::<u64>(), length);
        assert!(pieces.iter().all(|(at, length)| *length > 0 && at + length <= 1 << PHYSICAL));
    }
    true
}

pub(crate) fn page_table_seeds() -> Vec<Vec<u8>> {
    let seed = |cr4: u64, address: u64, length: u32, entries: &[u64]| {
        let words = [0x1000, cr4, address].map(u64::to_le_bytes).concat();
        let entries: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        [words, length.to_le_bytes().to_vec(), entries].concat()
    };
    vec![
        // Every table is itself.
        seed(0, 0xffff_ffff_8100_0000, 4096, &[0x1003]),
        // Large pages, and tables that point at each other; four and five levels.
        seed(0, 0xffff_8880_0000_0ff0, 70_000, &[0x1003, 0x2083, 0x8000_0000_0020_00e3, 0]),
        seed(1 << 12, 0x00ff_8880_0000_0000, 1 << 20, &[0x1003, 0xffff_ffff_ffff_ffff, 0x3003, 0x40_0083]),
    ]
}
