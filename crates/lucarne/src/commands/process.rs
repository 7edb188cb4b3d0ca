//! `lucarne controller`, `collector` and `host`: the processes of the cloud, run in the foreground.
//!
//! Owns their command lines, their logs and how signals end them. What they do is in the crates of the same names.

use std::{
    io::{self, IsTerminal},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{Args, ValueEnum};
use lucarne_host::{AtEnd, DriverKind, SealRecipient, TpmChoice};
use lucarne_model::{Bytes, OversubscriptionFactor, flow::Location, units::ParseBytesError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{attestation_verify::read_key, flow::parse_span, parts::PartsArgs};
use crate::failure::{Failure, LocalCode};

#[derive(Args, Clone, Debug)]
pub(crate) struct ControllerArgs {
    /// Where it keeps its store
    #[arg(long)]
    state_dir: PathBuf,
    /// Where the API answers
    #[arg(long, default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// The collector's connection.json
    #[arg(long, value_name = "FILE")]
    collector: PathBuf,
    /// Let hosts take no instance before they have proved a TPM of a trusted maker; attested instances never go elsewhere
    #[arg(long)]
    require_tpm: bool,
    /// Throw the access keys of tenants' own stores away: for when secrets.key, with which they are sealed, is lost
    #[arg(long)]
    forget_store_secrets: bool,
    /// Be killed when the parent process dies, however it dies
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CollectorArgs {
    /// Where it keeps flow records
    #[arg(long)]
    state_dir: PathBuf,
    /// Where hosts send flow records; a free port that it keeps, if not given
    #[arg(long, default_value = "127.0.0.1:0")]
    listen_ipfix: SocketAddr,
    /// Where the controller asks for them; a free port that it keeps, if not given
    #[arg(long, default_value = "127.0.0.1:0")]
    listen_query: SocketAddr,
    /// Where routers send NetFlow, IPFIX or sFlow over UDP; nowhere, if not given
    #[arg(long)]
    listen_flows: Option<SocketAddr>,
    /// After how long at most records go from the log into Parquet, and get their receipt; 1s to 1h
    #[arg(long, default_value = "1m", value_name = "SPAN", value_parser = parse_seal_after)]
    seal_after: Duration,
    #[command(flatten)]
    parts: PartsArgs,
    /// Be killed when the parent process dies, however it dies
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct NotaryProcessArgs {
    /// Where it keeps its key, its tokens and its log
    #[arg(long)]
    state_dir: PathBuf,
    /// Where it answers; the address that it got is in the file `listen` of its state folder
    #[arg(long, default_value = "127.0.0.1:7090")]
    listen: SocketAddr,
    /// What it calls itself in all that it signs; the same for as long as its log lives
    #[arg(long)]
    name: String,
    /// Files that it built or inspected itself, to compare with what operators submit
    #[arg(long, value_name = "DIR")]
    inspect: Option<PathBuf>,
    /// Be killed when the parent process dies, however it dies
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Driver {
    /// Real VMs
    Qemu,
    /// No processes: the same states and timings, made up
    Simulated,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AgentArgs {
    /// Where it keeps disks, keys and what runs
    #[arg(long)]
    state_dir: PathBuf,
    /// The controller's endpoint
    #[arg(long, value_name = "URL")]
    controller: String,
    /// A file with the operator's join token; needed once
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// Where other hosts reach this one
    #[arg(long)]
    address: IpAddr,
    /// The tunnel's port; a free one that it keeps, if not given
    #[arg(long, default_value_t = 0)]
    tunnel_port: u16,
    /// TCP port where other hosts bring instances; a free one at each start if not given
    #[arg(long, default_value_t = 0)]
    peer_port: u16,
    /// What the host is called
    #[arg(long)]
    name: String,
    /// Where this host stands, such as a data centre, as flow records tell it
    #[arg(long, default_value = "local")]
    location: Location,
    #[arg(long, value_enum, default_value = "qemu")]
    driver: Driver,
    /// What it proves with what it runs: auto, software, none, or a device such as /dev/tpmrm0
    #[arg(long, default_value = "auto", value_name = "TPM")]
    tpm: TpmChoice,
    /// Flow records that the simulated driver makes up each second
    #[arg(long, default_value_t = 0, hide = true)]
    simulated_records: u32,
    /// Virtual processors that may be promised; found from the machine if not given
    #[arg(long)]
    vcpus: Option<u32>,
    /// Memory for guests and their keeping; found from the machine if not given
    #[arg(long)]
    memory: Option<Bytes>,
    // Not `MemorySharing`, flattened: clap then no longer knows that these are options of an agent, and takes none for one.
    /// Memory promised for each byte that there is: 1 to 16, such as 1.5
    #[arg(long, default_value = "1", value_name = "FACTOR")]
    memory_oversubscription: OversubscriptionFactor,
    /// Memory that is kept unallocated
    #[arg(long, default_value = "0", value_name = "AMOUNT")]
    memory_pool: Bytes,
    /// Memory that other hosts may keep copies of pages in while nobody here uses it, such as 4GiB
    #[arg(long, default_value = "none", value_name = "AMOUNT|none")]
    memory_lend: Limit,
    /// What the memory and each volume of an instance that moves from here may take a second, such as 100MiB
    #[arg(long, default_value = "none", value_name = "AMOUNT|none", value_parser = parse_move_rate)]
    move_rate: Limit,
    /// Disk that may be promised; found from the machine if not given
    #[arg(long)]
    disk: Option<Bytes>,
    /// Disk that flow records may take while the collector is away
    #[arg(long, default_value = "256MiB")]
    spool: Bytes,
    /// The public half of the operator's policy key: sealed operations are refused that no policy of this key permits
    #[arg(long, value_name = "FILE")]
    seal_policy_key: Option<PathBuf>,
    /// Disk that results of sealed operations may take until they are collected
    #[arg(long, default_value = "64GiB", value_name = "AMOUNT")]
    seal_space: Bytes,
    /// Where the key is that opens requests which only this host can read: `tpm`, also one that is a program; `file`; or `auto`,
    /// in the machine's own TPM where it has one
    #[arg(long, default_value = "auto", value_name = "PLACE")]
    seal_recipient: SealRecipient,
    /// Which of the keys that follow each other that is: another than before has a key of its own, and what was sealed to the
    /// one before opens no more
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    seal_epoch: u32,
    /// End the machines with the agent, rather than leave them for the next one to adopt
    #[arg(long)]
    stop_machines: bool,
    /// Be killed when the parent process dies, however it dies
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

/// The most of something, where there may be none said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit(Option<Bytes>);

impl FromStr for Limit {
    type Err = <Bytes as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|bytes| Self(Some(bytes))) }
    }
}

impl ControllerArgs {
    pub(crate) async fn run(&self, allow_plaintext: bool) -> Result<(), Failure> {
        begin(self.die_with_parent)?;
        open_as_many_files_as_allowed();
        let mut settings = lucarne_control::Settings::new(self.state_dir.clone(), self.listen, self.collector.clone());
        settings.allow_plaintext = allow_plaintext;
        settings.require_tpm = self.require_tpm;
        settings.forget_store_secrets = self.forget_store_secrets;
        lucarne_control::run(settings, shutdown_on_signals()?).await.map_err(|error| failed("controller", error))
    }
}

impl CollectorArgs {
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        begin(self.die_with_parent)?;
        let settings = lucarne_collector::Settings {
            state_dir: self.state_dir.clone(),
            listen_ipfix: self.listen_ipfix,
            listen_query: self.listen_query,
            listen_flows: self.listen_flows,
        };
        let pace = lucarne_collector::Pace { seal_after: self.seal_after, ..lucarne_collector::Pace::default() };
        let store = self.parts.store()?;
        let run = lucarne_collector::run_with(settings, pace, store, shutdown_on_signals()?);
        run.await.map_err(|error| failed("collector", error))
    }
}

impl NotaryProcessArgs {
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        begin(self.die_with_parent)?;
        let settings = lucarne_notary::Settings {
            state_dir: self.state_dir.clone(),
            listen: self.listen,
            name: self.name.clone(),
            inspect: self.inspect.clone(),
        };
        lucarne_notary::run(settings, shutdown_on_signals()?).await.map_err(|error| failed("notary", error))
    }
}

fn parse_seal_after(text: &str) -> Result<Duration, String> {
    let span = parse_span(text)?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(3600);
    if allowed.contains(&span) { Ok(span) } else { Err("it is 1s to 1h".into()) }
}

/// With less than this a guest that does anything at all would never have come.
const LEAST_MOVE_RATE: Bytes = Bytes::mib(1);

fn parse_move_rate(text: &str) -> Result<Limit, String> {
    let limit: Limit = text.parse().map_err(|error: ParseBytesError| error.to_string())?;
    if limit.0.is_some_and(|rate| rate < LEAST_MOVE_RATE) { Err("it is 1MiB or more".into()) } else { Ok(limit) }
}

impl AgentArgs {
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        begin(self.die_with_parent)?;
        let (state_dir, controller) = (self.state_dir.clone(), self.controller.clone());
        let mut settings = lucarne_host::Settings::new(state_dir, controller, self.name.clone(), self.address);
        settings.join_token = self.join_token()?;
        settings.location = self.location.clone();
        settings.tunnel_port = self.tunnel_port;
        settings.peer_port = self.peer_port;
        settings.driver = match self.driver {
            Driver::Qemu => DriverKind::Qemu,
            Driver::Simulated => DriverKind::Simulated { records_per_second: self.simulated_records },
        };
        settings.tpm = self.tpm.clone();
        settings.vcpus = self.vcpus;
        settings.memory = self.memory;
        // Without its own path it pages nothing, and says so.
        settings.pager = std::env::current_exe().ok();
        settings.memory_pool = self.memory_pool;
        settings.memory_lend = self.memory_lend.0;
        settings.move_rate = self.move_rate.0;
        settings.oversubscription = self.memory_oversubscription;
        settings.disk = self.disk;
        settings.spool = self.spool;
        settings.seal_policy_key = self.seal_policy_key.as_ref().map(|path| read_key(path)).transpose()?;
        settings.seal_space = self.seal_space;
        settings.seal_recipient = self.seal_recipient;
        settings.seal_epoch = self.seal_epoch;
        settings.at_end = if self.stop_machines { AtEnd::StopMachines } else { AtEnd::LeaveMachines };
        lucarne_host::run(settings, shutdown_on_signals()?).await.map_err(|error| failed("host agent", error))
    }

    fn join_token(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.join_token_file else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|cause| Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", path.display())))?;
        Ok(Some(text.trim().to_owned()))
    }
}

/// A process that ended by an error, and why.
#[derive(Debug, thiserror::Error)]
#[error("the {process} ended")]
struct Ended<E: std::error::Error + 'static> {
    process: &'static str,
    source: E,
}

