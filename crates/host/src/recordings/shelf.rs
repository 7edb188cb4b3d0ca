//! The files of one recording on this host: `NUMBER.pcapng`, each of which opens by itself.
//!
//! Owns their names, and what is left of one whose writer was killed: its whole blocks. What goes into them is the
//! [writer](super::writer)'s business.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use lucarne_model::{Bytes, pcapng, recording::Recorded};

use super::ring::Part;

const EXTENSION: &str = "pcapng";

/// One recording's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shelf(PathBuf);

impl Shelf {
    pub(super) const fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.0.join(format!("{number:012}.{EXTENSION}"))
    }

    /// Makes the folder.
    pub(super) fn open(&self) -> io::Result<()> {
        fs::create_dir_all(&self.0)
    }

    /// The numbers of the files, the oldest first.
    pub(super) fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(numbers),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let is_ours = path.extension().is_some_and(|extension| extension == EXTENSION);
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            numbers.extend(number.filter(|_| is_ours));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// What is there, after what was cut off in the middle of a block is taken away.
    pub(super) fn repair(&self) -> io::Result<(Vec<Part>, Recorded)> {
        let (mut parts, mut recorded) = (Vec::new(), Recorded::default());
        for number in self.numbers()? {
            let path = self.path(number);
            let octets = fs::read(&path)?;
            let (length, frames) = pcapng::whole(&octets);
            if length < octets.len() {
                fs::OpenOptions::new().write(true).open(&path)?.set_len(length as u64)?;
            }
            parts.push(Part { number, octets: length as u64 });
            recorded.frames += frames;
            recorded.size = Bytes(recorded.size.0 + length as u64);
        }
        Ok((parts, recorded))
    }

    /// The whole blocks of a file; nothing when it is gone.
    pub(super) fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        let mut octets = match fs::read(self.path(number)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            octets => octets?,
        };
        octets.truncate(pcapng::whole(&octets).0);
        Ok(octets)
    }

    pub(super) fn remove(&self, number: u64) -> io::Result<()> {
        gone(fs::remove_file(self.path(number)))
    }

    /// Deletes all of it.
    pub(super) fn clear(&self) -> io::Result<()> {
        gone(fs::remove_dir_all(&self.0))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
