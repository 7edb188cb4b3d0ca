//! A host agent as a process: the real parts, wired.
//!
//! Owns the order of start and end. The agent itself is [`Agent`]'s.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use lucarne_api::bodies::host::HostSettings;
use lucarne_model::{
    Bytes, FlowRecord, HostId, OversubscriptionFactor, actual::HostDescription, flow::Location, memory_report::Ability,
};
use lucarne_pager::shim;
use lucarne_switch::{SwitchHandle, ports::unix::Owner, shell, tunnel::public_key};
use lucarne_vmm::{
    driver::Driver,
    qemu::{self, Qemu},
    simulated::{self, Simulated},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{self, Agent, Parts},
    capacity::{self, capacity},
    certificate::ExportKey,
    error::Error,
    exporter::{self, Exporter},
    folder::Folder,
    http::HttpController,
    identity::Identity,
    layout::Layout,
    measuring::{Measuring, Own},
    memory::{Budget, LendingTools, Memory, Tools},
    network::{Network, NoNetwork},
    peers::Peers,
    prover::Prover,
    sealing::{AgreeingTpm, Heard, Machines, Quoting, Reading, SealSettings, Sealing, Starting},
    settings::{DriverKind, SealRecipient, Settings},
    simulated_network::SimulatedNetwork,
    spool,
    switch_network::SwitchNetwork,
};

/// A simulated VM takes about as long as a real one that is quick.
const SIMULATED_START: Duration = Duration::from_millis(300);
const SIMULATED_STOP: Duration = Duration::from_millis(100);
const SIMULATED_VOLUME: Duration = Duration::from_millis(50);
/// How long to wait for the controller's hello before what it said last time is taken to hold.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait after the disk has refused the spool's folder.
const SPOOL_RETRY: Duration = Duration::from_secs(2);

/// Runs a host agent until `shutdown` is cancelled. Killed at any point, it can be run again on the same folder: VMs that
/// live are adopted.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    let folder = Folder::open(&settings.state_dir)?;
    let layout = folder.layout().clone();
    let mut identity = Identity::read_or_make(&layout)?;
    let key = ExportKey::read_or_make(&layout.export_key())?;
    let driver = driver(&settings, &layout)?;
    let peers_failed = |cause| Error::PeerAddress { address: settings.address, cause };
    let door = TcpListener::bind((settings.address, settings.peer_port)).await.map_err(peers_failed)?;
    let tools = paging_tools(&settings, &layout);
    let budget = budget(&settings, &tools)?;
    let measuring = measuring(&settings, &layout, &key, &tools);
    let host = HostDescription {
        name: settings.name.clone(),
        address: settings.address,
        peer_port: door.local_addr().map_err(peers_failed)?.port(),
        tunnel_port: identity.choose_tunnel_port(settings.address, settings.tunnel_port)?,
        location: settings.location.clone(),
        public_key: public_key(&identity.private_key()),
        export_key: key.public().to_owned(),
        capacity: capacity(&settings, &budget)?,
        oversubscription: oversubscription(&settings, &tools),
        hypervisor: driver.version().await.map_err(|cause| Error::Driver { cause })?,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel_release(),
        started: agent::now(),
    };
    identity.save(&layout)?;
    let nobody = HttpController::new(&settings.controller, None)?;
    let enrolling = identity.enrol(&layout, &nobody, settings.join_token.as_deref(), &host);
    let Some(enrolled) = shutdown.run_until_cancelled(enrolling).await else { return Ok(()) };
    let (id, host_key) = enrolled?;
    tracing::info!(host = %id, name = host.name, hypervisor = host.hypervisor, "this machine is a host");

    let controller = Arc::new(HttpController::new(&settings.controller, Some(&host_key))?);
    let (network, records) = network(settings.driver, (id, settings.location.clone()), &identity, &host)?;
    let (memory, unwoken) = Memory::new(driver.clone(), layout.clone(), budget, tools.ok());
    let peers = Peers::new(key.clone());
    let listening = tokio::spawn(peers.clone().listen(door, shutdown.clone()));
    let seals = seal_settings(&settings, measuring.as_ref());
    let prover = measuring.clone().map(|measuring| measuring as Arc<dyn Prover>);
    let parts = Parts { driver, network: network.clone(), memory, prover, unwoken, controller, peers, host };
    let (driver, carrier) = (parts.driver.clone(), parts.controller.clone());
    let agent = Agent::start(parts, folder, settings.pace, settings.at_end, shutdown.clone()).await?;
    let starting = Starting::new(agent.starts(), agent.present());
    let machines = Machines { host: id, driver, layout: layout.clone(), network: network.clone(), starting };
    let heard = Heard { present: agent.present(), desired: agent.desired() };
    let sealing = Sealing::start(machines, seals, heard, carrier, shutdown).await;
    let end_of_export = CancellationToken::new();
    let export = Export {
        settings: spool::Settings { dir: layout.spool(), capacity: settings.spool, host: id },
        key,
        network: network.clone(),
        told: agent.settings(),
        hello_again: agent.hello_again(),
    };
    let export = tokio::spawn(export.run(identity, layout, records, end_of_export.clone()));
    let ended = agent.ended().await;
    if let Some(sealing) = sealing {
        sealing.end().await;
    }
    drop(measuring);
    // It has ended with the agent, by the same token.
    let _ = listening.await;
    // The switch gives the last record of every flow; then the spool has what there will be.
    network.stop().await;
    end_of_export.cancel();
    export_ended(export).await;
    ended
}

