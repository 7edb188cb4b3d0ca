//! A publisher's log: signed heads over an append-only tree, with what holds as of each head.
//!
//! Owns heads, the proof that an entry is under one, and the finding that two heads do not have one history. A head also
//! says, of each series of manifests, the newest version and those that are revoked: so that one signed document, without
//! the log, shows that a manifest still holds. The tree is [`merkle`]'s, keeping it is the notary's.

use lucarne_model::{ErrorCode, Moment, storage::Digest};
use serde::{Deserialize, Serialize};

use crate::{
    canonical, merkle,
    signing::{Envelope, PublicKey, SigningError, Statement},
};
pub use lucarne_statement::proof::{Consistency, Inclusion, prove_consistency, prove_inclusion};

/// Why a log is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("the head of the log: {0}")]
    Head(SigningError),
    #[error("the entry is not proved to be number {index} of the log's {size}")]
    NotIncluded { index: u64, size: u64 },
    #[error("the log of {size} entries does not begin with the {before} that were seen: it was forked or rewritten")]
    Forked { before: u64, size: u64 },
    #[error("the log had {before} entries and has {size}: what was seen is gone")]
    Shrunk { before: u64, size: u64 },
    #[error("two heads with {size} entries are not the same")]
    TwoHeads { size: u64 },
    #[error("the head was signed at {time}, and it is {now} (seconds since 1970): it may be an old one")]
    Stale { time: u64, now: u64 },
}

impl LogError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Head(_) => ErrorCode::ManifestInvalid,
            Self::NotIncluded { .. } => ErrorCode::ManifestNotLogged,
            Self::Forked { .. } | Self::Shrunk { .. } | Self::TwoHeads { .. } => ErrorCode::LogForked,
            Self::Stale { .. } => ErrorCode::LogStale,
        }
    }
}

/// The log as a whole at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub publisher: String,
    /// How many entries the tree has.
    pub size: u64,
    pub root: Digest,
    pub time: Moment,
    /// What holds, series by series, ascending by name.
    pub standings: Vec<Standing>,
}

impl Statement for Head {
    const TYPE: &'static str = "application/vnd.lucarne.log-head.v1+json";
}

/// What holds of one series of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    pub name: String,
    /// The newest version that was published.
    pub newest: u64,
    /// The oldest version that may still be used, as the newest manifest says.
    pub oldest_accepted: u64,
    /// Versions that are revoked, ascending.
    pub revoked: Vec<u64>,
}

/// What an envelope is in the tree: the hash of its canonical JSON.
pub fn leaf(entry: &Envelope) -> Result<merkle::Hash, SigningError> {
    Ok(merkle::leaf(&canonical::write(entry)?))
}

impl Head {
    pub fn open(envelope: &Envelope, key: &PublicKey) -> Result<Self, LogError> {
        key.open(envelope).map_err(LogError::Head)
    }

    pub fn standing(&self, name: &str) -> Option<&Standing> {
        self.standings.iter().find(|standing| standing.name == name)
    }

    /// Whether the entry with this leaf hash is in the log.
    pub fn includes(&self, leaf: merkle::Hash, proof: &Inclusion) -> Result<(), LogError> {
        let refused = LogError::NotIncluded { index: proof.index, size: self.size };
        if proof.proves(leaf, self.size, &self.root) { Ok(()) } else { Err(refused) }
    }

    /// Whether this head has the same history as one that was seen before: the proof is needed only between two sizes, of which
    /// the first is not that of an empty log, which everything goes on from.
    pub fn continues(&self, seen: &Self, proof: Option<&Consistency>) -> Result<(), LogError> {
        let (before, size) = (seen.size, self.size);
        if size < before {
            return Err(LogError::Shrunk { before, size });
        }
        if size == before {
            return if self.root == seen.root { Ok(()) } else { Err(LogError::TwoHeads { size }) };
        }
        if before == 0 || proof.is_some_and(|proof| proof.proves(before, &seen.root, size, &self.root)) {
            Ok(())
        } else {
            Err(LogError::Forked { before, size })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::Tree;

    fn tree(entries: &[&str]) -> Tree {
        let mut tree = Tree::default();
        entries.iter().for_each(|entry| tree.push(merkle::leaf(entry.as_bytes())));
        tree
    }
    fn head(tree: &Tree) -> Head {
        let root = Digest::from_bytes(tree.root(tree.size()).expect("a root"));
        Head { publisher: "notary".into(), size: tree.size(), root, time: Moment::EPOCH, standings: Vec::new() }
    }

    #[test]
    fn a_reader_who_saw_one_history_is_not_shown_another() {
        let (seen, longer, fork) = (tree(&["a", "b"]), tree(&["a", "b", "c"]), tree(&["a", "x", "c"]));
        let proof = prove_consistency(&longer, 2, 3);
        assert_eq!(head(&longer).continues(&head(&seen), proof.as_ref()), Ok(()));
        let forked = prove_consistency(&fork, 2, 3);
        let refused = [
            head(&fork).continues(&head(&seen), forked.as_ref()),
            head(&fork).continues(&head(&seen), proof.as_ref()),
            head(&longer).continues(&head(&seen), None),
            head(&seen).continues(&head(&longer), None),
            head(&fork).continues(&head(&longer), None),
        ];
        for result in refused {
            assert_eq!(result.expect_err("refused").code(), ErrorCode::LogForked);
        }
    }

    #[test]
    fn an_entry_that_is_not_in_the_log_has_no_proof() {
        let log = tree(&["a", "b", "c"]);
        let proof = prove_inclusion(&log, 1, 3).expect("a proof");
        assert_eq!(head(&log).includes(merkle::leaf(b"b"), &proof), Ok(()));
        let refused = head(&log).includes(merkle::leaf(b"x"), &proof).expect_err("refused");
        assert_eq!(refused.code(), ErrorCode::ManifestNotLogged);
        let old = prove_inclusion(&log, 1, 2).expect("a proof");
        assert!(head(&log).includes(merkle::leaf(b"b"), &old).is_err(), "a proof is for one head");
    }
}
