//! Connections of hosts: TLS, the greeting, then IPFIX messages in and acknowledgements out.
//!
//! Owns what one connection may cost, that its host speaks of itself alone, and its end with a logged reason at the first
//! thing that is not as [`Greeting`] describes. Who is let in at all is decided by [`Admission`].

use std::{io, net::SocketAddr, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use lucarne_flows::ipfix::{Decoder, Greeting, GreetingError, HEADER_LENGTH, Header};
use lucarne_model::HostId;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::{Admission, NoHost, Removed, host_of},
    health::Gauges,
    keeper::Command,
    received::{Received, Refused},
};

/// Connections at once; each holds what it has [`READ`], as much again of messages, and at most [`AT_ONCE`] records and
/// a message's.
const MOST: usize = 4096;
/// Records that are handed on together where a host sends faster than they are taken: some 250 KB, as columns and octets.
const AT_ONCE: usize = 512;
/// Octets that are read from a host at once.
const READ: usize = 128 << 10;
/// How long a host may take to prove who it is and to greet.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// After a failure to accept, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why a connection was ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it did not prove who it is and greet within {} s", GREETING_TIME.as_secs())]
    NoGreeting,
    #[error("the controller has not brought the certificate of the host CA yet")]
    NoAuthority,
    #[error("no TLS: {0}")]
    Tls(#[source] io::Error),
    #[error(transparent)]
    NoHost(#[from] NoHost),
    #[error(transparent)]
    Removed(#[from] Removed),
    #[error("its first line is longer than {} octets, or is not text", Greeting::MAX_LENGTH)]
    Line,
    #[error("its first line: {0}")]
    Greeting(#[source] GreetingError),
    #[error("it sent what is not the header of an IPFIX message")]
    Header,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("its session greeted on another connection, or left out records")]
    Replaced,
    #[error("the connection: {0}")]
    Connection(#[from] io::Error),
    #[error("the collector ends")]
    Stopping,
}

/// Takes connections until `shutdown`, and returns when all have ended.
pub(crate) async fn serve(
    listener: TcpListener,
    admission: Arc<Admission>,
    commands: mpsc::Sender<Command>,
    health: Arc<Gauges>,
    shutdown: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MOST));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a host's connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "a host is sent away: {MOST} are connected");
            continue;
        };
        let (admission, commands, health) = (admission.clone(), commands.clone(), health.clone());
        let connection = Connection { admission, commands, health };
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            connection.run(stream, peer, shutdown).await;
            drop(permit);
        });
    }
    drop(commands);
    connections.close();
    connections.wait().await;
}

struct Connection {
    admission: Arc<Admission>,
    commands: mpsc::Sender<Command>,
    health: Arc<Gauges>,
}

/// Who sends on a connection, and what number its next record has.
#[derive(Clone, Copy, Debug)]
struct Sender {
    host: HostId,
    session: u64,
    next: u64,
}

impl Connection {
    async fn run(self, stream: TcpStream, peer: SocketAddr, shutdown: CancellationToken) {
        self.health.exporters.fetch_add(1, Relaxed);
        let result = tokio::select! {
            () = shutdown.cancelled() => Err(Ended::Stopping),
            result = self.converse(stream) => result,
        };
        self.health.exporters.fetch_sub(1, Relaxed);
        match result {
            Ok(()) => tracing::debug!(%peer, "a host closed its connection"),
            Err(reason @ Ended::Refused(Refused::Impostor { .. })) => {
                tracing::error!(%peer, "a host is sent away: {reason}")
            }
            Err(reason) => tracing::warn!(%peer, "a host's connection was closed: {reason}"),
        }
    }

