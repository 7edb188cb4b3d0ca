//! The agent: one owner of what is known, that selects what happened, asks the reconciler, and begins steps.
//!
//! Owns the loop. Deciding is [`crate::reconcile`]'s, doing [`crate::perform`]'s, talking [`crate::links`]'. Each step is a
//! task of its own, so that a slow VM holds nobody else.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::join_all;
use lucarne_api::bodies::host::HostSettings;
use lucarne_model::{
    ErrorCode, InstanceId, Moment,
    actual::{AskedStart, HostDescription, Report},
    desired::{Desired, DesiredInstance, DesiredMigration, Power},
    warm::Began,
};
use lucarne_seal::judge::Life;
use lucarne_vmm::driver::{Driver, Machine, MachineEvent, MachineSpec, Origin, Stop};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{AbortHandle, Id, JoinError, JoinHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    challenges,
    controller::Controller,
    durable::{self, Outlives},
    error::Error,
    figures,
    folder::Folder,
    links,
    memory::{Governed, Memory, Word, govern},
    network::Network,
    peers::Peers,
    perform::Hands,
    prover::Prover,
    reconcile::{
        Activity, Failure, Known, Ledger, Product, Proof, Prospect, Running, Standing, Step, is_vain, next_look,
        next_steps, report,
    },
    recordings,
    replays::{self, MadeUp, Recorded},
    sealing::Present,
    settings::{AtEnd, Pace},
    virtual_tpms::VirtualTpms,
};

/// What an agent works with.
#[derive(Debug)]
pub struct Parts {
    pub driver: Arc<dyn Driver>,
    pub network: Arc<dyn Network>,
    pub memory: Memory,
    /// What proves what this host runs; none where it has nothing that can.
    pub prover: Option<Arc<dyn Prover>>,
    /// VMs that [`Self::memory`] could not wake.
    pub unwoken: mpsc::Receiver<MachineEvent>,
    pub controller: Arc<dyn Controller>,
    /// The ways to other hosts, and from them.
    pub peers: Peers,
    /// What the controller is told that this host is.
    pub host: HostDescription,
}

/// A running agent. It ends when its shutdown token is cancelled.
#[derive(Debug)]
pub struct Agent {
    owner: JoinHandle<()>,
    links: Vec<JoinHandle<()>>,
    settings: watch::Receiver<Option<HostSettings>>,
    desired: watch::Receiver<Arc<Desired>>,
    present: watch::Receiver<Arc<Vec<Present>>>,
    starts: Arc<watch::Sender<Vec<AskedStart>>>,
    hello_again: Arc<Notify>,
}

/// How long steps that are under way may take to finish when the agent ends.
const END_GRACE: Duration = Duration::from_secs(5);

impl Agent {
    /// Adopts the VMs that run, and begins to bring about what the folder says was desired last; then what the controller
    /// says.
    pub async fn start(
        parts: Parts,
        folder: Folder,
        pace: Pace,
        at_end: AtEnd,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let events = parts.driver.events();
        let adopted = parts.driver.adopt().await.map_err(|cause| Error::Adopt { cause })?;
        let is_template = |machine: &Machine| machine.spec.origin == Origin::Template;
        let (templates, adopted): (Vec<_>, Vec<_>) = adopted.into_iter().partition(is_template);
        let templates: Vec<_> = templates.iter().map(|template| template.spec.instance).collect();
        parts.memory.end_templates(&templates).await;
        folder.sweep()?;
        let (mut known, desired) = folder.read()?;
        known.warm_states.retain(|_, state| state.hypervisor == parts.host.hypervisor);
        let now = now();
        let sleepers = parts.memory.adopt(&adopted).await;
        let settled = parts.memory.settle_cuts().await;
        known.cuts = settled.map_err(|cause| Error::Folder { path: folder.layout().cuts(), cause })?;
        let asleep = |spec: MachineSpec| Machine { disks: spec.disks.clone(), spec, measured: None, held: false };
        let sleepers = sleepers.into_iter().map(asleep);
        for Machine { spec, disks, measured, held } in adopted.into_iter().chain(sleepers) {
            let disks =
                disks.iter().map(|disk| lucarne_model::instance::Attachment { volume: disk.volume, slot: disk.slot });
            let began = match spec.origin {
                _ if let Some(of) = parts.memory.duplicate_of(spec.instance) => Began::Duplicate { of },
                Origin::Warm { state, .. } => Began::Warm { digest: state },
                Origin::Boot | Origin::Fresh { .. } | Origin::Template => Began::Cold { because: None },
            };
            let standing = match held {
                true => Standing::Held,
                false => standing(&desired, parts.driver.as_ref(), spec.instance).await,
            };
            let (generation, disks) = (spec.generation, disks.collect());
            let proof = Proof { measured, evidence: None };
            let running = Running { generation, began, disks, standing, stood_still: None, proof };
            known.handle_adopted(spec.instance, running, now);
        }
        Ok(Self::spawn(parts, folder, (known, desired), (pace, at_end), events, shutdown))
    }

