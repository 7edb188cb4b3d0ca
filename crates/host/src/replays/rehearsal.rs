//! All that comes before a replay is played: the recording is fetched and read, who is played is told, and ports are awaited.
//!
//! Owns the order, how long each may take, and the word that the replay ends with.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lucarne_model::{
    ErrorCode, MacAddress, Moment, ReplayId, VpcId,
    desired::Desired,
    instance::StateReason,
    replay::{DesiredReplayState, ReplayBystander, ReplayFrom, ReplayPort, ReplayReport, ReplayStage, ReplayTerms},
};
use lucarne_replica::{
    AddressMap,
    replay::{
        cast::{Cast, Wanted},
        player::{Play, Player},
        recorded::{self, Recorded},
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    failed,
    performance::{self, End},
    ports_of,
    shelf::Shelf,
};
use crate::{controller::Controller, layout::Layout};

/// How long hosts that have a part of the recording may be silent.
const FETCHING: Duration = Duration::from_secs(60);
/// How long the controller and the switch may take until the ports are there.
const AWAITING: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(20);
/// What other hosts may take to hear of the ports: the controller gathers changes for a second at most.
const SETTLING: Duration = Duration::from_millis(1500);
/// How long an answer is waited for that the recording has.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest packet that networks carry, as guests are told.
const MTU: usize = 1400;

/// One replay, from its beginning on this host.
#[derive(Debug)]
pub(super) struct Rehearsal {
    pub(super) controller: Arc<dyn Controller>,
    pub(super) layout: Layout,
    pub(super) desired: watch::Receiver<Arc<Desired>>,
    pub(super) shelf: Shelf,
    pub(super) words: mpsc::Sender<(ReplayId, ReplayStage)>,
}

/// What is asked of it.
struct Script {
    vpc: VpcId,
    terms: ReplayTerms,
    network: lucarne_model::Cidr,
    wanted: Wanted,
    addresses: AddressMap,
}

impl Rehearsal {
    pub(super) async fn run(self, cancel: CancellationToken) {
        let id = self.shelf.id();
        let Some(played) = cancel.run_until_cancelled(self.play(&cancel)).await else { return };
        let stage = match played {
            Ok(reports) => ReplayStage::Played { reports },
            Err(reason) => ReplayStage::Failed { reason },
        };
        if cancel.is_cancelled() {
            return;
        }
        self.shelf.note_end(&stage).await;
        self.tell(stage).await;
        tracing::info!(replay = %id, "a replay is over");
    }

    async fn tell(&self, stage: ReplayStage) {
        // Without somebody who listens the agent is ending.
        let _ = self.words.send((self.shelf.id(), stage)).await;
    }

    async fn play(&self, cancel: &CancellationToken) -> Result<Vec<ReplayReport>, StateReason> {
        let script = self.script()?;
        self.fetch().await?;
        let (recorded, cast) = self.read(&script).await?;
        let clients = cast.clients.iter().copied().collect();
        let bystander =
            |(recorded, sessions): (&Ipv4Addr, &u64)| ReplayBystander { recorded: *recorded, sessions: *sessions };
        let bystanders = cast.bystanders.iter().map(bystander).collect();
        let first = cast.begins(&recorded);
        self.tell(ReplayStage::Read { clients, bystanders, first }).await;
        let ports = self.await_ports().await?;
        let ends = self.bind(&ports).await?;
        if self.is_elsewhere_too(script.vpc) {
            sleep(SETTLING).await;
        }
        let play = Play {
            clients: cast.clients,
            speed: script.terms.speed,
            times: script.terms.times,
            amplify: script.terms.amplify,
            addresses: script.addresses,
            // Each end writes its own.
            mac: MacAddress::ROUTER,
            mtu: MTU,
            patience: PATIENCE,
            seed: now().as_micros(),
        };
        let player =
            Player::new(recorded, play).map_err(|error| failed(ErrorCode::RecordingUnplayable, error.to_string()))?;
        let system = |error: std::io::Error| failed(ErrorCode::Internal, format!("the host cannot play: {error}"));
        self.shelf.note_begun().await.map_err(system)?;
        self.tell(ReplayStage::Playing).await;
        performance::play(player, ends, now(), cancel.clone()).await.map_err(system)
    }

    fn script(&self) -> Result<Script, StateReason> {
        let unwanted = || failed(ErrorCode::IncorrectState, "the replay is not wanted any more");
        let desired = self.desired.borrow().clone();
        let replay = desired.replays.iter().find(|replay| replay.id == self.shelf.id()).ok_or_else(unwanted)?;
        let DesiredReplayState::Played { vpc, terms, network, client, map, .. } = &replay.state else {
            return Err(unwanted());
        };
        let wanted = match (terms.from, client) {
            (ReplayFrom::Internet, _) => Wanted::Internet,
            (ReplayFrom::Instances, _) => Wanted::Instances,
            (ReplayFrom::All, _) => Wanted::All,
            (ReplayFrom::Instance(_), Some(address)) => Wanted::One(*address),
            (ReplayFrom::Instance(id), None) => {
                return Err(failed(
                    ErrorCode::InvalidInstanceNotFound,
                    format!("{id} has no address in the recording"),
                ));
            }
        };
        let addresses = AddressMap::new(map);
        let addresses = addresses.map_err(|error| failed(ErrorCode::InvalidParameterValue, error.to_string()))?;
        Ok(Script { vpc: *vpc, terms: *terms, network: *network, wanted, addresses })
    }

    /// Hosts that have a part of it may be on their way back.
    async fn fetch(&self) -> Result<(), StateReason> {
        let began = Instant::now();
        loop {
            let fetched = match self.controller.replayed_frames(self.shelf.id()).await {
                Ok(octets) => self.shelf.fill(octets).await,
                Err(problem) => Err(failed(problem.code, problem.detail)),
            };
            match fetched {
                Err(reason) if is_passing(reason.code) && began.elapsed() < FETCHING => sleep(AGAIN).await,
                fetched => return fetched,
            }
        }
    }

    async fn read(&self, script: &Script) -> Result<(Arc<Recorded>, Cast), StateReason> {
        let unreadable =
            |error: std::io::Error| failed(ErrorCode::Internal, format!("the recording cannot be read: {error}"));
        let octets = self.shelf.octets().await.map_err(unreadable)?;
        let network = script.network;
        let recorded = spawn_blocking(move || recorded::read(&octets, network)).await;
        let recorded = recorded.map_err(|error| unreadable(std::io::Error::other(error)))?;
        let unplayable = |why: String| failed(ErrorCode::RecordingUnplayable, why);
        if let Some(damage) = &recorded.damage {
            return Err(unplayable(format!("the recording is damaged: {damage}")));
        }
        let cast = Cast::new(&recorded, script.wanted).map_err(|error| unplayable(error.to_string()))?;
        Ok((Arc::new(recorded), cast))
    }

    async fn await_ports(&self) -> Result<Vec<ReplayPort>, StateReason> {
        let mut desired = self.desired.clone();
        let there = desired.wait_for(|desired| ports_of(desired, self.shelf.id()).is_some());
        let there = timeout(AWAITING, there).await.ok().and_then(Result::ok);
        let ports = there.and_then(|desired| ports_of(&desired, self.shelf.id()).map(<[ReplayPort]>::to_vec));
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

const fn is_passing(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::HostUnreachable | ErrorCode::ControllerUnreachable | ErrorCode::RequestLimitExceeded)
}

/// The wall clock.
fn now() -> Moment {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment::EPOCH.plus(since_epoch)
}
