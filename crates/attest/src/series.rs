//! What a publisher shows of one series at one time, and which of its versions vouches for a host.
//!
//! Owns the judgement of such an answer as a whole: one head, signed just now, that goes on from the one seen before; and the
//! newest versions under it, those that do not hold any more among them, so that a host which still runs one is told why it
//! is refused. What a manifest and a head are is [`manifest`](crate::manifest)'s and [`log`]'s; asking is a hand's.

use std::time::Duration;

use lucarne_model::{ErrorCode, Measurement, Moment};
use serde::{Deserialize, Serialize};

use crate::{
    log::{self, Consistency, Head, Inclusion, LogError},
    manifest::{Manifest, ManifestError, Published},
    reference::{self, ReferenceError},
    signing::{Envelope, PublicKey},
    verify::is_software,
};

/// How many versions are shown at most, the newest first.
pub const VERSIONS: usize = 8;
/// How old a head may be that was asked for now: an older one may hide a revocation. As much as clocks may differ.
pub const FRESH: Duration = Duration::from_secs(600);

/// A publisher's answer to whoever asks for a series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    pub head: Envelope,
    /// That the log begins with what the asker had seen; none where that is nothing, or all.
    pub consistency: Option<Consistency>,
    /// Newest first.
    pub versions: Vec<Logged>,
}

/// A manifest and the proof that it is under the head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logged {
    pub manifest: Envelope,
    pub inclusion: Inclusion,
}

/// An answer that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub head: Head,
    series: String,
    versions: Vec<Version>,
}

/// A version that is believed to be the publisher's, whether or not it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub manifest: Manifest,
    /// With it anyone else can believe it too.
    pub published: Published,
    /// Why it does not hold, if it does not.
    pub standing: Result<(), ManifestError>,
}

/// Why no version vouches for a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VouchError {
    #[error("{publisher} has published nothing of `{series}`")]
    Nothing { publisher: String, series: String },
    #[error("nothing was measured of the host's software")]
    Unmeasured,
    #[error("the host runs what does not hold: {0}")]
    Standing(ManifestError),
    #[error("not the software of {series} {version} of {publisher}: {cause}")]
    Other { publisher: String, series: String, version: u64, cause: Box<ReferenceError> },
}

impl VouchError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Nothing { .. } => ErrorCode::InvalidManifestNotFound,
            Self::Unmeasured => ErrorCode::MeasurementUnknown,
            Self::Standing(error) => error.code(),
            Self::Other { cause, .. } => cause.code(),
        }
    }
}

impl Series {
    /// The answer of now to the question for `series`, if `key` signed all of it and its log is the one that was `seen`.
    pub fn verify(
        &self,
        key: &PublicKey,
        series: &str,
        now: Moment,
        seen: Option<&Head>,
    ) -> Result<Shown, ManifestError> {
        let head = Head::open(&self.head, key).map_err(ManifestError::Log)?;
        if now.since(head.time).max(head.time.since(now)) > FRESH {
            let (time, now) = (head.time.as_secs(), now.as_secs());
            return Err(ManifestError::Log(LogError::Stale { time, now }));
        }
        if let Some(seen) = seen {
            head.continues(seen, self.consistency.as_ref()).map_err(ManifestError::Log)?;
        }
        let versions = self.versions.iter().map(|logged| self.version(logged, (key, series, &head), now));
        let versions = versions.collect::<Result<_, _>>()?;
        Ok(Shown { versions, series: series.to_owned(), head })
    }

    fn version(
        &self,
        logged: &Logged,
        (key, series, head): (&PublicKey, &str, &Head),
        now: Moment,
    ) -> Result<Version, ManifestError> {
        let manifest: Manifest = key.open(&logged.manifest).map_err(ManifestError::Invalid)?;
        let (found, expected) = (format!("{} {}", manifest.publisher, manifest.name), &head.publisher);
        if (&manifest.publisher, manifest.name.as_str()) != (expected, series) {
            return Err(ManifestError::Publisher { found, expected: format!("{expected} {series}") });
        }
        let leaf = log::leaf(&logged.manifest).map_err(ManifestError::Invalid)?;
        head.includes(leaf, &logged.inclusion).map_err(ManifestError::Log)?;
        let published = Published {
            manifest: logged.manifest.clone(),
            head: self.head.clone(),
            inclusion: logged.inclusion.clone(),
        };
        Ok(Version { standing: manifest.stands(head, now), manifest, published })
    }
}

impl Shown {
    /// The newest version that holds and has all of the host's software in it. One version must have all: a host with parts
    /// of two is one that nobody published.
    pub fn vouch(&self, measured: &[Measurement]) -> Result<&Version, VouchError> {
        let is_hosts = |one: &&Measurement| is_software(one.component) && !one.component.is_guests();
        let software: Vec<Measurement> = measured.iter().filter(is_hosts).cloned().collect();
        if software.is_empty() {
            return Err(VouchError::Unmeasured);
        }
        let against = |version: &Version| reference::judge(&software, &version.manifest.known(&())).all_known();
        let matching = || self.versions.iter().filter(|version| against(version).is_ok());
        if let Some(version) = matching().find(|version| version.standing.is_ok()) {
            return Ok(version);
        }
        if let Some(standing) = matching().find_map(|version| version.standing.clone().err()) {
            return Err(VouchError::Standing(standing));
        }
        let holds = self.versions.iter().find(|version| version.standing.is_ok());
        let Some(newest) = holds.or(self.versions.first()) else {
            return Err(VouchError::Nothing { publisher: self.head.publisher.clone(), series: self.series.clone() });
        };
        let Manifest { publisher, name: series, version, .. } = newest.manifest.clone();
        match (against(newest), newest.standing.clone()) {
            (_, Err(standing)) => Err(VouchError::Standing(standing)),
            (Err(cause), Ok(())) => Err(VouchError::Other { publisher, series, version, cause: Box::new(cause) }),
            (Ok(()), Ok(())) => Ok(newest),
        }
    }
}

#[cfg(test)]
mod tests;
