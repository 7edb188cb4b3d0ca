//! Tells the collector what it must know of the store: which hosts are let in, and which flow logs are delivered.
//!
//! Owns when that is done: at once after a change, and always all of it, so that a collector that lost everything can be told
//! again. What a flow log may be is decided in [`crate::services::flow_logs`], that a host is removed in
//! [`crate::services::host_removal`]; delivering and refusing are the collector's.

use std::{collections::HashMap, sync::Arc, time::Duration};

use lucarne_api::Problem;
use lucarne_collector::{SecretBox, SecretError};
use lucarne_model::{
    FlowLogId, HostTrust,
    flow_log::{DeliveryOrder, FlowLog},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Controller,
    collector_client::CollectorError,
    host_ca::VALIDITY,
    records::{FlowLogCredentials, RemovedHost},
    secrets,
    store::{Scope, Tx},
};

/// The topic that every change of a flow log touches.
pub(crate) const FLOW_LOGS: &str = "flow-logs";
/// The topic that every removal of a host touches.
pub(crate) const REMOVED_HOSTS: &str = "removed-hosts";

/// How long until the collector is told again what it knows already: it may have another state folder now.
const AGAIN: Duration = Duration::from_secs(30);
/// How long until it is tried again where it failed.
const RETRY: Duration = Duration::from_secs(1);

/// Why the collector could not be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TellError {
    #[error("the store could not be read: {0}")]
    Read(Problem),
    #[error("the collector did not take it")]
    Collector(#[source] CollectorError),
    #[error("the access keys of tenants' stores")]
    Secret(#[source] SecretError),
}

/// Keeps the collector told until `shutdown`.
pub(crate) async fn run(controller: Arc<Controller>, shutdown: CancellationToken) {
    let topics = [FLOW_LOGS, REMOVED_HOSTS].map(str::to_owned);
    let mut changes = controller.store.changes().subscribe(topics);
    let mut waits = false;
    loop {
        let told = tell(&controller).await;
        if let Err(error) = &told
            && !waits
        {
            tracing::warn!(error = error as &dyn std::error::Error, "flow logs and hosts wait for their collector");
        }
        waits = told.is_err();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changes.changed() => {}
            () = tokio::time::sleep(if waits { RETRY } else { AGAIN }) => {}
        }
    }
}

async fn tell(controller: &Controller) -> Result<(), TellError> {
    tell_hosts(controller).await?;
    let kept = controller.store.read(orders).await.map_err(TellError::Read)?;
    let orders = kept.into_iter().map(|(log, kept)| order(&controller.secrets, log, kept.as_ref()));
    let orders = orders.collect::<Result<Vec<_>, _>>().map_err(TellError::Secret)?;
    controller.collector.deliver(&orders).await.map_err(TellError::Collector)
}

/// Tells which hosts are let in.
pub(crate) async fn tell_hosts(controller: &Controller) -> Result<(), TellError> {
    let authority = controller.host_ca.certificate().to_owned();
    let trust = controller.store.read(move |tx| host_trust(tx, authority)).await.map_err(TellError::Read)?;
    controller.collector.trust(&trust).await.map_err(TellError::Collector)
}

/// A certificate that ran out needs nobody to refuse it.
fn host_trust(tx: &Tx<'_>, authority: String) -> Result<HostTrust, Problem> {
    let removed = tx.list::<RemovedHost>(Scope::Everything)?.into_iter();
    let may_hold = removed.filter(|removed| tx.now().since(removed.at) <= VALIDITY);
    Ok(HostTrust { authority, removed: may_hold.map(|removed| removed.host).collect() })
}

fn orders(tx: &Tx<'_>) -> Result<Vec<(FlowLog, Option<FlowLogCredentials>)>, Problem> {
    let kept = tx.list::<FlowLogCredentials>(Scope::Everything)?;
    let mut kept: HashMap<FlowLogId, FlowLogCredentials> = kept.into_iter().map(|kept| (kept.log, kept)).collect();
    let logs = tx.list::<FlowLog>(Scope::Everything)?.into_iter();
    Ok(logs.map(|log| (log.clone(), kept.remove(&log.id))).collect())
}

fn order(secrets: &SecretBox, log: FlowLog, kept: Option<&FlowLogCredentials>) -> Result<DeliveryOrder, SecretError> {
    let credentials = kept.map_or(Ok(None), |kept| secrets::credentials(secrets, kept))?;
    Ok(DeliveryOrder { log, credentials })
}
