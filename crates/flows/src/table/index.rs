//! From a hash to a place in the table: open addressing with linear probing over one array of words.
//!
//! Owns the array. Each word holds 32 bits of the hash and the slot, so that a look-up touches the flow's own line only when
//! it is very likely the right one. The array never grows: twice the table's capacity, in pages that the system gives when
//! they are first used.

/// Words of `hash << 32 | slot + 1`; zero is free.
#[derive(Debug)]
pub(super) struct Index {
    words: Vec<u64>,
    mask: usize,
}

const fn hash_of(word: u64) -> u32 {
    (word >> 32) as u32
}
const fn slot_of(word: u64) -> u32 {
    (word as u32).wrapping_sub(1)
}

impl Index {
    pub(super) fn for_capacity(capacity: usize) -> Self {
        let size = (capacity * 2).next_power_of_two().max(16);
        Self { words: vec![0; size], mask: size - 1 }
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

    /// The caller keeps at most the capacity in it, so a free word is always found.
    pub(super) fn insert(&mut self, hash: u32, slot: u32) {
        let mut at = hash as usize & self.mask;
        while self.words[at] != 0 {
            at = (at + 1) & self.mask;
        }
        self.words[at] = u64::from(hash) << 32 | u64::from(slot + 1);
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
            let mut index = Index::for_capacity(16);
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
