//! What comes before anything is played: ports are awaited, and opened.
//!
//! Owns how long that may take, and the word that a piece ends with.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use lucarne_model::{ErrorCode, Moment, VpcId, desired::Desired, instance::StateReason, replay::ReplayPort};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{failed, performance::End, playbill::Piece, shelf::Shelf};
use crate::{controller::Controller, layout::Layout};

/// How long the controller and the switch may take until the ports are there.
const AWAITING: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// What other hosts may take to hear of the ports: the controller gathers changes for a second at most.
const SETTLING: Duration = Duration::from_millis(1500);
/// The largest packet that networks carry, as guests are told.
pub(super) const MTU: usize = 1400;

/// One piece, from its beginning on this host.
#[derive(Debug)]
pub(crate) struct Rehearsal<P: Piece> {
    pub(super) controller: Arc<dyn Controller>,
    pub(super) layout: Layout,
    pub(super) desired: watch::Receiver<Arc<Desired>>,
    pub(super) shelf: Shelf<P>,
    pub(super) words: mpsc::Sender<(P::Id, P::Stage)>,
}

impl<P: Piece> Rehearsal<P> {
    pub(super) async fn run(self, cancel: CancellationToken) {
        let id = self.shelf.id();
        let Some(played) = cancel.run_until_cancelled(P::play(&self, &cancel)).await else { return };
        let stage = played.unwrap_or_else(P::failed);
        if cancel.is_cancelled() {
            return;
        }
        self.shelf.note_end(&stage).await;
        self.tell(stage).await;
        tracing::info!(%id, "{} is over", P::NOUN);
    }

    pub(super) async fn tell(&self, stage: P::Stage) {
        // Without somebody who listens the agent is ending.
        let _ = self.words.send((self.shelf.id(), stage)).await;
    }

    /// The ports, open, as soon as everybody in the network knows of them.
    pub(super) async fn ends(&self, vpc: VpcId) -> Result<Vec<End>, StateReason> {
        let ports = self.await_ports().await?;
        let ends = self.bind(&ports).await?;
        if self.is_elsewhere_too(vpc) {
            sleep(SETTLING).await;
        }
        Ok(ends)
    }

    async fn await_ports(&self) -> Result<Vec<ReplayPort>, StateReason> {
        let mut desired = self.desired.clone();
        let there = desired.wait_for(|desired| P::ports(desired, self.shelf.id()).is_some());
        let there = timeout(AWAITING, there).await.ok().and_then(Result::ok);
        let ports = there.and_then(|desired| P::ports(&desired, self.shelf.id()).map(<[ReplayPort]>::to_vec));
        ports
            .ok_or_else(|| failed(ErrorCode::ControllerUnreachable, "the controller gave the clients no ports in time"))
    }

    /// Takes the guests' side of each port as soon as the switch has its own.
    async fn bind(&self, ports: &[ReplayPort]) -> Result<Vec<End>, StateReason> {
        let began = Instant::now();
        let mut ends = Vec::new();
        for port in ports {
            let (switch, guest) = (self.layout.switch_socket(port.interface), self.layout.guest_socket(port.interface));
            while !switch.exists() {
                if began.elapsed() > AWAITING {
                    return Err(failed(ErrorCode::Internal, "the switch gave the clients no ports in time"));
                }
                sleep(LOOK).await;
            }
            let end = End::bind(port, switch, guest);
            ends.push(end.map_err(|error| failed(ErrorCode::Internal, format!("a port cannot be opened: {error}")))?);
        }
        Ok(ends)
    }

    fn is_elsewhere_too(&self, vpc: VpcId) -> bool {
        let desired = self.desired.borrow();
        let is_there = |host| desired.peers.iter().any(|peer| peer.host == host);
        let mut networks = desired.networks.iter().filter(|network| network.vpc == vpc);
        networks.any(|network| network.endpoints.iter().any(|endpoint| is_there(endpoint.host)))
    }
}

/// The wall clock.
pub(super) fn now() -> Moment {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment::EPOCH.plus(since_epoch)
}
