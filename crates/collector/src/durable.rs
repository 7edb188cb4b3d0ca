//! Files that are whole after any end of the process or the machine.
//!
//! Owns the order of write, fsync and rename, and the lock of the state folder. What is written is the callers' matter.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// What a file that is being written is called until it is whole. [`crate::recovery`] removes those left behind.
pub(crate) const TEMPORARY: &str = "tmp";

/// Makes the folder and those above it, each durable in its parent, for this user alone.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dir(parent)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => return sync_dir(parent),
        }
    }
    DirBuilder::new().mode(0o700).create(path)
}

/// Brings names that were made, changed or removed in the folder to the disk.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a file under a temporary name, then gives it its own: others see all of it or nothing.
///
/// After an error nothing is left behind, unless removing it failed too.
pub(crate) fn write_whole<T, E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    let temporary = temporary(path);
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let written = write(&mut file)?;
        file.flush()?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), sync_dir)?;
        Ok(written)
    })();
    if result.is_err() {
        // It takes room on what may be a full disk; if this fails, the next start removes it.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(TEMPORARY);
    PathBuf::from(name)
}

/// Removes a file, durably. One that is gone already, with its folder or without, is well removed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = fs::remove_file(path);
    let is_gone = |result: &io::Result<()>| !matches!(result, Err(error) if error.kind() != io::ErrorKind::NotFound);
    if !is_gone(&removed) {
        return removed;
    }
    let synced = path.parent().map_or(Ok(()), sync_dir);
    if is_gone(&synced) { Ok(()) } else { synced }
}

/// Takes the folder for this process as long as the file is open; none when another process has it.
pub(crate) fn lock(dir: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
