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
#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
    /// What QEMU has as the guest's memory, and not as firmware.
    writable: bool,
    /// What QEMU calls the memory that is here, and where in that the range begins.
    block: String,
    offset: u64,
}

/// A piece of the guest's own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) address: u64,
    /// Within its memory.
    pub(crate) offset: u64,
    pub(crate) length: u64,
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

    /// Where the guest's own memory is, of which the beginning is at address zero. What is mapped read-only, or hidden behind
    /// something else, is memory of its own or in none of the pieces.
    pub(crate) fn own(&self) -> Vec<Piece> {
        let block = self.0.first().filter(|first| first.first == 0).map(|first| &first.block);
        let mut pieces: Vec<Piece> = Vec::new();
        for range in self.0.iter().filter(|range| Some(&range.block) == block) {
            let piece = Piece {
                address: range.first,
                offset: range.offset,
                length: (range.last - range.first).saturating_add(1),
            };
            match pieces.last_mut() {
                Some(last)
                    if last.address.checked_add(last.length) == Some(piece.address)
                        && last.offset.checked_add(last.length) == Some(piece.offset) =>
                {
                    last.length += piece.length;
                }
                _ => pieces.push(piece),
            }
        }
        pieces
    }

    /// An address at which there is firmware, and none of the guest's own memory.
    pub(crate) fn firmware(&self) -> Option<u64> {
        let own = self.0.first().map(|first| &first.block);
        self.0.iter().find(|range| !range.writable && Some(&range.block) != own).map(|range| range.first)
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
    let (kind, block) = about.split_once("): ")?;
    let (_, kind) = kind.split_once(", ")?;
    let (block, offset) = block.split_once(" @").unwrap_or((block, "0"));
    let offset = u64::from_str_radix(offset.get(..16).unwrap_or(offset), 16).ok()?;
    let writable = match kind {
        "ram" => true,
        "rom" => false,
        _ => return None,
    };
    (first <= last).then(|| Range { first, last, writable, block: block.to_owned(), offset })
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

    /// A guest of 3 GiB, whose memory goes on behind the devices; some of it is shadowed firmware.
    #[test]
    fn the_guests_own_memory_is_where_the_machine_has_it() {
        let text = "FlatView #1
 AS \"memory\", root: system
  0000000000000000-00000000000c2fff (prio 0, ram): ram
  00000000000c3000-00000000000e7fff (prio 0, rom): ram @00000000000c3000
  00000000000e8000-000000007fffffff (prio 0, ram): ram @00000000000e8000
  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
  0000000100000000-000000013fffffff (prio 0, ram): ram @0000000080000000
";
        let map = MemoryMap::parse(text).unwrap();
        let piece = |address, offset, length| Piece { address, offset, length };
        assert_eq!(map.own(), [piece(0, 0, 2 << 30), piece(4 << 30, 2 << 30, 1 << 30)]);
        assert_eq!(map.firmware(), Some(0xfffc_0000));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(FlatView #| AS \"memory\",|[0-9a-f\\-(): ,\n]|ram|rom){0,80}",
                                          address: u64, length: u64) {
            if let Some(map) = MemoryMap::parse(&text) { map.covers(address, length); map.own(); map.firmware(); }
        }
    }
}
