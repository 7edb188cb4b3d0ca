//! Volumes as qcow2 files: made, laid over an image, copied.
//!
//! Owns what qemu-img is asked. Every file is made as a draft and put in place whole, so that a full disk or a kill
//! leaves nothing half-made. A copy of a disk that a VM writes to at the same time is [`crate::qemu`]'s.
//!
//! The tool runs as the user of the VMs: a VM's process can write what it likes into its volume's header, and a tool of
//! root's would follow a backing file that is named there to any file of the host.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use lucarne_model::{Bytes, storage::DiskFormat};

use crate::{
    driver::VolumeSource,
    error::Error,
    files::Draft,
    image,
    limits::{CORE, Limits, OPEN_FILES},
    qemu::{Settings, User},
    tool::Tool,
};

const LIMITS: &Limits = &[(CORE, 0), (OPEN_FILES, 256)];

/// The maker of volumes.
#[derive(Clone, Debug)]
pub(crate) struct Volumes {
    tool: Tool,
    user: Option<User>,
}

impl Volumes {
    pub(crate) fn new(settings: &Settings) -> Self {
        let user = settings.user;
        let (program, patience): (PathBuf, Duration) = (settings.qemu_img.clone(), settings.copy_patience);
        Self { tool: Tool { program, package: "qemu-utils", user, patience, limits: LIMITS }, user }
    }

    /// See [`crate::driver::Driver::create_volume`].
    pub(crate) async fn create(&self, path: &Path, size: Bytes, source: VolumeSource<'_>) -> Result<(), Error> {
        if path.exists() {
            return Ok(());
        }
        self.draft(path, size, source).await?.publish()
    }

    /// The volume, to be put in place by the caller.
    pub(crate) async fn draft(&self, path: &Path, size: Bytes, source: VolumeSource<'_>) -> Result<Draft, Error> {
        let draft = Draft::new(path, self.user)?;
        match source {
            VolumeSource::Empty => self.make_empty(draft.path(), size).await?,
            VolumeSource::Overlay { base, format } => {
                self.make_overlay(draft.path(), size, (base, format), &[]).await?;
            }
            // Unlooked at: a VM may have it open still.
            VolumeSource::Layer { below } => {
                self.make_overlay(draft.path(), size, (below, DiskFormat::Qcow2), &["-u"]).await?;
            }
            VolumeSource::Copy { from } => {
                image::inspect_header(from)?;
                self.copy(from, draft.path()).await?;
                self.grow(draft.path(), size).await?;
            }
        }
        Ok(draft)
    }

    /// Copies a disk that no VM writes to into a self-contained file.
    pub(crate) async fn snapshot(&self, disk: &Path, to: &Path) -> Result<(), Error> {
        let draft = Draft::new(to, self.user)?;
        self.copy(disk, draft.path()).await?;
        draft.publish()
    }

    pub(crate) async fn make_empty(&self, path: &Path, size: Bytes) -> Result<(), Error> {
        let words = words(["create", "-q", "-f", "qcow2"]);
        self.run(path, words.chain([path.into(), size.0.to_string().into()])).await
    }

    async fn make_overlay(
        &self,
        path: &Path,
        size: Bytes,
        (base, format): (&Path, DiskFormat),
        options: &[&str],
    ) -> Result<(), Error> {
        let absolute = std::path::absolute(base).map_err(|error| Error::file("name", base, error))?;
        let options = options.iter().map(OsString::from);
        let words = words(["create", "-q", "-f", "qcow2", "-F", format.name()]).chain(options).chain(words(["-b"]));
        self.run(path, words.chain([absolute.into(), path.into(), size.0.to_string().into()])).await
    }

    async fn copy(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let words = words(["convert", "-q", "-f", "qcow2", "-O", "qcow2"]);
        self.run(to, words.chain([from.into(), to.into()])).await
    }

    /// Makes the disk larger; one that has the size stays as it is, a smaller size is refused.
    async fn grow(&self, path: &Path, size: Bytes) -> Result<(), Error> {
        let words = words(["resize", "-q", "-f", "qcow2"]);
        self.run(path, words.chain([path.into(), size.0.to_string().into()])).await
    }

    async fn run(&self, about: &Path, arguments: impl Iterator<Item = OsString>) -> Result<(), Error> {
        let arguments: Vec<_> = arguments.collect();
        self.tool.run(about, &arguments).await.map(drop)
    }
}

fn words<const N: usize>(words: [&str; N]) -> impl Iterator<Item = OsString> {
    words.map(OsString::from).into_iter()
}