    fn spawn(
        parts: Parts,
        folder: Folder,
        (known, desired): (Known, Desired),
        (pace, at_end): (Pace, AtEnd),
        events: mpsc::Receiver<MachineEvent>,
        shutdown: CancellationToken,
    ) -> Self {
        let Parts { driver, network, memory, prover, unwoken, controller, peers, host } = parts;
        let (reports, reported) = watch::channel(report(&desired, &known, host.capacity));
        let desired = Arc::new(desired);
        let (wishes, wished) = watch::channel(desired.clone());
        let (told, settings) = watch::channel(None);
        peers.hear(settings.clone());
        let (governed, governs) = watch::channel(Arc::new(Vec::new()));
        let (present, are_present) = watch::channel(Arc::new(self::present(&desired, &known)));
        let (memory_reports, memory_reported) = watch::channel(None);
        let (recorded, recordings_reported) = watch::channel(Vec::new());
        let (replayed, replays_reported) = watch::channel(Vec::new());
        let (loaded, loads_reported) = watch::channel(Vec::new());
        let (measures, figures_reported) = watch::channel(Vec::new());
        let (starts, asked_starts) = watch::channel(Vec::new());
        let hello_again = Arc::new(Notify::new());
        let word = Word { desired: wished.clone(), settings: settings.clone() };
        let (layout, asked, also) = (folder.layout().clone(), wished.clone(), wished.clone());
        let (to_record, record_to) = (wished.clone(), layout.recordings());
        let (to_replay, to_load, played_in) = (wished.clone(), wished.clone(), layout.clone());
        let measured = (driver.clone(), network.clone());
        let owner = Owner {
            hands: Hands {
                driver,
                network: network.clone(),
                memory: memory.clone(),
                prover: prover.clone(),
                tpms: VirtualTpms::new(layout.clone()),
                controller: controller.clone(),
                layout: layout.clone(),
                peers,
            },
            governed,
            present,
            unwoken,
            capacity: host.capacity,
            kept: known.ledger.clone(),
            desired,
            known,
            wished,
            events,
            reports,
            tasks: JoinSet::new(),
            steps: HashMap::new(),
            pace,
            at_end,
            _folder: folder,
        };
        let links = vec![
            tokio::spawn(links::say_hello(controller.clone(), host, told, hello_again.clone(), shutdown.clone())),
            tokio::spawn(links::follow_desired(controller.clone(), layout, wishes, shutdown.clone())),
            tokio::spawn(challenges::present(controller.clone(), prover.clone(), shutdown.clone())),
            tokio::spawn(challenges::answer(controller.clone(), prover.clone(), asked, shutdown.clone())),
            tokio::spawn(figures::follow(measured, governs.clone(), measures, shutdown.clone())),
            tokio::spawn(govern(memory, (governs, word), memory_reports, shutdown.clone())),
            tokio::spawn(recordings::follow(
                (controller.clone(), network.clone()),
                record_to,
                to_record,
                recorded,
                shutdown.clone(),
            )),
            tokio::spawn(replays::follow::<Recorded>(
                controller.clone(),
                played_in.clone(),
                to_replay,
                replayed,
                shutdown.clone(),
            )),
            tokio::spawn(replays::follow::<MadeUp>(controller.clone(), played_in, to_load, loaded, shutdown.clone())),
            tokio::spawn(links::send_reports(
                (controller, network),
                reported,
                (
                    memory_reported,
                    recordings_reported,
                    (replays_reported, loads_reported),
                    figures_reported,
                    asked_starts,
                ),
                settings.clone(),
                pace.coalesce,
                shutdown.clone(),
            )),
        ];
        let owner = tokio::spawn(owner.run(shutdown));
        Self { owner, links, settings, desired: also, present: are_present, starts: Arc::new(starts), hello_again }
    }

