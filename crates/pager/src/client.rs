//! The host agent's side of a pager's control socket.
//!
//! Owns one connection and the patience with it; what may be said is [`crate::control`]'s. Calls block: an agent on an
//! async runtime makes them from a thread that may block.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use lucarne_model::{
    InstanceId,
    memory::{EvictionPolicy, Pages},
};

use crate::{
    control::{LONGEST_LINE, Reply, Request, Statistics, VERSION},
    remote::Borrowing,
};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no pager answers at {}", path.display())]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("the pager did not answer while asked to {doing}")]
    NoAnswer { doing: &'static str, source: io::Error },
    #[error("the pager's answer when asked to {doing} was not understood")]
    NotUnderstood { doing: &'static str },
    #[error("the pager refused to {doing}: {reason}")]
    Refused { doing: &'static str, reason: String },
}

/// A conversation with one pager; several may be open at once.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    instance: InstanceId,
    memory: Pages,
    machine: Option<i32>,
}

impl Client {
    /// Connects to the pager that listens at `path`. Each later call, but for [`evict_all`](Self::evict_all), waits at most
    /// `patience` for its answer.
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(unreachable)?;
        let limited = stream.set_read_timeout(Some(patience)).and_then(|()| stream.set_write_timeout(Some(patience)));
        limited.map_err(unreachable)?;
        let (instance, memory) = (InstanceId::from_bits(0), Pages::ZERO);
        let mut client = Self { stream: BufReader::new(stream), instance, memory, machine: None };
        match client.ask("say hello", &Request::Hello { version: VERSION })? {
            Reply::Hello { instance, memory, machine, .. } => Ok(Self { instance, memory, machine, ..client }),
            _ => Err(ClientError::NotUnderstood { doing: "say hello" }),
        }
    }

    /// Whose memory it is.
    pub const fn instance(&self) -> InstanceId {
        self.instance
    }
    /// All of the guest's memory.
    pub const fn memory(&self) -> Pages {
        self.memory
    }

    /// The machine's process, if the pager knows it.
    pub(crate) const fn machine(&self) -> Option<i32> {
        self.machine
    }

    /// See [`Request::SetTarget`].
    pub fn set_target(&mut self, resident: Pages, pages_per_second: Option<u64>) -> Result<(), ClientError> {
        self.tell("set a target", &Request::SetTarget { resident, pages_per_second })
    }
    pub fn set_policy(&mut self, policy: EvictionPolicy) -> Result<(), ClientError> {
        self.tell("set a policy", &Request::SetPolicy { policy })
    }
    pub fn set_pinned(&mut self, pinned: bool) -> Result<(), ClientError> {
        self.tell("pin", &Request::SetPinned { pinned })
    }
    /// See [`Request::SetRemote`].
    pub fn set_remote(&mut self, remote: Vec<Borrowing>) -> Result<(), ClientError> {
        self.tell("keep copies elsewhere", &Request::SetRemote { remote })
    }
    /// See [`Request::FetchAll`].
    pub fn fetch_all(&mut self) -> Result<(), ClientError> {
        self.tell("bring all of the memory that it goes on from", &Request::FetchAll)
    }
    /// See [`Request::Terminate`].
    pub fn terminate(mut self) -> Result<(), ClientError> {
        self.tell("terminate", &Request::Terminate)
    }

    pub fn statistics(&mut self) -> Result<Statistics, ClientError> {
        match self.ask("tell statistics", &Request::Statistics)? {
            Reply::Statistics(statistics) => Ok(*statistics),
            _ => Err(ClientError::NotUnderstood { doing: "tell statistics" }),
        }
    }

    /// Sends out all that is resident; see [`Request::EvictAll`]. Waits as long as `patience`. What left, and what is
    /// resident now: a guest that runs fetches pages meanwhile.
    pub fn evict_all(&mut self, patience: Duration) -> Result<(Pages, Pages), ClientError> {
        let doing = "evict all";
        let failed = |source| ClientError::NoAnswer { doing, source };
        let before = self.stream.get_ref().read_timeout().map_err(failed)?;
        self.stream.get_ref().set_read_timeout(Some(patience)).map_err(failed)?;
        let reply = self.ask(doing, &Request::EvictAll);
        self.stream.get_ref().set_read_timeout(before).map_err(failed)?;
        match reply? {
            Reply::Evicted { left, resident } => Ok((left, resident)),
            _ => Err(ClientError::NotUnderstood { doing }),
        }
    }

    /// See [`Request::Capture`]; what is left is the connection.
    pub(crate) fn capture(mut self, seconds: u32) -> Result<UnixStream, ClientError> {
        self.tell("capture the guest's memory", &Request::Capture { seconds })?;
        Ok(self.stream.into_inner())
    }

    /// Arms a capture that outlives this conversation; see [`Request::Hold`].
    pub fn hold(&mut self, name: &str) -> Result<(), ClientError> {
        self.tell("hold the guest's memory", &Request::Hold { name: name.into() })
    }
    /// To be called while the guest's processors stand still, which may go on then. How long the pager took.
    pub fn freeze(&mut self, name: &str) -> Result<Duration, ClientError> {
        let doing = "hold the guest's memory as it is now";
        match self.ask(doing, &Request::Freeze { name: name.into() })? {
            Reply::Frozen { microseconds } => Ok(Duration::from_micros(microseconds)),
            _ => Err(ClientError::NotUnderstood { doing }),
        }
    }
    /// See [`Request::LetGo`].
    pub fn let_go(&mut self, name: &str) -> Result<(), ClientError> {
        self.tell("let go of the guest's memory", &Request::LetGo { name: name.into() })
    }

    /// See [`Request::Read`]; what is left is the connection.
    pub(crate) fn read(mut self, name: &str) -> Result<UnixStream, ClientError> {
        self.tell("read what is held of the guest's memory", &Request::Read { name: name.into() })?;
        Ok(self.stream.into_inner())
    }

    fn tell(&mut self, doing: &'static str, request: &Request) -> Result<(), ClientError> {
        match self.ask(doing, request)? {
            Reply::Done => Ok(()),
            _ => Err(ClientError::NotUnderstood { doing }),
        }
    }

    fn ask(&mut self, doing: &'static str, request: &Request) -> Result<Reply, ClientError> {
        let failed = |source| ClientError::NoAnswer { doing, source };
        let mut line = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(failed)?;
        let mut answer = Vec::new();
        let limited = &mut (&mut self.stream).take(LONGEST_LINE as u64);
        limited.read_until(b'\n', &mut answer).map_err(failed)?;
        if answer.is_empty() {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_slice(&answer) {
            Ok(Reply::Refused { reason }) => Err(ClientError::Refused { doing, reason }),
            Ok(reply) => Ok(reply),
            Err(_) => Err(ClientError::NotUnderstood { doing }),
        }
    }
}