fn failed(process: &'static str, source: impl std::error::Error + 'static) -> Failure {
    Failure::caused(LocalCode::ProcessFailed, &Ended { process, source })
}

/// Sets up what every process needs before anything else: its log, and its end with its parent's.
fn begin(die_with_parent: bool) -> Result<(), Failure> {
    start_log();
    if !die_with_parent {
        return Ok(());
    }
    let parent = rustix::process::getppid();
    let failed =
        |cause: rustix::io::Errno| Failure::local(LocalCode::ProcessFailed, format!("--die-with-parent: {cause}"));
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).map_err(failed)?;
    if rustix::process::getppid() == parent {
        return Ok(());
    }
    Err(Failure::local(LocalCode::ProcessFailed, "the parent process died while this one began"))
}

/// Raises the soft limit of open files, which is 1024 almost everywhere and stands for programs that use `select(2)`, to
/// the hard one: each host holds some three connections to its controller.
fn open_as_many_files_as_allowed() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, ?limit, "the limit of open files stays as it is");
    }
}

/// Logs to standard error, as much as `RUST_LOG` says.
pub(super) fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    // A second start in one process would be a second subscriber: the first one stays.
    let _ = log.try_init();
}

/// A token that is cancelled by SIGINT or SIGTERM.
fn shutdown_on_signals() -> Result<CancellationToken, Failure> {
    let failed = |cause: io::Error| Failure::local(LocalCode::ProcessFailed, format!("signals: {cause}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let shutdown = CancellationToken::new();
    let cancel = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancel.cancel();
    });
    Ok(shutdown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_may_open_as_many_files_as_the_system_lets_it() {
        let limit = getrlimit(Resource::Nofile);
        let lower = limit.maximum.map(|most| most - 1);
        setrlimit(Resource::Nofile, Rlimit { current: lower, ..limit }).unwrap();
        open_as_many_files_as_allowed();
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    }
}
