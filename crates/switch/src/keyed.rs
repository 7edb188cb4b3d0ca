//! A hash for the maps that packets ask: two multiplications under a secret key, where the standard library's takes some
//! twenty rounds.
//!
//! Owns the hasher. Guests and tenants choose addresses, so the key must be secret: without it nobody can make addresses
//! that collide (as with the flow table's own hash, and foldhash's). For keys of at most eight octets.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher},
};

/// A map from a number of at most 64 bits.
pub(crate) type KeyedMap<K, V> = HashMap<K, V, Keyed>;

/// Makes hashers of one secret key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keyed(u64);

impl Keyed {
    pub(crate) const fn new(secret: u64) -> Self {
        Self(secret)
    }
}

impl BuildHasher for Keyed {
    type Hasher = KeyedHasher;
    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher(self.0)
    }
}

#[derive(Debug)]
pub(crate) struct KeyedHasher(u64);

const PHI: u64 = 0x9e37_79b9_7f4a_7c15;

/// The whole product of two words, folded to one.
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    product as u64 ^ (product >> 64) as u64
}

impl Hasher for KeyedHasher {
    fn finish(&self) -> u64 {
        fold(self.0, PHI)
    }
    fn write(&mut self, bytes: &[u8]) {
        for octets in bytes.chunks(8) {
            self.write_u64(octets.iter().fold(0, |word, octet| word << 8 | u64::from(*octet)));
        }
    }
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word, PHI ^ self.0.rotate_left(32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses of a subnet follow one another: neither half of their hashes may be crowded.
    #[test]
    fn hashes_of_neighbours_spread_evenly() {
        for secret in [1, 7, u64::MAX, 0x5555_5555_0000_0000] {
            let keyed = Keyed::new(secret);
            let (mut low, mut high) = (vec![0u32; 256], vec![0u32; 256]);
            for address in 0x0a00_0000u32..0x0a00_4000 {
                let hash = keyed.hash_one(address);
                low[hash as usize & 255] += 1;
                high[(hash >> 56) as usize] += 1;
            }
            for count in low.iter().chain(&high) {
                assert!((20..130).contains(count), "64 expected in each of 256 under {secret:#x}: {count}");
            }
        }
    }

    #[test]
    fn another_key_is_another_order() {
        let [one, two] = [Keyed::new(1), Keyed::new(2)];
        assert!((0..100u32).all(|address| one.hash_one(address) != two.hash_one(address)));
    }
}
