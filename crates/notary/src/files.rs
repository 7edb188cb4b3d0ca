//! Files that are whole after any end of the process or the machine, and the lock of the state folder.
//!
//! Owns the order of write, fsync and rename. What is in the files is the callers'.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::NotaryError;

/// Makes the folder, for this user alone, and takes it for this process as long as the file is open.
pub(crate) fn take(dir: &Path) -> Result<File, NotaryError> {
    let failed = |cause| NotaryError::File { path: dir.to_owned(), cause };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(dir.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(NotaryError::Locked(dir.to_owned())),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// A text, if the file is there.
pub(crate) fn read(path: &Path) -> Result<Option<String>, NotaryError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(NotaryError::File { path: path.to_owned(), cause }),
    }
}

/// Writes a file under a temporary name, then gives it its own: others see all of it or nothing, also after a crash.
pub(crate) fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<(), NotaryError> {
    write(path, content, mode).map_err(|cause| NotaryError::File { path: path.to_owned(), cause })
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
