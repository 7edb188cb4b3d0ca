//! What may be asked of the switch at a cut of a network, step by step.
//!
//! Owns the questions and their answers. The steps on each host, in this order: [`begin`](SwitchHandle::begin_cut) while the
//! guests run; whoever asks stops them; [`close`](SwitchHandle::close_cut); [`release`](SwitchHandle::release_cut); and for each
//! duplicate [`stand_by`](SwitchHandle::stand_by) before it is there and [`deliver`](SwitchHandle::deliver_cut) when it goes on.

use lucarne_model::{HostId, InterfaceId, ReplicaId, VpcId};
use tokio::sync::oneshot;

use super::{SwitchHandle, worker::Command};

/// Why a cut cannot be taken. All frames go on then as if there had been none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    #[error("this host's switch has no network {vpc}")]
    NoNetwork { vpc: VpcId },
    #[error("{vpc} is being cut for {by}")]
    Busy { vpc: VpcId, by: ReplicaId },
    #[error("the cut for {replica} has not begun here, or is over")]
    NotBegun { replica: ReplicaId },
    #[error("more frames came during the cut than may wait")]
    TooMany,
    #[error("no word of the cut from {}", hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Silent { hosts: Vec<HostId> },
    #[error("the cut was given up")]
    GivenUp,
    #[error("the switch's thread has ended")]
    Ended,
}

/// A port of a duplicate, and that of which it is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) replica: ReplicaId,
    pub(super) source: InterfaceId,
    pub(super) duplicate: InterfaceId,
}

pub(super) type Begun = oneshot::Sender<Result<Vec<InterfaceId>, CutError>>;
pub(super) type Closed = oneshot::Sender<Result<usize, CutError>>;
type Done = oneshot::Sender<Result<(), CutError>>;

/// One step.
#[derive(Debug)]
pub(super) enum CutCommand {
    Begin { replica: ReplicaId, vpc: VpcId, hosts: Vec<HostId>, reply: Begun },
    Close(ReplicaId, Closed),
    Release(ReplicaId, Done),
    GiveUp(ReplicaId, Done),
    StandBy(Pair, Done),
    Deliver(Pair, Done),
}

impl SwitchHandle {
    /// Gives the guests of `vpc` on this host nothing more and keeps what comes for them, in order. Returns when they have
    /// taken all that was given to them before, at the latest after a quarter of a second, and which of them had not taken it
    /// by then: what waits in their sockets reaches them later, and their duplicates never. `hosts` are the others of the cut.
    pub async fn begin_cut(
        &self,
        vpc: VpcId,
        replica: ReplicaId,
        hosts: Vec<HostId>,
    ) -> Result<Vec<InterfaceId>, CutError> {
        self.step(|reply| CutCommand::Begin { replica, vpc, hosts, reply }).await
    }

    /// The guests stand still: takes what they sent before, tells the other hosts, and waits for their word, at most two seconds.
    /// Returns how many frames are in flight to guests of this host. The guests may go on from then on.
    pub async fn close_cut(&self, replica: ReplicaId) -> Result<usize, CutError> {
        self.step(|reply| CutCommand::Close(replica, reply)).await
    }

    /// Lets the frames go on to their guests. Those that were in flight are remembered until the cut is given up.
    pub async fn release_cut(&self, replica: ReplicaId) -> Result<(), CutError> {
        self.step(|reply| CutCommand::Release(replica, reply)).await
    }

    /// Forgets the cut, at whatever point it is; frames that wait go on as if there had been none.
    pub async fn give_up_cut(&self, replica: ReplicaId) -> Result<(), CutError> {
        self.step(|reply| CutCommand::GiveUp(replica, reply)).await
    }

    /// The port of a duplicate, whose guest is about to be made and to stand still: lets it have the connections of its source
    /// at the cut, and keeps what comes for it.
    pub async fn stand_by(
        &self,
        replica: ReplicaId,
        source: InterfaceId,
        duplicate: InterfaceId,
    ) -> Result<(), CutError> {
        self.step(|reply| CutCommand::StandBy(Pair { replica, source, duplicate }, reply)).await
    }

    /// The duplicate goes on: gives it what was in flight to its source at the cut, and then what came for itself.
    pub async fn deliver_cut(
        &self,
        replica: ReplicaId,
        source: InterfaceId,
        duplicate: InterfaceId,
    ) -> Result<(), CutError> {
        self.step(|reply| CutCommand::Deliver(Pair { replica, source, duplicate }, reply)).await
    }

    /// Waits for another host's word that it has marked in a cut that has not begun here. It is told again as long as that goes
    /// on. Never returns after the switch's end.
    pub async fn heard_mark(&self) -> ReplicaId {
        match self.marks.lock().await.recv().await {
            Some(replica) => replica,
            None => std::future::pending().await,
        }
    }

    async fn step<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, CutError>>) -> CutCommand,
    ) -> Result<T, CutError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Cut(command(reply))).await.map_err(|_| CutError::Ended)?;
        answer.await.map_err(|_| CutError::Ended)?
    }
}
