//! The collector's receipts: one file of signed lines for each account, only ever added to.
//!
//! Owns the signing key and the order in which a receipt becomes durable: after its part, before what the part was made
//! from goes. A collector that was killed in between finds, at its next start, parts without receipts and gives them
//! some ([`Receipts::reconcile`]), or seals a segment again and finds its receipt there already. What a chain means is the
//! matter of [`lucarne_flows::receipts`].

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use lucarne_flows::receipts::{Chain, Hex, PartContents, PublicKey, ReceiptError, SignedReceipt};
use lucarne_model::{AccountId, Moment};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde::{Deserialize, Serialize};

use crate::{
    durable,
    part::{Part, PartError, contents},
};

/// Below the state folder.
const DIR: &str = "receipts";
const KEY: &str = "receipt-key.pk8";
/// Receipts that one answer holds at most.
const PAGE: usize = 1000;

/// Why receipts could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptsError {
    #[error("{} cannot be read or written", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is not a signing key", path.display())]
    Key { path: PathBuf },
    #[error("no random numbers for a signing key")]
    Random,
    #[error("line {line} of {} is not a receipt", path.display())]
    Line { path: PathBuf, line: u64, source: serde_json::Error },
    #[error("the chain in {} is broken", path.display())]
    Chain { path: PathBuf, source: ReceiptError },
    #[error("a part cannot be read for its receipt")]
    Part(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A stretch of an account's chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptPage {
    /// With which all receipts of this collector are signed.
    pub key: PublicKey,
    pub receipts: Vec<SignedReceipt>,
    /// The number to go on from; none when these were the last.
    pub next: Option<u64>,
}

/// All accounts' chains, and the key that signs them.
#[derive(Debug)]
pub(crate) struct Receipts {
    dir: PathBuf,
    key: Ed25519KeyPair,
    /// By account, read when first asked for.
    chains: Mutex<BTreeMap<AccountId, Chain>>,
}

impl Receipts {
    /// The receipts of a state folder, with a new key at its first use.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, ReceiptsError> {
        let dir = state_dir.join(DIR);
        durable::create_dir(&dir).map_err(at(&dir))?;
        let key = key(&state_dir.join(KEY))?;
        Ok(Self { dir, key, chains: Mutex::default() })
    }

    /// Gives parts that count and have no receipt one, which takes the place of those that they cover.
    pub(crate) fn reconcile(&self, parts: &[Arc<Part>], now: Moment) -> Result<(), ReceiptsError> {
        for part in parts {
            let name = part.place.name();
            let (has_receipt, covered) = self.with_chain(part.place.account, |_, chain| {
                let current = || chain.current().map(|(_, contents)| contents.name.clone());
                let covers =
                    |other: &String| crate::part::Place::parse(other).is_some_and(|other| part.place.covers(&other));
                Ok((current().any(|other| other == name), current().filter(covers).collect::<Vec<_>>()))
            })?;
            if has_receipt {
                continue;
            }
            match contents(part) {
                Ok(contents) => self.issue(part.place.account, contents, &covered, now)?,
                Err(error @ PartError::File(_)) => return Err(ReceiptsError::Part(Box::new(error))),
                // It stays without, and answers tell of it as unreadable.
                Err(error) => tracing::error!(%name, %error, "a part without a receipt cannot be read"),
            }
        }
        Ok(())
    }

    /// Writes down what is in a part and which parts, by name, it takes the place of. Doing it again changes nothing.
    pub(crate) fn issue(
        &self,
        account: AccountId,
        part: PartContents,
        covered: &[String],
        now: Moment,
    ) -> Result<(), ReceiptsError> {
        self.with_chain(account, |path, chain| {
            if chain.current().any(|(_, current)| *current == part) {
                return Ok(());
            }
            let is_replaced = |other: &PartContents| other.name == part.name || covered.contains(&other.name);
            let replaces = chain.current().filter(|(_, other)| is_replaced(other)).map(|(number, _)| number).collect();
            let receipt = chain.next(part, replaces, now);
            let mut followed = chain.clone();
            followed.follow(&receipt).map_err(|source| ReceiptsError::Chain { path: path.to_owned(), source })?;
            let signature = self.key.sign(receipt.text().as_bytes());
            let signature = signature.as_ref().try_into().map_err(|_| ReceiptsError::Key { path: path.to_owned() })?;
            append(path, &SignedReceipt { receipt, signature: Hex(signature) }).map_err(at(path))?;
            *chain = followed;
            Ok(())
        })
    }

    /// An account's receipts from a number on.
    pub(crate) fn page(&self, account: AccountId, since: u64) -> Result<ReceiptPage, ReceiptsError> {
        let path = self.path(account);
        let end = self.with_chain(account, |_, chain| Ok(chain.head().next))?;
        let key = self.public_key()?;
        let skip = usize::try_from(since).unwrap_or(usize::MAX);
        // What comes behind may be in the middle of being written.
        let most = PAGE.min(usize::try_from(end.saturating_sub(since)).unwrap_or(PAGE));
        let receipts = lines(&path)?.skip(skip).take(most).collect::<Result<Vec<_>, _>>()?;
        let next = since.saturating_add(receipts.len() as u64);
        Ok(ReceiptPage { key, receipts, next: (next < end).then_some(next) })
    }

    fn public_key(&self) -> Result<PublicKey, ReceiptsError> {
        let key = self.key.public_key().as_ref().try_into();
        key.map(Hex).map_err(|_| ReceiptsError::Key { path: self.dir.clone() })
    }

    fn path(&self, account: AccountId) -> PathBuf {
        self.dir.join(format!("{account}.jsonl"))
    }

    fn with_chain<T>(
        &self,
        account: AccountId,
        work: impl FnOnce(&Path, &mut Chain) -> Result<T, ReceiptsError>,
    ) -> Result<T, ReceiptsError> {
        let path = self.path(account);
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let chain = match chains.entry(account) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(read(account, &path)?),
        };
        work(&path, chain)
    }
}