    /// What the controller says to this host; none until it has answered.
    pub fn settings(&self) -> watch::Receiver<Option<HostSettings>> {
        self.settings.clone()
    }

    /// What is desired of this host.
    pub(crate) fn desired(&self) -> watch::Receiver<Arc<Desired>> {
        self.desired.clone()
    }

    /// The instances that run here or are stopped here, whose they are, and in which start.
    pub(crate) fn present(&self) -> watch::Receiver<Arc<Vec<Present>>> {
        self.present.clone()
    }

    /// What the controller is to be asked to start.
    pub(crate) fn starts(&self) -> Arc<watch::Sender<Vec<AskedStart>>> {
        self.starts.clone()
    }

    /// Notified, it makes the agent say hello again, by which [`settings`](Self::settings) become what they are by now.
    pub fn hello_again(&self) -> Arc<Notify> {
        self.hello_again.clone()
    }

    /// Waits until the agent has ended.
    pub async fn ended(self) -> Result<(), Error> {
        let mut result = self.owner.await;
        for link in self.links {
            result = result.and(link.await);
        }
        result.map_err(|cause| Error::Task { cause })
    }
}

type Done = Result<(Id, Result<Product, Failure>), JoinError>;

/// A step and the task that does it.
struct UnderWay {
    step: Step,
    task: AbortHandle,
    /// Cuts its ways to another host.
    cut: CancellationToken,
}

struct Owner {
    hands: Hands,
    capacity: lucarne_model::actual::Capacity,
    desired: Arc<Desired>,
    known: Known,
    /// The ledger as it is on disk.
    kept: Ledger,
    wished: watch::Receiver<Arc<Desired>>,
    events: mpsc::Receiver<MachineEvent>,
    unwoken: mpsc::Receiver<MachineEvent>,
    /// What the governor of memory is to govern.
    governed: watch::Sender<Arc<Vec<Governed>>>,
    /// What sealed operations may be asked of.
    present: watch::Sender<Arc<Vec<Present>>>,
    reports: watch::Sender<Report>,
    tasks: JoinSet<Result<Product, Failure>>,
    steps: HashMap<Id, UnderWay>,
    pace: Pace,
    at_end: AtEnd,
    /// Held for its lock.
    _folder: Folder,
}

impl Owner {
    async fn run(mut self, shutdown: CancellationToken) {
        let network = self.hands.network.clone();
        loop {
            self.decide();
            self.keep_ledger().await;
            self.publish();
            let look = next_look(&self.known, &self.pace, now()).map(|due| Instant::now() + due.since(now()));
            tokio::select! {
                () = shutdown.cancelled() => break,
                Ok(()) = self.wished.changed() => self.handle_desired(),
                Some(event) = self.events.recv() => self.handle_event(event),
                Some(event) = self.unwoken.recv() => self.handle_event(event),
                replica = network.heard_mark() => self.known.handle_mark(replica),
                Some(done) = self.tasks.join_next_with_id() => self.handle_done(done),
                () = until(look) => {}
            }
        }
        self.end().await;
    }

