//! Files that are whole at any time: written beside their place and renamed into it.
//!
//! Owns that one function and its two strengths. All of it blocks; async callers go through `spawn_blocking`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// What a file must outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlives {
    /// The end of the process, at any point. After a power cut it may be the old one, or unreadable.
    Process,
    /// A power cut too.
    PowerCut,
}

/// Puts `bytes` at `path`, readable by the owner alone.
pub(crate) fn replace(path: &Path, bytes: &[u8], outlives: Outlives) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    if outlives == Outlives::PowerCut {
        file.sync_all()?;
    }
    fs::rename(&beside, path)?;
    if let (Outlives::PowerCut, Some(folder)) = (outlives, path.parent()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Deletes the file if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (text, outlives) in [("first", Outlives::PowerCut), ("second, longer", Outlives::Process)] {
            replace(&path, text.as_bytes(), outlives).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
