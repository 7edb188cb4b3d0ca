//! Flow records from the spool to the collector: over mutual TLS, in order, until they are acknowledged.
//!
//! Owns the connection and when it is tried again. What waits is the [`spool`](crate::spool)'s, so nothing is lost by what
//! happens here. The rules of the exchange are [`Greeting`]'s; who the two ends are is proved by [`crate::certificate`].

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use lucarne_api::bodies::host::HostSettings;
use lucarne_flows::ipfix::Greeting;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::{Notify, watch},
    task::{JoinError, JoinHandle, spawn_blocking},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    certificate::{CertificateError, ExportKey},
    spool::{Chunk, Durable, Reader, Taken, Writer},
};

/// How long the collector may take to accept a connection and answer the greeting.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long the collector may be away before the controller is asked, again and again, whether it is elsewhere now.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for the last acknowledgement after a shutdown. What it does not bring waits in the spool.
const FLUSH: Duration = Duration::from_secs(5);

/// Where flow records go, and as whom.
#[derive(Clone)]
pub(crate) struct Settings {
    /// What the controller said last, with the collector's address and both certificates.
    pub(crate) told: watch::Receiver<Option<HostSettings>>,
    /// What holds until it has said anything.
    pub(crate) until_told: HostSettings,
    /// Notified to have the controller say it anew.
    pub(crate) ask: Arc<Notify>,
    /// How long the collector may be away before that.
    pub(crate) patience: Duration,
    pub(crate) key: ExportKey,
    /// The spool's folder.
    pub(crate) spool: PathBuf,
    pub(crate) flush: Duration,
}

impl Settings {
    pub(crate) fn new(
        (told, until_told): (watch::Receiver<Option<HostSettings>>, HostSettings),
        ask: Arc<Notify>,
        key: ExportKey,
        spool: PathBuf,
    ) -> Self {
        Self { told, until_told, ask, patience: PATIENCE, key, spool, flush: FLUSH }
    }

    fn destination(&self) -> HostSettings {
        self.told.borrow().as_ref().unwrap_or(&self.until_told).clone()
    }
}

/// A running exporter.
#[derive(Debug)]
pub(crate) struct Exporter {
    task: JoinHandle<(watch::Receiver<Durable>, Taken)>,
    spool: JoinHandle<()>,
}

impl Exporter {
    /// Sends what the spool has until there will be no more and all is acknowledged; after `shutdown` it waits at most
    /// [`Settings::flush`] for that. So first stop the switch, which sends its last records, then cancel, then wait.
    pub(crate) fn spawn(settings: Settings, spool: Writer, shutdown: CancellationToken) -> Self {
        let Writer { session, durable, taken, thread } = spool;
        let worker = Worker { settings, session, durable, taken, resume: 0 };
        Self { task: tokio::spawn(worker.run(shutdown)), spool: thread }
    }

    /// Waits until it has ended; gives how many records are left in the spool for the next start.
    pub(crate) async fn join(self) -> Result<u64, JoinError> {
        let (durable, taken) = self.task.await?;
        self.spool.await?;
        let end = durable.borrow().end;
        Ok(end.saturating_sub(taken.next))
    }
}

