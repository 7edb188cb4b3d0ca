//! The keys that answer for this host, one for guests and their machines and another for the host itself; beside them the one
//! that opens requests which nobody else can read, which is [`ReadingKey`]'s.
//!
//! Owns their files. Without them nobody takes this host for the one that was asked, so a file that cannot be read is not
//! replaced by a new key.

use std::{
    borrow::Cow,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use lucarne_model::{HostId, storage::Digest, tpm::PresentedTpm};
use lucarne_seal::{card::Card, operation::Layer, refusal::Refusal, sealed_request};
use lucarne_statement::{
    canonical,
    signing::{Envelope, SigningError, SigningKey, Statement},
};
use ring::rand::{SecureRandom, SystemRandom};

use super::reading::{AgreeingTpm, ReadingKey};
use crate::durable::{self, Outlives};

/// Where the key for sealed requests is, and which one of those that follow each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    pub(crate) epoch: u32,
    /// None: in a file.
    pub(crate) tpm: Option<Arc<dyn AgreeingTpm>>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    #[error("{path}: {cause}")]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{path}: {cause}; restore it, or delete it and tell all who pinned its key")]
    Key {
        path: PathBuf,
        #[source]
        cause: SigningError,
    },
    #[error("no random numbers could be drawn")]
    Random,
}

#[derive(Debug)]
pub(crate) struct HostKeys {
    guest: SigningKey,
    own: SigningKey,
    reading: ReadingKey,
}

impl HostKeys {
    pub(crate) fn read_or_make(folder: &Path, reading: Reading) -> Result<Self, KeysError> {
        let signing = |name: &str| {
            let path = folder.join(name);
            let made = |octets| SigningKey::from_seed(octets).map(|key| key.to_pem());
            let text = read_or_make(&path, made)?;
            SigningKey::from_pem(&text).map_err(|cause| KeysError::Key { path, cause })
        };
        let reading = ReadingKey::read_or_make(folder, reading.epoch, reading.tpm)?;
        Ok(Self { guest: signing("guest.key")?, own: signing("host.key")?, reading })
    }

    /// Opens a request that is sealed to this host.
    pub(crate) fn unseal<'a>(&self, octets: &'a [u8]) -> Result<Cow<'a, [u8]>, Refusal> {
        if !sealed_request::is_sealed(octets) {
            return Ok(Cow::Borrowed(octets));
        }
        sealed_request::open(octets, &self.reading.identity).map(Cow::Owned)
    }

    pub(crate) fn of(&self, layer: Layer) -> &SigningKey {
        match layer {
            Layer::Guest | Layer::Hypervisor => &self.guest,
            Layer::Host => &self.own,
        }
    }

    /// The key that a request names, if it is one of these: a carrier can read that much. Another's request is answered with
    /// the guests' key.
    pub(crate) fn named(&self, asked: Option<&Digest>) -> &SigningKey {
        if asked == Some(&self.own.public().id()) { &self.own } else { &self.guest }
    }

    pub(crate) fn card(&self, host: HostId, tpm: Option<PresentedTpm>) -> Result<Envelope, SigningError> {
        Card::make(host, (&self.guest, &self.own), (self.reading.identity.recipient(), self.reading.epoch), tpm)
    }
}

/// The text of a key's file, which is made where there is none.
pub(super) fn read_or_make(
    path: &Path,
    made: impl FnOnce([u8; 32]) -> Result<String, SigningError>,
) -> Result<String, KeysError> {
    let failed = |cause| KeysError::File { path: path.to_owned(), cause };
    match fs::read_to_string(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        read => return read.map_err(failed),
    }
    let text = made(random().ok_or(KeysError::Random)?);
    let text = text.map_err(|cause| KeysError::Key { path: path.to_owned(), cause })?;
    durable::replace(path, text.as_bytes(), Outlives::PowerCut).map_err(failed)?;
    Ok(text)
}

/// Octets that nobody has had.
pub(crate) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut octets = [0; N];
    SystemRandom::new().fill(&mut octets).ok()?;
    Some(octets)
}

/// A statement signed, as it is carried.
pub(crate) fn signed(key: &SigningKey, statement: &impl Statement) -> Result<Vec<u8>, SigningError> {
    Ok(canonical::write(&key.sign(statement)?)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_host_keeps_its_two_keys_to_itself_and_does_not_replace_one_that_is_damaged() {
        let place = tempfile::tempdir().unwrap();
        let made = HostKeys::read_or_make(place.path(), Reading::default()).unwrap();
        let read = HostKeys::read_or_make(place.path(), Reading::default()).unwrap();
        let id = |keys: &HostKeys, layer| keys.of(layer).public().id();
        assert_eq!(id(&made, Layer::Guest), id(&read, Layer::Hypervisor));
        assert_eq!(id(&made, Layer::Host), id(&read, Layer::Host));
        assert_ne!(id(&made, Layer::Guest), id(&made, Layer::Host));
        let path = place.path().join("guest.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "damaged").unwrap();
        assert!(matches!(HostKeys::read_or_make(place.path(), Reading::default()), Err(KeysError::Key { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "damaged");
    }
}
