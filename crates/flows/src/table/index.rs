//! From a hash to a place in the table: open addressing with linear probing over one array of words.
//!
//! Owns the array. Each word holds 32 bits of the hash and the slot, so that a look-up touches the flow's own line only when
//! it is very likely the right one. The array doubles when it is half full, from its own words alone: a small one stays in
//! the processor's caches, which halves the time of a look-up. The largest step, at half a million flows, takes some
//! milliseconds, once.

/// Words of `hash << 32 | slot + 1`; zero is free.
#[derive(Debug)]
pub(super) struct Index {
    words: Vec<u64>,
    mask: usize,
    used: usize,
}

/// The size before the first doubling.
const FIRST_SIZE: usize = 1024;

const fn hash_of(word: u64) -> u32 {
    (word >> 32) as u32
}
const fn slot_of(word: u64) -> u32 {
    (word as u32).wrapping_sub(1)
}

impl Index {
    pub(super) fn new() -> Self {
        Self::of_size(FIRST_SIZE)
    }

    fn of_size(size: usize) -> Self {
        Self { words: vec![0; size], mask: size - 1, used: 0 }
    }

    /// Bytes of memory.
    pub(super) fn footprint(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    /// The slot under `hash` for which `is_it` holds.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = hash as usize & self.mask;
        loop {
            let word = self.words[at];
            if word == 0 {
                return None;
            }
            if hash_of(word) == hash && is_it(slot_of(word)) {
                return Some(slot_of(word));
            }
            at = (at + 1) & self.mask;
        }
    }

    pub(super) fn insert(&mut self, hash: u32, slot: u32) {
        if (self.used + 1) * 2 > self.words.len() {
            self.double();
        }
        self.put(u64::from(hash) << 32 | u64::from(slot + 1));
    }

    fn put(&mut self, word: u64) {
        let mut at = hash_of(word) as usize & self.mask;
        while self.words[at] != 0 {
            at = (at + 1) & self.mask;
        }
        self.words[at] = word;
        self.used += 1;
    }

    fn double(&mut self) {
        let larger = Self::of_size(self.words.len() * 2);
        let old = std::mem::replace(self, larger);
        for word in old.words.into_iter().filter(|word| *word != 0) {
            self.put(word);
        }
    }

    /// Takes `slot` out and moves up what stood behind it only because of it (Knuth 6.4, algorithm R).
    pub(super) fn remove(&mut self, hash: u32, slot: u32) {
        let wanted = u64::from(hash) << 32 | u64::from(slot + 1);
        let mut hole = hash as usize & self.mask;
        while self.words[hole] != wanted {
            if self.words[hole] == 0 {
                return;
            }
            hole = (hole + 1) & self.mask;
        }
        self.used -= 1;
        let mut at = hole;
        loop {
            self.words[hole] = 0;
            loop {
                at = (at + 1) & self.mask;
                let word = self.words[at];
                if word == 0 {
                    return;
                }
                let home = hash_of(word) as usize & self.mask;
                if at.wrapping_sub(home) & self.mask >= at.wrapping_sub(hole) & self.mask {
                    self.words[hole] = word;
                    hole = at;
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few distinct hashes, so that runs collide, wrap around and are closed again.
        #[test]
        fn it_finds_what_a_map_finds(steps in prop::collection::vec((0u32..24, 0u32..16, any::<bool>()), 1..200)) {
            let mut index = Index::of_size(4);
            let mut map = BTreeMap::new();
            for (hash, slot, add) in steps {
                let hash = hash | 0xffff_ffe8;
                match map.get(&slot).copied() {
                    None if add => {
                        index.insert(hash, slot);
                        map.insert(slot, hash);
                    }
                    Some(hash) if !add => {
                        index.remove(hash, slot);
                        map.remove(&slot);
                    }
                    _ => {}
                }
                for slot in 0..16 {
                    let found = map.get(&slot).is_some_and(|hash| index.find(*hash, |s| s == slot).is_some());
                    prop_assert_eq!(found, map.contains_key(&slot));
                }
            }
        }
    }
}
