//! One connection to a lender: asked and answered, one frame after the other.
//!
//! Owns its opening, with the proof that the other end is the host that the lease names, and its patience. A line on which
//! anything went wrong is not to be asked again: what comes next on it may answer an earlier question.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::{Borrowing, SHORT};
use crate::{
    page::Page,
    peer::{IdentityError, name_of, read_frame, write_frame},
    wire::{Answer, Ask, Hello, Refusal, Role},
};

/// How long a lender may take to be reached and to prove who it is, and to take what is brought.
const LONG: Duration = Duration::from_secs(5);

/// Why a line is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("no TLS: {0}")]
    Identity(#[from] IdentityError),
    #[error("the connection: {0}")]
    Broken(#[from] io::Error),
    #[error("it refuses: {0}")]
    Refused(Refusal),
    #[error("its answer was not understood")]
    NotUnderstood,
}

pub(super) struct Line {
    stream: StreamOwned<ClientConnection, Timed>,
    buffer: Vec<u8>,
    /// With one question and its answer.
    patience: Duration,
}

/// A stream that fails at a moment, however much of what is waited for has come by then.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(into)
    }
}

impl Write for Timed {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(from)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("to", &self.stream.sock.stream.peer_addr()).finish_non_exhaustive()
    }
}

impl Line {
    pub(super) fn open(to: &Borrowing, config: Arc<ClientConfig>, hello: Hello) -> Result<Self, LineError> {
        let stream = TcpStream::connect_timeout(&to.address, LONG)?;
        stream.set_nodelay(true)?;
        let stream = Timed { stream, until: Instant::now() + LONG };
        let session = ClientConnection::new(config, name_of(to.lender)?).map_err(io::Error::other)?;
        let mut line = Self { stream: StreamOwned::new(session, stream), buffer: Vec::new(), patience: LONG };
        match line.ask(&Ask::Hello(hello))? {
            Answer::Welcome => {}
            _ => return Err(LineError::NotUnderstood),
        }
        if hello.role == Role::Fetch {
            line.patience = SHORT;
        }
        Ok(line)
    }

    pub(super) fn ask(&mut self, ask: &Ask) -> Result<Answer, LineError> {
        self.stream.sock.until = Instant::now() + self.patience;
        write_frame(&mut self.stream, &ask.encode())?;
        if !read_frame(&mut self.stream, &mut self.buffer)? {
            return Err(LineError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        match Answer::decode(&self.buffer) {
            Some(Answer::Refused(refusal)) => Err(LineError::Refused(refusal)),
            Some(answer) => Ok(answer),
            None => Err(LineError::NotUnderstood),
        }
    }

    /// As many answers as questions.
    pub(super) fn fetch(&mut self, generations: Vec<u64>) -> Result<Vec<Option<Page>>, LineError> {
        let count = generations.len();
        match self.ask(&Ask::Fetch(generations))? {
            Answer::Fetched(pages) if pages.len() == count => Ok(pages),
            _ => Err(LineError::NotUnderstood),
        }
    }
}
