//! The collector: takes flow records from hosts, keeps them as Parquet, answers questions about them.
//!
//! Owns one state folder and the promise made by each acknowledgement: *a record that was acknowledged is found by
//! queries from then on, exactly once, whatever kills the process and whenever.* The way of a record through the files:
//!
//! 1. [`ingest`] reads IPFIX from a host that [`admission`] lets in, and hands the records, as columns ([`received`]), to
//!    the [`keeper`];
//! 2. the keeper appends them with the sender's mark to the [`log`], fsyncs, acknowledges, and shows them ([`chunk`]) to queries
//!    ([`catalog`]) and watchers ([`watch`]);
//! 3. the [`sealer`] turns a full or old log segment into one Parquet [`part`] for each account, location and hour, each
//!    with a signed receipt ([`receipts`]), then removes the segment; parts of an hour are merged as they become many
//!    ([`compaction`]);
//! 4. [`findings`] are told of what stands out while records arrive;
//! 5. a merged part has its sums beside it ([`part::sums`]), from which questions that ask for no more are answered;
//! 6. where there is a store for them, the [`shelf`] brings parts there, and the disk is their cache;
//! 7. [`query`] finds records in the catalog and the parts, [`sql`] answers questions over both, and [`http`] serves that
//!    to the controller; [`delivery`] sends what flow logs ask for to tenants' own places.
//!
//! The folder needs no list of its files, because the names say everything: segments are numbered, a part is named for the
//! segments that it was made from, and **a part counts if and only if all its segments are gone from the log and no other
//! part of its folder covers them**. So removing a segment is the instant at which its parts take over, and renaming a
//! merged part is the instant at which it replaces what it was merged from. [`recovery`] applies the rule after any end.
//!
//! Secrets and addresses are found by others in [`Connection`]. Who may ask for which account is decided by the
//! controller; here every question names its account.

mod admission;
mod allocator;
mod at_rest;
mod catalog;
mod chunk;
mod columns;
mod compaction;
mod connection;
mod delivery;
mod durable;
mod export;
mod findings;
mod foreign;
mod health;
mod hour;
mod http;
mod ingest;
#[cfg(test)]
mod isolation_tests;
mod keeper;
mod log;
mod losses;
mod pace;
mod part;
mod position;
mod query;
mod receipts;
mod received;
mod recovery;
mod s3;
mod sealer;
mod secret_box;
mod sessions;
mod shelf;
mod sql;
mod taken;
#[cfg(test)]
mod test_records;
#[cfg(test)]
mod test_store;
mod watch;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use lucarne_model::FlowRecord;
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime::Handle,
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

pub use admission::TlsError;
pub use at_rest::{AtRest, Hot, Inflow, Sealed, Shown};
pub use connection::{Connection, ConnectionError};
pub use health::Health;
pub use pace::Pace;
pub use part::{Effort, Writer};
pub use receipts::{ReceiptPage, ReceiptsError};
pub use recovery::RecoveryError;
pub use s3::{UploadError, Uploads};
pub use secret_box::{SealedSecret, SecretBox, SecretError};
pub use shelf::{PartStore, ShelfError};
pub use sql::{EngineError, SqlError};
pub use taken::{TakenError, contents_of, is_part_name};

/// Where a collector keeps its state and what it listens on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder that it owns; one collector at a time.
    pub state_dir: PathBuf,
    /// For hosts. Port 0: chosen at the first start and taken again at the next ones.
    pub listen_ipfix: SocketAddr,
    /// For the controller; a loopback address, since only the token protects it. Port 0 as above.
    pub listen_query: SocketAddr,
    /// For NetFlow v5 and v9, IPFIX and sFlow of routers, over UDP; nobody is asked who they are. None: not at all.
    pub listen_flows: Option<SocketAddr>,
}