/// The chain of a file, as far as it was durable.
fn read(account: AccountId, path: &Path) -> Result<Chain, ReceiptsError> {
    cut_torn_line(path).map_err(at(path))?;
    let mut chain = Chain::new(account);
    for signed in lines(path)? {
        let followed = chain.follow(&signed?.receipt);
        followed.map_err(|source| ReceiptsError::Chain { path: path.to_owned(), source })?;
    }
    Ok(chain)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ReceiptsError + use<> {
    let path = path.to_owned();
    move |source| ReceiptsError::File { path, source }
}

/// The receipts of a file, from the first on.
fn lines(path: &Path) -> Result<impl Iterator<Item = Result<SignedReceipt, ReceiptsError>> + use<>, ReceiptsError> {
    let file = match File::open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(at(path)(error)),
    };
    let path = path.to_owned();
    let lines = file.into_iter().flat_map(|file| BufReader::new(file).lines()).zip(1..);
    Ok(lines.map(move |(text, line)| {
        let text = text.map_err(at(&path))?;
        serde_json::from_str(&text).map_err(|source| ReceiptsError::Line { path: path.clone(), line, source })
    }))
}

/// Removes what follows the last whole line: a receipt that was not yet durable, and so not relied upon.
fn cut_torn_line(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let mut octets = Vec::new();
    file.read_to_end(&mut octets)?;
    let whole = octets.iter().rposition(|octet| *octet == b'\n').map_or(0, |end| end + 1);
    if whole < octets.len() {
        file.set_len(whole as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Adds a line, durably. After an error the file ends as before, or in a line that will be cut.
fn append(path: &Path, signed: &SignedReceipt) -> io::Result<()> {
    let is_new = !path.exists();
    let mut line = serde_json::to_vec(signed)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    let written = file.write_all(&line).and_then(|()| file.sync_data());
    if written.is_err() {
        file.set_len(length)?;
    }
    if is_new {
        path.parent().map_or(Ok(()), durable::sync_dir)?;
    }
    written
}

/// The signing key of a file, which is made if there is none.
fn key(path: &Path) -> Result<Ed25519KeyPair, ReceiptsError> {
    if !path.exists() {
        let new = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| ReceiptsError::Random)?;
        durable::write_whole(path, |file| file.write_all(new.as_ref())).map_err(at(path))?;
    }
    let key = fs::read(path).map_err(at(path))?;
    Ed25519KeyPair::from_pkcs8(&key).map_err(|_| ReceiptsError::Key { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use lucarne_flows::receipts::{Digest, verify};

    use super::*;

    const ACCOUNT: AccountId = AccountId::OPERATOR;

    fn contents(name: &str, count: u64) -> PartContents {
        PartContents { name: name.into(), size: 1, sha256: Digest::of(name.as_bytes()), minutes: vec![(1, count)] }
    }

    fn issue(receipts: &Receipts, name: &str, count: u64, covered: &[&str]) -> Result<(), ReceiptsError> {
        let covered: Vec<String> = covered.iter().map(ToString::to_string).collect();
        receipts.issue(ACCOUNT, contents(name, count), &covered, Moment(5))
    }

    fn assert_whole(receipts: &Receipts, expected: &[&str]) {
        let page = receipts.page(ACCOUNT, 0).unwrap();
        let file = |name: &str| Some((1, Digest::of(name.as_bytes())));
        let chain = verify(ACCOUNT, &page.key, &page.receipts, None, file).unwrap();
        assert_eq!(chain.current().map(|(_, part)| part.name.clone()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn receipts_are_kept_once_and_go_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let receipts = Receipts::open(dir.path()).unwrap();
        issue(&receipts, "a", 2, &[]).unwrap();
        issue(&receipts, "a", 2, &[]).unwrap();
        issue(&receipts, "b", 3, &[]).unwrap();
        assert_whole(&receipts, &["a", "b"]);
        drop(receipts);
        let receipts = Receipts::open(dir.path()).unwrap();
        issue(&receipts, "ab", 5, &["a", "b"]).unwrap();
        issue(&receipts, "c", 1, &[]).unwrap();
        assert_whole(&receipts, &["ab", "c"]);
        assert_eq!(receipts.page(ACCOUNT, 0).unwrap().receipts.len(), 4);
    }

    #[test]
    fn a_line_that_was_not_finished_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        issue(&Receipts::open(dir.path()).unwrap(), "a", 2, &[]).unwrap();
        let path = dir.path().join(DIR).join(format!("{ACCOUNT}.jsonl"));
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"{\"account\":").unwrap();
        let receipts = Receipts::open(dir.path()).unwrap();
        issue(&receipts, "b", 1, &[]).unwrap();
        assert_whole(&receipts, &["a", "b"]);
    }

    #[test]
    fn a_merge_that_lost_records_is_not_signed() {
        let dir = tempfile::tempdir().unwrap();
        let receipts = Receipts::open(dir.path()).unwrap();
        issue(&receipts, "a", 2, &[]).unwrap();
        assert!(issue(&receipts, "aa", 1, &["a"]).is_err());
        assert_whole(&receipts, &["a"]);
    }
}
