//! The log of all requests, allowed or refused: each entry names the one before it, and the host signs the tree over all.
//!
//! Owns entries, heads, commitments to entries that are not yet to be read, and the proofs that a tenant checks. The tree is
//! [`merkle`]'s; keeping the entries on disk, before anything is carried out, is the host's.

use lucarne_model::{AccountId, HostId, InstanceId, Moment, Octets, storage::Digest};
use lucarne_statement::{
    canonical::{self, CanonicalError},
    merkle::{self, Tree},
    proof::{Consistency, Inclusion, prove_consistency, prove_inclusion},
    sha256,
    signing::{Envelope, PublicKey, SigningError, Statement},
};
use serde::{Deserialize, Serialize};

use crate::{operation::OperationName, request::RequestId, trust::Person};

/// What stands before a record in its commitment, so that it is no other digest.
const COMMITMENT: &[u8] = b"lucarne seal log commitment v1\0";
pub const BLINDING: usize = 32;

/// Why a log or a part of it is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("the head: {0}")]
    Head(#[from] SigningError),
    #[error("the entry cannot be written: {0}")]
    Entry(#[from] CanonicalError),
    #[error("entry {found} does not follow entry {expected}")]
    Order { expected: u64, found: u64 },
    #[error("entry {0} does not name the one before it: something was changed or taken out")]
    Chain(u64),
    #[error("entry {index} is not proved to be among the log's {size}")]
    NotIncluded { index: u64, size: u64 },
    #[error("the log of {size} entries does not begin with the {before} that were seen")]
    Forked { before: u64, size: u64 },
    #[error("what was opened is not what the log committed itself to")]
    Commitment,
}

/// What is known of one request when it is logged, before anything is carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub request: RequestId,
    pub verdict: Verdict,
    /// Of requests that could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verdict {
    Allowed,
    /// With the reason's code.
    Refused(lucarne_model::ErrorCode),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub operation: OperationName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Whose entry it is, beside the operator's.
    pub account: AccountId,
    pub signers: Vec<Person>,
    pub purpose: String,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub index: u64,
    /// The leaf hash of the entry before; zeros in the first.
    pub previous: Digest,
    pub time: Moment,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Content {
    Open(Record),
    /// That there is an entry, and nothing of what it says before the embargo is over.
    Sealed {
        commitment: Digest,
        embargo_until: Moment,
    },
}

/// What shows, later, what an entry said from the beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    pub record: Record,
    pub blinding: Octets,
}

impl Opening {
    /// The record, with octets that the caller drew from a good random source: without them it could be guessed.
    pub fn new(record: Record, blinding: [u8; BLINDING]) -> Self {
        Self { record, blinding: blinding[..].into() }
    }
    pub fn commitment(&self) -> Result<Digest, LogError> {
        let record = canonical::write(&self.record)?;
        Ok(Digest::from_bytes(sha256(&[COMMITMENT, &sha256(&[&self.blinding]), &record])))
    }
    /// Whether this is what the entry committed itself to.
    pub fn opens(&self, entry: &Entry) -> Result<(), LogError> {
        let own = self.commitment()?;
        let same = matches!(&entry.content, Content::Sealed { commitment, .. } if *commitment == own);
        if same && self.blinding.len() == BLINDING { Ok(()) } else { Err(LogError::Commitment) }
    }
}

impl Entry {
    /// The entry in the tree.
    pub fn leaf(&self) -> Result<merkle::Hash, LogError> {
        Ok(merkle::leaf(&canonical::write(self)?))
    }
}

/// The log at one time, as the host signs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub host: HostId,
    pub size: u64,
    pub root: Digest,
    pub time: Moment,
}

impl Statement for Head {
    const TYPE: &'static str = "application/vnd.lucarne.seal-log-head.v1+json";
}

impl Head {
    pub fn open(envelope: &Envelope, key: &PublicKey) -> Result<Self, LogError> {
        Ok(key.open(envelope)?)
    }
    /// Whether the entry is in the log of this head.
    pub fn includes(&self, entry: &Entry, proof: &Inclusion) -> Result<(), LogError> {
        let proved = proof.index == entry.index && proof.proves(entry.leaf()?, self.size, &self.root);
        if proved { Ok(()) } else { Err(LogError::NotIncluded { index: entry.index, size: self.size }) }
    }
    /// Whether this log only grew since a head that was seen before.
    pub fn continues(&self, seen: &Self, proof: &Consistency) -> Result<(), LogError> {
        let grown = proof.proves(seen.size, &seen.root, self.size, &self.root) && seen.host == self.host;
        if grown { Ok(()) } else { Err(LogError::Forked { before: seen.size, size: self.size }) }
    }
}

/// The log's hashes: enough to append, to sign and to prove. Entries themselves are on disk.
#[derive(Clone, Debug, Default)]
pub struct Log {
    tree: Tree,
    last: Option<merkle::Hash>,
}

impl Log {
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The next entry; to be written to disk and then [`held`](Self::hold).
    pub fn next(&self, content: Content, time: Moment) -> Entry {
        Entry { index: self.size(), previous: self.previous(), time, content }
    }

    /// Holds the next entry: one that was just written, or one read from disk.
    pub fn hold(&mut self, entry: &Entry) -> Result<(), LogError> {
        if entry.index != self.size() {
            return Err(LogError::Order { expected: self.size(), found: entry.index });
        }
        if entry.previous != self.previous() {
            return Err(LogError::Chain(entry.index));
        }
        let leaf = entry.leaf()?;
        self.tree.push(leaf);
        self.last = Some(leaf);
        Ok(())
    }

    /// What holds now; to be signed.
    pub fn head(&self, host: HostId, time: Moment) -> Head {
        let root = self.tree.root(self.size()).unwrap_or_default();
        Head { host, size: self.size(), root: Digest::from_bytes(root), time }
    }
    pub fn prove_inclusion(&self, index: u64, size: u64) -> Option<Inclusion> {
        prove_inclusion(&self.tree, index, size)
    }
    pub fn prove_consistency(&self, before: u64, size: u64) -> Option<Consistency> {
        prove_consistency(&self.tree, before, size)
    }

    fn previous(&self) -> Digest {
        Digest::from_bytes(self.last.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