/// Why a connection to the collector was given up.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the collector did not answer within {} s", CONNECT_TIME.as_secs())]
    NoAnswer,
    #[error("no TLS: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the connection: {0}")]
    Connection(#[from] io::Error),
    #[error("the collector closed the connection")]
    Closed,
    #[error("the spool: {0}")]
    Spool(#[source] io::Error),
    #[error("records from {from} to {to} are damaged in the spool and left out")]
    Damaged { from: u64, to: u64 },
    #[error("the collector wants record {wanted} of {end}, which were never made here")]
    Ahead { wanted: u64, end: u64 },
}

struct Worker {
    settings: Settings,
    session: u64,
    durable: watch::Receiver<Durable>,
    taken: watch::Sender<Taken>,
    /// Records below it cannot be sent: they are damaged.
    resume: u64,
}

impl Worker {
    /// Gives the spool back as it is then, and how far the collector has come. The spool ends with that.
    async fn run(mut self, shutdown: CancellationToken) -> (watch::Receiver<Durable>, Taken) {
        let flush = self.settings.flush;
        let deadline = async {
            shutdown.cancelled().await;
            sleep_until(Instant::now() + flush).await;
        };
        tokio::select! {
            () = deadline => {}
            () = self.export() => {}
        }
        let taken = *self.taken.borrow();
        (self.durable, taken)
    }

    /// Connects again and again, until all is done.
    async fn export(&mut self) {
        let (mut backoff, mut away) = (Backoff::default(), Instant::now());
        while !self.is_done() {
            let began = Instant::now();
            let destination = self.settings.destination();
            let collector = destination.collector;
            let reason = match self.connect(&destination).await {
                Ok(connection) => {
                    tracing::info!(%collector, "flow records go to the collector");
                    backoff = Backoff::default();
                    let Err(reason) = self.converse(connection).await else { return };
                    away = Instant::now();
                    reason
                }
                Err(reason) => reason,
            };
            let waiting = self.durable.borrow().end.saturating_sub(self.taken.borrow().next);
            tracing::warn!(%collector, waiting, seconds = began.elapsed().as_secs(), "no connection to the collector: {reason}");
            if away.elapsed() >= self.settings.patience {
                away = Instant::now();
                self.settings.ask.notify_one();
            }
            sleep(backoff.next_delay()).await;
        }
    }

    fn is_done(&self) -> bool {
        let durable = *self.durable.borrow();
        durable.complete && self.taken.borrow().next >= durable.end
    }

    async fn connect(&mut self, to: &HostSettings) -> Result<Connection, Broken> {
        let connector = self.settings.key.connector(&to.certificate, &to.collector_certificate)?;
        let greet = async {
            let stream = TcpStream::connect(to.collector).await?;
            stream.set_nodelay(true)?;
            let mut stream = connector.connect(ExportKey::collector_name()?, stream).await?;
            stream.write_all(Greeting { session: self.session }.to_line().as_bytes()).await?;
            stream.flush().await?;
            let wanted = stream.read_u64().await;
            wanted.map(|wanted| (stream, wanted))
        };
        let (mut stream, wanted) = match timeout(CONNECT_TIME, greet).await.map_err(|_| Broken::NoAnswer)? {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Broken::Closed),
            greeted => greeted?,
        };
        let reader = self.read_from(wanted).await?;
        let templates = reader.templates().map_err(Broken::Spool)?;
        stream.write_u64(reader.next()).await?;
        let (read, write) = tokio::io::split(stream);
        let outgoing = Outgoing { stream: write, octets: templates, written: 0, flushed: false };
        Ok(Connection { incoming: read, outgoing, reply: Vec::with_capacity(64), spool: Some(reader) })
    }

    /// Opens the spool at what the collector wants. One that wants more than there is knows an older spool: then the numbers
    /// go on behind, and the next connection is as any other.
    async fn read_from(&mut self, wanted: u64) -> Result<Reader, Broken> {
        let end = self.durable.borrow().end;
        self.acknowledged(wanted);
        if wanted > end {
            return Err(Broken::Ahead { wanted, end });
        }
        let (dir, from) = (self.settings.spool.clone(), wanted.max(self.resume));
        spawn_blocking(move || Reader::open(dir, from, end)).await.map_err(io::Error::other)?.map_err(Broken::Spool)
    }

    /// Sends records and takes acknowledgements until all is done or the connection breaks.
    async fn converse(&mut self, mut connection: Connection) -> Result<(), Broken> {
        while !self.is_done() {
            if connection.outgoing.is_sent() {
                let durable = self.durable.borrow_and_update().end;
                self.refill(&mut connection, durable).await?;
            }
            let Connection { incoming, outgoing, reply, .. } = &mut connection;
            tokio::select! {
                sent = outgoing.send(), if !outgoing.is_sent() => sent?,
                changed = self.durable.changed(), if outgoing.is_sent() => {
                    if changed.is_err() {
                        return Err(Broken::Spool(io::Error::other("its thread has ended")));
                    }
                }
                read = incoming.read_buf(reply) => {
                    if read? == 0 {
                        return Err(Broken::Closed);
                    }
                    if let Some(next) = last_number(reply) {
                        let end = self.durable.borrow().end;
                        if next > end {
                            return Err(Broken::Ahead { wanted: next, end });
                        }
                        self.acknowledged(next);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes what is to be sent next from the spool.
    async fn refill(&mut self, connection: &mut Connection, durable: u64) -> Result<(), Broken> {
        if connection.spool.as_ref().is_none_or(|reader| reader.next() >= durable) {
            return Ok(());
        }
        let Some(mut reader) = connection.spool.take() else { return Ok(()) };
        let from = reader.next();
        let read = spawn_blocking(move || (reader.read(durable), reader)).await.map_err(io::Error::other)?;
        let (chunk, reader) = (read.0.map_err(Broken::Spool)?, read.1);
        let to = reader.next();
        let Some(Chunk { messages, .. }) = chunk else {
            self.resume = to;
            self.taken.send_modify(|taken| taken.damaged += to - from);
            return Err(Broken::Damaged { from, to });
        };
        connection.outgoing.put(messages);
        connection.spool = Some(reader);
        Ok(())
    }

    fn acknowledged(&self, next: u64) {
        self.taken.send_if_modified(|taken| next > taken.next && std::mem::replace(&mut taken.next, next) != next);
    }
}

/// A greeted connection.
struct Connection {
    incoming: ReadHalf<TlsStream<TcpStream>>,
    outgoing: Outgoing,
    /// Octets of acknowledgements.
    reply: Vec<u8>,
    /// What is to be sent; none only while it is read.
    spool: Option<Reader>,
}

/// What is being sent.
struct Outgoing {
    stream: WriteHalf<TlsStream<TcpStream>>,
    octets: Vec<u8>,
    written: usize,
    /// TLS has given all of it to the system.
    flushed: bool,
}

impl Outgoing {
    const fn is_sent(&self) -> bool {
        self.flushed
    }

    fn put(&mut self, octets: Vec<u8>) {
        (self.octets, self.written, self.flushed) = (octets, 0, false);
    }

    /// Sends on; can be dropped and called again at any time.
    async fn send(&mut self) -> io::Result<()> {
        while self.written < self.octets.len() {
            self.written += self.stream.write(&self.octets[self.written..]).await?;
        }
        self.stream.flush().await?;
        self.flushed = true;
        Ok(())
    }
}

/// The last whole acknowledgement read so far; part of one stays.
fn last_number(reply: &mut Vec<u8>) -> Option<u64> {
    let (whole, rest) = reply.as_chunks::<8>();
    let last = whole.last().copied().map(u64::from_be_bytes);
    let rest = rest.to_vec();
    *reply = rest;
    last
}

#[cfg(test)]
mod tests;
