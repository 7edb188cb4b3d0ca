//! The cache of blobs: files named by their SHA-256 digest, checked while they come and whole when they have their name.
//!
//! Owns download and check. Which blobs are needed, and which may go, is the reconciler's decision.

use std::{fs::Permissions, io, os::unix::fs::PermissionsExt, path::Path};

use futures::StreamExt;
use lucarne_api::Problem;
use lucarne_model::{
    ErrorCode,
    storage::{Blob, Digest},
};
use tokio::io::AsyncWriteExt;

use crate::{
    controller::Controller,
    durable,
    layout::Layout,
    reconcile::{Failure, Prospect},
};

/// Brings a blob to the cache. On a failure nothing of it stays.
pub(crate) async fn fetch(controller: &dyn Controller, layout: &Layout, blob: &Blob) -> Result<(), Failure> {
    let place = layout.blob(&blob.digest);
    let part = place.with_extension("part");
    let fetched = download(controller, blob, &part).await;
    let fetched = match fetched {
        Ok(()) => tokio::fs::rename(&part, &place).await.map_err(|error| file_failure(&error, "keep a blob")),
        failed => failed,
    };
    if fetched.is_err()
        && let Err(error) = durable::remove(&part)
    {
        tracing::warn!(path = %part.display(), %error, "a part of a blob could not be deleted");
    }
    fetched
}

async fn download(controller: &dyn Controller, blob: &Blob, part: &Path) -> Result<(), Failure> {
    let Blob { digest, size } = blob;
    let mut stream = controller.download(digest).await.map_err(|problem| problem_failure(&problem))?;
    let kept = |error: io::Error| file_failure(&error, "keep a blob");
    let file = tokio::fs::File::create(part).await.map_err(kept)?;
    // Whatever the agent's umask: QEMU reads it as a user of its own.
    file.set_permissions(Permissions::from_mode(0o644)).await.map_err(kept)?;
    let mut file = tokio::io::BufWriter::with_capacity(64 << 10, file);
    let (mut hash, mut length) = (ring::digest::Context::new(&ring::digest::SHA256), 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| {
            let message = format!("the download of {digest} broke off: {error}");
            Failure::new(ErrorCode::ControllerUnreachable, message, Prospect::Passing)
        })?;
        length += chunk.len() as u64;
        if length > size.0 {
            return Err(damaged(digest, &format!("it is longer than {size}")));
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(kept)?;
    }
    file.flush().await.map_err(kept)?;
    file.get_ref().sync_all().await.map_err(kept)?;
    if hash.finish().as_ref() == digest_bytes(digest) { Ok(()) } else { Err(damaged(digest, "its digest is another")) }
}

/// The 32 bytes that the digest's hexadecimal digits stand for.
fn digest_bytes(digest: &Digest) -> Vec<u8> {
    let pairs = digest.as_str().as_bytes().chunks(2);
    pairs.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn damaged(digest: &Digest, how: &str) -> Failure {
    let message = format!("what the controller gave as blob {digest} is not it: {how}");
    Failure::new(ErrorCode::ImageUnreadable, message, Prospect::Doubtful)
}

/// What a problem of the controller means for a step.
pub(crate) fn problem_failure(problem: &Problem) -> Failure {
    let prospect =
        if problem.code == ErrorCode::ControllerUnreachable { Prospect::Passing } else { Prospect::Doubtful };
    Failure::new(problem.code, problem.detail.clone(), prospect)
}

/// What an error with a file of the state folder means for a step.
pub(crate) fn file_failure(error: &io::Error, doing: &str) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Failure::new(ErrorCode::DiskFull, format!("the host's disk is full: could not {doing}"), Prospect::Hopeless)
        }
        _ => Failure::new(ErrorCode::Internal, format!("the host could not {doing}: {error}"), Prospect::Doubtful),
    }
}
