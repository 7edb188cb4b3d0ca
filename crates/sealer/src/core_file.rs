//! A guest's memory and registers as an ELF core, which debuggers and analysers open.
//!
//! Owns the layout of the file. Pages of zeros are holes: segments that are in memory and not in the file (`p_filesz` is 0), apart
//! from those that are stored, since Volatility passes over segments that are partly there. Everything in front of the pages says where they are, so it must be known which pages are zeros before the first
//! octet is written; what has been written is not touched again. Addresses are the guest's physical ones, also where
//! debuggers look for virtual ones. Pure: content goes through and is not kept.
//!
//! ```text
//! ELF header, program headers, notes, zeros up to a multiple of 4 KiB, then the pages that are stored, in their order
//! ```
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Octets of a page, and what places in the file are multiples of.
pub(crate) const PAGE: u64 = 4096;
/// Headers of loaded segments at most: tools go through them one by one, and a file has fewer than 65,535 of all.
const MOST_SEGMENTS: usize = 4096;

const FILE_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const CORE: u16 = 4;
const X86_64: u16 = 62;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
const ALL: u32 = 7;

/// Where a part of the guest's memory is: in what its processors see, and in the file that is its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// In octets.
    pub(crate) address: u64,
    /// Number of its first page in the memory's file.
    pub(crate) first: u64,
    pub(crate) pages: u64,
}

/// A loaded segment, which is in the file or all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    address: u64,
    first: u64,
    pages: u64,
    is_stored: bool,
}

impl Segment {
    /// In the file.
    const fn octets(&self) -> u64 {
        if self.is_stored { self.pages * PAGE } else { 0 }
    }
}

/// There is no core of that memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest's memory is not laid out in the order of its addresses")]
pub(crate) struct OutOfOrder;

/// A core of which the layout is known.
#[derive(Clone, Debug)]
pub(crate) struct CoreFile {
    segments: Vec<Segment>,
    notes: Vec<u8>,
}

/// Which pages are not zeros: bit `i % 64` of word `i / 64`; where there is no word, none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occupied<'a>(pub(crate) &'a [u64]);

impl Occupied<'_> {
    fn contains(self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok().and_then(|at| self.0.get(at));
        word.is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// How many pages from `page` on, up to `end`, are like it, and whether they are occupied.
    fn alike(self, page: u64, end: u64) -> (u64, bool) {
        let is_occupied = self.contains(page);
        let more = (page + 1..end).take_while(|next| self.contains(*next) == is_occupied).count();
        (1 + more as u64, is_occupied)
    }
}

impl CoreFile {
    pub(crate) fn new(parts: &[Part], occupied: Occupied<'_>, notes: Vec<u8>) -> Result<Self, OutOfOrder> {
        let apart = |pair: &[Part]| {
            let [one, next] = pair else { return true };
            one.first + one.pages <= next.first && one.address + one.pages * PAGE <= next.address
        };
        if !parts.windows(2).all(apart) {
            return Err(OutOfOrder);
        }
        // Of zeros between stored pages the short ones are stored too, if there would be too many segments otherwise.
        let mut least = 1;
        let segments = loop {
            let segments: Vec<Segment> = parts.iter().flat_map(|part| segments(*part, occupied, least)).collect();
            if segments.len() <= MOST_SEGMENTS.max(parts.len()) {
                break segments;
            }
            least *= 2;
        };
        Ok(Self { segments, notes })
    }

    /// What is in front of the pages.
    pub(crate) fn head(&self) -> Vec<u8> {
        let count = self.segments.len() as u64 + 1;
        let notes_at = FILE_HEADER + count * PROGRAM_HEADER;
        let first_page = (notes_at + self.notes.len() as u64).next_multiple_of(PAGE);
        let mut head = Vec::with_capacity(first_page as usize);
        head.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        head.extend([CORE.to_le_bytes(), X86_64.to_le_bytes()].concat());
        head.extend(1_u32.to_le_bytes());
        // No entry, then where the program headers are; there are no sections.
        [0, FILE_HEADER, 0].into_iter().for_each(|number| head.extend(number.to_le_bytes()));
        head.extend(0_u32.to_le_bytes());
        let sizes = [FILE_HEADER as u16, PROGRAM_HEADER as u16, count as u16, 0, 0, 0];
        sizes.into_iter().for_each(|size| head.extend(size.to_le_bytes()));
        head.extend(program_header((NOTE, 0), notes_at, 0, (self.notes.len() as u64, 0), 4));
        let mut at = first_page;
        for segment in &self.segments {
            let sizes = (segment.octets(), segment.pages * PAGE);
            head.extend(program_header((LOAD, ALL), at, segment.address, sizes, PAGE));
            at += sizes.0;
        }
        head.extend(&self.notes);
        head.resize(first_page as usize, 0);
        head
    }

    /// All octets of the file.
    pub(crate) fn length(&self) -> u64 {
        let notes_end = FILE_HEADER + (self.segments.len() as u64 + 1) * PROGRAM_HEADER + self.notes.len() as u64;
        notes_end.next_multiple_of(PAGE) + self.segments.iter().map(Segment::octets).sum::<u64>()
    }

    /// The runs of pages that are stored, first page and count, in the order in which they are in the file.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (u64, u64)> {
        self.segments.iter().filter(|segment| segment.is_stored).map(|segment| (segment.first, segment.pages))
    }
}

