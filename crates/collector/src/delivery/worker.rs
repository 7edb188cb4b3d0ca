//! One flow log's delivery, until it is ended: find what waits, send it, remember that, and again.
//!
//! Owns the order of these. What cannot be sent is kept and tried again; that and why is told in the status.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use lucarne_model::{Moment, TenantFlowRecord, flow_log::FlowLog};
use tokio::time::sleep;

use super::{
    Status,
    backlog::{Backlog, Batch},
    ledger::{Ledger, LedgerError, Progress},
    schedule,
    senders::{SendError, Sender, Sending},
};
use crate::part::PartError;

pub(super) struct Worker {
    pub(super) log: FlowLog,
    pub(super) status: Arc<Status>,
    pub(super) backlog: Backlog,
    pub(super) ledger: Arc<Ledger>,
}

/// Why a delivery did not get on.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error("the kept records cannot be read: {0}")]
    Backlog(#[source] PartError),
    #[error("what is delivered cannot be remembered: {0}")]
    Ledger(#[source] LedgerError),
    #[error(transparent)]
    Send(SendError),
    #[error("the work on files was cut off")]
    CutOff,
}

impl Worker {
    /// Never returns; it is aborted when the log is deleted or changed.
    pub(super) async fn run(self, mut sender: Sender) {
        let this = Arc::new(self);
        let mut failures = 0;
        let mut progress = None;
        loop {
            let wait = match this.round(&mut sender, &mut progress).await {
                Ok(wait) => {
                    failures = 0;
                    this.status.change(|status| status.last_error = None);
                    wait
                }
                Err(error) => {
                    failures += 1;
                    // What a tenant's destination does is the tenant's business; the operator's log says it once.
                    if failures == 1 {
                        tracing::warn!(log = %this.log.id, %error, "a flow log waits for its destination");
                    }
                    this.status.change(|status| status.last_error = Some(error.to_string()));
                    schedule::retry(failures)
                }
            };
            sleep(wait).await;
        }
    }

    /// Sends what waits, if there is anything, and says how long until the next round.
    async fn round(
        self: &Arc<Self>,
        sender: &mut Sender,
        known: &mut Option<Progress>,
    ) -> Result<Duration, DeliveryError> {
        let id = self.log.id;
        let mut progress = match *known {
            Some(progress) => progress,
            None => self.off_thread(move |this| this.ledger.progress(id).map_err(DeliveryError::Ledger)).await?,
        };
        let from = progress.position;
        let Batch { records, next } =
            self.off_thread(move |this| this.backlog.after(&this.log, from).map_err(DeliveryError::Backlog)).await?;
        self.status.change(|status| {
            (status.delivered, status.last_delivered) = (progress.delivered, progress.last_delivered);
            status.waiting = records.len() as u64;
        });
        progress.position = next;
        let full = records.len() >= super::backlog::BATCH;
        let Some(first) = records.first() else {
            // Only in memory: after a restart the same is looked at once more.
            *known = Some(progress);
            return Ok(schedule::gather(&self.log));
        };
        let first = first.serial;
        let seen: Vec<TenantFlowRecord> = records.iter().map(|kept| (&kept.record).into()).collect();
        sender.send(Sending { first, records: &seen, now: now() }).await.map_err(DeliveryError::Send)?;
        progress.delivered += seen.len() as u64;
        progress.last_delivered = Some(now());
        self.off_thread(move |this| this.ledger.keep_progress(id, &progress).map_err(DeliveryError::Ledger)).await?;
        *known = Some(progress);
        self.status.change(|status| {
            (status.delivered, status.last_delivered, status.waiting) =
                (progress.delivered, progress.last_delivered, 0);
        });
        Ok(if full { Duration::ZERO } else { schedule::gather(&self.log) })
    }

    async fn off_thread<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, DeliveryError> + Send + 'static,
    ) -> Result<T, DeliveryError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this)).await.map_err(|_| DeliveryError::CutOff)?
    }
}

/// The wall clock.
fn now() -> Moment {
    Moment::EPOCH.plus(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
