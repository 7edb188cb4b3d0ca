//! What of a replay or a load is on disk: its recording, whether it has begun, and how it ended.
//!
//! Owns the three files and what is read from them after a kill at any point.

use std::{io, path::PathBuf};

use futures::{StreamExt, stream::BoxStream};
use lucarne_model::{ErrorCode, instance::StateReason};
use tokio::{fs, io::AsyncWriteExt, task::spawn_blocking};

use super::{failed, playbill::Piece};
use crate::{
    durable::{self, Outlives},
    layout::Layout,
};

/// What a recording may have to be played: all of it is in memory meanwhile, taken apart.
const LARGEST: u64 = 128 << 20;

/// The folder of one of them.
#[derive(Debug)]
pub(super) struct Shelf<P: Piece> {
    id: P::Id,
    folder: PathBuf,
}

impl<P: Piece> Shelf<P> {
    pub(super) fn of(layout: &Layout, id: P::Id) -> Self {
        Self { id, folder: P::folder(layout).join(id.to_string()) }
    }

    /// Those that there are.
    pub(super) async fn all(layout: &Layout) -> Vec<Self> {
        let mut found = Vec::new();
        let Ok(mut entries) = fs::read_dir(P::folder(layout)).await else { return found };
        while let Ok(Some(entry)) = entries.next_entry().await {
            found.extend(entry.file_name().to_str().and_then(|name| name.parse().ok()).map(|id| Self::of(layout, id)));
        }
        found
    }

    pub(super) const fn id(&self) -> P::Id {
        self.id
    }

    fn recording(&self) -> PathBuf {
        self.folder.join("recording.pcapng")
    }
    fn begun(&self) -> PathBuf {
        self.folder.join("begun")
    }
    fn end(&self) -> PathBuf {
        self.folder.join("end.json")
    }

    /// How it stands when an agent starts. One that had begun has failed, and one that had not is begun anew.
    pub(super) async fn settle(&self) -> P::Stage {
        let end = fs::read(self.end()).await.ok().and_then(|octets| serde_json::from_slice(&octets).ok());
        if let Some(stage) = end {
            return stage;
        }
        if !fs::try_exists(self.begun()).await.unwrap_or(false) {
            return P::FIRST;
        }
        let reason = failed(ErrorCode::HostUnreachable, "the host's agent was ended while it played");
        let stage = P::failed(reason);
        self.note_end(&stage).await;
        stage
    }

    /// Writes the recording as it comes.
    pub(super) async fn fill(
        &self,
        mut octets: BoxStream<'static, io::Result<bytes::Bytes>>,
    ) -> Result<(), StateReason> {
        let disk = |error: io::Error| failed(ErrorCode::DiskFull, format!("the recording cannot be kept: {error}"));
        fs::create_dir_all(&self.folder).await.map_err(disk)?;
        let mut file = fs::File::create(self.recording()).await.map_err(disk)?;
        let mut length = 0;
        while let Some(piece) = octets.next().await {
            let piece = piece
                .map_err(|error| failed(ErrorCode::HostUnreachable, format!("the recording broke off: {error}")))?;
            length += piece.len() as u64;
            if length > LARGEST {
                let most = LARGEST >> 20;
                return Err(failed(
                    ErrorCode::RequestTooLarge,
                    format!("a recording of more than {most} MiB is not played"),
                ));
            }
            file.write_all(&piece).await.map_err(disk)?;
        }
        file.flush().await.map_err(disk)
    }

    pub(super) async fn octets(&self) -> io::Result<Vec<u8>> {
        fs::read(self.recording()).await
    }

    /// From here on it is played once or not at all.
    pub(super) async fn note_begun(&self) -> io::Result<()> {
        let path = self.begun();
        let write = move || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            durable::replace(&path, b"", Outlives::Process)
        };
        spawn_blocking(write).await.map_err(io::Error::other)?
    }

    /// Before it is told. One that cannot be written is told all the same: only a killed agent would lose it.
    pub(super) async fn note_end(&self, stage: &P::Stage) {
        let (path, json) = (self.end(), serde_json::to_vec(stage));
        let write = move || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            durable::replace(&path, &json?, Outlives::Process)
        };
        let written = spawn_blocking(write).await.map_err(io::Error::other).and_then(|written| written);
        if let Err(error) = written {
            tracing::warn!(%error, id = %self.id, "how {} ended could not be kept on disk", P::NOUN);
        }
        // Nobody reads it again.
        let _ = fs::remove_file(self.recording()).await;
    }

    pub(super) async fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.folder).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
