//! A replay: the recording is fetched and read, who is played is told, and it is played from the ports that these are given.
//!
//! Owns the order of that, and how long other hosts may take to give their parts of a recording.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use lucarne_model::{
    ErrorCode, MacAddress, ReplayId, VpcId,
    desired::Desired,
    instance::StateReason,
    replay::{
        ActualReplay, DesiredReplayState, ReplayBystander, ReplayFrom, ReplayPort, ReplayReport, ReplayStage,
        ReplayTerms,
    },
};
use lucarne_replica::{
    AddressMap,
    replay::{
        cast::{Cast, Wanted},
        player::{Play, Player},
        recorded::{self, Recorded as Sessions},
    },
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    failed, performance,
    playbill::Piece,
    rehearsal::{MTU, Rehearsal, now},
};
use crate::layout::Layout;

/// How long hosts that have a part of the recording may be silent.
const FETCHING: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);
/// How long an answer is waited for that the recording has.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was recorded.
#[derive(Debug)]
pub(crate) struct Recorded;

/// What is asked of it.
struct Script {
    vpc: VpcId,
    terms: ReplayTerms,
    network: lucarne_model::Cidr,
    wanted: Wanted,
    addresses: AddressMap,
}

impl Piece for Recorded {
    type Id = ReplayId;
    type Stage = ReplayStage;
    type Told = ActualReplay;
    const NOUN: &'static str = "a replay";
    const FIRST: ReplayStage = ReplayStage::Fetching;

    fn folder(layout: &Layout) -> PathBuf {
        layout.replays()
    }
    fn desired(desired: &Desired) -> Vec<(ReplayId, bool)> {
        desired.replays.iter().map(|replay| (replay.id, replay.state != DesiredReplayState::Absent)).collect()
    }
    fn ports(desired: &Desired, id: ReplayId) -> Option<&[ReplayPort]> {
        let replay = desired.replays.iter().find(|replay| replay.id == id)?;
        match &replay.state {
            DesiredReplayState::Played { ports, .. } => Some(ports.as_slice()).filter(|ports| !ports.is_empty()),
            DesiredReplayState::Absent => None,
        }
    }
    fn failed(reason: StateReason) -> ReplayStage {
        ReplayStage::Failed { reason }
    }
    fn is_over(stage: &ReplayStage) -> bool {
        matches!(stage, ReplayStage::Played { .. } | ReplayStage::Failed { .. })
    }

    /// Reports are long, and what a host says at one time has its limit: they are told one after the other.
    fn tell<'a>(all: impl Iterator<Item = (ReplayId, &'a ReplayStage)>) -> Vec<ActualReplay> {
        let mut turn_taken = false;
        let told = all.map(|(id, stage)| {
            let waits = matches!(stage, ReplayStage::Played { .. }) && std::mem::replace(&mut turn_taken, true);
            let stage = if waits { ReplayStage::Playing } else { stage.clone() };
            ActualReplay { id, stage }
        });
        told.collect()
    }

    async fn play(rehearsal: &Rehearsal<Self>, cancel: &CancellationToken) -> Result<ReplayStage, StateReason> {
        rehearsal.play(cancel).await.map(|reports| ReplayStage::Played { reports })
    }
}

impl Rehearsal<Recorded> {
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
        let ends = self.ends(script.vpc).await?;
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
        let played = performance::play(player, ends, now(), |_, _| {}, cancel.clone()).await.map_err(system)?;
        Ok(played.map(|player| player.reports()).unwrap_or_default())
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

    async fn read(&self, script: &Script) -> Result<(Arc<Sessions>, Cast), StateReason> {
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
}

const fn is_passing(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::HostUnreachable | ErrorCode::ControllerUnreachable | ErrorCode::RequestLimitExceeded)
}
