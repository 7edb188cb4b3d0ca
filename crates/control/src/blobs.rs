//! The blob store: files of any size, named by the SHA-256 of their bytes.
//!
//! Owns the folder, how bytes get into it whole or not at all, and how long nobody's blobs are kept. Blobs of the same
//! bytes are one file, but an account may make images only of what it has uploaded itself: knowing a digest proves nothing.
//! What references a blob is in the store.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::body::Body;
use futures::StreamExt;
use lucarne_api::Problem;
use lucarne_model::{
    Bytes, ErrorCode,
    storage::{Blob, Digest},
};
use ring::digest::{Context, SHA256};
use tokio::{
    fs::{self, File},
    io::AsyncWriteExt,
    sync::{RwLock, RwLockReadGuard},
    time::timeout,
};

/// The largest blob.
const MAX_SIZE: Bytes = Bytes::gib(64);
/// How long an upload may stand still.
const STALL: Duration = Duration::from_secs(60);
/// How long a blob that nothing references is kept for whoever is about to.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A handle to the folder; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct BlobStore {
    folder: PathBuf,
    /// Uploads hold it shared from their file's place in the folder to its row in the store; collection holds it alone.
    collection: Arc<RwLock<()>>,
}

impl BlobStore {
    /// Opens the folder, and throws away what uploads of an earlier run left unfinished.
    pub(crate) async fn open(folder: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(folder.join("incoming")).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(folder.join("incoming")).await?;
        Ok(Self { folder, collection: Arc::default() })
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.as_str())
    }

    /// No blob is collected while this is held.
    pub(crate) async fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.collection.read().await
    }

    /// Takes a blob in. What it is called is known when its last byte has come.
    pub(crate) async fn take(&self, body: Body) -> Result<Incoming, Problem> {
        let path = self.folder.join("incoming").join(crate::random::secret());
        let mut incoming = Incoming { path, blob: None };
        let blob = receive(&incoming.path, body).await?;
        incoming.blob = Some(blob);
        Ok(incoming)
    }

    /// Gives the blob its place; the caller [holds](BlobStore::hold) the store.
    pub(crate) async fn place(&self, incoming: Incoming) -> Result<Blob, Problem> {
        let blob = incoming.blob.clone().ok_or_else(|| failed(&io::Error::other("the upload is not finished")))?;
        fs::rename(&incoming.path, self.path(&blob.digest)).await.map_err(|error| failed(&error))?;
        // The name is on the disk only when the folder is.
        let folder = File::open(&self.folder).await.map_err(|error| failed(&error))?;
        folder.sync_all().await.map_err(|error| failed(&error))?;
        Ok(blob)
    }

    pub(crate) async fn open_blob(&self, digest: &Digest) -> Result<File, Problem> {
        File::open(self.path(digest)).await.map_err(|error| failed(&error))
    }

    /// Deletes what is old and not among those that `referenced` names, when nobody else can be about to use it.
    pub(crate) async fn collect<F, Fut>(&self, referenced: F) -> Result<usize, Problem>
    where
        F: FnOnce(Vec<Digest>) -> Fut,
        Fut: Future<Output = Result<HashSet<Digest>, Problem>>,
    {
        let _alone = self.collection.write().await;
        let old = old_blobs(&self.folder).await.map_err(|error| failed(&error))?;
        if old.is_empty() {
            return Ok(0);
        }
        let kept = referenced(old.clone()).await?;
        let mut collected = 0;
        for digest in old.iter().filter(|digest| !kept.contains(digest)) {
            fs::remove_file(self.path(digest)).await.map_err(|error| failed(&error))?;
            collected += 1;
        }
        Ok(collected)
    }
}

/// A file that has come and has no place yet; dropped without one, it is deleted.
#[derive(Debug)]
pub(crate) struct Incoming {
    path: PathBuf,
    blob: Option<Blob>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "an unfinished upload stays until the next start");
            }
            _ => {}
        }
    }
}

async fn receive(path: &Path, body: Body) -> Result<Blob, Problem> {
    let mut file = File::create_new(path).await.map_err(|error| failed(&error))?;
    let (mut digest, mut size) = (Context::new(&SHA256), 0u64);
    let mut chunks = body.into_data_stream();
    loop {
        let stalled = |_| Problem::new(ErrorCode::RequestTimeout, "the upload stood still for a minute");
        let Some(chunk) = timeout(STALL, chunks.next()).await.map_err(stalled)? else { break };
        let broken = |error| Problem::new(ErrorCode::MalformedRequest, format!("the upload broke off: {error}"));
        let chunk = chunk.map_err(broken)?;
        size += chunk.len() as u64;
        if size > MAX_SIZE.0 {
            return Err(Problem::new(ErrorCode::RequestTooLarge, format!("a blob can have {MAX_SIZE}")));
        }
        digest.update(&chunk);
        file.write_all(&chunk).await.map_err(|error| failed(&error))?;
    }
    file.flush().await.map_err(|error| failed(&error))?;
    file.sync_all().await.map_err(|error| failed(&error))?;
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.finish().as_ref());
    Ok(Blob { digest: Digest::from_bytes(bytes), size: Bytes(size) })
}

async fn old_blobs(folder: &Path) -> io::Result<Vec<Digest>> {
    let mut old = Vec::new();
    let mut entries = fs::read_dir(folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let age = SystemTime::now().duration_since(entry.metadata().await?.modified()?).unwrap_or_default();
        if age > KEPT {
            old.push(digest);
        }
    }
    Ok(old)
}

/// What a failure of the disk means to who asked; the cause is logged, not told.
pub(crate) fn failed(error: &io::Error) -> Problem {
    tracing::error!(%error, "the blob store failed");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Problem::new(ErrorCode::DiskFull, "the controller's disk is full")
        }
        _ => Problem::new(ErrorCode::StoreUnavailable, "the blob could not be read or written"),
    }
}
