//! The key that opens requests which nobody else can read: in this host's TPM, or in a file where it has none.
//!
//! Owns which of the two it is, and which *epoch* of it. A key of another epoch is another key: what was sealed to the one before
//! cannot be opened any more, neither by the host nor by who takes its disk. Keys of a TPM follow from the secret that it keeps,
//! so only their public halves are in a file; whether that is the key which the TPM has is seen whenever it is used.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use lucarne_seal::age::{
    Identity, Recipient,
    p256::{Agreement, Point},
};
use lucarne_statement::signing::SigningError;

use super::keys::{KeysError, read_or_make};
use crate::durable::{self, Outlives};

/// A TPM that agrees on secrets for a key that stays in it. It is asked by threads that may wait.
pub(crate) trait AgreeingTpm: Send + Sync + fmt::Debug {
    /// The public half of an epoch's key.
    fn recipient(&self, epoch: u32) -> Result<Point, String>;
    /// That half again, and the x coordinate of what its key and `share` agree on.
    fn agree(&self, epoch: u32, share: &Point) -> Result<(Point, [u8; 32]), String>;
}

#[derive(Debug)]
pub(crate) struct ReadingKey {
    pub(crate) identity: Identity,
    pub(crate) epoch: u32,
}

impl ReadingKey {
    /// The key of this epoch, made where there is none. A TPM that does not answer at the first start leaves it to a file, until
    /// the next start.
    pub(crate) fn read_or_make(
        folder: &Path,
        epoch: u32,
        tpm: Option<Arc<dyn AgreeingTpm>>,
    ) -> Result<Self, KeysError> {
        let identity = match tpm.map(|tpm| in_tpm(folder, epoch, tpm)) {
            Some(Ok(identity)) => identity,
            Some(Err(Unanswered(why))) => {
                tracing::warn!(why, "the TPM gives no key for sealed requests: for now that key is in a file");
                in_file(folder, epoch)?
            }
            None => in_file(folder, epoch)?,
        };
        Ok(Self { identity, epoch })
    }
}

struct Unanswered(String);

fn in_tpm(folder: &Path, epoch: u32, tpm: Arc<dyn AgreeingTpm>) -> Result<Identity, Unanswered> {
    let path = name(folder, epoch, "tpm");
    let kept = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    let public = match kept {
        Some(Recipient::P256(public)) => public,
        _ => {
            let public = tpm.recipient(epoch).map_err(Unanswered)?;
            let text = format!("{}\n", Recipient::P256(public));
            let written = durable::replace(&path, text.as_bytes(), Outlives::PowerCut);
            written.map_err(|error| Unanswered(format!("{}: {error}", path.display())))?;
            public
        }
    };
    Ok(Identity::P256(Arc::new(InTpm { tpm, epoch, public })))
}

/// What was sealed to epochs before is lost with their files.
fn in_file(folder: &Path, epoch: u32) -> Result<Identity, KeysError> {
    let path = name(folder, epoch, "key");
    let text = read_or_make(&path, |octets| Ok(Identity::text_of(&octets)))?;
    let identity = Identity::from_file(&text);
    let identity = identity.map_err(|_| KeysError::Key { path: path.clone(), cause: SigningError::Key })?;
    for before in 0..epoch {
        let path = name(folder, before, "key");
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(KeysError::File { path, cause }),
            _ => {}
        }
    }
    Ok(identity)
}

fn name(folder: &Path, epoch: u32, end: &str) -> PathBuf {
    folder.join(if epoch == 0 { format!("reading.{end}") } else { format!("reading-{epoch}.{end}") })
}

/// A key of an epoch, of which this host has given out the public half.
#[derive(Debug)]
struct InTpm {
    tpm: Arc<dyn AgreeingTpm>,
    epoch: u32,
    public: Point,
}

impl Agreement for InTpm {
    fn public(&self) -> Point {
        self.public
    }

    fn agree(&self, share: &Point) -> Option<[u8; 32]> {
        match self.tpm.agree(self.epoch, share) {
            Ok((public, secret)) if public == self.public => Some(secret),
            Ok(_) => {
                tracing::error!(
                    "the TPM has another key than requests are sealed to: it was cleared or replaced; go on with another epoch"
                );
                None
            }
            Err(why) => {
                tracing::warn!(why, "a sealed request cannot be opened by the TPM now");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lucarne_seal::{
        age::{Seed, p256::InMemory},
        sealed_request,
    };

    use super::*;

    /// Another key for each epoch and each time that it was cleared; it answers or does not.
    #[derive(Debug)]
    struct Tpm {
        cleared: u8,
        answers: bool,
    }

    impl Tpm {
        fn key(&self, epoch: u32) -> Result<InMemory, String> {
            let key = InMemory::from_octets(&[7 + self.cleared + epoch as u8; 32]).unwrap();
            if self.answers { Ok(key) } else { Err("it is away".to_owned()) }
        }
    }

    impl AgreeingTpm for Tpm {
        fn recipient(&self, epoch: u32) -> Result<Point, String> {
            self.key(epoch).map(|key| key.public())
        }
        fn agree(&self, epoch: u32, share: &Point) -> Result<(Point, [u8; 32]), String> {
            self.key(epoch).map(|key| (key.public(), key.agree(share).unwrap()))
        }
    }

    fn key(place: &tempfile::TempDir, epoch: u32, cleared: u8, answers: bool) -> Identity {
        let tpm: Arc<dyn AgreeingTpm> = Arc::new(Tpm { cleared, answers });
        ReadingKey::read_or_make(place.path(), epoch, Some(tpm)).unwrap().identity
    }
    fn sealed(to: &Identity) -> Vec<u8> {
        sealed_request::seal(b"{}", &Seed::new([3; 32]), to.recipient()).unwrap()
    }

    #[test]
    fn what_is_sealed_to_a_key_in_the_tpm_opens_as_long_as_the_tpm_has_that_key() {
        let place = tempfile::tempdir().unwrap();
        let first = key(&place, 1, 0, true);
        assert!(matches!(first.recipient(), Recipient::P256(_)));
        let request = sealed(&first);
        assert_eq!(sealed_request::open(&request, &first).unwrap(), b"{}");
        // It is the same after a start at which the TPM is away, and opens nothing as long as that is so.
        let away = key(&place, 1, 0, false);
        assert_eq!(away.recipient(), first.recipient());
        assert!(sealed_request::open(&request, &away).is_err());
        assert!(sealed_request::open(&request, &key(&place, 1, 1, true)).is_err(), "it was cleared");
        let second = key(&place, 2, 0, true);
        assert_ne!(second.recipient(), first.recipient());
        assert!(sealed_request::open(&request, &second).is_err());
    }

    #[test]
    fn without_a_tpm_the_key_is_in_a_file_of_its_epoch_and_those_before_are_gone() {
        let place = tempfile::tempdir().unwrap();
        let of = |epoch| ReadingKey::read_or_make(place.path(), epoch, None).unwrap().identity;
        let first = of(0);
        assert_eq!(first.recipient(), of(0).recipient());
        assert!(matches!(first.recipient(), Recipient::X25519(_)));
        let request = sealed(&first);
        assert!(sealed_request::open(&request, &of(3)).is_err());
        assert!(!place.path().join("reading.key").exists(), "what was sealed to it could still be opened");
        assert_eq!(key(&place, 3, 0, false).recipient(), of(3).recipient(), "its TPM was never there");
    }
}
