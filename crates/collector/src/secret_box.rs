//! Secrets of others that must be kept and used again, encrypted where they lie: the access keys of tenants' own stores.
//!
//! Owns the key (256 random bits in `secrets.key`, mode 0600, made when there is nothing yet that was sealed with one), and the
//! form of a sealed secret: AES-256-GCM under a random nonce, bound to the id of the record that it belongs to, so that nobody
//! who can write to the records can make one tenant's secret another's. A copy of the records alone opens nothing. The
//! controller keeps its own in the same way, with a key of its own.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::durable;

const FILE: &str = "secrets.key";
const KEY_LENGTH: usize = 32;

/// Why a secret could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{} cannot be read or written", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{} is missing, and there are secrets that were sealed with it: put it back from a copy; {remedy}",
        path.display()
    )]
    Missing { path: PathBuf, remedy: &'static str },
    #[error("{} is not {KEY_LENGTH} octets long, as the key of sealed secrets is: put it back from a copy", path.display())]
    Length { path: PathBuf },
    #[error(
        "the secret of {record} does not open with {}: that is another key than the one it was sealed with, or the \
         secret was changed; put the right key back from a copy; {remedy}",
        path.display()
    )]
    Wrong { record: String, path: PathBuf, remedy: &'static str },
    #[error("no random numbers for secrets")]
    Random,
    #[error("the secret of {record} has no JSON in it")]
    Shape { record: String, source: serde_json::Error },
}

/// A secret as it is kept: a nonce, and what it became with its tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedSecret {
    /// 12 octets in hexadecimal digits.
    nonce: String,
    /// In hexadecimal digits.
    sealed: String,
}

/// Seals secrets and opens them again. Clones share the key.
#[derive(Clone)]
pub struct SecretBox {
    key: Arc<LessSafeKey>,
    path: PathBuf,
    /// What to do when the key is lost.
    remedy: &'static str,
}

impl std::fmt::Debug for SecretBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretBox").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SecretBox {
    /// The box of a state folder. Without a key there is a new one, unless secrets were `sealed` with another before.
    /// `remedy` says what to do when that one is lost.
    pub fn open(state_dir: &Path, sealed: bool, remedy: &'static str) -> Result<Self, SecretError> {
        let path = state_dir.join(FILE);
        let octets = match fs::read(&path) {
            Ok(octets) => octets,
            Err(error) if error.kind() == io::ErrorKind::NotFound && sealed => {
                return Err(SecretError::Missing { path, remedy });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path)?,
            Err(source) => return Err(SecretError::File { path, source }),
        };
        let key = UnboundKey::new(&AES_256_GCM, &octets).map_err(|_| SecretError::Length { path: path.clone() })?;
        Ok(Self { key: Arc::new(LessSafeKey::new(key)), path, remedy })
    }

    /// Seals the secret of the record of this id.
    pub fn seal(&self, record: &str, secret: &impl Serialize) -> Result<SealedSecret, SecretError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SecretError::Random)?;
        let shape = |source| SecretError::Shape { record: record.to_owned(), source };
        let mut octets = serde_json::to_vec(secret).map_err(shape)?;
        let bound = Aad::from(record.as_bytes());
        let done = self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound, &mut octets);
        done.map_err(|_| SecretError::Random)?;
        Ok(SealedSecret { nonce: hex(&nonce), sealed: hex(&octets) })
    }

    /// Opens what was sealed for the record of this id.
    pub fn unseal<T: DeserializeOwned>(&self, record: &str, sealed: &SealedSecret) -> Result<T, SecretError> {
        let wrong = || SecretError::Wrong { record: record.to_owned(), path: self.path.clone(), remedy: self.remedy };
        let nonce: [u8; NONCE_LEN] = unhex(&sealed.nonce).and_then(|nonce| nonce.try_into().ok()).ok_or_else(wrong)?;
        let mut octets = unhex(&sealed.sealed).ok_or_else(wrong)?;
        let bound = Aad::from(record.as_bytes());
        let opened = self.key.open_in_place(Nonce::assume_unique_for_key(nonce), bound, &mut octets);
        let opened = opened.map_err(|_| wrong())?;
        serde_json::from_slice(opened).map_err(|source| SecretError::Shape { record: record.to_owned(), source })
    }
}

/// On the disk before anything is sealed with it.
fn make(path: &Path) -> Result<Vec<u8>, SecretError> {
    let mut key = vec![0; KEY_LENGTH];
    SystemRandom::new().fill(&mut key).map_err(|_| SecretError::Random)?;
    let written = durable::write_whole(path, |file| file.write_all(&key));
    written.map_err(|source| SecretError::File { path: path.to_owned(), source })?;
    Ok(key)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2));
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SECRET: &str = "geheim";

    fn open(dir: &Path) -> SecretBox {
        SecretBox::open(dir, false, "").unwrap()
    }

    #[test]
    fn a_secret_opens_with_its_key_for_its_record_and_not_otherwise() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sealed = open(dir.path()).seal("fl-1", &SECRET).unwrap();
        assert!(!format!("{sealed:?}").contains(&hex(SECRET.as_bytes())));
        assert_eq!(open(dir.path()).unseal::<String>("fl-1", &sealed).unwrap(), SECRET);
        let refused = |secrets: &SecretBox, record: &str, sealed: &SealedSecret| {
            let error = secrets.unseal::<String>(record, sealed).unwrap_err();
            assert!(error.to_string().contains(FILE) && error.to_string().contains(record), "{error}");
        };
        refused(&open(dir.path()), "fl-2", &sealed);
        refused(&open(other.path()), "fl-1", &sealed);
        let mut octets = unhex(&sealed.sealed).unwrap();
        octets[0] ^= 1;
        refused(&open(dir.path()), "fl-1", &SealedSecret { sealed: hex(&octets), ..sealed.clone() });
        refused(&open(dir.path()), "fl-1", &SealedSecret { nonce: "00".into(), ..sealed.clone() });
        refused(&open(dir.path()), "fl-1", &SealedSecret { sealed: "ü".into(), ..sealed });
    }

    #[test]
    fn equal_secrets_do_not_look_alike() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = open(dir.path());
        assert_ne!(secrets.seal("fl-1", &SECRET).unwrap(), secrets.seal("fl-1", &SECRET).unwrap());
    }

    #[test]
    fn the_key_is_its_owners_and_a_lost_or_cut_one_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path());
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "cut").unwrap();
        assert!(matches!(SecretBox::open(dir.path(), true, ""), Err(SecretError::Length { .. })));
        fs::remove_file(&path).unwrap();
        let lost = SecretBox::open(dir.path(), true, "or begin anew").unwrap_err();
        assert!(lost.to_string().ends_with("put it back from a copy; or begin anew"), "{lost}");
        assert!(!path.exists(), "no other key takes the place of one that may be found again");
    }
}
