//! Files put in place whole, and given to the user as whom VMs run.
//!
//! Owns the order of writing, syncing, renaming and chowning. What the files hold is the callers' business.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use crate::{error::Error, qemu::User};

/// A file being made beside its final place; dropped before [`Draft::publish`], it is deleted again.
#[derive(Debug)]
pub(crate) struct Draft {
    path: PathBuf,
    to: PathBuf,
    published: bool,
}

impl Draft {
    /// Makes the empty file `to.part`, owned by `user`, in place of one that an earlier try may have left.
    pub(crate) fn new(to: &Path, user: Option<User>) -> Result<Self, Error> {
        let mut name = to.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        remove(&path)?;
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.map_err(|error| Error::file("make", &path, error))?;
        let draft = Self { path, to: to.to_owned(), published: false };
        own(&draft.path, user)?;
        Ok(draft)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the file in its final place, once all of it is on the disk.
    pub(crate) fn publish(mut self) -> Result<(), Error> {
        let failed = |error| Error::file("put in place", &self.to, error);
        File::open(&self.path).and_then(|file| file.sync_all()).map_err(failed)?;
        fs::rename(&self.path, &self.to).map_err(failed)?;
        self.published = true;
        let directory = self.to.parent().unwrap_or(Path::new("/"));
        File::open(directory).and_then(|file| file.sync_all()).map_err(|error| Error::file("sync", directory, error))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(%error, "a draft was left behind; the next try replaces it");
        }
    }
}

/// Writes a small file so that a reader finds the old content or the new, never a part. It need not survive a power cut:
/// what such files speak of does not either.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let next = path.with_extension("next");
    let failed = |error| Error::file("write", path, error);
    fs::write(&next, content).and_then(|()| fs::rename(&next, path)).map_err(failed)
}

/// Deletes a file if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path, error)),
        _ => Ok(()),
    }
}

/// Deletes a directory and all in it, if it is there.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path, error)),
        _ => Ok(()),
    }
}

/// Makes the directory if it is not there, with exactly this mode.
pub(crate) fn directory(path: &Path, mode: u32) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    let set = made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    set.map_err(|error| Error::file("make the directory", path, error))
}

/// Gives the file to the user as whom VMs run, if that is another than ours.
pub(crate) fn own(path: &Path, user: Option<User>) -> Result<(), Error> {
    let Some(User { uid, gid }) = user else { return Ok(()) };
    chown(path, Some(uid), Some(gid)).map_err(|error| Error::file("chown", path, error))
}

/// Fails with the first directory on the way to `path` that `user` may not enter.
pub(crate) fn reachable(path: &Path, user: Option<User>) -> Result<(), Error> {
    let Some(User { uid, gid }) = user else { return Ok(()) };
    let mut directories: Vec<_> = path.ancestors().collect();
    directories.reverse();
    for directory in directories {
        let about = fs::metadata(directory).map_err(|error| Error::file("look at", directory, error))?;
        let needed = match (about.uid() == uid, about.gid() == gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        if about.mode() & needed == 0 {
            return Err(Error::Closed { directory: directory.to_owned(), uid });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_that_is_not_published_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("volume");
        drop(Draft::new(&to, None).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        Draft::new(&to, None).unwrap().publish().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(to.exists());
    }

    #[test]
    fn a_directory_that_is_closed_to_the_user_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("a/b");
        super::directory(&inner, 0o711).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let stranger = User { uid: 70_708, gid: 70_708 };
        match reachable(&inner, Some(stranger)) {
            Err(Error::Closed { directory: named, .. }) => assert_eq!(named, directory.path()),
            other => panic!("{other:?}"),
        }
        reachable(&inner, None).unwrap();
    }
}
