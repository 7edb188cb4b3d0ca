//! Recordings of networks on this host: what the switch shows is written to files, and these are sent to whoever asks.
//!
//! Owns following the desired state: which recordings are written, which are kept, which are deleted. A file belongs to its
//! recording wherever the network's instances are by now: it goes when the controller says so.
//!
//! - [`ring`]: which part of a recording's room a frame goes into;
//! - [`writer`]: the thread that writes;
//! - [`shelf`]: the files.

mod ring;
mod shelf;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::SinkExt;
use lucarne_model::{
    Moment, RecordingId,
    desired::Desired,
    recording::{ActualRecording, DesiredRecording, DesiredRecordingState, Recorded},
};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{Controller, StreamEnd},
    network::Network,
};
use shelf::Shelf;
use writer::Writing;

/// How often what is told of recordings is brought up to date, and ends are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// The pieces that a file is sent in.
const PIECE: usize = 32 << 10;

/// All recordings of this host.
#[derive(Debug)]
struct Recordings {
    folder: PathBuf,
    kept: BTreeMap<RecordingId, Kept>,
}

#[derive(Debug)]
struct Kept {
    shelf: Shelf,
    recorded: Recorded,
    writing: Option<Writing>,
}

/// Follows the desired state until `shutdown`.
pub(crate) async fn follow(
    (controller, network): (Arc<dyn Controller>, Arc<dyn Network>),
    folder: PathBuf,
    mut desired: watch::Receiver<Arc<Desired>>,
    told: watch::Sender<Vec<ActualRecording>>,
    shutdown: CancellationToken,
) {
    let mut recordings = Recordings::read(folder).await;
    let (mut begun, mut sending) = (BTreeSet::<String>::new(), JoinSet::new());
    while !shutdown.is_cancelled() {
        let now = desired.borrow_and_update().clone();
        recordings.bring_about(&now.recordings, network.as_ref()).await;
        told.send_replace(recordings.told());
        let wanted: BTreeSet<&String> = now.recordings.iter().flat_map(|recording| &recording.streams).collect();
        begun.retain(|token| wanted.contains(token));
        for recording in &now.recordings {
            for token in recording.streams.iter().filter(|token| begun.insert((*token).clone())) {
                let shelf = recordings.shelf(recording.id);
                sending.spawn(send(controller.clone(), token.clone(), shelf));
            }
        }
        while sending.try_join_next().is_some() {}
        tokio::select! {
            () = shutdown.cancelled() => {}
            changed = desired.changed() => if changed.is_err() { break },
            () = sleep(LOOK), if recordings.any() => {}
        }
    }
    recordings.end_where(network.as_ref(), |_| true).await;
}