/// The segments of one part, where fewer than `least` pages of zeros in a row are stored.
fn segments(part: Part, occupied: Occupied<'_>, least: u64) -> Vec<Segment> {
    let mut all: Vec<Segment> = Vec::new();
    let (mut page, end) = (part.first, part.first + part.pages);
    while page < end {
        let (pages, is_occupied) = occupied.alike(page, end);
        let is_stored = is_occupied || pages < least;
        match all.last_mut() {
            Some(last) if last.is_stored == is_stored => last.pages += pages,
            _ => {
                let address = part.address + (page - part.first) * PAGE;
                all.push(Segment { address, first: page, pages, is_stored });
            }
        }
        page += pages;
    }
    all
}

fn program_header((kind, flags): (u32, u32), at: u64, address: u64, sizes: (u64, u64), align: u64) -> Vec<u8> {
    let mut header: Vec<u8> = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    for number in [at, address, address, sizes.0, sizes.1, align] {
        header.extend(number.to_le_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core_notes::section;

    const PAGES: u64 = 300;

    fn content(page: u64) -> u8 {
        (page % 251 + 1) as u8
    }

    fn bits(occupied: &[bool]) -> Vec<u64> {
        let word = |part: &[bool]| part.iter().rev().fold(0, |word, bit| word << 1 | u64::from(*bit));
        occupied.chunks(64).map(word).collect()
    }

    fn number(file: &[u8], at: u64, octets: u64) -> u64 {
        file[at as usize..][..octets as usize].iter().rev().fold(0, |number, octet| number << 8 | u64::from(*octet))
    }

    /// As a reader does it who knows ELF and nothing else.
    fn read(file: &[u8], address: u64) -> Option<u8> {
        let (table, count) = (number(file, 32, 8), number(file, 56, 2));
        (0..count).map(|at| table + at * 56).filter(|at| number(file, *at, 4) == 1).find_map(|at| {
            let [offset, _, from, stored, length, _] =
                [0, 1, 2, 3, 4, 5].map(|word| number(file, at + 8 + word * 8, 8));
            let within = address.checked_sub(from).filter(|within| *within < length)?;
            Some(if within < stored { file[(offset + within) as usize] } else { 0 })
        })
    }

    fn written(core: &CoreFile, occupied: &[bool]) -> Vec<u8> {
        let mut file = core.head();
        for page in core.stored().flat_map(|(first, count)| first..first + count) {
            let octet = if occupied[page as usize] { content(page) } else { 0 };
            file.extend([octet; PAGE as usize]);
        }
        file
    }

    proptest! {
        #[test]
        fn every_address_reads_as_the_page_that_is_there(
            occupied in prop::collection::vec(any::<bool>(), PAGES as usize),
            hole in 1_u64..100,
            low in 1_u64..150,
            gap in 0_u64..20,
            notes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let parts = [
                Part { address: hole * PAGE, first: 0, pages: low },
                Part { address: (1 << 32), first: low + gap, pages: PAGES - low - gap },
            ];
            let words = bits(&occupied);
            let core = CoreFile::new(&parts, Occupied(&words), notes.clone()).unwrap();
            let file = written(&core, &occupied);
            prop_assert_eq!(file.len() as u64, core.length());
            prop_assert_eq!(section(&file), Some(&notes[..]));
            for page in 0..PAGES {
                let part = parts.iter().find(|part| (part.first..part.first + part.pages).contains(&page));
                let Some(part) = part else { continue };
                let is = if occupied[page as usize] { content(page) } else { 0 };
                let address = part.address + (page - part.first) * PAGE;
                prop_assert_eq!((read(&file, address), read(&file, address + 4095)), (Some(is), Some(is)));
            }
            prop_assert_eq!(read(&file, 0), None);
            prop_assert_eq!(read(&file, (hole + low) * PAGE), None);
            // Only what is not zeros is stored, as long as there are few segments.
            let stored = parts.iter().flat_map(|part| part.first..part.first + part.pages);
            let stored = stored.filter(|page| occupied[*page as usize]).count() as u64;
            prop_assert_eq!(core.stored().map(|(_, count)| count).sum::<u64>(), stored);
        }
    }

    /// Every other page is zeros: short holes are filled until tools can cope, and all still read as they are.
    #[test]
    fn a_memory_in_shreds_has_no_more_segments_than_tools_can_bear() {
        let pages = 40_000_u64;
        let occupied: Vec<bool> = (0..pages).map(|page| page % 2 == 0 && page % 100 < 90).collect();
        let words = bits(&occupied);
        let part = Part { address: 0, first: 0, pages };
        let core = CoreFile::new(&[part], Occupied(&words), Vec::new()).unwrap();
        assert!(core.segments.len() <= MOST_SEGMENTS && core.segments.len() > 1);
        let file = written(&core, &occupied);
        assert_eq!(core.segments.iter().map(|segment| segment.pages).sum::<u64>(), pages);
        for page in (0..pages).step_by(97) {
            let is = if occupied[page as usize] { content(page) } else { 0 };
            assert_eq!(read(&file, page * PAGE), Some(is));
        }
    }

    #[test]
    fn parts_that_overlap_or_go_back_are_refused() {
        let part = |address, first, pages| Part { address, first, pages };
        let none = Occupied(&[]);
        for parts in [[part(0, 0, 4), part(8192, 4, 1)], [part(0, 4, 4), part(1 << 20, 0, 4)]] {
            assert_eq!(CoreFile::new(&parts, none, Vec::new()).unwrap_err(), OutOfOrder);
        }
        assert!(CoreFile::new(&[part(0, 0, 4), part(4 * PAGE, 4, 1)], none, Vec::new()).is_ok());
    }
}
