//! Tells the collector of the flow logs: always all of them, so that one that lost everything can be told again.
//!
//! Owns when that is done. What a flow log may be is decided in [`crate::services::flow_logs`], the delivery itself is the
//! collector's.

use std::{collections::HashMap, sync::Arc, time::Duration};

use lucarne_api::Problem;
use lucarne_model::{
    FlowLogId,
    flow_log::{DeliveryOrder, FlowLog, StoreCredentials},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Controller,
    collector_client::CollectorError,
    records::FlowLogCredentials,
    store::{Scope, Tx},
};

/// The topic that every change of a flow log touches.
pub(crate) const CHANGED: &str = "flow-logs";

/// How long until the collector is told again what it knows already: it may have another state folder now.
const AGAIN: Duration = Duration::from_secs(30);
/// How long until it is tried again where it failed.
const RETRY: Duration = Duration::from_secs(1);

/// Why the collector could not be told.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error("the flow logs could not be read: {0}")]
    Read(Problem),
    #[error("the collector did not take the flow logs")]
    Collector(#[source] CollectorError),
}

/// Keeps the collector told until `shutdown`.
pub(crate) async fn run(controller: Arc<Controller>, shutdown: CancellationToken) {
    let mut changes = controller.store.changes().subscribe([CHANGED.to_owned()]);
    let mut waits = false;
    loop {
        let told = tell(&controller).await;
        if let Err(error) = &told
            && !waits
        {
            tracing::warn!(error = error as &dyn std::error::Error, "flow logs wait for their collector");
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
    let orders = controller.store.read(orders).await.map_err(TellError::Read)?;
    controller.collector.deliver(&orders).await.map_err(TellError::Collector)
}

fn orders(tx: &Tx<'_>) -> Result<Vec<DeliveryOrder>, Problem> {
    let kept = tx.list::<FlowLogCredentials>(Scope::Everything)?;
    let mut kept: HashMap<FlowLogId, StoreCredentials> = kept.into_iter().map(|of| (of.log, of.credentials)).collect();
    let logs = tx.list::<FlowLog>(Scope::Everything)?.into_iter();
    Ok(logs.map(|log| DeliveryOrder { credentials: kept.remove(&log.id), log }).collect())
}
