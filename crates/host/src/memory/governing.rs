//! The loop that governs this host's memory: measure, ask the room `memory`, do what it says, tell.
//!
//! Owns the interval and the doing of orders. What is ordered is the whole of what should be, so an order that could not be
//! carried out now is given again in the next interval. Nothing here waits for a guest: what takes long has a task of its own.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::future::join_all;
use lucarne_memory::{
    governor::{Governor, Life, Order, Plan, Rules},
    settings::Keeping,
};
use lucarne_model::{InstanceId, Moment, Pages, memory_report::MemoryReport};
use lucarne_pager::Borrowing;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Governed,
    cpu::CpuGroups,
    guests::{Guest, Memory},
    loans::{Loans, Word},
    measure::{Processors, process_memory},
    sleep::chain,
    supervisor::Wishes,
    view::{Found, Sample, host_view, report, wish},
};

const INTERVAL: Duration = Duration::from_millis(500);
/// After a hibernation or a waking that failed.
const RETRY: Duration = Duration::from_secs(10);

/// Governs until `shutdown`.
pub(crate) async fn govern(
    memory: Memory,
    (governed, word): (watch::Receiver<Arc<Vec<Governed>>>, Word),
    reports: watch::Sender<Option<MemoryReport>>,
    shutdown: CancellationToken,
) {
    let mut governing = Governing::new(memory, word);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let rounds = async {
        loop {
            ticks.tick().await;
            let governed = governed.borrow().clone();
            reports.send_replace(Some(governing.round(&governed).await));
        }
    };
    shutdown.run_until_cancelled(rounds).await;
}

struct Governing {
    memory: Memory,
    governor: Governor,
    processors: Processors,
    groups: CpuGroups,
    orders: BTreeMap<InstanceId, Order>,
    /// VMs that something which takes long is being done to, or that rest after it failed.
    resting: Arc<std::sync::Mutex<BTreeMap<InstanceId, Instant>>>,
    loans: Loans,
}

/// One VM of this round.
struct One<'a> {
    governed: &'a Governed,
    guest: Arc<Guest>,
    process: Option<u32>,
    sample: Sample,
}

impl Governing {
    fn new(memory: Memory, word: Word) -> Self {
        let budget = memory.budget();
        let rules = Rules { oversubscription: budget.oversubscription(), ..Rules::default() };
        Self {
            governor: Governor::new(rules),
            processors: Processors::default(),
            groups: CpuGroups::find(),
            orders: BTreeMap::new(),
            resting: Arc::default(),
            loans: Loans::new(memory.lending_tools(), budget.memory, word),
            memory,
        }
    }

    async fn round(&mut self, governed: &[Governed]) -> MemoryReport {
        let all = join_all(governed.iter().map(|one| measure(&self.memory, one))).await;
        let all: Vec<One<'_>> = all.into_iter().flatten().collect();
        let soakers = all.iter().filter(|one| one.sample.keeping.is_soaker()).filter_map(|one| one.process);
        let (cpu, cpu_weights, lent) = (self.processors.look(soakers), self.groups.ability(), self.loans.lent());
        let found = Found { cpu, cpu_weights, lent };
        let samples: Vec<Sample> = all.iter().map(|one| one.sample.clone()).collect();
        let budget = self.memory.budget().clone();
        let mut wishes = Vec::new();
        if budget.paging.is_available() {
            let plan = self.governor.step(now(), &host_view(&budget, &found, &samples));
            self.carry_out(&all, &plan).await;
            wishes.extend(plan.verdicts.iter().copied().map(wish));
        }
        let limit = |instance| self.orders.get(&instance).map(|order: &Order| order.limit);
        let fullness = |instance| {
            let memory = samples.iter().find(|sample| sample.instance == instance).map(|sample| sample.keeping.memory);
            memory.and_then(|memory| self.governor.fullness(instance, memory)).unwrap_or_default()
        };
        let mut report = report((&budget, &found), (&samples, wishes), limit, fullness, now());
        report.moving = self.memory.moving().await;
        self.loans.step(report.host.free + report.host.lent);
        self.borrow(&all, &samples).await;
        report
    }

