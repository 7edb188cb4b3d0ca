//! An append-only Merkle log: RFC 9162, section 2.1, with SHA-256.
//!
//! Owns the tree, its proofs and their verification: that an entry is in a log, and that a longer log begins with a shorter
//! one. Who signs a tree's root, and what the entries are, is said where a log is kept.

use crate::sha256;

pub type Hash = [u8; 32];

/// The hash of an entry as a leaf: no leaf can be taken for a node.
pub fn leaf(entry: &[u8]) -> Hash {
    sha256(&[&[0], entry])
}

fn node(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// The hashes of a log's entries, and of all complete subtrees over them.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// `levels[n][i]` is the hash over the entries `i << n` to `(i + 1) << n`.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// How many entries there are.
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// Appends an entry by its leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut carried = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(level) else { return };
            hashes.push(carried);
            match hashes.as_slice() {
                [.., left, right] if hashes.len().is_multiple_of(2) => carried = node(left, right),
                _ => return,
            }
        }
    }

    /// The root over the first `size` entries; none when there are not so many.
    pub fn root(&self, size: u64) -> Option<Hash> {
        if size == 0 { Some(sha256(&[])) } else { self.range(0, size) }
    }

    /// The audit path of entry `index` in the log of `size` entries.
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Hash>> {
        if index >= size {
            return None;
        }
        let (mut path, mut begin, mut end) = (Vec::new(), 0, size);
        while end - begin > 1 {
            let middle = begin + split(end - begin);
            if index < middle {
                path.push(self.range(middle, end)?);
                end = middle;
            } else {
                path.push(self.range(begin, middle)?);
                begin = middle;
            }
        }
        path.reverse();
        Some(path)
    }

    /// The proof that the log of `size` entries begins with that of `before`; empty when they are one or `before` is 0.
    pub fn consistency(&self, before: u64, size: u64) -> Option<Vec<Hash>> {
        if before > size {
            return None;
        }
        if before == 0 || before == size {
            return self.root(size).map(|_| Vec::new());
        }
        let (mut proof, mut begin, mut end, mut whole) = (Vec::new(), 0, size, true);
        while before != end {
            let middle = begin + split(end - begin);
            if before <= middle {
                proof.push(self.range(middle, end)?);
                end = middle;
            } else {
                proof.push(self.range(begin, middle)?);
                (begin, whole) = (middle, false);
            }
        }
        if !whole {
            proof.push(self.range(begin, end)?);
        }
        proof.reverse();
        Some(proof)
    }

    /// The hash over entries `begin` to `end`, where `begin` is a multiple of the subtree's width.
    fn range(&self, begin: u64, end: u64) -> Option<Hash> {
        let width = end.checked_sub(begin).filter(|width| *width > 0)?;
        if width.is_power_of_two() {
            let level = width.trailing_zeros();
            return self.levels.get(level as usize)?.get(usize::try_from(begin >> level).ok()?).copied();
        }
        let middle = begin + split(width);
        Some(node(&self.range(begin, middle)?, &self.range(middle, end)?))
    }
}

/// The largest power of two below `width`, which is above 1.
const fn split(width: u64) -> u64 {
    1 << (u64::BITS - 1 - (width - 1).leading_zeros())
}

