//! Flow records to the collector: over TCP, in order, kept until they are acknowledged.
//!
//! Owns the queue of what is not yet acknowledged ([`Queue`], pure) and the connection. The rules of the exchange are
//! [`Greeting`]'s. The queue is in memory: what a killed agent had not sent is lost, and its next process is a new session.

mod queue;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use lucarne_api::bodies::host::HostSettings;
use lucarne_flows::ipfix::{Exporter as Encoder, Greeting};
use lucarne_model::{FlowRecord, HostId, Moment};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, mpsc, watch},
    task::{JoinError, JoinHandle},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use queue::{BadAcknowledgement, Queue};

/// Records taken from the switch at once, and encoded at once: about 60 KiB, so that no message is longer than that.
const BATCH: usize = 256;
/// How long the collector may take to accept a connection and answer the greeting.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long the collector may be away before the controller is asked, again and again, whether it is elsewhere now.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where flow records go, and how many may wait.
#[derive(Clone)]
pub(crate) struct Settings {
    /// What the controller said last, with the collector's address and token.
    pub(crate) told: watch::Receiver<Option<HostSettings>>,
    /// What holds until it has said anything.
    pub(crate) until_told: HostSettings,
    /// Notified to have the controller say it anew.
    pub(crate) ask: Arc<Notify>,
    /// How long the collector may be away before that.
    pub(crate) patience: Duration,
    /// Random, drawn by each process anew; see [`Greeting`].
    pub(crate) session: u64,
    /// Whose records they are; its low bits name the observation domain.
    pub(crate) host: HostId,
    /// Records that may wait for the collector, of about 300 octets each.
    pub(crate) capacity: usize,
    /// How long to wait for the last acknowledgement after a shutdown.
    pub(crate) flush: Duration,
}

impl Settings {
    /// At most 50,000 records (15 MB), and 5 s for the end.
    pub(crate) fn new(
        (told, until_told): (watch::Receiver<Option<HostSettings>>, HostSettings),
        ask: Arc<Notify>,
        session: u64,
        host: HostId,
    ) -> Self {
        let (capacity, flush) = (50_000, Duration::from_secs(5));
        Self { told, until_told, ask, patience: PATIENCE, session, host, capacity, flush }
    }

    fn destination(&self) -> HostSettings {
        self.told.borrow().as_ref().unwrap_or(&self.until_told).clone()
    }
}

/// What became of the records so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Acknowledged: on the collector's disk.
    pub(crate) acknowledged: u64,
    /// Lost, because the queue was full or the agent ended before the collector took them.
    pub(crate) dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    acknowledged: AtomicU64,
    dropped: AtomicU64,
}

/// A running exporter.
#[derive(Debug)]
pub(crate) struct Exporter {
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Sends what `records` brings until its senders are gone and all is acknowledged; after `shutdown` it waits at most
    /// [`Settings::flush`] for that. So first stop the switch, which sends its last records, then cancel, then wait.
    pub(crate) fn spawn(settings: Settings, records: mpsc::Receiver<FlowRecord>, shutdown: CancellationToken) -> Self {
        let counters = Arc::new(Counters::default());
        let worker = Worker {
            queue: Queue::new(settings.capacity),
            incoming: Incoming { records, batch: Vec::with_capacity(BATCH), open: true },
            settings,
            counters: counters.clone(),
        };
        Self { counters, task: tokio::spawn(worker.run(shutdown)) }
    }

    #[cfg(test)]
    pub(crate) fn counts(&self) -> Counts {
        let Counters { acknowledged, dropped } = &*self.counters;
        Counts { acknowledged: acknowledged.load(Relaxed), dropped: dropped.load(Relaxed) }
    }

    /// Waits until it has ended.
    pub(crate) async fn join(self) -> Result<Counts, JoinError> {
        self.task.await?;
        let Counters { acknowledged, dropped } = &*self.counters;
        Ok(Counts { acknowledged: acknowledged.load(Relaxed), dropped: dropped.load(Relaxed) })
    }
}