/// As Linux says it; empty where it does not.
fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Begins to measure what runs here. A simulated VM is nothing that anything could be proved of.
fn measuring(
    settings: &Settings,
    layout: &Layout,
    key: &ExportKey,
    tools: &Result<Tools, String>,
) -> Option<Arc<Measuring>> {
    if matches!(settings.driver, DriverKind::Simulated { .. }) {
        return None;
    }
    let shim = tools.as_ref().ok().map(|tools| tools.library.clone());
    let own = Own { shim, configuration: settings.measured() };
    Some(Arc::new(Measuring::begin(&settings.tpm, layout.attestation(), &settings.name, &key.point(), own)))
}

/// What the office of sealed operations goes by.
fn seal_settings(settings: &Settings, measuring: Option<&Arc<Measuring>>) -> SealSettings {
    let in_tpm = match settings.seal_recipient {
        SealRecipient::Find => Measuring::is_of_hardware(&settings.tpm),
        SealRecipient::Tpm => true,
        SealRecipient::File => false,
    };
    let tpm = measuring.filter(|_| in_tpm).map(|measuring| measuring.clone() as Arc<dyn AgreeingTpm>);
    let quoting = measuring.map(|measuring| Quoting::by(measuring.clone()));
    SealSettings {
        policy_key: settings.seal_policy_key.clone(),
        space: settings.seal_space,
        reading: Reading { epoch: settings.seal_epoch, tpm },
        quoting: quoting.unwrap_or_default(),
    }
}

/// With what guests' memory is paged here; if it cannot be, why.
fn paging_tools(settings: &Settings, layout: &Layout) -> Result<Tools, String> {
    let tools = || {
        if settings.driver != DriverKind::Qemu {
            return Err("virtual machines are simulated here".to_owned());
        }
        shim::available()?;
        let executable = settings.pager.clone().ok_or("there is no program that is a pager")?;
        let failed =
            |error| format!("what lends guests' memory cannot be put into {}: {error}", layout.memory().display());
        let (limit, address, key) = (settings.memory_lend, settings.address, layout.export_key());
        let lending = LendingTools { limit, executable: executable.clone(), address, key };
        Ok(Tools { executable, library: shim::install(&layout.memory()).map_err(failed)?, lending })
    };
    let tools = tools();
    match &tools {
        Ok(_) => tracing::info!("guests' memory is paged"),
        Err(reason) => {
            tracing::warn!(reason, "guests' memory stays where it is: nothing is oversubscribed, nobody soaks")
        }
    }
    tools
}

/// Where no page can leave, what is promised must be there. A simulated VM has no pages: what is promised of its host is for
/// placement to be tried with.
fn oversubscription(settings: &Settings, tools: &Result<Tools, String>) -> OversubscriptionFactor {
    let is_simulated = matches!(settings.driver, DriverKind::Simulated { .. });
    if tools.is_ok() || is_simulated { settings.oversubscription } else { OversubscriptionFactor::NONE }
}

/// Where promises exceed what there is, a sixteenth of it is kept for compressed pages.
fn budget(settings: &Settings, tools: &Result<Tools, String>) -> Result<Budget, Error> {
    let (memory, factor) = (capacity::memory(settings)?, oversubscription(settings, tools));
    let exceeds = tools.is_ok() && factor > OversubscriptionFactor::NONE;
    let paging = tools.as_ref().map(|_| Ability::Available);
    Ok(Budget {
        memory,
        unallocated: settings.memory_pool,
        compressed: if exceeds { Bytes(memory.0 / 16) } else { Bytes::ZERO },
        factor: factor.thousandths(),
        paging: paging.unwrap_or_else(|reason| Ability::Unavailable { reason: reason.clone() }),
    })
}

fn driver(settings: &Settings, layout: &Layout) -> Result<Arc<dyn Driver>, Error> {
    Ok(match settings.driver {
        DriverKind::Qemu => {
            let settings = qemu::Settings { move_rate: settings.move_rate, ..qemu::Settings::new(layout.machines()) };
            Arc::new(Qemu::new(settings).map_err(|cause| Error::Driver { cause })?)
        }
        DriverKind::Simulated { .. } => Arc::new(Simulated::new(simulated::Settings {
            state_dir: Some(layout.machines()),
            start: SIMULATED_START,
            stop: SIMULATED_STOP,
            volume: SIMULATED_VOLUME,
        })),
    })
}

