//! What the log holds: which manifests there are, which of them stand, and what may be appended next.
//!
//! Owns the rules of a series: versions rise one by one, the oldest accepted never falls, a version is revoked once, and a
//! revocation is never taken back. Pure: it is given each entry, first to be judged and then, when it is on disk, to be held.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet};

use lucarne_attest::{
    log::{self, Consistency, Head, Inclusion, Standing},
    manifest::{Manifest, Revocation},
    merkle::{Hash, Tree},
    signing::{Envelope, PublicKey, SigningError, Statement as _},
};
use lucarne_model::{Moment, storage::Digest};

/// Why an entry is not one of this log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("the entry: {0}")]
    Entry(SigningError),
    #[error("entries of type `{0}` are not kept")]
    Type(String),
    #[error("the entry is of publisher `{found}`, the log of `{own}`")]
    Publisher { found: String, own: String },
    #[error("the next version of {name} is {next}, not {found}")]
    Version { name: String, next: u64, found: u64 },
    #[error("{name} accepts no version before {accepted}; that cannot be taken back to {found}")]
    TakenBack { name: String, accepted: u64, found: u64 },
    #[error("version {found} of {name} cannot accept none that is as old as itself, but {oldest}")]
    Future { name: String, found: u64, oldest: u64 },
    #[error("the measurements of {name} are not sorted, or one is there twice")]
    Unsorted { name: String },
    #[error("there is no version {version} of {name}, or it is revoked already")]
    NotRevocable { name: String, version: u64 },
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Manifest(Manifest),
    Revocation(Revocation),
}

/// An entry that was judged and may be appended.
#[derive(Clone, Debug)]
pub struct Judged {
    envelope: Envelope,
    said: Said,
    leaf: Hash,
}

#[derive(Clone, Debug, Default)]
struct Series {
    /// The index in the log of each version, from 1.
    versions: BTreeMap<u64, usize>,
    oldest_accepted: u64,
    revoked: BTreeSet<u64>,
}

/// The log and what it says.
#[derive(Clone, Debug)]
pub struct Ledger {
    publisher: String,
    key: PublicKey,
    tree: Tree,
    entries: Vec<(Envelope, Said)>,
    series: BTreeMap<String, Series>,
}

impl Ledger {
    /// An empty log of `publisher`, whose entries are signed by `key`.
    pub fn new(publisher: &str, key: PublicKey) -> Self {
        Self {
            publisher: publisher.to_owned(),
            key,
            tree: Tree::default(),
            entries: Vec::new(),
            series: BTreeMap::new(),
        }
    }
    pub fn publisher(&self) -> &str {
        &self.publisher
    }
    pub fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Whether the entry may be the next one.
    pub fn judge(&self, envelope: Envelope) -> Result<Judged, LedgerError> {
        let said = self.read(&envelope)?;
        match &said {
            Said::Manifest(manifest) => self.judge_manifest(manifest)?,
            Said::Revocation(revocation) => self.judge_revocation(revocation)?,
        }
        let leaf = log::leaf(&envelope).map_err(LedgerError::Entry)?;
        Ok(Judged { envelope, said, leaf })
    }

    /// Holds an entry that is on disk.
    pub fn push(&mut self, judged: Judged) {
        let index = self.entries.len();
        match &judged.said {
            Said::Manifest(manifest) => {
                let series = self.series.entry(manifest.name.clone()).or_default();
                series.versions.insert(manifest.version, index);
                series.oldest_accepted = manifest.oldest_accepted;
            }
            Said::Revocation(revocation) => {
                self.series.entry(revocation.name.clone()).or_default().revoked.insert(revocation.version);
            }
        }
        self.tree.push(judged.leaf);
        self.entries.push((judged.envelope, judged.said));
    }

    /// What holds now; to be signed.
    pub fn head(&self, time: Moment) -> Head {
        let standings = self.series.iter().map(|(name, series)| Standing {
            name: name.clone(),
            newest: series.newest(),
            oldest_accepted: series.oldest_accepted,
            revoked: series.revoked.iter().copied().collect(),
        });
        let root = self.tree.root(self.size()).unwrap_or_default();
        let (publisher, standings) = (self.publisher.clone(), standings.collect());
        Head { publisher, size: self.size(), root: Digest::from_bytes(root), time, standings }
    }

