//! The VMs of this host and their pagers: started, stopped and adopted together.
//!
//! Owns the state of each VM as far as memory is concerned, and that what changes it happens one after the other: the right
//! to is its `turn`. Which VM is to run is the reconciler's decision, which one sleeps the governor's.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lucarne_memory::governor::Life;
use lucarne_model::{Bytes, InstanceId, Measurement, Pages, memory::PagesByPlace, warm::Began};
use lucarne_pager::control::Statistics;
use lucarne_vmm::{
    Error,
    driver::{Driver, Machine, MachineEvent, MachineSpec, Origin, Paging, Stop, Ways},
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Budget,
    duplicating::Parent,
    loans::LendingTools,
    sleep::{self, Sleeper},
    supervisor::{Pager, PagerPlace, Wishes},
};
use crate::{durable, layout::Layout, reconcile::Beginning};

/// How much of its memory a VM's compressed pages may take at most, whatever the budget is: an eighth.
const LARGEST_POOL: u64 = 8;

/// Guests' memory on one host.
#[derive(Clone, Debug)]
pub struct Memory(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) layout: Layout,
    pub(super) budget: Budget,
    /// How to page; none where this machine or its driver cannot.
    pub(super) tools: Option<Tools>,
    guests: Mutex<BTreeMap<InstanceId, Arc<Guest>>>,
    pub(super) templates: Mutex<BTreeSet<InstanceId>>,
    /// For VMs that could not be woken.
    ends: mpsc::Sender<MachineEvent>,
}

/// What pages a VM's memory.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// `lucarne` itself, which is a pager too.
    pub(crate) executable: PathBuf,
    /// What is preloaded into QEMU.
    pub(crate) library: PathBuf,
    pub(crate) lending: LendingTools,
}

/// How a VM that has no memory yet begins.
pub(super) enum Entry {
    Boot,
    /// It boots when it is let go.
    Hold,
    /// Another host brings it.
    Receive(Ways),
}

/// What is learnt of a VM as it begins.
#[derive(Default)]
pub(super) struct Begun {
    /// What it was measured as, if it is held.
    measured: Vec<Measurement>,
    /// Since when it stands still, of one that another host brought.
    pub(super) still_since: Option<Instant>,
}

/// One VM.
#[derive(Debug)]
pub(super) struct Guest {
    /// Held for the whole of a start, stop, hibernation or waking.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) kept: Mutex<Kept>,
}

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) life: Life,
    pub(super) pager: Option<Arc<Pager>>,
    pub(super) told: Option<Statistics>,
    /// Pagers that died, of this VM's earlier lives.
    pub(super) restarts_before: u32,
    pub(super) failure: Option<String>,
    /// Since when it stands still, of one that came from another host and has not gone on.
    pub(super) still_since: Option<Instant>,
    /// It is being brought to another host, and runs meanwhile.
    pub(super) is_on_its_way: bool,
    /// All of it was brought to another host: until it is known who goes on with it, it does not wake here.
    pub(super) is_brought: bool,
}

impl Default for Guest {
    fn default() -> Self {
        let kept = Kept {
            life: Life::Running,
            pager: None,
            told: None,
            restarts_before: 0,
            failure: None,
            still_since: None,
            is_on_its_way: false,
            is_brought: false,
        };
        Self { turn: tokio::sync::Mutex::default(), kept: Mutex::new(kept) }
    }
}

impl Guest {
    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It sleeps, and has no pager that would tell of its pages.
    pub(super) fn falls_asleep(&self, pages: PagesByPlace) {
        let mut kept = self.kept();
        kept.life = Life::Hibernated;
        kept.told = Some(Statistics { pages, ..Statistics::default() });
    }
}

impl Memory {
    /// With where to hear of VMs that ended because they could not be woken.
    pub(crate) fn new(
        driver: Arc<dyn Driver>,
        layout: Layout,
        budget: Budget,
        tools: Option<Tools>,
    ) -> (Self, mpsc::Receiver<MachineEvent>) {
        let (ends, ended) = mpsc::channel(64);
        (
            Self(Arc::new(Shared {
                driver,
                layout,
                budget,
                tools,
                guests: Mutex::default(),
                templates: Mutex::default(),
                ends,
            })),
            ended,
        )
    }

    /// Where memory is counted and nothing is paged.
    pub fn plain(driver: Arc<dyn Driver>, layout: Layout) -> (Self, mpsc::Receiver<MachineEvent>) {
        let reason = "this host's agent was started without it".into();
        let budget = Budget {
            memory: Bytes::ZERO,
            unallocated: Bytes::ZERO,
            compressed: Bytes::ZERO,
            factor: 1000,
            paging: lucarne_model::memory_report::Ability::Unavailable { reason },
        };
        Self::new(driver, layout, budget, None)
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.0.budget
    }