/// Whether `path` leads from the entry of hash `leaf` at `index` to `root` over `size` entries (RFC 9162, 2.1.3.2).
pub fn includes(leaf: Hash, index: u64, size: u64, path: &[Hash], root: Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for step in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(step, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node(&hash, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == root
}

/// Whether the log of `size` entries and root `root` begins with that of `before` entries and root `old` (RFC 9162, 2.1.4.2).
pub fn continues(before: u64, old: Hash, size: u64, root: Hash, proof: &[Hash]) -> bool {
    if before == 0 || before == size {
        return before <= size && proof.is_empty() && if before == 0 { old == sha256(&[]) } else { old == root };
    }
    let own = if before.is_power_of_two() { Some(&old) } else { None };
    let mut steps = own.into_iter().chain(proof);
    let Some(first) = steps.next() else { return false };
    if before > size {
        return false;
    }
    let (mut at, mut last) = (before - 1, size - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut of_old, mut of_new) = (*first, *first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            (of_old, of_new) = (node(step, &of_old), node(step, &of_new));
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            of_new = node(&of_new, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && of_old == old && of_new == root
}

#[cfg(test)]
mod tests {
    use lucarne_model::storage::Digest;
    use proptest::prelude::*;

    use super::*;

    /// The definition of RFC 9162, 2.1.1, word for word.
    fn naive(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => sha256(&[]),
            [one] => *one,
            more => {
                let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
                node(&naive(left), &naive(right))
            }
        }
    }
    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|at| leaf(&at.to_be_bytes())).collect()
    }
    fn tree(leaves: &[Hash]) -> Tree {
        let mut tree = Tree::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree
    }

    /// The roots that Certificate Transparency's own tests have for its first entries.
    #[test]
    fn roots_are_those_of_other_implementations() {
        let entries: [&[u8]; 3] = [b"", b"\x00", b"\x10"];
        let leaves: Vec<_> = entries.iter().map(|entry| leaf(entry)).collect();
        let tree = tree(&leaves);
        let root = |size| Digest::from_bytes(tree.root(size).expect("a root")).to_string();
        assert_eq!(root(0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(root(1), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        assert_eq!(root(2), "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
        assert_eq!(root(3), "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77");
    }

    proptest! {
        #[test]
        fn every_root_is_that_of_the_naive_tree(count in 0..70usize) {
            let leaves = leaves(count);
            let tree = tree(&leaves);
            for size in 0..=count {
                prop_assert_eq!(tree.root(size as u64), Some(naive(&leaves[..size])));
            }
            prop_assert_eq!(tree.root(count as u64 + 1), None);
        }

        /// An entry is in a log, at its place and at no other, and another entry is not.
        #[test]
        fn inclusion_proves_one_entry_at_one_place(size in 1..70u64, at in any::<prop::sample::Index>(), other in 0..70u64) {
            let leaves = leaves(size as usize);
            let (tree, index) = (tree(&leaves), at.index(size as usize) as u64);
            let (path, root) = (tree.inclusion(index, size).expect("a path"), naive(&leaves));
            prop_assert!(includes(leaves[index as usize], index, size, &path, root));
            prop_assert!(!includes(leaf(b"other"), index, size, &path, root));
            prop_assert_eq!(includes(leaves[index as usize], other, size, &path, root), other == index);
            let longer = [path.as_slice(), &[[0; 32]]].concat();
            prop_assert!(!includes(leaves[index as usize], index, size, &longer, root));
        }

        /// A longer log begins with a shorter one, and with no other of that length.
        #[test]
        fn consistency_proves_one_history(size in 0..70u64, at in any::<prop::sample::Index>(), changed in any::<prop::sample::Index>()) {
            let leaves = leaves(size as usize);
            let (tree_now, before) = (tree(&leaves), at.index(size as usize + 1) as u64);
            let proof = tree_now.consistency(before, size).expect("a proof");
            let (old, root) = (naive(&leaves[..before as usize]), naive(&leaves));
            prop_assert!(continues(before, old, size, root, &proof));
            prop_assert!(!continues(before, leaf(b"other"), size, root, &proof));
            if before > 0 {
                let mut forked = leaves.clone();
                forked[changed.index(before as usize)] = leaf(b"rewritten");
                let fork = tree(&forked);
                let theirs = fork.consistency(before, size).expect("a proof");
                prop_assert!(!continues(before, old, size, naive(&forked), &theirs));
                prop_assert!(!continues(before, old, size, naive(&forked), &proof));
            }
            let longer = [proof.as_slice(), &[[0; 32]]].concat();
            prop_assert!(!continues(before, old, size, root, &longer));
        }
    }

    #[test]
    fn no_proof_is_made_or_taken_of_a_log_that_shrank() {
        let tree = tree(&leaves(5));
        assert_eq!(tree.consistency(5, 4), None);
        assert_eq!(tree.consistency(3, 6), None);
        assert_eq!(tree.inclusion(5, 5), None);
        assert!(!continues(5, [0; 32], 4, [0; 32], &[[0; 32]]));
        assert!(!includes([0; 32], 0, 0, &[], [0; 32]));
    }
}