    /// The version that follows in a series, from 1.
    pub fn next_version(&self, name: &str) -> u64 {
        self.series.get(name).map_or(1, |series| series.newest() + 1)
    }
    /// The oldest version that is accepted, if the series exists.
    pub fn oldest_accepted(&self, name: &str) -> Option<u64> {
        self.series.get(name).map(|series| series.oldest_accepted)
    }

    /// A version of a series, the newest if none is said, with its place in the log.
    pub fn manifest(&self, name: &str, version: Option<u64>) -> Option<(u64, &Envelope, &Manifest)> {
        let series = self.series.get(name)?;
        let index = *series.versions.get(&version.unwrap_or_else(|| series.newest()))?;
        match self.entries.get(index)? {
            (envelope, Said::Manifest(manifest)) => Some((index as u64, envelope, manifest)),
            _ => None,
        }
    }

    /// The newest versions of a series, at most so many, newest first, each with its place in the log.
    pub fn newest(&self, name: &str, most: usize) -> Vec<(u64, &Envelope)> {
        let versions = self.series.get(name).into_iter().flat_map(|series| series.versions.values().rev());
        let entry = |index: &usize| self.entries.get(*index).map(|(envelope, _)| (*index as u64, envelope));
        versions.filter_map(entry).take(most).collect()
    }

    /// All manifests, in the log's order, and whether each stands.
    pub fn manifests(&self) -> impl Iterator<Item = (&Manifest, bool)> {
        self.entries.iter().filter_map(|(_, said)| match said {
            Said::Manifest(manifest) => Some((manifest, self.stands(manifest))),
            Said::Revocation(_) => None,
        })
    }

    fn stands(&self, manifest: &Manifest) -> bool {
        self.series.get(&manifest.name).is_some_and(|series| {
            manifest.version >= series.oldest_accepted && !series.revoked.contains(&manifest.version)
        })
    }

    pub fn entries(&self) -> impl Iterator<Item = &Envelope> {
        self.entries.iter().map(|(envelope, _)| envelope)
    }
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Inclusion> {
        log::prove_inclusion(&self.tree, index, size)
    }
    pub fn consistency(&self, before: u64, size: u64) -> Option<Consistency> {
        log::prove_consistency(&self.tree, before, size)
    }

    fn read(&self, envelope: &Envelope) -> Result<Said, LedgerError> {
        let (said, found) = match envelope.payload_type.as_str() {
            Manifest::TYPE => {
                let manifest: Manifest = self.key.open(envelope).map_err(LedgerError::Entry)?;
                let publisher = manifest.publisher.clone();
                (Said::Manifest(manifest), publisher)
            }
            Revocation::TYPE => {
                let revocation: Revocation = self.key.open(envelope).map_err(LedgerError::Entry)?;
                let publisher = revocation.publisher.clone();
                (Said::Revocation(revocation), publisher)
            }
            other => return Err(LedgerError::Type(other.chars().take(80).collect())),
        };
        if found == self.publisher {
            Ok(said)
        } else {
            Err(LedgerError::Publisher { found, own: self.publisher.clone() })
        }
    }

    fn judge_manifest(&self, manifest: &Manifest) -> Result<(), LedgerError> {
        let (name, found, oldest) = (manifest.name.clone(), manifest.version, manifest.oldest_accepted);
        let next = self.next_version(&name);
        if found != next {
            return Err(LedgerError::Version { name, next, found });
        }
        if oldest > found {
            return Err(LedgerError::Future { name, found, oldest });
        }
        match self.oldest_accepted(&name) {
            Some(accepted) if oldest < accepted => {
                return Err(LedgerError::TakenBack { name, accepted, found: oldest });
            }
            _ => {}
        }
        if manifest.measurements.is_sorted_by(|one, next| one < next) {
            Ok(())
        } else {
            Err(LedgerError::Unsorted { name })
        }
    }

