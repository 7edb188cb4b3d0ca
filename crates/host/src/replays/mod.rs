//! Replays on this host: what was recorded of a network is played into its duplicate, from ports of the duplicate's own.
//!
//! Owns following the desired state: which replays are under way, what is told of them, and what goes when the controller says
//! so. A played client is a guest without a machine: it has a port of the switch like any other, so that what holds for guests
//! (true sources, groups, ACLs, no way out) holds for it. Who is played, when, and what answers are worth is the business of the
//! room's [`Player`](lucarne_replica::replay::player::Player).
//!
//! - `rehearsal`, all that comes before: the recording fetched and read, the ports awaited;
//! - `performance`, the thread that plays;
//! - `shelf`, what of a replay is on disk.

mod performance;
mod rehearsal;
mod shelf;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use lucarne_model::{
    ReplayId,
    desired::Desired,
    instance::StateReason,
    replay::{ActualReplay, DesiredReplayState, ReplayPort, ReplayStage},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use self::{rehearsal::Rehearsal, shelf::Shelf};
use crate::{controller::Controller, layout::Layout};

/// Words of replays on their way to be told. Each has four at most.
const WORDS: usize = 64;

/// All replays of this host.
#[derive(Debug)]
struct Replays {
    controller: Arc<dyn Controller>,
    layout: Layout,
    desired: watch::Receiver<Arc<Desired>>,
    kept: BTreeMap<ReplayId, Kept>,
    words: mpsc::Sender<(ReplayId, ReplayStage)>,
}

#[derive(Debug)]
struct Kept {
    stage: ReplayStage,
    work: Option<(JoinHandle<()>, CancellationToken)>,
}

/// Follows the desired state until `shutdown`. What is played then is broken off, and told as failed by the next agent.
pub(crate) async fn follow(
    controller: Arc<dyn Controller>,
    layout: Layout,
    mut desired: watch::Receiver<Arc<Desired>>,
    told: watch::Sender<Vec<ActualReplay>>,
    shutdown: CancellationToken,
) {
    let (words, mut heard) = mpsc::channel(WORDS);
    let mut replays = Replays { controller, layout, desired: desired.clone(), kept: BTreeMap::new(), words };
    replays.read().await;
    while !shutdown.is_cancelled() {
        let now = desired.borrow_and_update().clone();
        replays.bring_about(&now).await;
        told.send_if_modified(|before| {
            let now = replays.told();
            let is_new = *before != now;
            *before = now;
            is_new
        });
        tokio::select! {
            () = shutdown.cancelled() => {}
            changed = desired.changed() => if changed.is_err() { break },
            word = heard.recv() => if let Some((id, stage)) = word && let Some(kept) = replays.kept.get_mut(&id) {
                kept.stage = stage;
            },
        }
    }
    for kept in replays.kept.values_mut() {
        kept.end().await;
    }
}

impl Replays {
    /// What is on disk. What was being played when the agent ended cannot go on: the duplicate has moved on meanwhile.
    async fn read(&mut self) {
        for shelf in Shelf::all(&self.layout).await {
            let stage = shelf.settle().await;
            self.kept.insert(shelf.id(), Kept { stage, work: None });
        }
    }

    /// Reports are long, and what a host says at one time has its limit: they are told one after the other.
    fn told(&self) -> Vec<ActualReplay> {
        let mut turn_taken = false;
        let told = self.kept.iter().map(|(id, kept)| {
            let waits = matches!(kept.stage, ReplayStage::Played { .. }) && std::mem::replace(&mut turn_taken, true);
            let stage = if waits { ReplayStage::Playing } else { kept.stage.clone() };
            ActualReplay { id: *id, stage }
        });
        told.collect()
    }

    async fn bring_about(&mut self, desired: &Desired) {
        for replay in &desired.replays {
            let id = replay.id;
            if replay.state == DesiredReplayState::Absent {
                if let Some(kept) = self.kept.get_mut(&id) {
                    kept.end().await;
                }
                match Shelf::of(&self.layout, id).clear().await {
                    Ok(()) => drop(self.kept.remove(&id)),
                    Err(error) => tracing::warn!(%error, replay = %id, "a replay cannot be cleared away"),
                }
                continue;
            }
            let kept = self.kept.entry(id).or_insert(Kept { stage: ReplayStage::Fetching, work: None });
            if kept.work.is_none() && !is_over(&kept.stage) {
                let rehearsal = Rehearsal {
                    controller: self.controller.clone(),
                    layout: self.layout.clone(),
                    desired: self.desired.clone(),
                    shelf: Shelf::of(&self.layout, id),
                    words: self.words.clone(),
                };
                let cancel = CancellationToken::new();
                kept.work = Some((tokio::spawn(rehearsal.run(cancel.clone())), cancel));
            }
        }
    }
}

impl Kept {
    /// Breaks off what is under way, and waits until it has ended.
    async fn end(&mut self) {
        if let Some((work, cancel)) = self.work.take() {
            cancel.cancel();
            if let Err(error) = work.await {
                tracing::error!(%error, "a replay ended badly");
            }
        }
    }
}

const fn is_over(stage: &ReplayStage) -> bool {
    matches!(stage, ReplayStage::Played { .. } | ReplayStage::Failed { .. })
}

/// The ports that a replay has by the desired state; none before there are any.
fn ports_of(desired: &Desired, id: ReplayId) -> Option<&[ReplayPort]> {
    let replay = desired.replays.iter().find(|replay| replay.id == id)?;
    match &replay.state {
        DesiredReplayState::Played { ports, .. } => Some(ports.as_slice()).filter(|ports| !ports.is_empty()),
        DesiredReplayState::Absent => None,
    }
}

/// Why a replay did not come to its end.
fn failed(code: lucarne_model::ErrorCode, message: impl Into<String>) -> StateReason {
    StateReason { code, message: message.into() }
}