    fn handle_desired(&mut self) {
        self.desired = self.wished.borrow_and_update().clone();
        // What goes from host to host is long, and must not go on when it is not wanted there any more.
        let vain = self.steps.values().filter(|one| is_vain(&self.desired, &one.step));
        vain.for_each(|one| one.cut.cancel());
    }

    /// Begins all that can be done now.
    fn decide(&mut self) {
        loop {
            let now = now();
            self.known.handle_desired(&self.desired, now);
            let steps = next_steps(&self.desired, &self.known, &self.hands.layout, &self.pace, now);
            let (given_up, to_do): (Vec<_>, Vec<_>) =
                steps.into_iter().partition(|step| matches!(step, Step::GiveUp { .. }));
            to_do.into_iter().for_each(|step| self.begin(step));
            if given_up.is_empty() {
                return;
            }
            for step in given_up {
                tracing::warn!(?step, "giving up");
                self.known.handle_done(step, Ok(Product::Nothing), now);
            }
        }
    }

    fn begin(&mut self, step: Step) {
        tracing::debug!(?step, "begun");
        self.known.handle_begun(&step);
        let (hands, task_step) = (self.hands.clone(), step.clone());
        let cut = CancellationToken::new();
        let task_cut = cut.clone();
        let task = self.tasks.spawn(async move { hands.perform(&task_step, &task_cut).await });
        self.steps.insert(task.id(), UnderWay { step, task, cut });
    }

    fn handle_done(&mut self, done: Done) {
        let (id, outcome) = match done {
            Ok(done) => done,
            Err(error) => {
                let message = format!("a step of the host agent broke off: {error}");
                (error.id(), Err(Failure::new(ErrorCode::Internal, message, Prospect::Doubtful)))
            }
        };
        let Some(UnderWay { step, .. }) = self.steps.remove(&id) else { return };
        if let Err(failure) = &outcome {
            tracing::warn!(?step, code = %failure.reason.code, "failed: {}", failure.reason.message);
        }
        self.known.handle_done(step, outcome, now());
    }

    fn handle_event(&mut self, event: MachineEvent) {
        tracing::info!(?event, "a virtual machine did something by itself");
        match event {
            MachineEvent::Ended { instance, generation, why } => {
                self.hands.memory.ended(instance);
                self.known.handle_machine_ended(instance, generation, why);
            }
            MachineEvent::Reset { .. } => {}
        }
    }

    /// Brings the ledger to disk before anything of it is reported.
    async fn keep_ledger(&mut self) {
        if self.kept == self.known.ledger {
            return;
        }
        let (path, ledger) = (self.hands.layout.ledger(), self.known.ledger.clone());
        let json = serde_json::to_vec(&ledger);
        let kept = tokio::task::spawn_blocking(move || durable::replace(&path, &json?, Outlives::Process)).await;
        match kept.map_err(std::io::Error::other).and_then(|result| result) {
            Ok(()) => self.kept = ledger,
            Err(error) => tracing::warn!(%error, "the ledger of instances could not be kept on disk"),
        }
    }

    fn publish(&self) {
        let new = report(&self.desired, &self.known, self.capacity);
        self.reports.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
        let governed = governed(&self.desired, &self.known);
        self.governed.send_if_modified(|old| {
            let changed = **old != governed;
            *old = Arc::new(governed);
            changed
        });
        let present = present(&self.desired, &self.known);
        self.present.send_if_modified(|old| {
            let changed = **old != present;
            *old = Arc::new(present);
            changed
        });
    }