    fn judge_revocation(&self, revocation: &Revocation) -> Result<(), LedgerError> {
        let (name, version) = (revocation.name.clone(), revocation.version);
        let series = self.series.get(&name);
        let revocable =
            series.is_some_and(|series| series.versions.contains_key(&version) && !series.revoked.contains(&version));
        if revocable { Ok(()) } else { Err(LedgerError::NotRevocable { name, version }) }
    }
}

impl Series {
    fn newest(&self) -> u64 {
        self.versions.keys().next_back().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use lucarne_attest::signing::SigningKey;
    use lucarne_model::{Component, Measurement};

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_seed([1; 32]).expect("a key")
    }
    fn manifest(version: u64, oldest_accepted: u64) -> Manifest {
        let measurements = vec![Measurement {
            component: Component::Agent,
            name: "lucarne".into(),
            digest: Digest::from_bytes([1; 32]),
        }];
        Manifest {
            publisher: "n".into(),
            name: "host".into(),
            version,
            valid_from: Moment(0),
            valid_until: Moment(9),
            oldest_accepted,
            measurements,
        }
    }
    fn revocation(version: u64) -> Envelope {
        let (publisher, name, reason) = ("n".into(), "host".into(), "a flaw".into());
        key().sign(&Revocation { publisher, name, version, reason, time: Moment(5) }).expect("signed")
    }
    fn ledger(versions: u64) -> Ledger {
        let mut ledger = Ledger::new("n", key().public());
        for version in 1..=versions {
            let judged = ledger.judge(key().sign(&manifest(version, 1)).expect("signed")).expect("it follows");
            ledger.push(judged);
        }
        ledger
    }

    #[test]
    fn versions_rise_one_by_one_and_nothing_is_taken_back() {
        let mut ledger = ledger(2);
        let refused =
            |ledger: &Ledger, manifest| ledger.judge(key().sign(&manifest).expect("signed")).expect_err("refused");
        for version in [0, 1, 2, 4] {
            assert!(matches!(refused(&ledger, manifest(version, 0)), LedgerError::Version { next: 3, .. }));
        }
        assert!(matches!(refused(&ledger, manifest(3, 4)), LedgerError::Future { .. }));
        let judged = ledger.judge(key().sign(&manifest(3, 3)).expect("signed")).expect("it follows");
        ledger.push(judged);
        assert!(matches!(refused(&ledger, manifest(4, 2)), LedgerError::TakenBack { accepted: 3, .. }));
        assert_eq!(ledger.manifests().map(|(_, stands)| stands).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn a_version_is_revoked_once_and_stays_so() {
        let mut ledger = ledger(2);
        assert!(matches!(ledger.judge(revocation(3)), Err(LedgerError::NotRevocable { .. })));
        let judged = ledger.judge(revocation(2)).expect("it may be");
        ledger.push(judged);
        assert!(matches!(ledger.judge(revocation(2)), Err(LedgerError::NotRevocable { .. })));
        let head = ledger.head(Moment(7));
        assert_eq!((head.size, &head.standings[0].revoked), (3, &vec![2]));
        assert_eq!(ledger.next_version("host"), 3, "a version that was revoked is not given again");
    }

    #[test]
    fn entries_of_another_signer_publisher_or_kind_are_refused() {
        let ledger = ledger(0);
        let other = SigningKey::from_seed([2; 32]).expect("a key");
        let foreign = Manifest { publisher: "m".into(), ..manifest(1, 1) };
        let twice = Manifest {
            measurements: [manifest(1, 1).measurements, manifest(1, 1).measurements].concat(),
            ..manifest(1, 1)
        };
        let signed = |manifest: &Manifest| key().sign(manifest).expect("signed");
        assert!(matches!(ledger.judge(other.sign(&manifest(1, 1)).expect("signed")), Err(LedgerError::Entry(_))));
        assert!(matches!(ledger.judge(signed(&foreign)), Err(LedgerError::Publisher { .. })));
        assert!(matches!(ledger.judge(signed(&twice)), Err(LedgerError::Unsorted { .. })));
        let head = key().sign(&ledger.head(Moment(0))).expect("signed");
        assert!(matches!(ledger.judge(head), Err(LedgerError::Type(_))));
    }
}