type Records = mpsc::Receiver<FlowRecord>;

fn network(
    kind: DriverKind,
    (host, location): (HostId, Location),
    identity: &Identity,
    description: &HostDescription,
) -> Result<(Arc<dyn Network>, Option<Records>), Error> {
    match kind {
        DriverKind::Simulated { records_per_second: 0 } => return Ok((Arc::new(NoNetwork), None)),
        DriverKind::Simulated { records_per_second } => {
            let (network, records) = SimulatedNetwork::spawn(host, records_per_second);
            return Ok((Arc::new(network), Some(records)));
        }
        DriverKind::Qemu => {}
    }
    let user = rustix::process::geteuid().is_root().then_some(qemu::User::DEFAULT);
    let settings = shell::Settings {
        host,
        tunnel: SocketAddr::new(description.address, description.tunnel_port),
        private_key: identity.private_key(),
        metadata_key: identity.metadata_key(),
        port_owner: user.map(|qemu::User { uid, gid }| Owner { uid, gid }),
    };
    let switch = lucarne_switch::Settings { location, ..lucarne_switch::Settings::default() };
    let spawned = SwitchHandle::spawn(settings, switch);
    let (handle, records) = spawned.map_err(|cause| Error::Switch { cause })?;
    Ok((Arc::new(SwitchNetwork::new(handle)), Some(records)))
}

/// How flow records go: into the spool at once, and to the collector as soon as it is known where that is.
struct Export {
    settings: spool::Settings,
    key: ExportKey,
    network: Arc<dyn Network>,
    told: watch::Receiver<Option<HostSettings>>,
    hello_again: Arc<Notify>,
}

impl Export {
    /// Runs until there are no more records; keeps what the controller said for the next start.
    async fn run(
        mut self,
        mut identity: Identity,
        layout: Layout,
        records: Option<Records>,
        shutdown: CancellationToken,
    ) {
        let spool = match records {
            Some(records) => self.open_spool(records, &shutdown).await,
            None => None,
        };
        let Some(settings) = self.heard(&mut identity, &layout, &shutdown).await else { return };
        let Some(spool) = spool else { return };
        let told = (self.told, settings);
        let settings = exporter::Settings::new(told, self.hello_again, self.key, self.settings.dir);
        match Exporter::spawn(settings, spool, shutdown).join().await {
            Ok(0) => tracing::info!("all flow records are with the collector"),
            Ok(left) => tracing::info!(left, "flow records wait in the spool for the next start"),
            Err(error) => tracing::error!(%error, "the exporter of flow records broke off"),
        }
    }

    /// Tries until the disk lets it. Meanwhile records wait in the switch's queue, which counts what it loses.
    async fn open_spool(&self, mut records: Records, shutdown: &CancellationToken) -> Option<spool::Writer> {
        loop {
            let (settings, network) = (self.settings.clone(), self.network.clone());
            let lost_before: spool::LostBefore = Arc::new(move || network.take_records_lost());
            let open = move || spool::Writer::start(settings, records, lost_before);
            match tokio::task::spawn_blocking(open).await.ok()? {
                Ok(writer) => return Some(writer),
                Err((error, back)) => {
                    tracing::error!("flow records cannot be spooled, will try again: {error}");
                    records = back;
                }
            }
            shutdown.run_until_cancelled(sleep(SPOOL_RETRY)).await?;
        }
    }

    /// What the controller says, or said last time if it does not answer soon; none at the end.
    async fn heard(
        &mut self,
        identity: &mut Identity,
        layout: &Layout,
        shutdown: &CancellationToken,
    ) -> Option<HostSettings> {
        let mut hearing = self.told.clone();
        let heard = async {
            let heard = async { hearing.wait_for(Option::is_some).await.ok().and_then(|heard| heard.clone()) };
            match (timeout(HELLO_PATIENCE, heard).await, &identity.settings) {
                (Ok(heard), _) => heard,
                (Err(_), Some(last)) => Some(last.clone()),
                (Err(_), None) => hearing.wait_for(Option::is_some).await.ok().and_then(|heard| heard.clone()),
            }
        };
        let settings = shutdown.run_until_cancelled(heard).await??;
        if identity.settings.as_ref() != Some(&settings) {
            identity.settings = Some(settings.clone());
            if let Err(error) = identity.save(layout) {
                tracing::warn!(%error, "what the controller said could not be kept");
            }
        }
        Some(settings)
    }
}

async fn export_ended(export: JoinHandle<()>) {
    if let Err(error) = export.await {
        tracing::error!(%error, "the export of flow records broke off");
    }
}