    /// Cuts long steps short, as a kill would, lets the others finish, and stops the VMs if they are to end too.
    async fn end(mut self) {
        let long = |step: &Step| matches!(step.activity(), Activity::Transfer | Activity::Move | Activity::Stream);
        self.steps.values().filter(|one| long(&one.step)).for_each(|one| one.task.abort());
        let finish = async {
            while let Some(done) = self.tasks.join_next_with_id().await {
                let Some(UnderWay { step, .. }) = (match &done {
                    Ok((id, _)) => self.steps.remove(id),
                    Err(error) => self.steps.remove(&error.id()),
                }) else {
                    continue;
                };
                if let Ok((_, outcome)) = done {
                    self.known.handle_done(step, outcome, now());
                }
            }
        };
        if timeout(END_GRACE, finish).await.is_err() {
            tracing::warn!("steps were cut short; the next start takes them up again");
        }
        self.tasks.shutdown().await;
        if self.at_end == AtEnd::StopMachines {
            self.stop_machines().await;
        }
        self.keep_ledger().await;
    }

    /// VMs that sleep do so until the next agent; the others are ended. Not written into the ledger: the next start of the agent is to start them again.
    async fn stop_machines(&self) {
        let cut_short = self.steps.values().filter_map(|one| match &one.step {
            Step::Start(spec, _) | Step::Hold(spec, _) => Some(spec.instance),
            _ => None,
        });
        self.hands.memory.let_go();
        let machines = self.known.running.keys().copied().chain(cut_short).chain(self.hands.memory.templates());
        let how = Stop::InOrder { patience: self.pace.end_patience };
        join_all(machines.map(|instance| async move {
            if let Err(error) = self.hands.driver.stop(instance, how).await {
                tracing::warn!(%instance, %error, "a virtual machine could not be stopped");
            }
        }))
        .await;
    }
}

/// Whether a VM that was found goes on here. One that came from another host was not let go: that it is let go is written down
/// first. One that stands still while it is brought away does so for that; any other for want of memory, which is the
/// governor's.
async fn standing(desired: &Desired, driver: &dyn Driver, instance: InstanceId) -> Standing {
    let Some(wanted) = desired.instances.iter().find(|wanted| wanted.id == instance) else { return Standing::Runs };
    let is_paused = driver.is_paused(instance).await.is_ok_and(|paused| paused);
    match &wanted.migration {
        Some(DesiredMigration::From { .. }) => Standing::Arrived,
        Some(DesiredMigration::To { .. }) if is_paused => Standing::Sent,
        None if is_paused && wanted.duplicate.is_some() => Standing::Arrived,
        Some(DesiredMigration::To { .. }) | None => Standing::Runs,
    }
}

/// The VMs that run here, or sleep, and that are to. One that is on its way stays as it is.
fn governed(desired: &Desired, known: &Known) -> Vec<Governed> {
    let runs = |running: &Running| running.standing == Standing::Runs;
    let here = desired
        .instances
        .iter()
        .filter(|wanted| wanted.migration.is_none() && known.running.get(&wanted.id).is_some_and(runs));
    let governed = |wanted: &DesiredInstance| Governed {
        instance: wanted.id,
        vcpus: wanted.vcpus,
        memory: wanted.memory,
        settings: wanted.memory_settings,
    };
    here.map(governed).collect()
}

/// What runs here and nowhere else, or is stopped here.
fn present(desired: &Desired, known: &Known) -> Vec<Present> {
    let present = |wanted: &DesiredInstance| {
        let (generation, life) = match known.running.get(&wanted.id) {
            Some(running) if running.standing == Standing::Runs => (running.generation, Life::Runs),
            None if is_stopped(wanted, known) => (wanted.generation, Life::Stopped),
            Some(_) | None => return None,
        };
        Some(Present { instance: wanted.id, account: wanted.account, generation, life })
    };
    desired.instances.iter().filter_map(present).collect()
}

/// Of one that does not run: whether that is as it should be, by its controller's wish or because its generation is over.
fn is_stopped(wanted: &DesiredInstance, known: &Known) -> bool {
    wanted.migration.is_none()
        && match wanted.power {
            Power::Stopped | Power::Off => true,
            Power::Running => known.ledger.is_over(wanted.id, wanted.generation),
            Power::Absent => false,
        }
}

async fn until(look: Option<Instant>) {
    match look {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

pub(crate) fn now() -> Moment {
    Moment::EPOCH.plus(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
