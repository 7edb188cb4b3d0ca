//! What is on at this host: the pieces that the controller wishes for, each begun, told of and cleared away.
//!
//! Owns following the desired state, for recordings that are played and for loads alike: what either of them does from its beginning
//! to its end is the word of its [`Piece`].

use std::{
    collections::BTreeMap,
    fmt::{Debug, Display},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use lucarne_model::{desired::Desired, instance::StateReason, replay::ReplayPort};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{rehearsal::Rehearsal, shelf::Shelf};
use crate::{controller::Controller, layout::Layout};

/// Words of pieces on their way to be told. Each has a few.
const WORDS: usize = 64;

/// A kind of what is played from ports of a duplicate's own.
pub(crate) trait Piece: Sized + Debug + Send + Sync + 'static {
    type Id: Copy + Ord + Debug + Display + FromStr + Send + Sync + 'static;
    /// How far one is.
    type Stage: Clone + PartialEq + Debug + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What the controller is told of one.
    type Told: PartialEq + Send + Sync + 'static;
    /// As people say it, with its article.
    const NOUN: &'static str;
    /// Before anything was done.
    const FIRST: Self::Stage;

    /// Where its pieces have their folders.
    fn folder(layout: &Layout) -> PathBuf;
    /// Those that the controller speaks of, and whether it wishes for them.
    fn desired(desired: &Desired) -> Vec<(Self::Id, bool)>;
    /// The ports that one has; none before there are any.
    fn ports(desired: &Desired, id: Self::Id) -> Option<&[ReplayPort]>;
    fn failed(reason: StateReason) -> Self::Stage;
    fn is_over(stage: &Self::Stage) -> bool;
    fn tell<'a>(all: impl Iterator<Item = (Self::Id, &'a Self::Stage)>) -> Vec<Self::Told>;
    /// All of it, until its last stage.
    fn play(
        rehearsal: &Rehearsal<Self>,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<Self::Stage, StateReason>> + Send;
}

/// All pieces of one kind at this host.
#[derive(Debug)]
struct Playbill<P: Piece> {
    controller: Arc<dyn Controller>,
    layout: Layout,
    desired: watch::Receiver<Arc<Desired>>,
    kept: BTreeMap<P::Id, Kept<P>>,
    words: mpsc::Sender<(P::Id, P::Stage)>,
}

#[derive(Debug)]
struct Kept<P: Piece> {
    stage: P::Stage,
    work: Option<(JoinHandle<()>, CancellationToken)>,
}

/// Follows the desired state until `shutdown`. What is played then is broken off, and told as failed by the next agent.
pub(crate) async fn follow<P: Piece>(
    controller: Arc<dyn Controller>,
    layout: Layout,
    mut desired: watch::Receiver<Arc<Desired>>,
    told: watch::Sender<Vec<P::Told>>,
    shutdown: CancellationToken,
) {
    let (words, mut heard) = mpsc::channel(WORDS);
    let mut bill = Playbill::<P> { controller, layout, desired: desired.clone(), kept: BTreeMap::new(), words };
    bill.read().await;
    while !shutdown.is_cancelled() {
        let now = desired.borrow_and_update().clone();
        bill.bring_about(&now).await;
        told.send_if_modified(|before| {
            let now = P::tell(bill.kept.iter().map(|(id, kept)| (*id, &kept.stage)));
            let is_new = *before != now;
            *before = now;
            is_new
        });
        tokio::select! {
            () = shutdown.cancelled() => {}
            changed = desired.changed() => if changed.is_err() { break },
            word = heard.recv() => if let Some((id, stage)) = word && let Some(kept) = bill.kept.get_mut(&id) {
                kept.stage = stage;
            },
        }
    }
    for kept in bill.kept.values_mut() {
        kept.end().await;
    }
}

impl<P: Piece> Playbill<P> {
    /// What is on disk. What was being played when the agent ended cannot go on: the duplicate has moved on meanwhile.
    async fn read(&mut self) {
        for shelf in Shelf::<P>::all(&self.layout).await {
            let stage = shelf.settle().await;
            self.kept.insert(shelf.id(), Kept { stage, work: None });
        }
    }

    async fn bring_about(&mut self, desired: &Desired) {
        for (id, is_wished) in P::desired(desired) {
            if !is_wished {
                if let Some(kept) = self.kept.get_mut(&id) {
                    kept.end().await;
                }
                match Shelf::<P>::of(&self.layout, id).clear().await {
                    Ok(()) => drop(self.kept.remove(&id)),
                    Err(error) => tracing::warn!(%error, %id, "{} cannot be cleared away", P::NOUN),
                }
                continue;
            }
            let kept = self.kept.entry(id).or_insert(Kept { stage: P::FIRST, work: None });
            if kept.work.is_none() && !P::is_over(&kept.stage) {
                let rehearsal = Rehearsal::<P> {
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

impl<P: Piece> Kept<P> {
    /// Breaks off what is under way, and waits until it has ended.
    async fn end(&mut self) {
        if let Some((work, cancel)) = self.work.take() {
            cancel.cancel();
            if let Err(error) = work.await {
                tracing::error!(%error, "{} ended badly", P::NOUN);
            }
        }
    }
}
