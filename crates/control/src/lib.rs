//! The controller: store, authentication, authorisation, placement and workflows behind the HTTP API.
//!
//! Owns all state that outlives a process, and every decision about whose it is. Machines, packets and flow records are the
//! work of hosts and collector; paths and bodies of the API are `lucarne_api`'s.
//!
//! In reading order: [`http`] takes requests, [`api`] names the service function of each, [`auth`] says who asks, `services`
//! do it in transactions of the [`store`], `workflow` goes on with what takes longer, `desired` tells hosts what to be.

mod api;
mod attestation_records;
mod auth;
mod blobs;
mod bootstrap;
mod challenges;
mod change_recording;
mod clock;
mod collector_client;
mod consultation;
mod desired;
mod enrolment;
mod fleet;
mod host_ca;
mod http;
mod idempotency;
mod instructions;
mod joint_policy;
mod judging;
mod lending;
mod load_records;
mod memory_history;
mod moves;
mod named_questions;
mod notary_client;
mod placement;
mod quota;
mod random;
mod rechecking;
mod records;
mod replay_records;
mod replica_records;
mod rule_words;
mod scaling;
mod scaling_records;
mod secrets;
mod services;
mod settings;
mod settle;
mod store;
#[cfg(test)]
mod tests;
mod trigger_records;
mod upkeep;
mod usage;
mod visitors;
mod workflow;

use std::{io, sync::Arc, time::Duration};

use lucarne_api::{Problem, input::Limits};
use lucarne_collector::SecretBox;
use tokio_util::sync::CancellationToken;

pub use auth::PolicyError;
pub use bootstrap::BootstrapError;
pub use host_ca::HostCaError;
pub use http::ListenError;
pub use named_questions::named_question_sql;
pub use secrets::SecretsError;
pub use services::shown::opaque_host;
pub use settings::{OperatorFile, Settings};
pub use store::StoreError;
pub use usage::UsageError;

pub(crate) use auth::Caller;

use auth::{Policies, Principals, Throttle, TokenKey};
use blobs::BlobStore;
use challenges::Challenges;
use collector_client::CollectorClient;
use consultation::Consultant;
use desired::Networks;
use fleet::Fleet;
use host_ca::HostCa;
use lending::Lendings;
use memory_history::MemoryHistories;
use moves::Mover;
use notary_client::NotaryClient;
use services::streams::Streams;
use store::Store;
use usage::UsageLedger;
use workflow::engine::Workflows;