/// Why a collector could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the state folder {} cannot be prepared", path.display())]
    StateDir { path: PathBuf, source: io::Error },
    #[error("another collector uses the state folder {}", path.display())]
    InUse { path: PathBuf },
    #[error("the store of parts cannot be used")]
    Shelf(#[source] ShelfError),
    #[error("what the state folder holds cannot be read")]
    Recovery(#[source] RecoveryError),
    #[error("the records of other exporters cannot be listed")]
    Foreign(#[source] io::Error),
    #[error("the receipts cannot be read or gone on with")]
    Receipts(#[source] ReceiptsError),
    #[error("questions in SQL cannot be answered")]
    Sql(#[source] EngineError),
    #[error("{address} cannot be listened on")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("no random numbers for the secrets")]
    Random,
    #[error("the deliveries of flow logs cannot be taken up again")]
    Delivery(#[source] delivery::LedgerError),
    #[error("hosts cannot be spoken with over TLS")]
    Tls(#[source] TlsError),
    #[error("the findings so far cannot be read")]
    Findings(#[source] io::Error),
    #[error("the list of losses cannot be read")]
    Losses(#[source] io::Error),
    #[error("the addresses and secrets cannot be kept")]
    Connection(#[source] ConnectionError),
    #[error("the query service ended")]
    Query(#[source] io::Error),
    #[error("the part of the collector that {work} ended unasked")]
    Ended { work: &'static str },
}

/// A record with its number: unique, given once, the same after every restart, and growing with the time of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) serial: u64,
    pub(crate) record: FlowRecord,
}

/// Runs a collector until `shutdown`, or until it cannot go on.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    run_at(settings, Pace::default(), shutdown).await
}

/// As [`run`], at another pace than the default one.
pub async fn run_at(settings: Settings, pace: Pace, shutdown: CancellationToken) -> Result<(), Error> {
    run_with(settings, pace, None, shutdown).await
}

/// As [`run_at`], with parts in a store, if there is one, and the disk as its cache.
pub async fn run_with(
    settings: Settings,
    pace: Pace,
    store: Option<PartStore>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let state_dir = |source| Error::StateDir { path: settings.state_dir.clone(), source };
    durable::create_dir(&settings.state_dir).map_err(state_dir)?;
    let _lock = durable::lock(&settings.state_dir)
        .map_err(state_dir)?
        .ok_or_else(|| Error::InUse { path: settings.state_dir.clone() })?;
    let admission = Arc::new(admission::Admission::open(&settings.state_dir).map_err(Error::Tls)?);
    let connection = Connection::prepare(&settings, admission.certificate())?;
    let ipfix = listen(connection.ipfix).await?;
    let query = listen(connection.query).await?;
    let flows = match settings.listen_flows {
        Some(address) => Some(UdpSocket::bind(address).await.map_err(|source| Error::Listen { address, source })?),
        None => None,
    };
    let connection = connection.keep(&settings, &ipfix, &query).map_err(Error::Connection)?;
    let folders = folders(&settings, store, &shutdown).await?;
    Collector::start(&settings, pace, folders, admission, &shutdown)?
        .serve(&connection, ipfix, query, flows, shutdown)
        .await
}

/// The folders of parts, with the store behind them, which has said by then what it holds.
async fn folders(
    settings: &Settings,
    store: Option<PartStore>,
    shutdown: &CancellationToken,
) -> Result<part::Folders, Error> {
    let mut folders = part::Folders::of(&settings.state_dir);
    if let Some(store) = store {
        let (state_dir, shutdown) = (settings.state_dir.clone(), shutdown.clone());
        let opened = tokio::task::spawn_blocking(move || shelf::Shelf::open(store, &state_dir, &shutdown)).await;
        let opened = opened.map_err(|_| Error::Ended { work: "opens the store of parts" })?;
        folders.shelf = Some(Arc::new(opened.map_err(Error::Shelf)?));
    }
    Ok(folders)
}

/// Listens on the address, or on a free port of it when the port (which may be a remembered one) is taken.
async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            tracing::warn!(%address, "the port is taken by another process; choosing another");
            TcpListener::bind((address.ip(), 0)).await
        }
        bound => bound,
    }
    .map_err(|source| Error::Listen { address, source })
}

/// The running parts that ingest and queries are connected to.
struct Collector {
    commands: mpsc::Sender<keeper::Command>,
    store: query::Store,
    sql: Arc<sql::Engine>,
    foreign: Arc<foreign::Foreign>,
    receipts: Arc<receipts::Receipts>,
    watchers: Arc<watch::Watchers>,
    health: Arc<health::Gauges>,
    hosts: http::hosts::Hosts,
    outward: http::outward::Outward,
    findings: Arc<findings::Findings>,
    keeper: tokio::task::JoinHandle<()>,
    sealer: tokio::task::JoinHandle<()>,
    upkeep: Option<tokio::task::JoinHandle<()>>,
}

impl Collector {
    fn start(
        settings: &Settings,
        pace: Pace,
        folders: part::Folders,
        admission: Arc<admission::Admission>,
        shutdown: &CancellationToken,
    ) -> Result<Self, Error> {
        let recovered = recovery::recover(&settings.state_dir, &folders).map_err(Error::Recovery)?;
        let receipts = Arc::new(receipts::Receipts::open(&settings.state_dir).map_err(Error::Receipts)?);
        receipts.reconcile(&recovered.parts, sealer::now()).map_err(Error::Receipts)?;
        // What is held here would not be removed when it is merged.
        drop(recovered.parts);
        let catalog = Arc::new(recovered.catalog);
        let foreign = Arc::new(foreign::Foreign::open(&settings.state_dir).map_err(Error::Foreign)?);
        let limits = sql::Limits::default();
        let sql = sql::Engine::start(&folders, catalog.clone(), foreign.clone(), limits).map_err(Error::Sql)?;
        let watchers = Arc::new(watch::Watchers::default());
        let health = Arc::new(health::Gauges::default());
        let (commands, inbox) = mpsc::channel(keeper::INBOX);
        let (wake, woken) = std::sync::mpsc::sync_channel(1);
        let upkeep = folders.shelf.clone().map(|shelf| shelf::Upkeep {
            shelf,
            catalog: catalog.clone(),
            health: health.clone(),
            state_dir: settings.state_dir.clone(),
        });
        let sealer =
            sealer::Sealer::new(&settings.state_dir, folders, pace, catalog.clone(), receipts.clone(), health.clone());
        let loss_file = losses::LossFile::open(&settings.state_dir).map_err(Error::Losses)?;
        let hosts = http::hosts::Hosts { admission, losses: loss_file.losses() };
        let reach = delivery::Reach::of(settings.listen_ipfix.ip());
        let deliveries = delivery::Deliveries::open(&settings.state_dir, catalog.clone(), reach, Handle::current());
        let deliveries = Arc::new(deliveries.map_err(Error::Delivery)?);
        let outward =
            http::outward::Outward { deliveries, catalog: catalog.clone(), folder: settings.state_dir.clone() };
        let findings = findings::Findings::open(&settings.state_dir, pace.findings, sealer::now());
        let findings = Arc::new(findings.map_err(Error::Findings)?);
        findings.recall(&catalog, sealer::now());
        let keeper = keeper::Keeper {
            log: recovered.log,
            findings: findings.clone(),
            losses: loss_file,
            sessions: recovered.sessions,
            acknowledgements: std::collections::HashMap::new(),
            catalog: catalog.clone(),
            watchers: watchers.clone(),
            health: health.clone(),
            wake,
            pace,
            shutdown: shutdown.clone(),
        };
        let (stop, stop_upkeep) = (shutdown.clone(), shutdown.clone());
        Ok(Self {
            commands,
            store: query::Store::new(catalog),
            sql: Arc::new(sql),
            foreign,
            receipts,
            watchers,
            health,
            hosts,
            outward,
            findings,
            keeper: tokio::task::spawn_blocking(move || keeper.run(inbox)),
            sealer: tokio::task::spawn_blocking(move || sealer.run(&woken, &stop)),
            upkeep: upkeep.map(|upkeep| tokio::task::spawn_blocking(move || upkeep.run(&stop_upkeep))),
        })
    }

    /// Serves until `shutdown`; then first the listeners end, with them the keeper's senders, and so the threads.
    async fn serve(
        self,
        connection: &Connection,
        ipfix: TcpListener,
        query: TcpListener,
        flows: Option<UdpSocket>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let Self {
            commands,
            store,
            sql,
            foreign,
            receipts,
            watchers,
            health,
            hosts,
            outward,
            findings,
            mut keeper,
            mut sealer,
            upkeep,
        } = self;
        let ingest = ingest::serve(ipfix, hosts.admission.clone(), commands, health.clone(), shutdown.clone());
        let service = http::Service::new(&connection.query_token, store, sql, receipts, watchers, health);
        let watching = findings::watch(findings.clone(), shutdown.clone());
        let more = hosts.routes().merge(outward.routes()).merge(http::findings::routes(findings));
        let queries = http::serve(query, service, more, shutdown.clone());
        let flows = take_foreign(flows, foreign, shutdown.clone());
        tracing::info!(ipfix = %connection.ipfix, query = %connection.query, "collecting");
        let unasked = tokio::select! {
            (_, served, (), ()) = async { tokio::join!(ingest, queries, flows, watching) } => served.map_err(Error::Query),
            _ = &mut keeper => Err(Error::Ended { work: "keeps records" }),
            _ = &mut sealer => Err(Error::Ended { work: "seals the log" }),
        };
        let asked = shutdown.is_cancelled();
        shutdown.cancel();
        for task in [keeper, sealer].into_iter().chain(upkeep) {
            if !task.is_finished() && task.await.is_err() {
                return Err(Error::Ended { work: "writes files" });
            }
        }
        if asked { Ok(()) } else { unasked }
    }
}

/// Where nobody listens nothing comes, until `shutdown`.
async fn take_foreign(socket: Option<UdpSocket>, foreign: Arc<foreign::Foreign>, shutdown: CancellationToken) {
    match socket {
        Some(socket) => foreign::serve(socket, foreign, shutdown).await,
        None => shutdown.cancelled().await,
    }
}
