//! The pool of compressed pages in the host's memory: nearer than the disk, bounded, and outliving its pager.
//!
//! Owns the places in it and which pages are the oldest. It lies in a memory file that the machine's shim holds; nothing
//! in the file says what is where, that is in the index. Each copy begins with a checksum over its page's number, its
//! generation and its octets, so that a copy that is not what the index says is noticed before it is decompressed.
//!
//! Room is cut into chunks of 64 KiB, each for copies of one size class; a chunk that is empty is given back.

use std::{collections::VecDeque, fs::File, io, ops::Range};

use rustix::fs::{FallocateFlags, fallocate};

use crate::{
    page::{PAGE, Page},
    places::{Away, Copy},
    shared::Arena,
};

/// Copies are placed at multiples of this, and take multiples of it.
const UNIT: usize = 256;
const CHUNK: usize = 64 << 10;
/// A page that compresses to more than this is kept on the disk: the pool would save too little.
const LARGEST: usize = 3072;
const CHECKSUM: usize = 4;

/// A page as the pool would keep it.
#[derive(Debug)]
pub(crate) struct Compressed {
    room: Vec<u8>,
    length: usize,
}

impl Compressed {
    pub(crate) fn new() -> Self {
        Self { room: vec![0; CHECKSUM + lz4_flex::block::get_maximum_output_size(PAGE)], length: 0 }
    }

    /// Compresses `content`; false when it is not worth it.
    pub(crate) fn take(&mut self, page: u64, generation: u64, content: &Page) -> bool {
        let compressed = lz4_flex::block::compress_into(&content.0, &mut self.room[CHECKSUM..]);
        self.length = compressed.map_or(usize::MAX, |length| CHECKSUM + length);
        if self.length > LARGEST {
            return false;
        }
        let sum = checksum(page, generation, &self.room[CHECKSUM..self.length]);
        self.room[..CHECKSUM].copy_from_slice(&sum);
        true
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.room[..self.length]
    }
}

/// Opens what [`Compressed`] made; false when it is not this page's content of this generation.
pub(crate) fn decompress(page: u64, generation: u64, bytes: &[u8], content: &mut Page) -> bool {
    let Some((sum, rest)) = bytes.split_at_checked(CHECKSUM) else { return false };
    // The decoder is for what the encoder made, and for nothing else.
    checksum(page, generation, rest) == sum
        && lz4_flex::block::decompress_into(rest, &mut content.0).is_ok_and(|length| length == PAGE)
}

fn checksum(page: u64, generation: u64, compressed: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&page.to_le_bytes());
    hasher.update(&generation.to_le_bytes());
    hasher.update(compressed);
    hasher.finalize().to_le_bytes()
}

#[derive(Clone, Copy, Debug, Default)]
struct Chunk {
    /// Units of a copy; 0: the chunk is free.
    class: usize,
    /// A bit for each copy's place.
    used: [u64; 4],
    live: usize,
}

#[derive(Debug)]
pub(crate) struct Pool {
    file: File,
    arena: Arena,
    chunks: Vec<Chunk>,
    /// Chunks that have room, by class; one may be named that is full or another's by now.
    open: [Vec<u32>; LARGEST / UNIT + 1],
    free: Vec<u32>,
    /// Pages with the unit of their copy, oldest first; some are gone by now.
    oldest: VecDeque<(u32, u32)>,
    live: usize,
}

impl Pool {
    /// A pool of at most `limit` octets in `file`, with the copies that the index knows, as (page, unit, octets).
    pub(crate) fn new(file: File, limit: u64, known: impl Iterator<Item = (u64, Copy, u16)>) -> io::Result<Self> {
        let before = file.metadata()?.len() as usize / CHUNK;
        let count = (limit as usize / CHUNK).max(before);
        let arena = Arena::map(&file, (count * CHUNK).max(CHUNK))?;
        let chunks = vec![Chunk::default(); count];
        let (open, oldest) = (std::array::from_fn(|_| Vec::new()), VecDeque::new());
        let mut pool = Self { file, arena, chunks, open, free: Vec::new(), oldest, live: 0 };
        for (page, copy, length) in known {
            pool.mark(page, copy.at, usize::from(length).div_ceil(UNIT));
        }
        let limit = limit as usize / CHUNK;
        for at in (0..count).rev() {
            match pool.chunks[at].class {
                0 if at < limit => pool.free.push(at as u32),
                0 => {}
                class => pool.open[class].push(at as u32),
            }
        }
        Ok(pool)
    }

