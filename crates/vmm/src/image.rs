//! What an untrusted disk image is: its format and size, or why it cannot be taken.
//!
//! Owns the checks: first the header by our own reading ([`header`]), and only what passes is shown to qemu-img, in a
//! process with little memory and time. Where the image comes from and goes to is the callers' business.

mod header;

use std::{
    ffi::OsString,
    fs::File,
    io::Read,
    os::unix::{ffi::OsStringExt, fs::FileExt},
    path::{Path, PathBuf},
    time::Duration,
};

use lucarne_model::{Bytes, storage::DiskFormat};
use serde::Deserialize;

use crate::{
    error::Error,
    limits::{ADDRESS_SPACE, CORE, CPU, FILE_SIZE, Limits, OPEN_FILES},
    tool::Tool,
};

/// The largest disk that is taken, as the guest sees it.
pub const MAX_VIRTUAL_SIZE: Bytes = Bytes::gib(16 << 10);

/// What qemu-img may use for an image that may have been made to hurt it.
const LIMITS: &Limits = &[(ADDRESS_SPACE, 1 << 30), (CPU, 20), (CORE, 0), (FILE_SIZE, 0), (OPEN_FILES, 64)];
const PATIENCE: Duration = Duration::from_secs(60);

/// A disk image that can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    pub format: DiskFormat,
    /// The disk's size as a guest sees it.
    pub virtual_size: Bytes,
}

/// Looks at the file at `path`: qcow2 by its magic and its tables, raw if it is a number of sectors. Refuses backing
/// files, external data files, encryption, other formats, sizes over [`MAX_VIRTUAL_SIZE`] and damage with
/// [`Error::Unreadable`].
pub async fn inspect_image(path: &Path) -> Result<ImageInfo, Error> {
    // A relative name could look like an option or one of QEMU's protocols, such as `nbd:`.
    let path = &std::path::absolute(path).map_err(|error| Error::file("name", path, error))?;
    let info = inspect_header(path)?;
    if info.format == DiskFormat::Qcow2 {
        let program =
            Tool { program: "qemu-img".into(), package: "qemu-utils", user: None, patience: PATIENCE, limits: LIMITS };
        second_opinion(&program, path, info).await?;
    }
    Ok(info)
}

/// The file that a qcow2 file says to be below it, as it is named there: a VM's process can have written what it likes.
pub fn file_below(path: &Path) -> Result<Option<PathBuf>, Error> {
    let failed = |error| Error::file("read", path, error);
    let file = File::open(path).map_err(failed)?;
    let mut beginning = Vec::new();
    (&file).take(header::LENGTH as u64).read_to_end(&mut beginning).map_err(failed)?;
    let Some((at, length)) = header::below(&beginning) else { return Ok(None) };
    let mut name = vec![0; length];
    file.read_exact_at(&mut name, at).map_err(failed)?;
    Ok(Some(PathBuf::from(OsString::from_vec(name))))
}

/// The first half of [`inspect_image`]: what the file's beginning says.
pub(crate) fn inspect_header(path: &Path) -> Result<ImageInfo, Error> {
    let failed = |error| Error::file("read", path, error);
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(unreadable(path, "it is not a file"));
    }
    let mut beginning = Vec::new();
    file.take(header::LENGTH as u64).read_to_end(&mut beginning).map_err(failed)?;
    let (format, virtual_size) = header::judge(&beginning, about.len()).map_err(|reason| unreadable(path, reason))?;
    Ok(ImageInfo { format, virtual_size })
}

/// What qemu-img says of an image, as far as it matters here (`qemu-img info --output json`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Opinion {
    format: String,
    virtual_size: u64,
    backing_filename: Option<String>,
    #[serde(default)]
    encrypted: bool,
}

async fn second_opinion(program: &Tool, path: &Path, info: ImageInfo) -> Result<(), Error> {
    let arguments = |verb: &str| {
        let words = [verb, "-f", info.format.name(), "--output", "json"].map(Into::into);
        words.into_iter().chain([path.as_os_str().to_owned()]).collect::<Vec<_>>()
    };
    let printed = program.run(path, &arguments("info")).await.map_err(|error| judged(path, error))?;
    let opinion: Opinion = serde_json::from_str(&printed)
        .map_err(|error| unreadable(path, format!("qemu-img did not describe it: {error}")))?;
    let agrees = opinion.format == info.format.name() && opinion.virtual_size == info.virtual_size.0;
    if !agrees || opinion.backing_filename.is_some() || opinion.encrypted {
        return Err(unreadable(path, "qemu-img reads its header otherwise"));
    }
    // Walks the tables: finds clusters that lie outside the file or are used twice.
    program.run(path, &arguments("check")).await.map_err(|error| judged(path, error))?;
    Ok(())
}

/// A tool that fails on an image speaks about the image; that it is missing or never ends is still its own error.
fn judged(path: &Path, error: Error) -> Error {
    match error {
        Error::Tool { said, .. } => unreadable(path, said),
        other => other,
    }
}

fn unreadable(path: &Path, reason: impl Into<String>) -> Error {
    Error::Unreadable { path: path.into(), reason: reason.into() }
}
