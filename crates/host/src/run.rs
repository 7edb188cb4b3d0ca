//! A host agent as a process: the real parts, wired.
//!
//! Owns the order of start and end. The agent itself is [`Agent`]'s.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use lucarne_api::bodies::host::HostSettings;
use lucarne_model::{FlowRecord, HostId, actual::HostDescription};
use lucarne_switch::{SwitchHandle, ports::unix::Owner, shell, tunnel::public_key};
use lucarne_vmm::{
    driver::Driver,
    qemu::{self, Qemu},
    simulated::{self, Simulated},
};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{Agent, Parts},
    capacity::capacity,
    error::Error,
    exporter::{self, Exporter},
    folder::Folder,
    http::HttpController,
    identity::Identity,
    layout::Layout,
    network::{Network, NoNetwork},
    settings::{DriverKind, Settings},
    switch_network::SwitchNetwork,
};

/// A simulated VM takes about as long as a real one that is quick.
const SIMULATED_START: Duration = Duration::from_millis(300);
const SIMULATED_STOP: Duration = Duration::from_millis(100);
const SIMULATED_VOLUME: Duration = Duration::from_millis(50);
/// How long to wait for the controller's hello before what it said last time is taken to hold.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// Runs a host agent until `shutdown` is cancelled. Killed at any point, it can be run again on the same folder: VMs that
/// live are adopted.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    let folder = Folder::open(&settings.state_dir)?;
    let layout = folder.layout().clone();
    let mut identity = Identity::read_or_make(&layout)?;
    let driver = driver(settings.driver, &layout)?;
    let host = HostDescription {
        name: settings.name.clone(),
        address: settings.address,
        tunnel_port: identity.choose_tunnel_port(settings.address, settings.tunnel_port)?,
        public_key: public_key(&identity.private_key()),
        capacity: capacity(&settings)?,
        hypervisor: driver.version().await.map_err(|cause| Error::Driver { cause })?,
    };
    identity.save(&layout)?;
    let nobody = HttpController::new(&settings.controller, None)?;
    let enrolling = identity.enrol(&layout, &nobody, settings.join_token.as_deref(), &host);
    let Some(enrolled) = shutdown.run_until_cancelled(enrolling).await else { return Ok(()) };
    let (id, host_key) = enrolled?;
    tracing::info!(host = %id, name = host.name, hypervisor = host.hypervisor, "this machine is a host");

    let controller = Arc::new(HttpController::new(&settings.controller, Some(&host_key))?);
    let (network, records) = network(settings.driver, id, &identity, &host)?;
    let parts = Parts { driver, network: network.clone(), controller, host };
    let agent = Agent::start(parts, folder, settings.pace, settings.at_end, shutdown).await?;
    let end_of_export = CancellationToken::new();
    let export = tokio::spawn(export(
        id,
        identity,
        layout,
        (agent.settings(), agent.hello_again()),
        records,
        end_of_export.clone(),
    ));
    let ended = agent.ended().await;
    // The switch gives the last record of every flow; then the exporter has what there will be.
    network.stop().await;
    end_of_export.cancel();
    export_ended(export).await;
    ended
}

fn driver(kind: DriverKind, layout: &Layout) -> Result<Arc<dyn Driver>, Error> {
    Ok(match kind {
        DriverKind::Qemu => {
            let settings = qemu::Settings::new(layout.machines());
            Arc::new(Qemu::new(settings).map_err(|cause| Error::Driver { cause })?)
        }
        DriverKind::Simulated => Arc::new(Simulated::new(simulated::Settings {
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
    host: HostId,
    identity: &Identity,
    description: &HostDescription,
) -> Result<(Arc<dyn Network>, Option<Records>), Error> {
    if kind == DriverKind::Simulated {
        return Ok((Arc::new(NoNetwork), None));
    }
    let user = rustix::process::geteuid().is_root().then_some(qemu::User::DEFAULT);
    let settings = shell::Settings {
        host,
        tunnel: SocketAddr::new(description.address, description.tunnel_port),
        private_key: identity.private_key(),
        metadata_key: identity.metadata_key(),
        port_owner: user.map(|qemu::User { uid, gid }| Owner { uid, gid }),
    };
    let spawned = SwitchHandle::spawn(settings, lucarne_switch::Settings::default());
    let (handle, records) = spawned.map_err(|cause| Error::Switch { cause })?;
    Ok((Arc::new(SwitchNetwork::new(handle)), Some(records)))
}

/// Exports flow records as soon as it is known where to, and keeps what the controller said for the next start.
async fn export(
    host: HostId,
    mut identity: Identity,
    layout: Layout,
    (told, hello_again): (watch::Receiver<Option<HostSettings>>, Arc<Notify>),
    records: Option<Records>,
    shutdown: CancellationToken,
) {
    let mut hearing = told.clone();
    let heard = async {
        let heard = async { hearing.wait_for(Option::is_some).await.ok().and_then(|heard| heard.clone()) };
        match (timeout(HELLO_PATIENCE, heard).await, &identity.settings) {
            (Ok(heard), _) => heard,
            (Err(_), Some(last)) => Some(last.clone()),
            (Err(_), None) => hearing.wait_for(Option::is_some).await.ok().and_then(|heard| heard.clone()),
        }
    };
    let Some(Some(settings)) = shutdown.run_until_cancelled(heard).await else { return };
    if identity.settings.as_ref() != Some(&settings) {
        identity.settings = Some(settings.clone());
        if let Err(error) = identity.save(&layout) {
            tracing::warn!(%error, "what the controller said could not be kept");
        }
    }
    let Some(records) = records else { return };
    let Some(session) = session() else { return tracing::error!("no random numbers: flow records are not exported") };
    let settings = exporter::Settings::new((told, settings), hello_again, session, host);
    match Exporter::spawn(settings, records, shutdown).join().await {
        Ok(counts) => tracing::info!(?counts, "flow records exported"),
        Err(error) => tracing::error!(%error, "the exporter of flow records broke off"),
    }
}

async fn export_ended(export: JoinHandle<()>) {
    if let Err(error) = export.await {
        tracing::error!(%error, "the export of flow records broke off");
    }
}

fn session() -> Option<u64> {
    let mut octets = [0; 8];
    SystemRandom::new().fill(&mut octets).ok()?;
    Some(u64::from_ne_bytes(octets))
}