/// Why a connection to the collector was given up.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the collector did not answer within {} s", CONNECT_TIME.as_secs())]
    NoAnswer,
    #[error("the connection: {0}")]
    Connection(#[from] io::Error),
    #[error("the collector closed the connection")]
    Closed,
    #[error("the collector is not ours: {0}")]
    Acknowledgement(#[from] BadAcknowledgement),
}

struct Worker {
    settings: Settings,
    queue: Queue,
    incoming: Incoming,
    counters: Arc<Counters>,
}

/// The switch's end.
struct Incoming {
    records: mpsc::Receiver<FlowRecord>,
    batch: Vec<FlowRecord>,
    open: bool,
}

impl Incoming {
    /// Waits for records; for ever once there can be no more. Loses nothing when it is dropped.
    async fn wait(&mut self) {
        if !self.open {
            std::future::pending::<()>().await;
        }
        self.open = self.records.recv_many(&mut self.batch, BATCH).await > 0;
    }
}

impl Worker {
    async fn run(mut self, shutdown: CancellationToken) {
        let flush = self.settings.flush;
        let deadline = async {
            shutdown.cancelled().await;
            sleep_until(Instant::now() + flush).await;
        };
        tokio::select! {
            () = deadline => {}
            () = self.export() => {}
        }
        self.take_incoming();
        while let Ok(record) = self.incoming.records.try_recv() {
            self.incoming.batch.push(record);
            self.take_incoming();
        }
        let left = self.queue.len() as u64;
        if left > 0 {
            self.counters.dropped.fetch_add(left, Relaxed);
            tracing::warn!(records = left, "flow records are lost: the collector did not take them in time");
        }
    }

    /// Connects again and again, until all is done.
    async fn export(&mut self) {
        let (mut backoff, mut away) = (Backoff::default(), Instant::now());
        while !self.is_done() {
            let began = Instant::now();
            let HostSettings { collector, collector_token, .. } = self.settings.destination();
            let reason = match self.connect(collector, collector_token).await {
                Ok(connection) => {
                    tracing::info!(%collector, "flow records go to the collector");
                    backoff = Backoff::default();
                    let Err(reason) = self.converse(connection).await else { return };
                    away = Instant::now();
                    reason
                }
                Err(reason) => reason,
            };
            let waiting = self.queue.len();
            tracing::warn!(%collector, waiting, seconds = began.elapsed().as_secs(), "no connection to the collector: {reason}");
            if away.elapsed() >= self.settings.patience {
                away = Instant::now();
                self.settings.ask.notify_one();
            }
            self.collect_while(tokio::time::sleep(backoff.next_delay())).await;
        }
    }

    fn is_done(&self) -> bool {
        !self.incoming.open && self.queue.is_empty()
    }

    async fn connect(&mut self, collector: SocketAddr, token: String) -> Result<Connection, Broken> {
        let Settings { session, host, .. } = self.settings;
        let connecting = timeout(CONNECT_TIME, TcpStream::connect(collector));
        let stream = self.collect_while(connecting).await.map_err(|_| Broken::NoAnswer)??;
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.into_split();
        let greeting = Greeting { token, session, first: self.queue.first() };
        let greet = timeout(CONNECT_TIME, async {
            writer.write_all(greeting.to_line().as_bytes()).await?;
            reader.read_u64().await
        });
        let wanted = match self.collect_while(greet).await.map_err(|_| Broken::NoAnswer)? {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Broken::Closed),
            wanted => wanted?,
        };
        self.acknowledged(wanted)?;
        self.queue.send_again();
        let domain = host.bits() as u32; // the low bits are as random as any
        let encoder = Encoder::new(domain).with_limit(Encoder::STREAM);
        Ok(Connection { reader, writer, encoder, outgoing: Vec::new(), written: 0, reply: Vec::with_capacity(64) })
    }

    /// Sends records and takes acknowledgements until all is done or the connection breaks.
    async fn converse(&mut self, mut connection: Connection) -> Result<(), Broken> {
        while !self.is_done() {
            connection.refill(&mut self.queue);
            tokio::select! {
                () = self.incoming.wait() => self.take_incoming(),
                written = connection.writer.write(&connection.outgoing[connection.written..]), if connection.is_sending() => {
                    connection.written += written?;
                }
                read = connection.reader.read_buf(&mut connection.reply) => {
                    if read? == 0 {
                        return Err(Broken::Closed);
                    }
                    for next in connection.acknowledgements() {
                        self.acknowledged(next)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for something else, while records go on to be queued, so that the switch never waits.
    async fn collect_while<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        loop {
            tokio::select! {
                output = &mut other => return output,
                () = self.incoming.wait() => self.take_incoming(),
            }
        }
    }

    fn take_incoming(&mut self) {
        for record in self.incoming.batch.drain(..) {
            if !self.queue.push(record) && self.counters.dropped.fetch_add(1, Relaxed) == 0 {
                tracing::warn!(
                    waiting = self.queue.len(),
                    "flow records are dropped: the queue for the collector is full"
                );
            }
        }
    }

    fn acknowledged(&mut self, next: u64) -> Result<(), BadAcknowledgement> {
        let count = self.queue.acknowledge(next)?;
        self.counters.acknowledged.fetch_add(count, Relaxed);
        Ok(())
    }
}

/// A greeted connection.
struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    encoder: Encoder,
    /// Encoded messages, of which `written` octets are sent.
    outgoing: Vec<u8>,
    written: usize,
    /// Octets of acknowledgements.
    reply: Vec<u8>,
}

impl Connection {
    fn is_sending(&self) -> bool {
        self.written < self.outgoing.len()
    }

    /// Encodes what is to be sent next, if all before is sent.
    fn refill(&mut self, queue: &mut Queue) {
        if self.is_sending() {
            return;
        }
        self.outgoing.clear();
        self.written = 0;
        let records = queue.next_to_send(BATCH);
        if !records.is_empty() {
            self.encoder.encode(records, now()).iter().for_each(|message| self.outgoing.extend_from_slice(message));
        }
    }

    /// The whole acknowledgements read so far; part of one stays.
    fn acknowledgements(&mut self) -> Vec<u64> {
        let (whole, rest) = self.reply.as_chunks::<8>();
        let numbers = whole.iter().copied().map(u64::from_be_bytes).collect();
        let rest = rest.to_vec();
        self.reply.clear();
        self.reply.extend(rest);
        numbers
    }
}

/// The wall clock.
fn now() -> Moment {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment::EPOCH.plus(since_epoch)
}

#[cfg(test)]
mod tests;