    /// What memory is lent and borrowed with; none where nothing is paged.
    pub(crate) fn lending_tools(&self) -> Option<LendingTools> {
        self.0.tools.as_ref().map(|tools| tools.lending.clone())
    }

    /// Starts a VM that begins anew: what an earlier life of it left is deleted. One that cannot go on from its warm state
    /// boots; how it began is returned.
    pub(crate) async fn start(&self, spec: &MachineSpec, beginning: &Beginning) -> Result<Began, Error> {
        Ok(self.0.enter_anew(spec, beginning, Entry::Boot).await?.0)
    }

    /// Starts a VM that stands before its first instruction, or before the first of its own where it goes on from a warm state,
    /// and says how it begins and what it was measured as. Held already: says it again.
    pub(crate) async fn hold(
        &self,
        spec: &MachineSpec,
        beginning: &Beginning,
    ) -> Result<(Began, Vec<Measurement>), Error> {
        self.0.enter_anew(spec, beginning, Entry::Hold).await
    }

    /// Lets a VM begin that was held.
    pub(crate) async fn release(&self, instance: InstanceId) -> Result<(), Error> {
        let guest = self.0.guest(instance);
        let _turn = guest.turn.lock().await;
        self.0.driver.release(instance).await
    }

    /// Ends a VM, asleep or not, and what was kept of its memory.
    pub(crate) async fn stop(&self, instance: InstanceId, how: Stop) -> Result<(), Error> {
        let shared = &self.0;
        let guest = shared.guest(instance);
        let _turn = guest.turn.lock().await;
        let is_paused = guest.kept().life == Life::Paused;
        if is_paused && matches!(how, Stop::InOrder { .. }) {
            // It cannot follow while it stands still; one that cannot be let go is ended by force.
            let _ = shared.driver.resume(instance).await;
        }
        shared.driver.stop(instance, how).await?;
        shared.give_up_pages(instance, &guest)
    }

    /// A VM ended by itself: its pager has nothing more to do.
    pub(crate) fn ended(&self, instance: InstanceId) {
        if let Some(guest) = self.0.known(instance)
            && guest.kept().life != Life::Hibernated
        {
            guest.kept().pager = None;
        }
    }

    pub(crate) async fn forget(&self, instance: InstanceId) -> Result<(), Error> {
        let guest = self.0.guest(instance);
        let _turn = guest.turn.lock().await;
        self.0.driver.forget(instance).await?;
        self.0.give_up_pages(instance, &guest)?;
        self.0.guests().remove(&instance);
        Ok(())
    }

    /// Takes over the VMs that run, with their pagers, and those that sleep. Returns the latter. Of those, some may have lost
    /// what wakes them: that they are over is told like any end.
    pub(crate) async fn adopt(&self, running: &[Machine]) -> Vec<MachineSpec> {
        for Machine { spec, .. } in running {
            let shared = &self.0;
            let guest = shared.guest(spec.instance);
            let paused = shared.driver.is_paused(spec.instance).await.unwrap_or_default();
            guest.kept().life = if paused { Life::Paused } else { Life::Running };
            // It has been woken, or was about to be put to sleep: either way it is here.
            sleep::forget(&shared.layout, spec.instance);
            if spec.paging.is_some() {
                shared.watch(spec, &guest, Wishes::at_first(Pages::covering(spec.memory)));
            }
        }
        let sleepers = sleep::find(&self.0.layout);
        sleepers.into_iter().map(|sleeper| self.adopt_sleeper(sleeper)).collect()
    }

    fn adopt_sleeper(&self, Sleeper { spec, pages }: Sleeper) -> MachineSpec {
        self.0.guest(spec.instance).falls_asleep(pages);
        if let Err(error) = self.0.kept_key(spec.instance) {
            let (shared, lost) = (self.0.clone(), spec.clone());
            // Whoever listens adopts first.
            tokio::spawn(async move { shared.is_lost(&lost, &error).await });
        }
        spec
    }

    /// The VMs are about to be ended, by the agent's end, to be started again later: their pagers go with them.
    pub(crate) fn let_go(&self) {
        self.0.guests().values().for_each(|guest| guest.kept().pager = None);
    }
}

impl Shared {
    /// Begins a VM by its warm state, or else from its boot on.
    async fn enter_anew(
        &self,
        spec: &MachineSpec,
        beginning: &Beginning,
        entry: Entry,
    ) -> Result<(Began, Vec<Measurement>), Error> {
        let guest = self.guest(spec.instance);
        let _turn = guest.turn.lock().await;
        let because = match beginning {
            Beginning::Cold { because } => because.clone(),
            Beginning::Warm(key) => {
                self.give_up_pages(spec.instance, &guest)?;
                match self.begin_warm(spec, (key, matches!(entry, Entry::Hold)), &guest).await {
                    Ok((digest, measured)) => return Ok((Began::Warm { digest }, measured)),
                    Err(error) => {
                        let reason = sleep::chain(&error);
                        tracing::warn!(instance = %spec.instance, reason, "it boots: its warm state cannot be used");
                        Some(format!("its warm state could not be used: {reason}"))
                    }
                }
            }
        };
        let measured = self.begin(spec, &guest, entry).await?.measured;
        Ok((Began::Cold { because }, measured))
    }

