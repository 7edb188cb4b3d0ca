//! Files measured by their content, and looked at again for as long as the agent runs.
//!
//! Owns the digests and the knowledge whether a file is still the one that was measured. A file is opened once and hashed by
//! that descriptor; what it is (device, inode, size, times) is asked of the same descriptor before and after. A change of
//! content changes the time of change, which no program can set back; whoever controls the clock or the disk under the file
//! system is not found by this, nor who has another file run and puts the first one back before anybody looks. Digests are not kept over restarts: what is measured at a start was read at that start.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use lucarne_model::{Measurement, storage::Digest};
use ring::digest::{Context, SHA256, digest};

use super::survey::{Content, Found};

/// How often a file may change while it is read.
const TRIES: u32 = 3;
const PIECE: usize = 256 << 10;

/// What was measured, and of which file.
#[derive(Debug)]
pub(super) struct Measured {
    found: Found,
    /// None of what is no file.
    state: Option<State>,
}

/// Which file it was, and as of when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for State {
    fn from(file: Metadata) -> Self {
        Self {
            place: (file.dev(), file.ino()),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

impl Measured {
    /// Measures one thing. What cannot be read is an error that names it.
    pub(super) fn new(found: Found) -> io::Result<(Self, Measurement)> {
        let (state, digest) = match &found.content {
            Content::Read(octets) => (None, digest(&SHA256, octets)),
            Content::File(path) => {
                let (state, digest) = hash(path)?;
                (Some(state), digest)
            }
        };
        let digest: [u8; 32] = std::array::from_fn(|at| digest.as_ref()[at]);
        let (component, name) = (found.component, found.name.clone());
        Ok((Self { found, state }, Measurement { component, name, digest: Digest::from_bytes(digest) }))
    }

    /// Measures again what is not the same file as before, or not as it was.
    pub(super) fn again(&mut self) -> io::Result<Option<Measurement>> {
        let Content::File(path) = &self.found.content else { return Ok(None) };
        if State::from(std::fs::metadata(path)?) == self.state.unwrap_or(NOWHERE) {
            return Ok(None);
        }
        let (measured, measurement) = Self::new(self.found.clone())?;
        *self = measured;
        Ok(Some(measurement))
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> &str {
        &self.found.name
    }
}

/// No file is like this.
const NOWHERE: State = State { place: (0, 0), size: 0, modified: (0, 0), changed: (0, 0) };

fn hash(path: &Path) -> io::Result<(State, ring::digest::Digest)> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; PIECE];
    for _ in 0..TRIES {
        let before = State::from(file.metadata()?);
        let mut context = Context::new(&SHA256);
        loop {
            match file.read(&mut piece)? {
                0 => break,
                read => context.update(&piece[..read]),
            }
        }
        if State::from(file.metadata()?) == before {
            return Ok((before, context.finish()));
        }
        io::Seek::rewind(&mut file)?;
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "it does not stay the same for as long as it takes to read it"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use lucarne_model::Component;

    use super::*;

    fn found(path: &Path) -> Found {
        let content = Content::File(path.to_owned());
        Found { component: Component::Hypervisor, name: "qemu".to_owned(), content }
    }

    #[test]
    fn a_file_is_measured_again_when_one_octet_changed_or_another_took_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qemu");
        fs::write(&path, b"abc").unwrap();
        let (mut measured, first) = Measured::new(found(&path)).unwrap();
        assert_eq!(first.digest.as_str(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(measured.again().unwrap(), None);
        fs::write(&path, b"abd").unwrap();
        let changed = measured.again().unwrap().expect("it changed");
        assert_ne!(changed.digest, first.digest);
        let beside = folder.path().join("beside");
        fs::write(&beside, b"abc").unwrap();
        fs::rename(&beside, &path).unwrap();
        assert_eq!(measured.again().unwrap().map(|now| now.digest), Some(first.digest));
        assert_eq!(measured.again().unwrap(), None);
        fs::remove_file(&path).unwrap();
        assert!(measured.again().is_err());
    }

    #[test]
    fn what_is_no_file_is_measured_as_it_was_read() {
        let read = Found { content: Content::Read(b"abc".to_vec()), ..found(Path::new("/")) };
        let (mut measured, first) = Measured::new(read).unwrap();
        assert!(first.digest.as_str().starts_with("ba7816bf"));
        assert_eq!(measured.again().unwrap(), None);
    }
}
