//! Has work done by a sealing process, which reaches this host's machines by itself.
//!
//! Owns how a machine is found for it. What the process does, and that nothing of what it reads comes through here, is the
//! crate `sealer`'s.

use std::{fs::File, sync::Arc};

use async_trait::async_trait;
use lucarne_model::{AccountId, HostId, InstanceId};
use lucarne_sealer::{Done, Failure, Machine, Order};
use lucarne_vmm::driver::{Driver, WaysIn};

use super::{
    office::{Present, Work},
    owner::Executor,
};
use crate::layout::Layout;

#[derive(Clone, Debug)]
pub(crate) struct Machines {
    pub(crate) host: HostId,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) layout: Layout,
}

impl Machines {
    /// How a machine is reached, if there is a process that plays it.
    async fn find(&self, instance: InstanceId, generation: u64, account: AccountId) -> Option<Machine> {
        let WaysIn { process, monitor, console } = self.driver.ways_in(instance).await?;
        let pager = Some(self.layout.pager_socket(instance)).filter(|socket| socket.exists());
        Some(Machine { instance, generation, account, process, monitor, pager, console })
    }

    /// Mends what sealing processes that an earlier agent had started left behind.
    pub(crate) async fn recover(&self, present: &[Present]) {
        for Present { instance, account, generation } in present {
            let Some(machine) = self.find(*instance, *generation, *account).await else { continue };
            if let Err(error) = lucarne_sealer::recover(machine).await {
                tracing::warn!(%instance, %error, "what a sealed operation left of an instance could not be mended");
            }
        }
    }
}

#[async_trait]
impl Executor for Machines {
    async fn carry_out(&self, work: &Work, out: File) -> Result<Done, Failure> {
        let machine = match &work.instance {
            Some(target) => {
                let found = self.find(target.id, target.generation, target.account).await;
                Some(found.ok_or_else(|| Failure::Impossible("no process plays its machine now".to_owned()))?)
            }
            None => None,
        };
        let Work { id, operation, terms, .. } = work;
        let order =
            Order { request: id.clone(), host: self.host, operation: operation.clone(), machine, terms: terms.clone() };
        lucarne_sealer::carry_out(order, out).await
    }
}
