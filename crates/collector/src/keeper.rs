//! The one writer of the log: gathers what exporters send, makes it durable in groups, then acknowledges it.
//!
//! Owns the order *losses, log, fsync, visible, acknowledged*, that no record is kept as of the future, and what happens
//! when the disk refuses: the group is tried again until it succeeds, nothing is acknowledged meanwhile, and the full inbox
//! makes hosts wait. Reading goes on.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering::Relaxed, mpsc::SyncSender},
    thread,
    time::{Duration, Instant, SystemTime},
};

use lucarne_flows::ipfix::Mark;
use lucarne_model::{FlowLoss, Moment};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::Catalog,
    findings::Findings,
    health::Gauges,
    log::{Group, Log},
    losses::{LossFile, Told},
    pace::Pace,
    received::Received,
    sessions::{Gap, Sessions},
    watch::Watchers,
};

/// Commands that wait for the keeper. One carries some 500 records and a message's more: 16 MB in all.
pub(crate) const INBOX: usize = 32;
/// Commands that become durable with one fsync.
const GROUP: usize = INBOX;
const WORK: &str = "taking flow records";
/// How far a host's clock may be ahead of ours. What is further ahead is kept as of its arrival: a record of the far future
/// would stand before all others in every answer, and have a day of its own.
const AHEAD: Duration = Duration::from_secs(3600);

/// What connections ask of the keeper.
#[derive(Debug)]
pub(crate) enum Command {
    /// A sender connected. The answer is the number of the record that is wanted first, then each new one as records
    /// become durable.
    Greet { session: u64, reply: oneshot::Sender<watch::Receiver<u64>> },
    /// The sender has nothing below `start` any more.
    Begin { session: u64, start: u64 },
    /// Records of a session and behind them losses, numbered from `first` on.
    Take { session: u64, first: u64, received: Box<Received>, losses: Vec<FlowLoss> },
}

#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) log: Log,
    pub(crate) losses: LossFile,
    pub(crate) sessions: Sessions,
    /// Where to tell each session's connection what is durable.
    pub(crate) acknowledgements: HashMap<u64, watch::Sender<u64>>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) findings: Arc<Findings>,
    pub(crate) health: Arc<Gauges>,
    /// Wakes the sealer.
    pub(crate) wake: SyncSender<()>,
    pub(crate) pace: Pace,
    pub(crate) shutdown: CancellationToken,
}

impl Keeper {
    /// Works until all senders of commands are gone.
    pub(crate) fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let runtime = Handle::current();
        let tick = self.pace.seal_after.min(std::time::Duration::from_secs(1));
        let mut segment_since = Instant::now();
        self.rotate();
        loop {
            match runtime.block_on(async { timeout(tick, inbox.recv()).await }) {
                Ok(Some(command)) => {
                    if self.take_group(command, &mut inbox).is_break() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(_) => self.tidy(),
            }
            if self.log.records() == 0 {
                segment_since = Instant::now();
            } else if self.log.records() >= self.pace.seal_records || segment_since.elapsed() >= self.pace.seal_after {
                self.rotate();
            }
        }
    }

    /// Takes the command and those that wait behind it; breaks when the collector ends before they are durable.
    fn take_group(&mut self, command: Command, inbox: &mut mpsc::Receiver<Command>) -> ControlFlow<()> {
        let mut taken = Batch::default();
        let mut touched = Vec::new();
        let mut greeted = Vec::new();
        let mut command = Some(command);
        for _ in 0..GROUP {
            match command.take().or_else(|| inbox.try_recv().ok()) {
                Some(Command::Greet { session, reply }) => {
                    self.sessions.greet(session, 0);
                    greeted.push((session, reply));
                }
                Some(Command::Begin { session, start }) => {
                    self.sessions.greet(session, start);
                }
                Some(Command::Take { session, first, received, losses }) => {
                    match self.take(session, first, Batch::new(session, first, *received, losses)) {
                        Ok(new) => {
                            taken.extend(new);
                            touched.push(session);
                        }
                        Err(gap) => {
                            tracing::warn!(%gap, "an exporter is sent away");
                            self.acknowledgements.remove(&session);
                        }
                    }
                }
                None => break,
            }
        }
        touched.sort_unstable();
        touched.dedup();
        if !taken.is_empty() {
            self.keep(taken, &touched)?;
        }
        // Only now is what the sessions say on the disk, and so may be told.
        self.acknowledge(&touched);
        greeted.into_iter().for_each(|(session, reply)| self.welcome(session, reply));
        ControlFlow::Continue(())
    }

    fn welcome(&mut self, session: u64, reply: oneshot::Sender<watch::Receiver<u64>>) {
        let (sender, receiver) = watch::channel(self.sessions.next(session).unwrap_or(0));
        // A connection that the same session had before is closed by the loss of its sender.
        self.acknowledgements.insert(session, sender);
        // The connection may be gone by now; then there is nobody to tell.
        let _ = reply.send(receiver);
    }