    fn mark(&mut self, page: u64, unit: u32, class: usize) {
        let Some((at, bit)) = self.place(unit, class) else { return };
        self.chunks[at].class = class;
        self.chunks[at].used[bit / 64] |= 1 << (bit % 64);
        self.chunks[at].live += 1;
        self.live += 1;
        self.oldest.push_back((page as u32, unit));
    }

    /// The chunk and the number within it of a copy.
    fn place(&self, unit: u32, class: usize) -> Option<(usize, usize)> {
        let at = unit as usize * UNIT / CHUNK;
        let bit = (unit as usize * UNIT % CHUNK) / UNIT / class.max(1);
        (class > 0 && at < self.chunks.len()).then_some((at, bit))
    }

    /// Octets that the pool takes of the host's memory.
    pub(crate) fn size(&self) -> u64 {
        (self.chunks.iter().filter(|chunk| chunk.class > 0).count() * CHUNK) as u64
    }
    #[cfg(test)]
    const fn copies(&self) -> usize {
        self.live
    }

    /// Whether it is time to make room: less than an eighth of the chunks is free.
    pub(crate) const fn is_crowded(&self) -> bool {
        self.live > 0 && self.free.len() * 8 < self.chunks.len()
    }

    /// Whether to compress anything for it. What is left in chunks of some sizes, when no chunk is free, is not looked for.
    pub(crate) const fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Keeps a copy; none when the pool is full.
    pub(crate) fn keep(&mut self, page: u64, bytes: &[u8]) -> Option<u32> {
        let class = bytes.len().div_ceil(UNIT);
        let (at, bit) = self.room(class)?;
        self.chunks[at].used[bit / 64] |= 1 << (bit % 64);
        self.chunks[at].live += 1;
        self.live += 1;
        let unit = ((at * CHUNK) / UNIT + bit * class) as u32;
        self.arena.bytes_mut()[unit as usize * UNIT..][..bytes.len()].copy_from_slice(bytes);
        self.oldest.push_back((page as u32, unit));
        Some(unit)
    }

    fn room(&mut self, class: usize) -> Option<(usize, usize)> {
        while let Some(&at) = self.open.get(class)?.last() {
            let chunk = &self.chunks[at as usize];
            let fits = CHUNK / UNIT / class;
            let free = (0..fits).find(|bit| chunk.used[bit / 64] >> (bit % 64) & 1 == 0);
            match free.filter(|_| chunk.class == class) {
                Some(bit) => return Some((at as usize, bit)),
                None => drop(self.open[class].pop()),
            }
        }
        let at = self.free.pop()?;
        self.chunks[at as usize] = Chunk { class, ..Chunk::default() };
        self.open[class].push(at);
        Some((at as usize, 0))
    }

    /// The octets of a copy; empty when there can be none there.
    pub(crate) fn copy(&self, copy: Copy, length: u16) -> &[u8] {
        let start = copy.at as usize * UNIT;
        let range: Range<usize> = start..start + usize::from(length);
        self.arena.bytes().get(range).unwrap_or_default()
    }

    pub(crate) fn free(&mut self, copy: Copy, length: u16) {
        let class = usize::from(length).div_ceil(UNIT);
        let Some((at, bit)) = self.place(copy.at, class) else { return };
        let chunk = &mut self.chunks[at];
        let mask = 1 << (bit % 64);
        if chunk.class != class || chunk.used[bit / 64] & mask == 0 {
            return;
        }
        let was_full = chunk.live == CHUNK / UNIT / class;
        chunk.used[bit / 64] &= !mask;
        chunk.live -= 1;
        self.live -= 1;
        if chunk.live == 0 {
            *chunk = Chunk::default();
            self.free.push(at as u32);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if let Err(error) = fallocate(&self.file, flags, (at * CHUNK) as u64, CHUNK as u64) {
                tracing::warn!(%error, "a part of the pool cannot be given back to the host");
            }
        } else if was_full {
            self.open[class].push(at as u32);
        }
    }

