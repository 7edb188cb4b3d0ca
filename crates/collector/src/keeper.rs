//! The one writer of the log: gathers what exporters send, makes it durable in groups, then acknowledges it.
//!
//! Owns the order *log, fsync, visible, acknowledged*, and what happens when the disk refuses: the group is tried again
//! until it succeeds, nothing is acknowledged meanwhile, and the full inbox makes exporters wait. Reading goes on.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering::Relaxed, mpsc::SyncSender},
    thread,
    time::{Instant, SystemTime},
};

use lucarne_flows::ipfix::Mark;
use lucarne_model::{FlowRecord, Moment};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::Catalog,
    health::Gauges,
    log::{Group, Log},
    pace::Pace,
    sessions::{Gap, Sessions},
    watch::Watchers,
};

/// Commands that wait for the keeper. One carries at most a message's records, about 500: 5 MB in all.
pub(crate) const INBOX: usize = 32;
/// Commands that become durable with one fsync.
const GROUP: usize = INBOX;
const WORK: &str = "taking flow records";

/// What connections ask of the keeper.
#[derive(Debug)]
pub(crate) enum Command {
    /// A sender connected. The answer is the number of the record that is wanted first, then each new one as records
    /// become durable.
    Greet { session: u64, first: u64, reply: oneshot::Sender<watch::Receiver<u64>> },
    /// Records of a session, numbered from `first` on.
    Take { session: u64, first: u64, records: Vec<FlowRecord> },
}

#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) log: Log,
    pub(crate) sessions: Sessions,
    /// Where to tell each session's connection what is durable.
    pub(crate) acknowledgements: HashMap<u64, watch::Sender<u64>>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) watchers: Arc<Watchers>,
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
        let mut records = Vec::new();
        let mut touched = Vec::new();
        let mut greeted = Vec::new();
        let mut command = Some(command);
        for _ in 0..GROUP {
            match command.take().or_else(|| inbox.try_recv().ok()) {
                Some(Command::Greet { session, first, reply }) => {
                    self.sessions.greet(session, first);
                    greeted.push((session, reply));
                }
                Some(Command::Take { session, first, records: new }) => match self.take(session, first, new) {
                    Ok(new) => {
                        records.extend(new);
                        touched.push(session);
                    }
                    Err(gap) => {
                        tracing::warn!(%gap, "an exporter is sent away");
                        self.acknowledgements.remove(&session);
                    }
                },
                None => break,
            }
        }
        touched.sort_unstable();
        touched.dedup();
        if !records.is_empty() {
            self.keep(records, &touched)?;
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

    /// The records that were not taken before.
    fn take(&mut self, session: u64, first: u64, mut records: Vec<FlowRecord>) -> Result<Vec<FlowRecord>, Gap> {
        let repeated = self.sessions.take(session, first, records.len())?;
        self.health.repeated.fetch_add(repeated as u64, Relaxed);
        records.drain(..repeated);
        Ok(records)
    }

    /// Makes records durable and visible, however long that takes; breaks when the collector ends before.
    fn keep(&mut self, records: Vec<FlowRecord>, sessions: &[u64]) -> ControlFlow<()> {
        let marks = sessions.iter().filter_map(|s| self.sessions.next(*s).map(|next| Mark { session: *s, next }));
        let marks: Vec<Mark> = marks.collect();
        let mut records = Some(records);
        let mut group: Option<Group> = None;
        loop {
            match self.try_keep(&mut records, &mut group, &marks) {
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
        self.health.taken.fetch_add(group.records.len() as u64, Relaxed);
        let records: Arc<[_]> = group.records.into();
        self.catalog.add(group.segment, records.clone());
        self.watchers.publish(&records);
        ControlFlow::Continue(())
    }

    /// One try. What it achieved stays in `group`, so that the next one goes on from there.
    fn try_keep(
        &mut self,
        records: &mut Option<Vec<FlowRecord>>,
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
            *group = records.take().and_then(|records| self.log.prepare(records, marks, now()));
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

/// The wall clock.
fn now() -> Moment {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment::EPOCH.plus(since_epoch)
}
