//! Reference manifests: what a publisher says that a version of something consists of, and for how long.
//!
//! Owns what a manifest and a revocation say, and whether a manifest holds: signed by its publisher, within its time, in
//! the publisher's log, not revoked, and not older than a version that is known. Comparing measurements with it is
//! [`reference`](crate::reference)'s.

use lucarne_model::{ErrorCode, Measurement, Moment};
use serde::{Deserialize, Serialize};

use crate::{
    log::{self, Consistency, Head, Inclusion, LogError},
    reference::Known,
    signing::{Envelope, PublicKey, SigningError, Statement},
};

/// Why a manifest does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest: {0}")]
    Invalid(SigningError),
    #[error("the manifest is of `{found}`, its log of `{expected}`")]
    Publisher { found: String, expected: String },
    #[error("manifest {name} {version} holds from {begin} to {end} (seconds since 1970); it is {now}")]
    Expired { name: String, version: u64, begin: u64, end: u64, now: u64 },
    #[error("manifest {name} {version} was revoked")]
    Revoked { name: String, version: u64 },
    #[error("manifest {name} {version} is older than version {newest}, which is known")]
    RolledBack { name: String, version: u64, newest: u64 },
    #[error("the publisher's newest head says nothing of {name} {version}")]
    NotStanding { name: String, version: u64 },
    #[error(transparent)]
    Log(LogError),
}

impl ManifestError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) | Self::Publisher { .. } => ErrorCode::ManifestInvalid,
            Self::Expired { .. } => ErrorCode::ManifestExpired,
            Self::Revoked { .. } => ErrorCode::ManifestRevoked,
            Self::RolledBack { .. } => ErrorCode::ManifestRolledBack,
            Self::NotStanding { .. } => ErrorCode::ManifestNotLogged,
            Self::Log(error) => error.code(),
        }
    }
}

/// One version of what a publisher vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub publisher: String,
    /// The series: what it is a manifest of.
    pub name: String,
    /// Rises with each manifest of the series.
    pub version: u64,
    pub valid_from: Moment,
    pub valid_until: Moment,
    /// The oldest version that may still be used beside this one: older ones are rolled back.
    pub oldest_accepted: u64,
    /// Sorted, each once.
    pub measurements: Vec<Measurement>,
}

impl Statement for Manifest {
    const TYPE: &'static str = "application/vnd.lucarne.manifest.v1+json";
}

/// That a version does not hold any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    pub publisher: String,
    pub name: String,
    pub version: u64,
    pub reason: String,
    pub time: Moment,
}

impl Statement for Revocation {
    const TYPE: &'static str = "application/vnd.lucarne.revocation.v1+json";
}

/// A manifest with all that is needed to believe it without asking anyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    pub manifest: Envelope,
    pub head: Envelope,
    pub inclusion: Inclusion,
}

/// What a verifier remembers of a publisher between two judgements.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub head: &'a Head,
    /// The publisher's proof that what it shows now begins with that.
    pub consistency: Option<&'a Consistency>,
}

impl Published {
    /// The manifest, if it holds at `now` by all that `key` signed; `seen` is what was shown before, if anything.
    pub fn verify(&self, key: &PublicKey, now: Moment, seen: Option<Seen<'_>>) -> Result<Manifest, ManifestError> {
        let manifest: Manifest = key.open(&self.manifest).map_err(ManifestError::Invalid)?;
        let head = Head::open(&self.head, key).map_err(ManifestError::Log)?;
        if head.publisher != manifest.publisher {
            return Err(ManifestError::Publisher { found: manifest.publisher, expected: head.publisher });
        }
        if let Some(seen) = seen {
            head.continues(seen.head, seen.consistency).map_err(ManifestError::Log)?;
        }
        let leaf = log::leaf(&self.manifest).map_err(ManifestError::Invalid)?;
        head.includes(leaf, &self.inclusion).map_err(ManifestError::Log)?;
        manifest.stands(&head, now)?;
        Ok(manifest)
    }
}

impl Manifest {
    /// Whether it holds as of `head` and at `now`.
    pub fn stands(&self, head: &Head, now: Moment) -> Result<(), ManifestError> {
        let (name, version) = (self.name.clone(), self.version);
        let Some(standing) = head.standing(&self.name).filter(|standing| standing.newest >= version) else {
            return Err(ManifestError::NotStanding { name, version });
        };
        if standing.revoked.contains(&version) {
            return Err(ManifestError::Revoked { name, version });
        }
        if version < standing.oldest_accepted {
            return Err(ManifestError::RolledBack { name, version, newest: standing.newest });
        }
        if !(self.valid_from..=self.valid_until).contains(&now) {
            let (begin, end) = (self.valid_from.as_secs(), self.valid_until.as_secs());
            return Err(ManifestError::Expired { name, version, begin, end, now: now.as_secs() });
        }
        Ok(())
    }

    /// What it vouches for, to be held against what was found.
    pub fn known<V: Clone>(&self, by: &V) -> Vec<Known<V>> {
        self.measurements.iter().map(|one| Known { measurement: one.clone(), by: by.clone() }).collect()
    }
}

#[cfg(test)]
mod tests;
