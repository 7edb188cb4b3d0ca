//! Connections of exporters: the greeting, then IPFIX messages in and acknowledgements out.
//!
//! Owns what one connection may cost, and ends it with a logged reason at the first thing that is not as
//! [`Greeting`] describes. Exporters that do not greet are not ours: they are sent away here, which is the place where a
//! decoder for foreign ones would begin.

use std::{io, net::SocketAddr, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use lucarne_flows::ipfix::{DecodeError, Decoder, Greeting, GreetingError, HEADER_LENGTH, Header};
use subtle::ConstantTimeEq as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{health::Gauges, keeper::Command};

/// Connections at once; each holds a message of at most 64 KiB while it reads it.
const MOST: usize = 4096;
/// How long an exporter may take to say who it is.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// After a failure to accept, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why a connection was ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it did not greet within {} s", GREETING_TIME.as_secs())]
    NoGreeting,
    #[error("its first line is longer than {} octets, or is not text", Greeting::MAX_LENGTH)]
    Line,
    #[error("its first line: {0}")]
    Greeting(#[source] GreetingError),
    #[error("its token is not the one of this collector")]
    Token,
    #[error("it sent what is not the header of an IPFIX message")]
    Header,
    #[error("a message cannot be decoded: {0}")]
    Message(#[source] DecodeError),
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
    token: Arc<str>,
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
                tracing::warn!(%error, "an exporter's connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "an exporter is sent away: {MOST} are connected");
            continue;
        };
        let connection = Connection { token: token.clone(), commands: commands.clone(), health: health.clone() };
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
    token: Arc<str>,
    commands: mpsc::Sender<Command>,
    health: Arc<Gauges>,
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
            Ok(()) => tracing::debug!(%peer, "an exporter closed its connection"),
            Err(reason) => tracing::warn!(%peer, "an exporter's connection was closed: {reason}"),
        }
    }

    async fn converse(&self, stream: TcpStream) -> Result<(), Ended> {
        // Exporters of dead hosts say nothing more; without this their connections would stay for ever.
        rustix::net::sockopt::set_socket_keepalive(&stream, true).map_err(io::Error::from)?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let greeting = timeout(GREETING_TIME, read_greeting(&mut reader)).await.map_err(|_| Ended::NoGreeting)??;
        if !bool::from(greeting.token.as_bytes().ct_eq(self.token.as_bytes())) {
            return Err(Ended::Token);
        }
        let (reply, wanted) = oneshot::channel();
        self.send(Command::Greet { session: greeting.session, first: greeting.first, reply }).await?;
        let wanted = wanted.await.map_err(|_| Ended::Stopping)?;
        let next = *wanted.borrow();
        tracing::info!(session = format_args!("{:016x}", greeting.session), next, "an exporter is connected");
        tokio::select! {
            result = self.read_messages(reader, greeting.session, next) => result,
            result = acknowledge(writer, wanted) => result,
        }
    }

    async fn read_messages(
        &self,
        mut reader: impl AsyncRead + Unpin,
        session: u64,
        mut next: u64,
    ) -> Result<(), Ended> {
        let mut decoder = Decoder::new();
        while let Some(message) = read_message(&mut reader).await? {
            let decoded = decoder.decode(&message).map_err(Ended::Message)?;
            self.health.foreign.fetch_add(decoded.foreign, Relaxed);
            if !decoded.records.is_empty() {
                let first = next;
                next += decoded.records.len() as u64;
                self.send(Command::Take { session, first, records: decoded.records }).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, command: Command) -> Result<(), Ended> {
        self.commands.send(command).await.map_err(|_| Ended::Stopping)
    }
}

/// Writes the number of the wanted record, and again whenever it has grown.
async fn acknowledge(mut writer: OwnedWriteHalf, mut wanted: watch::Receiver<u64>) -> Result<(), Ended> {
    loop {
        let next = *wanted.borrow_and_update();
        writer.write_all(&next.to_be_bytes()).await?;
        wanted.changed().await.map_err(|_| Ended::Replaced)?;
    }
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

/// The next message; none when the exporter has closed the connection between two.
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