    /// What was not taken before, none of it of the future.
    fn take(&mut self, session: u64, first: u64, mut batch: Batch) -> Result<Batch, Gap> {
        let repeated = self.sessions.take(session, first, batch.len())?;
        self.health.repeated.fetch_add(repeated as u64, Relaxed);
        batch.leave_out(repeated);
        let now = now();
        let misdated: usize = batch.received.iter_mut().map(|received| received.redate(now.plus(AHEAD), now)).sum();
        self.health.misdated.fetch_add(misdated as u64, Relaxed);
        Ok(batch)
    }

    /// Makes records durable and visible, however long that takes; breaks when the collector ends before.
    fn keep(&mut self, batch: Batch, sessions: &[u64]) -> ControlFlow<()> {
        let marks = sessions.iter().filter_map(|s| self.sessions.next(*s).map(|next| Mark { session: *s, next }));
        let marks: Vec<Mark> = marks.collect();
        let mut received = Some(batch.received);
        let mut group: Option<Group> = None;
        loop {
            // First the losses, which are known again should they come again: the log's marks say that all is kept.
            let losses = self.losses.append(&batch.losses);
            let losses = losses.map_err(|error| format!("the list of losses cannot be written: {error}"));
            match losses.and_then(|()| self.try_keep(&mut received, &mut group, &marks)) {
                Ok(()) => break,
                Err(reason) => self.health.taking.set(WORK, reason),
            }
            if self.shutdown.is_cancelled() {
                return ControlFlow::Break(());
            }
            thread::sleep(self.pace.retry);
        }
        self.health.taking.clear(WORK);
        let Some(group) = group else { return ControlFlow::Break(()) };
        let Group { segment, chunks, .. } = group;
        self.catalog.add(segment, chunks.iter().cloned());
        for chunk in &chunks {
            self.health.taken.fetch_add(chunk.len() as u64, Relaxed);
            self.watchers.publish(chunk);
            self.findings.observe(chunk);
        }
        ControlFlow::Continue(())
    }

    /// One try. What it achieved stays in `group`, so that the next one goes on from there.
    fn try_keep(
        &mut self,
        received: &mut Option<Vec<Received>>,
        group: &mut Option<Group>,
        marks: &[Mark],
    ) -> Result<(), String> {
        if group.is_none() {
            let unsealed = self.catalog.unsealed_records();
            if unsealed >= self.pace.most_unsealed {
                if self.log.records() > 0 {
                    self.rotate();
                }
                return Err(format!("more than {} records wait to be sealed", self.pace.most_unsealed));
            }
            if self.log.open_segment().is_none() {
                self.open_segment().map_err(|error| format!("no log segment can be made: {error}"))?;
            }
            *group = received.take().and_then(|received| self.log.prepare(received, marks, now()));
        }
        let Some(group) = group else { return Err("the log has no segment".into()) };
        self.log.append(group).map_err(|error| format!("the log cannot be written: {error}"))
    }

    fn acknowledge(&mut self, sessions: &[u64]) {
        for session in sessions {
            if let (Some(sender), Some(next)) = (self.acknowledgements.get(session), self.sessions.next(*session)) {
                sender.send_replace(next);
            }
        }
    }

    /// Begins a new segment, so that the one before can be sealed. If that fails the old one is used on.
    fn rotate(&mut self) {
        match self.open_segment() {
            Ok(()) => drop(self.wake.try_send(())),
            Err(error) => self.health.sealing.set("sealing", format!("no log segment can be made: {error}")),
        }
    }

    fn open_segment(&mut self) -> std::io::Result<()> {
        let number = self.log.rotate(&self.sessions.marks(), now())?;
        self.catalog.open(number);
        Ok(())
    }

    fn tidy(&mut self) {
        self.acknowledgements.retain(|_, sender| sender.receiver_count() > 0);
        self.watchers.tell_missed();
        if self.log.open_segment().is_none() {
            self.rotate();
        }
    }
}

/// What becomes durable together.
#[derive(Debug, Default)]
struct Batch {
    received: Vec<Received>,
    losses: Vec<Told>,
}

impl Batch {
    /// Records from number `first` on, and behind them losses.
    fn new(session: u64, first: u64, received: Received, losses: Vec<FlowLoss>) -> Self {
        let behind = first + received.len() as u64;
        let losses = losses.into_iter().zip(behind..).map(|(loss, number)| Told { session, number, loss }).collect();
        Self { received: vec![received], losses }
    }

    fn records(&self) -> usize {
        self.received.iter().map(Received::len).sum()
    }

    fn len(&self) -> usize {
        self.records() + self.losses.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops so many from the front.
    fn leave_out(&mut self, count: usize) {
        let mut left = count;
        for received in &mut self.received {
            let gone = left.min(received.len());
            received.leave_out(gone);
            left -= gone;
        }
        self.losses.drain(..left.min(self.losses.len()));
    }

    fn extend(&mut self, other: Self) {
        self.received.extend(other.received);
        self.losses.extend(other.losses);
    }
}

/// The wall clock.
fn now() -> Moment {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment::EPOCH.plus(since_epoch)
}
