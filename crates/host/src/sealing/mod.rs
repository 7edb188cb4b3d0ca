//! Sealed operations on this host: from octets that somebody brings to a receipt, and the result that belongs to it.
//!
//! In reading order: [`office`], which takes, refuses and remembers; what it keeps, in [`register`] over a [`journal`], on the
//! [`shelf`], and as its [`standing_policy`], [`standing_requests`], [`owners`] and [`keys`] with [`reading`]; what its TPM adds, [`quoting`]; [`beacons`] and the clock; the [`desk`] and the [`owner`], through
//! which others speak with it; [`conversation`], [`errands`] and [`socket`], which bring what carriers ask; and [`machines`],
//! which has the work done, a start of a guest by [`starting`]. [`watching`] says when something is unusual.

mod beacons;
mod conversation;
mod desk;
mod errands;
mod journal;
mod keys;
mod machines;
mod office;
mod owner;
mod owners;
mod quoting;
mod reading;
mod register;
mod shelf;
mod socket;
mod standing_policy;
mod standing_requests;
mod starting;
mod watching;

use std::sync::Arc;

use lucarne_model::{Bytes, desired::Desired};
use lucarne_statement::signing::PublicKey;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub(crate) use keys::Reading;
pub(crate) use machines::Machines;
use office::Office;
pub(crate) use office::Present;
use owner::{Counter, Owner, clocks};
pub(crate) use quoting::{Quoting, QuotingTpm};
pub(crate) use reading::AgreeingTpm;
#[cfg(test)]
pub(crate) use reading::ReadingKey;
pub use socket::LocalOffice;
pub(crate) use starting::Starting;

use crate::controller::Controller;

/// What the office goes by from its start.
#[derive(Debug)]
pub(crate) struct SealSettings {
    pub(crate) policy_key: Option<PublicKey>,
    /// How much results may take on disk.
    pub(crate) space: Bytes,
    pub(crate) reading: Reading,
    pub(crate) quoting: Quoting,
}

/// What the office hears of the agent.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) present: watch::Receiver<Arc<Vec<Present>>>,
    pub(crate) desired: watch::Receiver<Arc<Desired>>,
}

/// The office and what brings it what it must know.
#[derive(Debug)]
pub(crate) struct Sealing {
    owner: Owner,
    tasks: JoinSet<()>,
}

impl Sealing {
    /// Opens the office. A host on which that fails goes on without: nothing is asked of it, since what it must not forget
    /// cannot be read or kept.
    pub(crate) async fn start(
        machines: Machines,
        SealSettings { policy_key, space, reading, quoting }: SealSettings,
        heard: Heard,
        controller: Arc<dyn Controller>,
        shutdown: CancellationToken,
    ) -> Option<Self> {
        let (folder, host) = (machines.layout.seals(), machines.host);
        let made = office::make_folder(&folder);
        made.inspect_err(no_office).ok()?;
        let tpm = quoting.identity(&folder).await;
        let by = (host, policy_key, tpm.clone());
        let opened = tokio::task::spawn_blocking(move || Office::open(&folder, by, reading, space.0, clocks()));
        let opened = opened.await.inspect_err(no_office).ok()?.inspect_err(no_office).ok()?;
        let path = machines.layout.seal_socket();
        let listener = socket::bind(&path).inspect_err(|error| {
            tracing::error!(path = %path.display(), %error, "nobody on this host can bring sealed requests");
        });
        let recovering = machines.clone();
        let owner = Owner::spawn(opened, Arc::new(machines), quoting.clone()).inspect_err(no_office).ok()?;
        let (counter, mut tasks) = (owner.counter(), JoinSet::new());
        let Heard { present, desired } = heard;
        let left = present.borrow().clone();
        counter.see(left.clone()).await;
        let watching = recovering.clone();
        let told = (present.clone(), desired.clone());
        tasks.spawn(async move { recovering.recover(&left).await });
        if let Some(tpm) = tpm {
            let check = quoting.check(tpm);
            let end = shutdown.clone();
            tasks.spawn(async move { end.run_until_cancelled(check).await.unwrap_or_default() });
        }
        tasks.spawn(follow_present(counter.clone(), present, shutdown.clone()));
        tasks.spawn(watching::follow(watching, counter.clone(), told, shutdown.clone()));
        tasks.spawn(errands::follow(controller, counter.clone(), desired, shutdown.clone()));
        if let Ok(listener) = listener {
            tasks.spawn(socket::serve(listener, counter, shutdown));
        }
        Some(Self { owner, tasks })
    }

    /// Ends with the agent, by its token; what is under way is cut off.
    pub(crate) async fn end(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the office of sealed operations broke off");
            }
        }
        self.owner.end().await;
    }
}

fn no_office(error: &(impl std::error::Error + 'static)) {
    tracing::error!(error = error as &dyn std::error::Error, "there is no office of sealed operations on this host");
}

/// Tells the office what is here, whenever that changes.
async fn follow_present(
    counter: Counter,
    mut present: watch::Receiver<Arc<Vec<Present>>>,
    shutdown: CancellationToken,
) {
    let follow = async {
        while present.changed().await.is_ok() {
            let now = present.borrow_and_update().clone();
            counter.see(now).await;
        }
    };
    shutdown.run_until_cancelled(follow).await;
}
