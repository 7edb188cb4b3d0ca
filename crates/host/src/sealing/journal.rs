//! A file that only grows: frames with checksums, each on disk before it counts.
//!
//! Owns the file and what a torn end is. A frame that a power cut tore is the last one, since each was synced before the next
//! was begun; anything else that does not read is damage, and whoever needs the file must not go on without what is missing.
//! What frames say is their writer's.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Length, checksum of the frame, and checksum of both: a length that was damaged is not taken for one.
const HEAD: usize = 12;
/// More than any frame has.
const MOST_FRAME: usize = 1 << 20;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("{path} cannot be read or written: {cause}")]
    Io {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(
        "{path} is damaged at octet {at}: what it holds behind that may not be forgotten, so nothing is done by it"
    )]
    Damaged { path: PathBuf, at: u64 },
}

#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Behind the last frame that counts.
    end: u64,
    /// A write failed, and what it left could not be taken away.
    broken: bool,
}

impl Journal {
    /// Opens the file and gives every frame to `each`, with its place.
    pub(crate) fn open<E: From<JournalError>>(
        path: &Path,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let failed = |cause| JournalError::Io { path: path.to_owned(), cause };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(failed)?;
        let mut octets = Vec::new();
        (&file).read_to_end(&mut octets).map_err(failed)?;
        let mut at = 0;
        while let Some(frame) = frame_at(&octets, at) {
            each(at as u64, frame)?;
            at += HEAD + frame.len();
        }
        if !is_torn(octets.get(at..).unwrap_or_default()) {
            return Err(JournalError::Damaged { path: path.to_owned(), at: at as u64 }.into());
        }
        let end = at as u64;
        file.set_len(end).and_then(|()| file.sync_all()).map_err(failed)?;
        if let Some(folder) = path.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), file, end, broken: false })
    }

    /// Brings a frame to disk, and gives its place. When that fails, there is nothing of it.
    pub(crate) fn append(&mut self, frame: &[u8]) -> Result<u64, JournalError> {
        if self.broken || frame.len() > MOST_FRAME {
            return Err(self.failed(io::ErrorKind::InvalidInput.into()));
        }
        let head = [(frame.len() as u32).to_le_bytes(), crc32fast::hash(frame).to_le_bytes()].concat();
        let sum = crc32fast::hash(&head).to_le_bytes();
        let written =
            self.file.write_all_at(&[&head, &sum[..], frame].concat(), self.end).and_then(|()| self.file.sync_data());
        if let Err(cause) = written {
            self.broken = self.file.set_len(self.end).and_then(|()| self.file.sync_all()).is_err();
            return Err(self.failed(cause));
        }
        let at = self.end;
        self.end += (HEAD + frame.len()) as u64;
        Ok(at)
    }

    /// The frame at a place that [`Self::open`] or [`Self::append`] gave.
    pub(crate) fn read(&self, at: u64) -> Result<Vec<u8>, JournalError> {
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, at).map_err(|cause| self.failed(cause))?;
        let damaged = || JournalError::Damaged { path: self.path.clone(), at };
        let (length, sum) = parse(&head).ok_or_else(damaged)?;
        let mut frame = vec![0; length];
        self.file.read_exact_at(&mut frame, at + HEAD as u64).map_err(|cause| self.failed(cause))?;
        if crc32fast::hash(&frame) == sum { Ok(frame) } else { Err(damaged()) }
    }

    fn failed(&self, cause: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), cause }
    }
}

fn parse(head: &[u8]) -> Option<(usize, u32)> {
    let number = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let (length, sum) = (number(0)? as usize, number(4)?);
    let whole = crc32fast::hash(head.get(..8)?) == number(8)? && (1..=MOST_FRAME).contains(&length);
    whole.then_some((length, sum))
}

fn frame_at(octets: &[u8], at: usize) -> Option<&[u8]> {
    let (length, sum) = parse(octets.get(at..at + HEAD)?)?;
    octets.get(at + HEAD..at + HEAD + length).filter(|frame| crc32fast::hash(frame) == sum)
}

/// Whether what does not read can be the one frame that was being written: it is no longer than that frame. A file system
/// that had made room for it and not written yet leaves zeros.
fn is_torn(rest: &[u8]) -> bool {
    if rest.len() <= HEAD || rest.len() <= HEAD + MOST_FRAME && rest.iter().all(|octet| *octet == 0) {
        return true;
    }
    parse(rest).is_some_and(|(length, _)| rest.len() <= HEAD + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Result<(Journal, Vec<Vec<u8>>), JournalError> {
        let mut frames = Vec::new();
        let journal = Journal::open(path, |_, frame| {
            frames.push(frame.to_vec());
            Ok::<_, JournalError>(())
        })?;
        Ok((journal, frames))
    }

    /// Wherever a power cut tears the last frame, all before it are there, and the next is written in its place.
    #[test]
    fn a_torn_end_is_cut_off_and_nothing_else_is_lost() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        let (mut journal, _) = read(&path).unwrap();
        let first = journal.append(b"first").unwrap();
        let second = journal.append(b"second").unwrap() as usize;
        assert_eq!(journal.read(first).unwrap(), b"first");
        let whole = std::fs::read(&path).unwrap();
        for length in second..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (mut journal, frames) = read(&path).unwrap();
            assert_eq!(frames, [b"first"], "cut at {length}");
            journal.append(b"third").unwrap();
            assert_eq!(read(&path).unwrap().1, [b"first".to_vec(), b"third".to_vec()]);
        }
        let mut zeros = whole[..second].to_vec();
        zeros.resize(whole.len(), 0);
        std::fs::write(&path, &zeros).unwrap();
        assert_eq!(read(&path).unwrap().1, [b"first"]);
    }

    /// What was forgotten could be asked for again: a file that lost something in its middle is not used.
    #[test]
    fn damage_before_the_end_is_not_taken_for_a_torn_end() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        let (mut journal, _) = read(&path).unwrap();
        journal.append(b"first").unwrap();
        journal.append(b"second").unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..HEAD + 5 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert!(matches!(read(&path), Err(JournalError::Damaged { at: 0, .. })), "octet {at}");
        }
    }

    #[test]
    fn a_full_disk_leaves_nothing_of_a_frame() {
        // Every write to it fails as one to a full disk does.
        let mut journal = Journal {
            path: "/dev/full".into(),
            file: File::options().write(true).open("/dev/full").unwrap(),
            end: 0,
            broken: false,
        };
        assert!(matches!(journal.append(b"frame"), Err(JournalError::Io { .. })));
        assert_eq!(journal.end, 0);
    }
}
