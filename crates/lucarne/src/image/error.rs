//! What can go wrong while an image is built, and what to do about it.

use std::{io, path::PathBuf, process::ExitStatus};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("cannot run {program}: images are built on Debian and its relatives; elsewhere, import one")]
    CannotRun {
        program: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error("`{command}` failed ({status}): {said}")]
    Failed { command: String, status: ExitStatus, said: String },
    #[error("apt knows no package {package}: run `apt-get update` and try again")]
    UnknownPackage { package: String },
    #[error("apt's description of {package} has no field {field}")]
    OddPackage { package: String, field: &'static str },
    #[error("the downloaded {file} is not the one that apt promised: run `apt-get update` and try again")]
    WrongDownload { file: String },
    #[error("the package {package} has no {wanted}")]
    NotInPackage { package: String, wanted: String },
    #[error("the kernel module {module} does not say which modules it needs")]
    OddModule { module: String },
    #[error("cannot {doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

impl ImageError {
    /// For `map_err`: an [`ImageError::File`] that says what was tried with which path.
    pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { doing, path, cause }
    }
}
