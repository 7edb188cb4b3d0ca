//! The keys that answer for this host: one for guests and their machines, another for the host itself.
//!
//! Owns their files. Without them nobody takes this host for the one that was asked, so a file that cannot be read is not
//! replaced by a new key.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lucarne_model::{HostId, storage::Digest};
use lucarne_seal::{card::Card, operation::Layer};
use lucarne_statement::{
    canonical,
    signing::{Envelope, SigningError, SigningKey, Statement},
};
use ring::rand::{SecureRandom, SystemRandom};

use crate::durable::{self, Outlives};

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
}

impl HostKeys {
    pub(crate) fn read_or_make(folder: &Path) -> Result<Self, KeysError> {
        Ok(Self { guest: key(folder.join("guest.key"))?, own: key(folder.join("host.key"))? })
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

    pub(crate) fn card(&self, host: HostId) -> Result<Envelope, SigningError> {
        Card::make(host, &self.guest, &self.own)
    }
}

fn key(path: PathBuf) -> Result<SigningKey, KeysError> {
    match fs::read_to_string(&path) {
        Ok(text) => SigningKey::from_pem(&text).map_err(|cause| KeysError::Key { path, cause }),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => make(path),
        Err(cause) => Err(KeysError::File { path, cause }),
    }
}

fn make(path: PathBuf) -> Result<SigningKey, KeysError> {
    let made = SigningKey::from_seed(random().ok_or(KeysError::Random)?);
    let made = made.map_err(|cause| KeysError::Key { path: path.clone(), cause })?;
    let written = durable::replace(&path, made.to_pem().as_bytes(), Outlives::PowerCut);
    written.map_err(|cause| KeysError::File { path, cause })?;
    Ok(made)
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
        let made = HostKeys::read_or_make(place.path()).unwrap();
        let read = HostKeys::read_or_make(place.path()).unwrap();
        let id = |keys: &HostKeys, layer| keys.of(layer).public().id();
        assert_eq!(id(&made, Layer::Guest), id(&read, Layer::Hypervisor));
        assert_eq!(id(&made, Layer::Host), id(&read, Layer::Host));
        assert_ne!(id(&made, Layer::Guest), id(&made, Layer::Host));
        let path = place.path().join("guest.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "damaged").unwrap();
        assert!(matches!(HostKeys::read_or_make(place.path()), Err(KeysError::Key { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "damaged");
    }
}
