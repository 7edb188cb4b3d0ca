//! The files of parts as the engine reads them: from the folder, and brought there first where they are in the store alone.

use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, local::LocalFileSystem, path::Path,
};
use futures::stream::BoxStream;

use crate::{
    part::{Folders, Half},
    shelf::Shelf,
};

/// What was brought may be removed again before it is opened; so often it is brought.
const TRIES: usize = 3;

/// What accounts may see of parts. Nothing is written through it.
#[derive(Debug)]
pub(super) struct PartFiles {
    here: Arc<LocalFileSystem>,
    folder: PathBuf,
    shelf: Option<Arc<Shelf>>,
}

impl PartFiles {
    pub(super) fn new(here: Arc<LocalFileSystem>, folders: &Folders) -> Self {
        Self { here, folder: folders.shown.clone(), shelf: folders.shelf.clone() }
    }

    /// Brings the file here. It is open to be read by its name for at least as long as nobody else needs the room.
    async fn bring(&self, shelf: &Arc<Shelf>, location: &Path) -> Result<()> {
        let (shelf, name) = (shelf.clone(), location.to_string());
        let path = self.folder.join(&name);
        let brought = tokio::task::spawn_blocking(move || shelf.open_file(Half::Shown, &name, &path)).await?;
        let failed = |source| Error::Generic { store: "shelf", source: Box::new(source) };
        brought.map(drop).map_err(failed)
    }
}

impl fmt::Display for PartFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parts below {}", self.folder.display())
    }
}

fn read_only<T>() -> Result<T> {
    Err(Error::NotImplemented { operation: "writing".into(), implementer: "parts".into() })
}

#[async_trait]
impl ObjectStore for PartFiles {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        for _ in 0..TRIES {
            match (self.here.get_opts(location, options.clone()).await, &self.shelf) {
                (Err(Error::NotFound { .. }), Some(shelf)) => self.bring(shelf, location).await?,
                (answer, _) => return answer,
            }
        }
        self.here.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        for _ in 0..TRIES {
            match (self.here.get_ranges(location, ranges).await, &self.shelf) {
                (Err(Error::NotFound { .. }), Some(shelf)) => self.bring(shelf, location).await?,
                (answer, _) => return answer,
            }
        }
        self.here.get_ranges(location, ranges).await
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.here.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.here.list_with_delimiter(prefix).await
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        read_only()
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        read_only()
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        Box::pin(futures::stream::once(async { read_only() }))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        read_only()
    }
}
