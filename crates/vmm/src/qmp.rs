//! A conversation with one QEMU over its QMP socket.
//!
//! Owns the connection: one task reads and writes the socket, callers send it their commands and wait for the answer or
//! until their patience ends. It knows no command; see [`crate::qemu`] for those.
//!
//! Why not the crate `qapi`: there a caller who stops waiting ends the connection for all (its answer then has nobody to
//! go to), an event that the crate's schema lacks does the same, and the generated schema takes longer to compile than
//! the rest of this crate.

pub mod message;

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{
    net::UnixStream,
    sync::{broadcast, mpsc, oneshot},
    time::timeout,
};
use tokio_util::codec::{Framed, LinesCodec};

pub(crate) use message::Event;
use message::Message;

/// Longer lines end the connection: QEMU's longest answers are some 100 KiB.
const LONGEST_LINE: usize = 4 << 20;
/// Events that a slow listener may be behind; it then loses the oldest.
const EVENTS: usize = 256;
/// Commands that may wait for the connection; more callers wait their turn.
const COMMANDS: usize = 16;

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("the connection ended")]
    Closed,
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    #[error("{0}")]
    Refused(String),
}

type Answer = Result<Value, String>;
type Connection = Framed<UnixStream, LinesCodec>;

struct Request {
    name: &'static str,
    arguments: Value,
    answer: oneshot::Sender<Answer>,
}

/// A handle to the conversation; it ends when the last handle is dropped or QEMU closes it.
#[derive(Clone, Debug)]
pub(crate) struct Qmp {
    requests: mpsc::Sender<Request>,
    /// Never read itself: each listener gets its own. The sender is the connection's, so that all end with it.
    events: Arc<broadcast::Receiver<Event>>,
}

impl Qmp {
    /// Connects and leaves QEMU ready for commands. QEMU talks to one at a time: this waits for an earlier one to leave.
    pub(crate) async fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let mut connection = Framed::new(stream, LinesCodec::new_with_max_length(LONGEST_LINE));
        let strange = || io::Error::new(io::ErrorKind::InvalidData, "not a QMP greeting");
        match next(&mut connection).await {
            Some(Message::Greeting) => {}
            _ => return Err(strange()),
        }
        let (requests, received) = mpsc::channel(COMMANDS);
        let (events_sender, events) = broadcast::channel(EVENTS);
        tokio::spawn(converse(connection, received, events_sender));
        let qmp = Self { requests, events: Arc::new(events) };
        let hello = qmp.execute("qmp_capabilities", Value::Object(Default::default()), Duration::from_secs(10)).await;
        hello.map_err(io::Error::other)?;
        Ok(qmp)
    }

    /// Asks QEMU to do `name` and waits up to `patience` for its answer.
    pub(crate) async fn execute(
        &self,
        name: &'static str,
        arguments: Value,
        patience: Duration,
    ) -> Result<Value, QmpError> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.requests.send(Request { name, arguments, answer }).await.map_err(|_| QmpError::Closed)?;
            answered.await.map_err(|_| QmpError::Closed)?.map_err(QmpError::Refused)
        };
        timeout(patience, asked).await.unwrap_or(Err(QmpError::NoAnswer(patience)))
    }

    /// The events from now on; they end with the connection.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.resubscribe()
    }
}

/// Carries commands to QEMU, and answers and events back, until either side goes.
async fn converse(mut connection: Connection, mut requests: mpsc::Receiver<Request>, events: broadcast::Sender<Event>) {
    let mut waiting: BTreeMap<u64, oneshot::Sender<Answer>> = BTreeMap::new();
    let mut last_id = 0;
    loop {
        tokio::select! {
            request = requests.recv() => {
                let Some(Request { name, arguments, answer }) = request else { return };
                last_id += 1;
                waiting.insert(last_id, answer);
                if connection.send(message::command(last_id, name, &arguments)).await.is_err() {
                    return;
                }
            }
            line = next(&mut connection) => match line {
                None => return,
                // Nobody may wait any more, nobody may listen: neither is an error.
                Some(Message::Return { id, value }) => { waiting.remove(&id).map(|caller| caller.send(Ok(value))); }
                Some(Message::Error { id, reason }) => { waiting.remove(&id).map(|caller| caller.send(Err(reason))); }
                Some(Message::Event(event)) => { let _ = events.send(event); }
                Some(Message::Greeting) => {}
            }
        }
    }
}

/// The next line of the protocol; strange ones are passed over. None at the end.
async fn next(connection: &mut Connection) -> Option<Message> {
    loop {
        let line = connection.next().await?.ok()?;
        match Message::parse(&line) {
            Some(message) => return Some(message),
            None => tracing::warn!(line = line.get(..200).unwrap_or(&line), "QEMU said something that is not QMP"),
        }
    }
}
