//! The state folder of a cloud on one machine, held by one supervisor at a time.

use std::{
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::{
    configuration::folder,
    failure::{Failure, LocalCode},
    private_file,
};

/// Others may pass through to what they own further in, and see nothing on the way.
const PASSABLE: u32 = 0o711;

/// A state folder that is ours as long as this value lives.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// The lock goes when the file is closed, also by a kill.
    _lock: File,
}

impl StateDir {
    /// `$XDG_STATE_HOME/lucarne`, or its place in the home folder. Root's is elsewhere: VMs then run as a user who cannot
    /// pass through root's home.
    pub(crate) fn default_path() -> PathBuf {
        if rustix::process::geteuid().is_root() && std::env::var_os("XDG_STATE_HOME").is_none() {
            return "/var/lib/lucarne".into();
        }
        folder("XDG_STATE_HOME", ".local/state")
    }

    pub(crate) fn take(path: &Path) -> Result<Self, Failure> {
        let unusable = |why: String| Failure::local(LocalCode::FileUnwritable, format!("{}: {why}", path.display()));
        private_file::make_folder(path, PASSABLE).map_err(|cause| unusable(cause.to_string()))?;
        let path = path.canonicalize().map_err(|cause| unusable(cause.to_string()))?;
        private_file::make_folder(&path.join("logs"), 0o700).map_err(|cause| unusable(cause.to_string()))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"));
        let lock = lock.map_err(|cause| unusable(cause.to_string()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let detail =
                    format!("another `lucarne dev` runs on {}; give this one another --state-dir", path.display());
                Err(Failure::local(LocalCode::StateDirectoryInUse, detail))
            }
            Err(cause) => Err(unusable(cause.to_string())),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The folder of one process.
    pub(crate) fn of(&self, process: &str) -> PathBuf {
        self.path.join(process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_held_is_refused_until_it_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::take(folder.path()).unwrap();
        let refused = StateDir::take(folder.path()).unwrap_err();
        assert!(refused.to_string().starts_with("StateDirectoryInUse: "), "{refused}");
        drop(first);
        assert!(StateDir::take(folder.path()).is_ok());
    }
}
