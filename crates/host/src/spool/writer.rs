//! The thread that has the store: takes records from the switch, and has them synced in groups.
//!
//! Owns the times. A record is written as soon as it comes, and synced at once if the last sync is [`SYNC_GAP`] ago, else
//! when it will be: a quiet host's record is durable after one sync, a busy host syncs twenty times a second and not for
//! each record. So a kill of the agent loses what was made since this thread last took records from the switch, which is
//! the duration of one sync; a power cut loses that and what was written in the gap.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lucarne_model::{AccountId, FlowRecord, LossCause, Moment};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::store::{Settings, SpoolError, Store};

/// The least time between two syncs.
pub(crate) const SYNC_GAP: Duration = Duration::from_millis(50);
/// How often it is asked what the switch has lost, and losses are told.
const LOSSES_EVERY: Duration = Duration::from_secs(1);
/// Records taken from the switch, and encoded, at once.
const BATCH: usize = 256;

/// How far the spool is on the disk: what may be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Durable {
    /// The number behind the last record.
    pub(crate) end: u64,
    /// Whether no more will come.
    pub(crate) complete: bool,
}

/// How far the connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The collector has all below it.
    pub(crate) next: u64,
    /// Records that could not be read any more, since the start.
    pub(crate) damaged: u64,
}

/// Tells what has been lost before it came here, by account, since it was last asked.
pub(crate) type LostBefore = Arc<dyn Fn() -> BTreeMap<AccountId, u64> + Send + Sync>;

/// A running spool.
#[derive(Debug)]
pub(crate) struct Writer {
    /// See [`lucarne_flows::ipfix::Greeting`].
    pub(crate) session: u64,
    pub(crate) durable: watch::Receiver<Durable>,
    pub(crate) taken: watch::Sender<Taken>,
    pub(crate) thread: JoinHandle<()>,
}

impl Writer {
    /// Opens the spool and takes what `records` brings, until its senders are gone. Blocks while it opens.
    pub(crate) fn start(
        settings: Settings,
        records: mpsc::Receiver<FlowRecord>,
        lost_before: LostBefore,
    ) -> Result<Self, (SpoolError, mpsc::Receiver<FlowRecord>)> {
        let store = match Store::open(settings, now()) {
            Ok(store) => store,
            Err(error) => return Err((error, records)),
        };
        let session = store.session();
        let (durable_sender, durable) = watch::channel(Durable { end: store.durable_end(), complete: false });
        let (taken, taken_receiver) = watch::channel(Taken::default());
        let spooling = Spooling {
            store,
            lost_before,
            durable: durable_sender,
            taken: taken_receiver,
            seen: Taken::default(),
            synced: Instant::now() - SYNC_GAP,
            looked: now(),
        };
        let thread = tokio::task::spawn_blocking(move || spooling.run(records));
        Ok(Self { session, durable, taken, thread })
    }
}

struct Spooling {
    store: Store,
    lost_before: LostBefore,
    durable: watch::Sender<Durable>,
    taken: watch::Receiver<Taken>,
    /// What of `taken` has been acted upon.
    seen: Taken,
    /// When the last sync was.
    synced: Instant,
    /// When it was last asked what the switch has lost.
    looked: Moment,
}

/// What woke the thread.
enum Event {
    Records,
    End,
    Taken,
    Sync,
    Losses,
}

impl Spooling {
    fn run(mut self, mut records: mpsc::Receiver<FlowRecord>) {
        let runtime = Handle::current();
        let mut batch = Vec::with_capacity(BATCH);
        let mut losses_due = Instant::now() + LOSSES_EVERY;
        loop {
            match runtime.block_on(self.wait(&mut records, &mut batch, losses_due)) {
                Event::Records => {
                    self.store.put(&batch, now());
                    batch.clear();
                    if self.synced.elapsed() >= SYNC_GAP {
                        self.sync();
                    }
                }
                Event::Sync => self.sync(),
                Event::Taken => self.handle_taken(),
                Event::Losses => {
                    losses_due = Instant::now() + LOSSES_EVERY;
                    self.handle_losses();
                }
                Event::End => break,
            }
        }
        self.handle_losses();
        self.sync();
        self.durable.send_modify(|durable| durable.complete = true);
        // Segments go as long as somebody acknowledges.
        while runtime.block_on(self.taken.changed()).is_ok() {
            self.handle_taken();
        }
    }

    async fn wait(
        &mut self,
        records: &mut mpsc::Receiver<FlowRecord>,
        batch: &mut Vec<FlowRecord>,
        losses_due: Instant,
    ) -> Event {
        tokio::select! {
            biased;
            () = sleep_until(self.synced + SYNC_GAP), if !self.store.is_synced() => Event::Sync,
            () = sleep_until(losses_due) => Event::Losses,
            Ok(()) = self.taken.changed() => Event::Taken,
            count = records.recv_many(batch, BATCH) => if count == 0 { Event::End } else { Event::Records },
        }
    }

    fn sync(&mut self) {
        let end = self.store.sync();
        self.synced = Instant::now();
        self.tell_durable(end);
    }

    fn tell_durable(&self, end: u64) {
        self.durable.send_if_modified(|durable| std::mem::replace(&mut durable.end, end) != end);
    }

    fn handle_taken(&mut self) {
        let taken = *self.taken.borrow_and_update();
        self.store.acknowledge(taken.next);
        let damaged = taken.damaged - self.seen.damaged;
        let when = (Moment::EPOCH, now());
        self.store.lose(AccountId::OPERATOR, LossCause::DiskError, damaged, when);
        self.seen = taken;
        self.tell_durable(self.store.durable_end());
    }

    fn handle_losses(&mut self) {
        let (since, until) = (self.looked, now());
        self.looked = until;
        for (account, records) in (self.lost_before)() {
            self.store.lose(account, LossCause::SwitchQueueFull, records, (since, until));
        }
        if self.store.has_untold() {
            self.store.tell_losses(until);
            self.sync();
        }
    }
}

/// The wall clock.
fn now() -> Moment {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment::EPOCH.plus(since_epoch)
}
