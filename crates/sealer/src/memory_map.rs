//! Where a guest's physical memory is, as QEMU tells it (`info mtree -f`).
//!
//! Owns the reading of that text. What is not memory is left out: reading a device's registers changes the device.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// What the guest's processors see as their memory.
const SPACE: &str = " AS \"memory\",";

/// Ranges of memory, in order and apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryMap(Vec<Range>);

/// From the first address to the last, both within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
    /// What QEMU has as the guest's memory, and not as firmware.
    writable: bool,
}

impl MemoryMap {
    /// None when the text tells of no memory.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let view = text.split("FlatView #").find(|view| view.contains(SPACE))?;
        let mut ranges: Vec<Range> = view.lines().filter_map(range).collect();
        ranges.sort_by_key(|range| range.first);
        let apart = ranges.windows(2).all(|pair| pair[0].last < pair[1].first);
        (apart && !ranges.is_empty()).then_some(Self(ranges))
    }

    /// Whether all of it is memory.
    pub(crate) fn covers(&self, address: u64, length: u64) -> bool {
        self.covered(address, length, |_| true)
    }

    /// Whether all of it is memory that can be written.
    pub(crate) fn is_writable(&self, address: u64, length: u64) -> bool {
        self.covered(address, length, |range| range.writable)
    }

    /// The memory that can be written: from the first address to the last of each piece.
    pub(crate) fn writable(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().filter(|range| range.writable).map(|range| (range.first, range.last))
    }

    fn covered(&self, address: u64, length: u64, wanted: impl Fn(&Range) -> bool) -> bool {
        let Some(last) = length.checked_sub(1).and_then(|more| address.checked_add(more)) else { return false };
        let mut next = address;
        for range in self.0.iter().filter(|range| wanted(range)) {
            if (range.first..=range.last).contains(&next) {
                match range.last.checked_add(1) {
                    Some(behind) if range.last < last => next = behind,
                    _ => return range.last >= last,
                }
            }
        }
        false
    }
}

/// A line such as `  0000000000100000-0000000003ffffff (prio 0, ram): ram @0000000000100000`.
fn range(line: &str) -> Option<Range> {
    let (addresses, about) = line.trim().split_once(" (")?;
    let (first, last) = addresses.split_once('-')?;
    let (first, last) = (u64::from_str_radix(first, 16).ok()?, u64::from_str_radix(last, 16).ok()?);
    let (_, kind) = about.split_once("): ")?.0.split_once(", ")?;
    let writable = match kind {
        "ram" => true,
        "rom" => false,
        _ => return None,
    };
    (first <= last).then_some(Range { first, last, writable })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = r#"FlatView #0
 AS "cpu-smm-0", root: memory
 Root memory region: memory
  0000000000000000-00000000ffffffff (prio 0, ram): ram

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-00000000000bffff (prio 0, ram): ram
  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom
  00000000000e0000-00000000000fffff (prio 0, rom): pc.bios @0000000000020000
  0000000000100000-0000000003ffffff (prio 0, ram): ram @0000000000100000
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
  fffffffffffff000-ffffffffffffffff (prio 0, ram): end

FlatView #2
 AS "mch", root: bus master container
 Root memory region: (none)
  No rendered FlatView
"#;

    #[test]
    fn memory_is_told_from_devices_and_from_nothing() {
        let map = MemoryMap::parse(TEXT).unwrap();
        for (address, length) in [(0, 1), (0xbffff, 2), (0, 0x400_0000), (0xffff_ffff, 1), (u64::MAX, 1)] {
            assert!(map.covers(address, length), "{address:#x} {length:#x}");
        }
        for (address, length) in
            [(0, 0), (0, 0x400_0001), (0xfec0_0000, 4), (0xffff_ffff, 2), (u64::MAX, 2), (0x8000_0000, 1)]
        {
            assert!(!map.covers(address, length), "{address:#x} {length:#x}");
        }
        assert!(map.is_writable(0x10_0000, 4096) && !map.is_writable(0xbf000, 0x2000));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(FlatView #| AS \"memory\",|[0-9a-f\\-(): ,\n]|ram|rom){0,80}",
                                          address: u64, length: u64) {
            if let Some(map) = MemoryMap::parse(&text) { map.covers(address, length); }
        }
    }
}
