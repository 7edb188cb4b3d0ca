//! The proofs of a log as they travel: that an entry is in it, and that a longer log begins with a shorter one.
//!
//! Owns their JSON. The tree that they are made from and the arithmetic are [`merkle`]'s.

use lucarne_model::storage::Digest;
use serde::{Deserialize, Serialize};

use crate::merkle::{self, Tree};

/// That an entry is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inclusion {
    pub index: u64,
    /// The size of the tree that it was proved in.
    pub size: u64,
    pub path: Vec<Digest>,
}

impl Inclusion {
    /// Whether the entry with this leaf hash is in the log of `size` entries and that root.
    pub fn proves(&self, leaf: merkle::Hash, size: u64, root: &Digest) -> bool {
        self.size == size && merkle::includes(leaf, self.index, size, &hashes(&self.path), root.to_bytes())
    }
}

/// That a longer log begins with a shorter one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    pub before: u64,
    pub size: u64,
    pub path: Vec<Digest>,
}

impl Consistency {
    /// Whether the log of `size` entries and that root begins with the one of `before` entries and the root `old`.
    pub fn proves(&self, before: u64, old: &Digest, size: u64, root: &Digest) -> bool {
        let meant = (self.before, self.size) == (before, size);
        meant && merkle::continues(before, old.to_bytes(), size, root.to_bytes(), &hashes(&self.path))
    }
}

/// The proof of entry `index` in the tree's first `size` entries.
pub fn prove_inclusion(tree: &Tree, index: u64, size: u64) -> Option<Inclusion> {
    Some(Inclusion { index, size, path: digests(tree.inclusion(index, size)?) })
}

/// The proof that the tree's first `size` entries begin with its first `before`.
pub fn prove_consistency(tree: &Tree, before: u64, size: u64) -> Option<Consistency> {
    Some(Consistency { before, size, path: digests(tree.consistency(before, size)?) })
}

fn digests(path: Vec<merkle::Hash>) -> Vec<Digest> {
    path.into_iter().map(Digest::from_bytes).collect()
}
fn hashes(path: &[Digest]) -> Vec<merkle::Hash> {
    path.iter().map(Digest::to_bytes).collect()
}