    async fn converse(&self, stream: TcpStream) -> Result<(), Ended> {
        // Dead hosts say nothing more; without this their connections would stay for ever.
        rustix::net::sockopt::set_socket_keepalive(&stream, true).map_err(io::Error::from)?;
        stream.set_nodelay(true)?;
        let greet = async {
            let acceptor = self.admission.acceptor().ok_or(Ended::NoAuthority)?;
            let stream: TlsStream<TcpStream> = acceptor.accept(stream).await.map_err(Ended::Tls)?;
            let host = host_of(stream.get_ref().1.peer_certificates())?;
            self.admission.check(host)?;
            let (reader, mut writer) = tokio::io::split(stream);
            let mut reader = BufReader::with_capacity(READ, reader);
            let Greeting { session } = read_greeting(&mut reader).await?;
            let (reply, wanted) = oneshot::channel();
            self.send(Command::Greet { session, reply }).await?;
            let wanted = wanted.await.map_err(|_| Ended::Stopping)?;
            let first_wanted = *wanted.borrow();
            tell(&mut writer, first_wanted).await?;
            let next = reader.read_u64().await?;
            self.send(Command::Begin { session, start: next }).await?;
            Ok::<_, Ended>((reader, writer, wanted, Sender { host, session, next }))
        };
        let (reader, writer, wanted, sender) = timeout(GREETING_TIME, greet).await.map_err(|_| Ended::NoGreeting)??;
        tracing::info!(host = %sender.host, next = sender.next, "a host is connected");
        tokio::select! {
            // Before anything that it still sends.
            biased;
            removed = self.admission.removal(sender.host) => Err(removed.into()),
            result = self.read_messages(reader, sender) => result,
            result = acknowledge(writer, wanted) => result,
        }
    }

    async fn read_messages(
        &self,
        mut reader: BufReader<impl AsyncRead + Unpin>,
        mut sender: Sender,
    ) -> Result<(), Ended> {
        let mut decoder = Decoder::new();
        let mut received = Received::default();
        while let Some(message) = read_message(&mut reader).await? {
            let taken = received.take(&mut decoder, message, sender.host);
            // Nothing waits for what has yet to come.
            let is_last =
                !begins_with_message(reader.buffer()) || received.len() >= AT_ONCE || received.octets() >= READ;
            let losses = match &taken {
                Ok(decoded) if is_last || !decoded.losses.is_empty() => decoded.losses.clone(),
                Ok(_) => continue,
                Err(_) => Vec::new(),
            };
            // What came before a message that is refused is good.
            let received = std::mem::take(&mut received);
            let Sender { session, next: first, .. } = sender;
            sender.next = first.saturating_add((received.len() + losses.len()) as u64);
            if sender.next > first {
                self.send(Command::Take { session, first, received: Box::new(received), losses }).await?;
            }
            self.health.foreign.fetch_add(taken?.foreign, Relaxed);
        }
        Ok(())
    }

    async fn send(&self, command: Command) -> Result<(), Ended> {
        self.commands.send(command).await.map_err(|_| Ended::Stopping)
    }
}

/// Writes the number of the wanted record whenever it has grown.
async fn acknowledge(mut writer: impl AsyncWrite + Unpin, mut wanted: watch::Receiver<u64>) -> Result<(), Ended> {
    loop {
        wanted.changed().await.map_err(|_| Ended::Replaced)?;
        let next = *wanted.borrow_and_update();
        tell(&mut writer, next).await?;
    }
}

async fn tell(writer: &mut (impl AsyncWrite + Unpin), next: u64) -> io::Result<()> {
    writer.write_all(&next.to_be_bytes()).await?;
    writer.flush().await
}

async fn read_greeting(reader: &mut (impl AsyncRead + Unpin)) -> Result<Greeting, Ended> {
    let mut line = Vec::with_capacity(Greeting::MAX_LENGTH);
    loop {
        match reader.read_u8().await? {
            b'\n' => break,
            _ if line.len() + 1 >= Greeting::MAX_LENGTH => return Err(Ended::Line),
            byte => line.push(byte),
        }
    }
    let line = std::str::from_utf8(&line).map_err(|_| Ended::Line)?;
    Greeting::parse(line).map_err(Ended::Greeting)
}

/// Whether a whole message is there already.
fn begins_with_message(buffered: &[u8]) -> bool {
    let header = buffered.first_chunk::<HEADER_LENGTH>().and_then(Header::parse);
    header.is_some_and(|header| buffered.len() >= usize::from(header.length))
}

/// The next message; none when the host has closed the connection between two.
async fn read_message(reader: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>, Ended> {
    let mut message = vec![0; HEADER_LENGTH];
    let (first, rest) = message.split_at_mut(1);
    if reader.read(first).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(rest).await?;
    let header = message.first_chunk::<HEADER_LENGTH>().and_then(Header::parse).ok_or(Ended::Header)?;
    message.resize(usize::from(header.length), 0);
    reader.read_exact(&mut message[HEADER_LENGTH..]).await?;
    Ok(Some(message))
}