/// Why a controller cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the store could not be opened")]
    Store(#[from] StoreError),
    #[error("the policies cannot be used")]
    Policies(#[from] PolicyError),
    #[error("the host CA cannot be used")]
    HostCa(#[from] HostCaError),
    #[error("the ledger of usage cannot be gone on with")]
    Usage(#[from] UsageError),
    #[error("the access keys of tenants' stores cannot be used")]
    Secrets(#[from] SecretsError),
    #[error("the blob store could not be opened")]
    Blobs(#[source] io::Error),
    #[error("the controller could not be made ready")]
    Bootstrap(#[from] BootstrapError),
    #[error("notaries cannot be asked")]
    Notaries(#[source] reqwest::Error),
    #[error("the API cannot be served")]
    Listen(#[from] ListenError),
    #[error("the workflows could not be taken up again: {0}")]
    Workflows(Problem),
}

/// How often old blobs are looked for.
const COLLECTION_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// All that a request may use.
#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) blobs: BlobStore,
    pub(crate) policies: Policies,
    pub(crate) principals: Principals,
    pub(crate) token_key: TokenKey,
    /// Requests, by account.
    pub(crate) throttle: Throttle<lucarne_model::AccountId>,
    /// Failed attempts to sign in, by address and key.
    pub(crate) failed_sign_ins: Throttle<(Option<std::net::IpAddr>, String)>,
    pub(crate) collector: CollectorClient,
    pub(crate) fleet: Arc<Fleet>,
    /// Where instances' pages were.
    pub(crate) memory_histories: MemoryHistories,
    pub(crate) usage: Arc<UsageLedger>,
    pub(crate) host_ca: HostCa,
    /// Opens what the store has sealed.
    pub(crate) secrets: SecretBox,
    pub(crate) workflows: Workflows,
    pub(crate) consultant: Consultant,
    pub(crate) streams: Streams,
    /// What hosts' TPMs are asked.
    pub(crate) challenges: Challenges,
    /// Memory that hosts lend each other.
    pub(crate) lending: Lendings,
    /// What moves instances for want of memory.
    pub(crate) mover: Mover,
    pub(crate) networks: Arc<Networks>,
}

impl Controller {
    pub(crate) async fn open(settings: Settings) -> Result<Self, Error> {
        let store = Store::open(&settings.state_dir)?;
        let fleet = Arc::new(Fleet::new(clock::now(), settings.host_timeout));
        let consultant = Consultant::new(store.clone(), NotaryClient::new().map_err(Error::Notaries)?);
        Ok(Self {
            blobs: BlobStore::open(settings.state_dir.join("blobs")).await.map_err(Error::Blobs)?,
            policies: Policies::compile()?,
            principals: Principals::default(),
            token_key: TokenKey::new(&bootstrap::token_secret(&store).await?),
            throttle: Throttle::default(),
            failed_sign_ins: Throttle::default(),
            collector: CollectorClient::new(settings.collector.clone()),
            workflows: Workflows::new(store.clone(), fleet.clone(), consultant.clone()),
            consultant,
            streams: Streams::default(),
            challenges: Challenges::default(),
            lending: Lendings::default(),
            mover: Mover::default(),
            memory_histories: MemoryHistories::default(),
            networks: Arc::new(Networks::new(store.changes().clone())),
            usage: Arc::new(UsageLedger::open(&settings.state_dir.join("usage.ledger"))?),
            host_ca: HostCa::open(&settings.state_dir)?,
            secrets: secrets::open(&store, &settings.state_dir, settings.forget_store_secrets).await?,
            fleet,
            store,
            settings,
        })
    }
}

/// Runs a controller until `shutdown`.
///
/// # Errors
/// Only at the start, when something that it needs is missing; what fails later is a problem of the request that met it.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    let listener = http::listen(settings.listen, settings.allow_plaintext).await?;
    let unknown = |cause| ListenError::Bind { address: settings.listen, cause };
    let endpoint = format!("http://{}", listener.local_addr().map_err(unknown)?);
    let controller = Arc::new(Controller::open(settings).await?);
    bootstrap::write_operator_file(&controller.store, &controller.settings, endpoint.clone()).await?;
    controller.workflows.resume().await.map_err(Error::Workflows)?;
    let upkeep = tokio::spawn(upkeep::run(controller.clone(), shutdown.clone()));
    let instructions = tokio::spawn(instructions::run(controller.clone(), shutdown.clone()));
    let rechecks = tokio::spawn(services::rechecks::run(controller.clone(), shutdown.clone()));
    let triggers = tokio::spawn(services::triggers::firing::run(controller.clone(), shutdown.clone()));
    let changes = tokio::spawn(services::replays::changes::run(controller.clone(), shutdown.clone()));
    let collection = tokio::spawn(collect_regularly(controller.clone()));
    tracing::info!(endpoint, "the controller answers");
    http::serve(listener, lucarne_api::router(controller, Limits::default()), shutdown).await;
    collection.abort();
    changes.abort();
    triggers.abort();
    rechecks.abort();
    instructions.abort();
    upkeep.abort();
    Ok(())
}

async fn collect_regularly(controller: Arc<Controller>) {
    let mut ticks = tokio::time::interval(COLLECTION_INTERVAL);
    loop {
        ticks.tick().await;
        match services::blobs::collect(&controller).await {
            Ok(collected) => tracing::info!(collected, "blobs that nothing references were deleted"),
            Err(problem) => tracing::warn!(%problem, "blobs could not be collected; the next time they will be"),
        }
    }
}