impl Recordings {
    async fn read(folder: PathBuf) -> Self {
        let place = folder.clone();
        let kept = spawn_blocking(move || {
            let entries = std::fs::read_dir(&place).into_iter().flatten().flatten();
            let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<RecordingId>().ok());
            let kept = ids.map(|id| {
                let shelf = Shelf::at(place.join(id.to_string()));
                let repaired = shelf.repair().map(|(_, recorded)| recorded);
                let trouble =
                    |error: std::io::Error| Recorded { trouble: Some(error.to_string()), ..Recorded::default() };
                (id, Kept { shelf, recorded: repaired.unwrap_or_else(trouble), writing: None })
            });
            kept.collect()
        });
        Self { folder, kept: kept.await.unwrap_or_default() }
    }

    fn any(&self) -> bool {
        !self.kept.is_empty()
    }

    fn shelf(&self, id: RecordingId) -> Shelf {
        Shelf::at(self.folder.join(id.to_string()))
    }

    fn told(&self) -> Vec<ActualRecording> {
        let told = self.kept.iter().map(|(id, kept)| {
            let recorded = kept.writing.as_ref().map_or_else(|| kept.recorded.clone(), Writing::recorded);
            ActualRecording { id: *id, recorded }
        });
        told.collect()
    }

    async fn bring_about(&mut self, desired: &[DesiredRecording], network: &dyn Network) {
        let now = now();
        let runs = |recording: &&DesiredRecording| match &recording.state {
            DesiredRecordingState::Recording { until, .. } => until.is_none_or(|until| now < until),
            _ => false,
        };
        let running: BTreeSet<_> = desired.iter().filter(runs).map(|recording| recording.id).collect();
        let is_over = |id: RecordingId| !running.contains(&id) && desired.iter().any(|recording| recording.id == id);
        let mut changed = self.end_where(network, is_over).await;
        for DesiredRecording { id, state, .. } in desired {
            match state {
                DesiredRecordingState::Recording { vpc, filter, room, .. } if running.contains(id) => {
                    let shelf = self.shelf(*id);
                    let kept =
                        self.kept.entry(*id).or_insert(Kept { shelf, recorded: Recorded::default(), writing: None });
                    if kept.writing.is_none() {
                        let (shelf, before) = (kept.shelf.clone(), kept.recorded.clone());
                        let what = (*vpc, filter.clone(), *room);
                        let begun = spawn_blocking(move || Writing::begin(shelf, what, before)).await;
                        match begun.map_err(std::io::Error::other).and_then(|begun| begun) {
                            Ok(writing) => {
                                kept.writing = Some(writing);
                                changed = true;
                            }
                            Err(error) => kept.recorded.trouble = Some(error.to_string()),
                        }
                    }
                }
                DesiredRecordingState::Absent => {
                    if let Some(kept) = self.kept.remove(id)
                        && let Err(error) = kept.shelf.clear()
                    {
                        tracing::warn!(%error, recording = %id, "a recording cannot be deleted");
                        self.kept.insert(*id, kept);
                    }
                }
                _ => {}
            }
        }
        if changed {
            self.set_taps(network).await;
        }
    }

    async fn set_taps(&self, network: &dyn Network) {
        let taps = self.kept.values().filter_map(|kept| kept.writing.as_ref().map(|writing| writing.tap.clone()));
        network.set_taps(taps.collect()).await;
    }

    /// Ends the writing of some; whether there were any.
    async fn end_where(&mut self, network: &dyn Network, is_over: impl Fn(RecordingId) -> bool) -> bool {
        let over: Vec<_> = self
            .kept
            .iter_mut()
            .filter(|(id, _)| is_over(**id))
            .filter_map(|(id, kept)| Some((*id, kept.writing.take()?)))
            .collect();
        if over.is_empty() {
            return false;
        }
        // The switch lets go of its ends first: the writers then see the last frame.
        self.set_taps(network).await;
        for (id, writing) in over {
            let ended = spawn_blocking(move || writing.end()).await;
            if let (Ok(recorded), Some(kept)) = (ended, self.kept.get_mut(&id)) {
                kept.recorded = recorded;
            }
        }
        true
    }
}

/// Sends what there is of a recording to whoever waits at the controller.
async fn send(controller: Arc<dyn Controller>, token: String, shelf: Shelf) {
    let mut end = match controller.open_stream(&token).await {
        Ok(end) => end,
        Err(problem) => {
            tracing::info!(%problem, "nobody waits for a recording any more");
            return;
        }
    };
    // Without its end in good order, whoever asked hears that it broke off.
    let sent = send_files(&shelf, &mut end).await;
    let closed = if sent.is_ok() { end.outgoing.close().await } else { Ok(()) };
    if let Err(error) = sent.and(closed) {
        tracing::warn!(%error, "the sending of a recording broke off");
    }
}

async fn send_files(shelf: &Shelf, end: &mut StreamEnd) -> std::io::Result<()> {
    let blocking = |error: tokio::task::JoinError| std::io::Error::other(error);
    let place = shelf.clone();
    let numbers = spawn_blocking(move || place.numbers()).await.map_err(blocking)??;
    for number in numbers {
        let place = shelf.clone();
        let mut octets = Bytes::from(spawn_blocking(move || place.read(number)).await.map_err(blocking)??);
        while !octets.is_empty() {
            end.outgoing.send(octets.split_to(octets.len().min(PIECE))).await?;
        }
    }
    Ok(())
}

/// The wall clock, as frames have it.
fn now() -> Moment {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment::EPOCH.plus(since_epoch)
}
