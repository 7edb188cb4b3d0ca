//! What the controller brings: policies, and questions of those who asked it.
//!
//! Owns following them in the desired state, each token once, and so many at a time. The host dials, because nothing dials a
//! host. A controller can hold things back and lie about who asks, and that is all: whose word counts is signed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{SinkExt, StreamExt};
use lucarne_model::{
    desired::Desired,
    sealing::{MOST_QUESTION, SealErrand},
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{conversation, owner::Counter};
use crate::controller::Controller;

/// Questions that are answered at the same time.
const MOST_AT_ONCE: usize = 64;
/// Between two tries to fetch a policy.
const RETRY: Duration = Duration::from_secs(5);

/// Follows the desired state until `shutdown`.
pub(crate) async fn follow(
    controller: Arc<dyn Controller>,
    counter: Counter,
    mut desired: watch::Receiver<Arc<Desired>>,
    shutdown: CancellationToken,
) {
    let follow = async {
        let (mut begun, mut under_way) = (BTreeSet::<String>::new(), JoinSet::new());
        let free = Arc::new(Semaphore::new(MOST_AT_ONCE));
        let mut policy = None;
        loop {
            let now = desired.borrow_and_update().clone();
            if now.seal_policy.is_some() && now.seal_policy != policy {
                match controller.seal_policy().await {
                    Ok(octets) => {
                        counter.policy(octets).await;
                        policy.clone_from(&now.seal_policy);
                    }
                    Err(problem) => tracing::warn!(%problem, "the seal policy could not be fetched; trying on"),
                }
            }
            begun.retain(|token| now.seal_errands.contains(token));
            for token in &now.seal_errands {
                if begun.insert(token.clone()) {
                    let (controller, counter, free, token) =
                        (controller.clone(), counter.clone(), free.clone(), token.clone());
                    under_way.spawn(async move {
                        let Ok(_turn) = free.acquire().await else { return };
                        run(controller.as_ref(), &counter, &token).await;
                    });
                }
            }
            while under_way.try_join_next().is_some() {}
            let is_missing = now.seal_policy.is_some() && now.seal_policy != policy;
            tokio::select! {
                changed = desired.changed() => if changed.is_err() { return },
                () = sleep(RETRY), if is_missing => {}
            }
        }
    };
    shutdown.run_until_cancelled(follow).await;
}

async fn run(controller: &dyn Controller, counter: &Counter, token: &str) {
    let mut end = match controller.open_stream(token).await {
        Ok(end) => end,
        Err(problem) => {
            tracing::info!(%problem, "nobody waits for an errand any more");
            return;
        }
    };
    let question = end.incoming.next().await;
    let errand = question.and_then(Result::ok).filter(|octets| octets.len() <= MOST_QUESTION);
    let errand = errand.and_then(|octets| serde_json::from_slice::<SealErrand>(&octets).ok());
    let answered = match errand {
        Some(SealErrand { account, question }) => counter.ask(Some(account), question).await,
        None => conversation::unread(),
    };
    let sent = conversation::send(answered, &mut end.outgoing).await;
    if let Err(error) = sent.and(end.outgoing.close().await) {
        tracing::debug!(%error, "the answer to an errand broke off");
    }
}