    /// The page that has been in the pool longest, and where its copy was put; both may have moved on since.
    pub(crate) fn oldest(&mut self) -> Option<(u64, u32)> {
        self.oldest.pop_front().map(|(page, unit)| (u64::from(page), unit))
    }

    /// These are the oldest still: they could not be moved.
    pub(crate) fn put_back(&mut self, oldest: &[(u64, u32)]) {
        oldest.iter().rev().for_each(|(page, unit)| self.oldest.push_front((*page as u32, *unit)));
    }

    /// Forgets who is not here any more, when there are many of them.
    pub(crate) fn tidy(&mut self, is_at: impl Fn(u64) -> Option<Away>) {
        if self.oldest.len() > 2 * self.live + 4096 {
            self.oldest.retain(|(page, unit)| match is_at(u64::from(*page)) {
                Some(Away::Compressed(copy, _)) => copy.at == *unit,
                _ => false,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn file() -> File {
        memfd_create("pool", MemfdFlags::CLOEXEC).unwrap().into()
    }

    fn content(seed: u64) -> Page {
        let mut page = Page::ZERO;
        let noise = (seed % 40) as usize * 64;
        for (at, byte) in page.0[..noise].iter_mut().enumerate() {
            *byte = (seed.wrapping_mul(6_364_136_223_846_793_005).rotate_left(at as u32 % 64) >> 7) as u8;
        }
        page
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Kept, freed and kept again in any order, and by a second pool over the same file: no copy lies upon another.
        #[test]
        fn every_copy_is_as_it_was_kept(steps in prop::collection::vec((any::<bool>(), any::<u64>()), 1..300)) {
            let file = file();
            let mut pool = Pool::new(file.try_clone().unwrap(), 1 << 20, std::iter::empty()).unwrap();
            let mut kept: Vec<(u64, Copy, u16)> = Vec::new();
            let mut compressed = Compressed::new();
            for (generation, (keep, seed)) in steps.into_iter().enumerate() {
                let generation = generation as u64;
                if keep || kept.is_empty() {
                    prop_assert!(compressed.take(seed, generation, &content(seed)));
                    let Some(at) = pool.keep(seed, compressed.bytes()) else { continue };
                    kept.push((seed, Copy { at, generation }, compressed.bytes().len() as u16));
                } else {
                    let (_, copy, length) = kept.swap_remove(seed as usize % kept.len());
                    pool.free(copy, length);
                }
            }
            prop_assert_eq!(pool.copies(), kept.len());
            let again = Pool::new(file, 1 << 20, kept.iter().copied()).unwrap();
            prop_assert_eq!(again.size(), pool.size());
            for (page, copy, length) in kept {
                let mut found = Page::ZERO;
                prop_assert!(decompress(page, copy.generation, again.copy(copy, length), &mut found));
                prop_assert!(found.0 == content(page).0);
                prop_assert!(!decompress(page, copy.generation + 1, again.copy(copy, length), &mut found));
            }
        }
    }

    #[test]
    fn a_full_pool_refuses_and_an_empty_one_takes_no_memory() {
        let mut pool = Pool::new(file(), 128 << 10, std::iter::empty()).unwrap();
        let copies: Vec<u32> = std::iter::from_fn(|| pool.keep(1, &[1; LARGEST])).collect();
        assert_eq!(copies.len(), 2 * (CHUNK / LARGEST));
        assert_eq!(pool.size(), 128 << 10);
        for at in copies {
            pool.free(Copy { at, generation: 0 }, LARGEST as u16);
        }
        assert_eq!(pool.size(), 0);
        use std::os::unix::fs::MetadataExt;
        assert_eq!(pool.file.metadata().unwrap().blocks(), 0);
    }
}
