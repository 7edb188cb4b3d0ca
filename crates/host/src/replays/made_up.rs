//! A load: requests that are made up, asked from ports that the controller has chosen.
//!
//! Owns when its report is told while it goes on.

use std::{path::PathBuf, time::Duration};

use lucarne_model::{
    ErrorCode, LoadId, Moment,
    desired::Desired,
    instance::StateReason,
    load::{ActualLoad, DesiredLoadState, LoadReport, LoadStage},
    replay::ReplayPort,
};
use lucarne_replica::load::asking::{Asking, Order};
use tokio_util::sync::CancellationToken;

use super::{
    failed, performance,
    playbill::Piece,
    rehearsal::{MTU, Rehearsal, now},
};
use crate::layout::Layout;

/// How often it is told how it goes.
const TOLD: Duration = Duration::from_secs(1);

/// What is made up.
#[derive(Debug)]
pub(crate) struct MadeUp;

impl Piece for MadeUp {
    type Id = LoadId;
    type Stage = LoadStage;
    type Told = ActualLoad;
    const NOUN: &'static str = "a load";
    const FIRST: LoadStage = LoadStage::Preparing;

    fn folder(layout: &Layout) -> PathBuf {
        layout.loads()
    }
    fn desired(desired: &Desired) -> Vec<(LoadId, bool)> {
        desired.loads.iter().map(|load| (load.id, load.state != DesiredLoadState::Absent)).collect()
    }
    fn ports(desired: &Desired, id: LoadId) -> Option<&[ReplayPort]> {
        let load = desired.loads.iter().find(|load| load.id == id)?;
        match &load.state {
            DesiredLoadState::Asked { ports, .. } => Some(ports.as_slice()).filter(|ports| !ports.is_empty()),
            DesiredLoadState::Absent => None,
        }
    }
    fn failed(reason: StateReason) -> LoadStage {
        LoadStage::Failed { reason }
    }
    fn is_over(stage: &LoadStage) -> bool {
        matches!(stage, LoadStage::Done { .. } | LoadStage::Failed { .. })
    }
    fn tell<'a>(all: impl Iterator<Item = (LoadId, &'a LoadStage)>) -> Vec<ActualLoad> {
        all.map(|(id, stage)| ActualLoad { id, stage: stage.clone() }).collect()
    }

    async fn play(rehearsal: &Rehearsal<Self>, cancel: &CancellationToken) -> Result<LoadStage, StateReason> {
        rehearsal.ask(cancel).await.map(|report| LoadStage::Done { report })
    }
}

impl Rehearsal<MadeUp> {
    async fn ask(&self, cancel: &CancellationToken) -> Result<LoadReport, StateReason> {
        let unwanted = || failed(ErrorCode::IncorrectState, "the load is not wanted any more");
        let desired = self.desired.borrow().clone();
        let load = desired.loads.iter().find(|load| load.id == self.shelf.id()).ok_or_else(unwanted)?;
        let DesiredLoadState::Asked { vpc, terms, address, ports, .. } = &load.state else { return Err(unwanted()) };
        let ends = self.ends(*vpc).await?;
        let sources = ports.iter().map(|port| port.address).collect();
        let order = Order { terms: terms.clone(), address: *address, sources, mtu: MTU, seed: now().as_micros() };
        let system = |error: std::io::Error| failed(ErrorCode::Internal, format!("the host cannot ask: {error}"));
        self.shelf.note_begun().await.map_err(system)?;
        self.tell(LoadStage::Running { report: LoadReport::default() }).await;
        let began = now();
        let asking = Asking::new(order, began);
        let asked = performance::play(asking, ends, began, self.teller(began), cancel.clone()).await;
        asked.map_err(system)?.map(|asking| asking.report()).ok_or_else(unwanted)
    }

    /// Tells how it goes, now and then.
    fn teller(&self, began: Moment) -> impl FnMut(&Asking, Moment) + Send + 'static {
        let (id, words) = (self.shelf.id(), self.words.clone());
        let mut next = began.plus(TOLD);
        move |asking, now| {
            if next <= now {
                next = now.plus(TOLD);
                // Where much is to be told this can be left out: the next time tells of more.
                let _ = words.try_send((id, LoadStage::Running { report: asking.report() }));
            }
        }
    }
}