    /// Begins a VM with a pager that has nothing yet.
    pub(super) async fn begin(&self, spec: &MachineSpec, guest: &Guest, entry: Entry) -> Result<Begun, Error> {
        let Some(paging) = self.paging(spec.instance) else { return self.enter(spec, entry).await };
        self.give_up_pages(spec.instance, guest)?;
        let spec = MachineSpec { paging: Some(paging), ..spec.clone() };
        self.watch(&spec, guest, Wishes::at_first(Pages::covering(spec.memory)));
        let begun = self.enter(&spec, entry).await;
        if begun.is_err() {
            self.give_up_pages(spec.instance, guest)?;
        }
        begun
    }

    async fn enter(&self, spec: &MachineSpec, entry: Entry) -> Result<Begun, Error> {
        let mut begun = Begun::default();
        match entry {
            Entry::Boot => self.driver.start(spec).await?,
            Entry::Hold => begun.measured = self.driver.hold(spec).await?,
            Entry::Receive(from) => begun.still_since = self.driver.receive(spec, from).await?,
        }
        Ok(begun)
    }

    pub(super) fn guests(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Arc<Guest>>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn guest(&self, instance: InstanceId) -> Arc<Guest> {
        self.guests().entry(instance).or_default().clone()
    }

    pub(super) fn known(&self, instance: InstanceId) -> Option<Arc<Guest>> {
        self.guests().get(&instance).cloned()
    }

    pub(super) fn paging(&self, instance: InstanceId) -> Option<Paging> {
        let tools = self.tools.as_ref()?;
        Some(Paging { library: tools.library.clone(), socket: self.layout.lent_memory(instance), key: None })
    }

    /// Begins to watch over the VM's pager.
    pub(super) fn watch(&self, spec: &MachineSpec, guest: &Guest, wishes: Wishes) {
        let Some(tools) = &self.tools else { return };
        let (instance, memory) = (spec.instance, Pages::covering(spec.memory));
        let parent = Parent::read(&self.layout, instance);
        let origin = match &spec.origin {
            _ if parent.is_some() => parent.map(|parent| parent.origin(&self.layout)),
            Origin::Warm { memory: Some(memory), .. } => {
                Some(lucarne_pager::Origin::Snapshot { file: self.layout.origin(instance), digest: memory.clone() })
            }
            Origin::Warm { memory: None, .. } | Origin::Boot | Origin::Fresh { .. } | Origin::Template => None,
        };
        let place = PagerPlace {
            executable: tools.executable.clone(),
            instance,
            machine: self.layout.lent_memory(instance),
            control: self.layout.pager_socket(instance),
            state: self.layout.pages(instance),
            pool: self.budget.compressed.min(Bytes(memory.bytes().0 / LARGEST_POOL)),
            origin,
        };
        guest.kept().pager = Some(Arc::new(Pager::watch(place, wishes)));
    }

    /// Deletes all that is kept of the memory of a VM that does not run, and its key.
    pub(super) fn give_up_pages(&self, instance: InstanceId, guest: &Guest) -> Result<(), Error> {
        {
            let mut kept = guest.kept();
            // The pager has ended with its machine; dropped, it is not started again.
            let restarts = kept.pager.take().map_or(0, |pager| pager.restarts());
            kept.restarts_before += restarts;
            (kept.life, kept.told, kept.failure, kept.is_brought) = (Life::Running, None, None, false);
        }
        sleep::forget(&self.layout, instance);
        let state = self.layout.pages(instance);
        let failed = |source| Error::File { doing: "delete", path: state.clone(), source };
        let (origin, parent) = (self.layout.origin(instance), self.layout.parent(instance));
        let discarded = lucarne_pager::discard(&state);
        discarded.and_then(|()| durable::remove(&origin)).and_then(|()| durable::remove(&parent)).map_err(failed)?;
        // A pager that is just ending may keep it from being empty; the next start of the VM, or its end, takes it again. So
        // it is with where the two met.
        let _ = std::fs::remove_dir(&state);
        let (lent, control) = (self.layout.lent_memory(instance), self.layout.pager_socket(instance));
        for socket in [&lent, &control] {
            let _ = std::fs::remove_file(socket);
        }
        let _ = lent.parent().map(std::fs::remove_dir);
        Ok(())
    }

    /// Tells the reconciler that a VM is no more.
    pub(super) async fn tell_end(&self, event: MachineEvent) {
        // Nobody listens when the agent is ending.
        let _ = self.ends.send(event).await;
    }
}
