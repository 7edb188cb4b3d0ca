//! The log on disk: one line of canonical JSON for each entry, in `log.jsonl`, appended and brought to the disk before
//! anyone is told.
//!
//! Owns the file and the key. A last line without its end was never told to anyone, and is cut off at the next start; any
//! other line that is not a good entry is refused, for then the log is not what was shown.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use lucarne_attest::{
    canonical,
    log::Head,
    signing::{Envelope, SigningError, SigningKey, Statement},
};
use lucarne_model::Moment;

use crate::ledger::{Ledger, LedgerError};

/// Why the log cannot be read or appended to.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{path} cannot be read or written")]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("line {line} of {path} is not JSON in its canonical form")]
    Line { path: PathBuf, line: usize },
    #[error("line {line} of {path} does not belong there")]
    Entry {
        path: PathBuf,
        line: usize,
        #[source]
        cause: LedgerError,
    },
    #[error("the statement cannot be signed")]
    Sign(#[source] SigningError),
    #[error(transparent)]
    Refused(LedgerError),
    #[error("an earlier entry could not be written: the notary must be started again")]
    Broken,
}

/// The log, its file and the key that signs for it.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    key: SigningKey,
    ledger: Ledger,
    /// Set when an entry may be on the disk in part.
    broken: bool,
}

impl Journal {
    /// Opens the log in `dir`, or begins it.
    pub(crate) fn open(dir: &Path, publisher: &str, key: SigningKey) -> Result<Self, JournalError> {
        let path = dir.join("log.jsonl");
        let failed = |cause| JournalError::File { path: path.clone(), cause };
        let file = OpenOptions::new().append(true).create(true).mode(0o644).open(&path).map_err(failed)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        let content = fs::read(&path).map_err(failed)?;
        let whole = content.iter().rposition(|octet| *octet == b'\n').map_or(0, |end| end + 1);
        if whole < content.len() {
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let mut ledger = Ledger::new(publisher, key.public());
        for (at, text) in content[..whole].split_inclusive(|octet| *octet == b'\n').enumerate() {
            let line = at + 1;
            let text = text.strip_suffix(b"\n").unwrap_or(text);
            let envelope: Envelope =
                canonical::read(text).map_err(|_| JournalError::Line { path: path.clone(), line })?;
            let judged = ledger.judge(envelope);
            ledger.push(judged.map_err(|cause| JournalError::Entry { path: path.clone(), line, cause })?);
        }
        Ok(Self { path, file, key, ledger, broken: false })
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Signs and appends; when this returns, the entry is on the disk.
    pub(crate) fn append<T: Statement>(&mut self, statement: &T) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::Broken);
        }
        let envelope = self.key.sign(statement).map_err(JournalError::Sign)?;
        let line = canonical::write(&envelope).map_err(|cause| JournalError::Sign(cause.into()))?;
        let judged = self.ledger.judge(envelope).map_err(JournalError::Refused)?;
        let written = self.file.write_all(&[&line[..], b"\n"].concat()).and_then(|()| self.file.sync_data());
        if let Err(cause) = written {
            self.broken = true;
            return Err(JournalError::File { path: self.path.clone(), cause });
        }
        self.ledger.push(judged);
        Ok(())
    }

    /// What holds now, signed.
    pub(crate) fn head(&self, now: Moment) -> Result<Envelope, JournalError> {
        self.sign(&self.ledger.head(now))
    }

    fn sign(&self, head: &Head) -> Result<Envelope, JournalError> {
        self.key.sign(head).map_err(JournalError::Sign)
    }

    pub(crate) fn public_key(&self) -> String {
        self.key.public().to_pem()
    }
}

#[cfg(test)]
mod tests {
    use lucarne_attest::manifest::Manifest;

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_seed([1; 32]).expect("a key")
    }
    fn manifest(version: u64) -> Manifest {
        let (publisher, name, measurements) = ("n".into(), "host".into(), Vec::new());
        let (valid_from, valid_until) = (Moment(0), Moment(9));
        Manifest { publisher, name, version, valid_from, valid_until, oldest_accepted: 1, measurements }
    }

    #[test]
    fn what_was_appended_is_there_after_a_new_start_and_has_the_same_root() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut journal = Journal::open(dir.path(), "n", key()).expect("a log");
        (1..=3).for_each(|version| journal.append(&manifest(version)).expect("appended"));
        let head = journal.ledger().head(Moment(1));
        drop(journal);
        let journal = Journal::open(dir.path(), "n", key()).expect("a log");
        assert_eq!(journal.ledger().head(Moment(1)), head);
    }

    /// A machine that lost its power in the middle of an entry: nobody was told of it.
    #[test]
    fn an_entry_that_is_cut_is_cut_off_and_its_version_is_free() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut journal = Journal::open(dir.path(), "n", key()).expect("a log");
        (1..=2).for_each(|version| journal.append(&manifest(version)).expect("appended"));
        drop(journal);
        let path = dir.path().join("log.jsonl");
        let content = fs::read(&path).expect("the log");
        let first = content.iter().position(|octet| *octet == b'\n').expect("a line") + 1;
        for cut in [first + 1, content.len() - 1] {
            fs::write(&path, &content[..cut]).expect("cut");
            let mut journal = Journal::open(dir.path(), "n", key()).expect("a log");
            assert_eq!(journal.ledger().size(), 1);
            journal.append(&manifest(2)).expect("appended again");
        }
        assert_eq!(fs::read(&path).expect("the log"), content, "the same entry gives the same log");
    }

    #[test]
    fn a_log_that_was_changed_is_not_served() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut journal = Journal::open(dir.path(), "n", key()).expect("a log");
        (1..=3).for_each(|version| journal.append(&manifest(version)).expect("appended"));
        drop(journal);
        let path = dir.path().join("log.jsonl");
        let content = fs::read_to_string(&path).expect("the log");
        let lines: Vec<&str> = content.lines().collect();
        for wrong in [[lines[0], lines[2], lines[1]], [lines[0], "{}", lines[2]], [lines[0], lines[0], lines[1]]] {
            fs::write(&path, wrong.join("\n") + "\n").expect("changed");
            assert!(Journal::open(dir.path(), "n", key()).is_err());
        }
        fs::write(&path, &content).expect("put back");
        assert!(Journal::open(dir.path(), "m", key()).is_err(), "of another publisher");
    }
}