    /// Tells pagers where they may keep copies; those that keep none and are to keep none need not be told.
    async fn borrow(&self, all: &[One<'_>], samples: &[Sample]) {
        let borrowings = self.loans.borrowings(samples);
        let tell = async |(one, (instance, lenders)): (&One<'_>, (InstanceId, Vec<Borrowing>))| {
            let Some(pager) = one.guest.kept().pager.clone() else { return };
            if (!lenders.is_empty() || one.sample.borrows())
                && let Err(error) = pager.borrow_from(lenders).await
            {
                tracing::debug!(%instance, error = chain(&error), "a pager was not told who lends to it");
            }
        };
        join_all(all.iter().zip(borrowings).map(tell)).await;
    }

    async fn carry_out(&mut self, all: &[One<'_>], plan: &Plan) {
        self.orders = plan.orders.iter().map(|order| (order.instance, *order)).collect();
        join_all(all.iter().zip(&plan.orders).map(|(one, order)| self.order(one, order))).await;
        for (one, order) in all.iter().zip(&plan.orders) {
            let Some(process) = one.process else { continue };
            if let Err(error) = self.groups.give(order.instance, process, order.cpu) {
                tracing::debug!(instance = %order.instance, %error, "processor time could not be given");
            }
        }
        let orders = &self.orders;
        self.groups.keep_only(|instance| orders.contains_key(&instance));
    }

    async fn order(&self, one: &One<'_>, order: &Order) {
        let pager = one.guest.kept().pager.clone();
        let wishes = Wishes::of(order, &one.governed.settings);
        if let Some(pager) = pager {
            pager.wish(wishes);
            if let Err(error) = pager.tell().await {
                tracing::debug!(instance = %order.instance, error = chain(&error), "a pager was not told its limit");
            }
        }
        match (one.sample.life, order.life) {
            (Life::Running, Life::Paused | Life::Hibernated) => self.pause(one, true).await,
            (Life::Paused, Life::Running) => self.pause(one, false).await,
            (Life::Paused, Life::Hibernated) | (Life::Hibernated, Life::Running) => self.change_sleep(one, wishes),
            _ => {}
        }
    }

    /// Unless something else is being done to the VM.
    async fn pause(&self, one: &One<'_>, pause: bool) {
        let (driver, instance) = (&self.memory.0.driver, one.sample.instance);
        let Ok(_turn) = one.guest.turn.try_lock() else { return };
        let done = if pause { driver.pause(instance).await } else { driver.resume(instance).await };
        match done {
            Ok(()) => {
                tracing::info!(%instance, pause, "memory decides whether a soaker runs");
                one.guest.kept().life = if pause { Life::Paused } else { Life::Running };
            }
            Err(error) => tracing::warn!(%instance, error = chain(&error), pause, "a soaker could not be changed"),
        }
    }

    /// Hibernates a paused VM, or wakes one that sleeps, in a task of its own.
    fn change_sleep(&self, one: &One<'_>, wishes: Wishes) {
        let (shared, guest, instance) = (self.memory.0.clone(), one.guest.clone(), one.sample.instance);
        let (wakes, resting) = (one.sample.life == Life::Hibernated, self.resting.clone());
        {
            let mut resting = locked(&resting);
            if resting.get(&instance).is_some_and(|until| *until > Instant::now()) {
                return;
            }
            // Until it is done; whoever governs ends with the agent, and the task with it.
            resting.insert(instance, Instant::now() + Duration::from_secs(3600));
        }
        tokio::spawn(async move {
            tracing::info!(%instance, wakes, "a soaker changes between sleep and waking");
            let done = if wakes {
                shared.wake(instance, &guest, wishes).await
            } else {
                shared.hibernate(instance, &guest).await
            };
            let Err(error) = done else {
                locked(&resting).remove(&instance);
                return;
            };
            let message = chain(&error);
            tracing::warn!(%instance, wakes, message, "a soaker keeps its state");
            guest.kept().failure = Some(message);
            locked(&resting).insert(instance, Instant::now() + RETRY);
        });
    }
}

/// None for settings that this build refuses: the controller has refused them already.
async fn measure<'a>(memory: &Memory, governed: &'a Governed) -> Option<One<'a>> {
    let instance = governed.instance;
    let keeping = Keeping::new(&governed.settings, governed.memory).ok()?;
    let guest = memory.0.guest(instance);
    let pager = guest.kept().pager.clone();
    let mut restarts = guest.kept().restarts_before;
    if let Some(pager) = pager {
        restarts += pager.restarts();
        match pager.ask().await {
            Ok(told) => guest.kept().told = Some(told),
            Err(error) => tracing::debug!(%instance, error = chain(&error), "a pager tells nothing"),
        }
    }
    let process = memory.0.driver.process_id(instance).await;
    let taken = process.map(process_memory).unwrap_or_default();
    let sample = {
        let kept = guest.kept();
        Sample {
            instance,
            keeping,
            vcpus: governed.vcpus,
            life: kept.life,
            told: kept.told.clone(),
            mapped: taken.mapped.min(Pages::covering(governed.memory)),
            overhead: taken.own,
            pager_restarts: restarts,
            failure: kept.failure.clone(),
        }
    };
    Some(One { governed, guest, process, sample })
}

fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn now() -> Moment {
    Moment::EPOCH.plus(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
