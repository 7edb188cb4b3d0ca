//! Has work done by a sealing process, which reaches this host's machines by itself.
//!
//! Owns how a machine is found for it, and what only the agent has to give: the flows of its switch, and that
//! a guest was [`Starting`]ed. What the process does, and that nothing of what it reads comes through here, is the
//! crate `sealer`'s.

use std::{fs::File, sync::Arc, time::Duration};

use async_trait::async_trait;
use lucarne_model::{AccountId, FlowRecord, HostId, InstanceId, Moment};
use lucarne_seal::operation::{HostFlows, Operation};
use lucarne_sealer::{Done, Failure, Machine, Order};
use lucarne_vmm::driver::{Driver, WaysIn};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{
    office::{Present, Work},
    owner::Executor,
    starting::Starting,
};
use crate::{
    agent,
    layout::Layout,
    network::{Network, NetworkError},
};

/// What is told of the flows of a switch.
#[derive(Serialize)]
struct Flows {
    time: Moment,
    /// The newest first.
    records: Vec<FlowRecord>,
}

#[derive(Clone, Debug)]
pub(crate) struct Machines {
    pub(crate) host: HostId,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) layout: Layout,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) starting: Starting,
}

impl Machines {
    /// How a machine is reached, if there is a process that plays it.
    async fn find(&self, instance: InstanceId, generation: u64, account: AccountId) -> Option<Machine> {
        let WaysIn { process, monitor, console } = self.driver.ways_in(instance).await?;
        let pager = Some(self.layout.pager_socket(instance)).filter(|socket| socket.exists());
        Some(Machine { instance, generation, account, process, monitor, pager, console })
    }

    /// What this host's switch says of its flows, which no other process has.
    async fn flows(&self, asked: &HostFlows) -> Result<Vec<u8>, Failure> {
        let broken = |cause: String| Failure::Broken { doing: "ask the switch for its flows", cause };
        let time = agent::now();
        let since = time.minus(Duration::from_secs(asked.seconds.get()));
        let records = self.network.flows(since, usize::try_from(asked.most_records.get()).unwrap_or(usize::MAX)).await;
        let records = records.map_err(|error| match error {
            NetworkError::NoSwitch => Failure::Impossible(error.to_string()),
            other => broken(other.to_string()),
        })?;
        // Up to a hundred thousand: not the work of a moment, so not that of a task.
        let written = spawn_blocking(move || serde_json::to_vec(&Flows { time, records })).await;
        written.map_err(|error| broken(error.to_string()))?.map_err(|error| broken(error.to_string()))
    }

    /// Mends what sealing processes that an earlier agent had started left behind.
    pub(crate) async fn recover(&self, present: &[Present]) {
        for Present { instance, account, generation, .. } in present {
            let Some(machine) = self.find(*instance, *generation, *account).await else { continue };
            if let Err(error) = lucarne_sealer::recover(machine).await {
                tracing::warn!(%instance, %error, "what a sealed operation left of an instance could not be mended");
            }
        }
    }
}

fn json(given: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let broken = |error: serde_json::Error| Failure::Broken { doing: "write the result", cause: error.to_string() };
    serde_json::to_vec(given).map_err(broken)
}

#[async_trait]
impl Executor for Machines {
    async fn carry_out(&self, work: &Work, out: File) -> Result<Done, Failure> {
        let machine = match &work.instance {
            // Where there is none there is to be one.
            Some(_) if matches!(work.operation, Operation::GuestStart(_)) => None,
            Some(target) => {
                let found = self.find(target.id, target.generation, target.account).await;
                Some(found.ok_or_else(|| Failure::Impossible("no process plays its machine now".to_owned()))?)
            }
            None => None,
        };
        let Work { id, operation, terms, .. } = work;
        let given = match (operation, &work.instance) {
            (Operation::HostFlows(asked), _) => self.flows(asked).await?,
            (Operation::GuestStart(_), Some(target)) => json(&self.starting.start(target).await?)?,
            _ => Vec::new(),
        };
        let order = Order {
            request: id.clone(),
            host: self.host,
            operation: operation.clone(),
            machine,
            terms: terms.clone(),
            given,
        };
        lucarne_sealer::carry_out(order, out).await
    }
}
