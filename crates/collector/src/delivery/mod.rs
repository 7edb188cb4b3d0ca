//! Delivers flow logs: for each a worker that reads kept records behind its position and sends them to the log's
//! destination.
//!
//! Owns which workers there are and what is known of each delivery. A position is moved on disk only after the destination
//! has taken the records, so that a kill at any instant makes no record missing: an IPFIX collector may be sent some twice,
//! a file is written again under the same name. The controller says which logs there are, always all of them; that is kept
//! too, so that deliveries go on while it is away.
//!
//! In reading order: `schedule` decides when to try, `backlog` finds what waits, `senders` send it, `ledger` remembers.

mod backlog;
mod ledger;
mod schedule;
mod senders;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lucarne_model::{
    FlowLogId,
    flow_log::{Delivery, DeliveryOrder},
};
use tokio::{runtime::Handle, task::JoinHandle};

pub(crate) use ledger::LedgerError;
pub(crate) use senders::{Reach, strftime};

use crate::catalog::Catalog;
use backlog::Backlog;
use ledger::Ledger;
use senders::Sender;
use worker::Worker;

/// All deliveries of a collector.
#[derive(Debug)]
pub(crate) struct Deliveries {
    ledger: Arc<Ledger>,
    backlog: Backlog,
    reach: Reach,
    workers: Mutex<BTreeMap<FlowLogId, Running>>,
    runtime: Handle,
}

#[derive(Debug)]
struct Running {
    order: DeliveryOrder,
    status: Arc<Status>,
    /// None where there is nothing to do.
    task: Option<JoinHandle<()>>,
}

/// What a worker says of its delivery.
#[derive(Debug, Default)]
struct Status(Mutex<Delivery>);

impl Status {
    fn change(&self, change: impl FnOnce(&mut Delivery)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
    fn get(&self) -> Delivery {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Deliveries {
    /// Takes up again what the ledger in the state folder says.
    pub(crate) fn open(
        state_dir: &Path,
        catalog: Arc<Catalog>,
        reach: Reach,
        runtime: Handle,
    ) -> Result<Self, LedgerError> {
        let ledger = Arc::new(Ledger::open(state_dir)?);
        let orders = ledger.orders()?;
        let deliveries = Self { ledger, backlog: Backlog::new(catalog), reach, workers: Mutex::default(), runtime };
        deliveries.follow(orders);
        Ok(deliveries)
    }

    /// These logs and no others are delivered from now on. Reads and writes files: not for an async task.
    pub(crate) fn set(&self, orders: Vec<DeliveryOrder>) -> Result<(), LedgerError> {
        self.ledger.keep_orders(&orders)?;
        self.follow(orders);
        Ok(())
    }

    /// How far all of them are.
    pub(crate) fn list(&self) -> BTreeMap<FlowLogId, Delivery> {
        self.lock().iter().map(|(id, running)| (*id, running.status.get())).collect()
    }

    fn follow(&self, orders: Vec<DeliveryOrder>) {
        let mut orders: BTreeMap<FlowLogId, DeliveryOrder> =
            orders.into_iter().map(|order| (order.log.id, order)).collect();
        let mut workers = self.lock();
        workers.retain(|id, running| {
            let stays = orders.contains_key(id);
            if !stays {
                running.end();
                self.ledger.forget(*id);
            }
            stays
        });
        while let Some((id, order)) = orders.pop_first() {
            match workers.entry(id) {
                Entry::Occupied(same) if same.get().order == order => {}
                Entry::Occupied(mut changed) => {
                    changed.get_mut().end();
                    changed.insert(self.begin(order));
                }
                Entry::Vacant(new) => drop(new.insert(self.begin(order))),
            }
        }
    }

    fn begin(&self, order: DeliveryOrder) -> Running {
        let status = Arc::new(Status::default());
        let task = Sender::new(&order, self.reach).map(|sender| {
            let (backlog, ledger) = (self.backlog.clone(), self.ledger.clone());
            let worker = Worker { log: order.log.clone(), status: status.clone(), backlog, ledger };
            self.runtime.spawn(worker.run(sender))
        });
        Running { order, status, task }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FlowLogId, Running>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn end(&self) {
        self.task.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.lock().values().for_each(Running::end);
    }
}
