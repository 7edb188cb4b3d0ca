//! A file system of a test's own that is soon full.
//!
//! Owns its mounting, which needs root, and its end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::ensure;

/// Mounted in memory, and unmounted when it is dropped, whoever still has files there.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Of `size`, as mount(8) takes it; machines' users are let through.
    pub fn mount(at: &Path, size: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(at)?;
        let options = format!("size={size},mode=711");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status()?;
        ensure!(done.success(), "a tmpfs could not be mounted at {}; this test needs root", at.display());
        Ok(Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
