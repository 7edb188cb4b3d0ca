//! A conversation with QEMU over the monitor that is for sealed operations alone.
//!
//! Owns the connection, descriptors sent along with commands, and the patience with it. QEMU talks to one at a time there, so
//! two operations on one machine come one after the other. Lines are read and written by [`lucarne_vmm::qmp::message`].

use std::{
    io::{self, IoSlice, Read},
    mem::MaybeUninit,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use lucarne_vmm::qmp::message::{self, Message};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::order::Failure;

/// How long QEMU may take for one answer: it may have to bring memory back from a disk for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// QEMU's longest answers are some 100 KiB, with several hundred processors a megabyte or two.
const LONGEST_LINE: usize = 8 << 20;

/// A conversation that ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: UnixStream,
    unread: Vec<u8>,
    last_id: u64,
    /// What was answered before it was waited for.
    early: Option<Value>,
}

impl Monitor {
    /// Waits for an operation that is under way on the same machine.
    pub(crate) fn connect(path: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::impossible(
                "its machine was started by an agent without sealed operations: it can be asked after its next start",
            ),
            io::ErrorKind::ConnectionRefused => Failure::impossible("its machine does not run any more"),
            _ => Failure::broken("reach the machine")(error),
        })?;
        let limited = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        limited.map_err(Failure::broken("reach the machine"))?;
        let mut monitor = Self { stream, unread: Vec::new(), last_id: 0, early: None };
        match monitor.next().map_err(Failure::broken("reach the machine"))? {
            Message::Greeting => {}
            _ => return Err(broken("reach the machine", "it does not greet")),
        }
        monitor.ask("greet the machine", "qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Has QEMU do `command`; `doing` says in words what that is for.
    pub(crate) fn ask(
        &mut self,
        doing: &'static str,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, Failure> {
        self.begin(doing, command, arguments)?;
        self.answer(doing)
    }

    /// Asks without waiting for the answer, which [`Monitor::answer`] takes: for a command that sends something meanwhile.
    pub(crate) fn begin(
        &mut self,
        doing: &'static str,
        command: &'static str,
        arguments: Value,
    ) -> Result<(), Failure> {
        self.send(command, &arguments, None).map_err(Failure::broken(doing))
    }

    /// The same, with a descriptor that QEMU gets a copy of.
    pub(crate) fn ask_with(
        &mut self,
        doing: &'static str,
        (command, arguments): (&'static str, Value),
        descriptor: BorrowedFd<'_>,
    ) -> Result<Value, Failure> {
        self.send(command, &arguments, Some(descriptor)).map_err(Failure::broken(doing))?;
        self.answer(doing)
    }

    /// What QEMU's monitor for people says to this line.
    pub(crate) fn ask_in_words(&mut self, doing: &'static str, line: &str) -> Result<String, Failure> {
        let said = self.ask(doing, "human-monitor-command", json!({ "command-line": line }))?;
        match said {
            Value::String(text) => Ok(text),
            _ => Err(broken(doing, "the machine's answer is not text")),
        }
    }

    /// The answer to what was asked last; events before it are passed over.
    pub(crate) fn answer(&mut self, doing: &'static str) -> Result<Value, Failure> {
        loop {
            match self.early.take() {
                Some(value) => return Ok(value),
                None => self.hear(doing)?,
            }
        }
    }

    /// Takes in the next line and those that came with it: an answer is kept until it is waited for, and a refusal is an error
    /// at once.
    pub(crate) fn hear(&mut self, doing: &'static str) -> Result<(), Failure> {
        loop {
            match self.next().map_err(Failure::broken(doing))? {
                Message::Return { id, value } if id == self.last_id => self.early = Some(value),
                Message::Error { id, reason } if id == self.last_id => return Err(broken(doing, reason)),
                _ => {}
            }
            if !self.unread.contains(&b'\n') {
                return Ok(());
            }
        }
    }

    /// For who waits for several things at once.
    pub(crate) const fn stream(&self) -> &UnixStream {
        &self.stream
    }

    fn send(&mut self, command: &str, arguments: &Value, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.last_id += 1;
        let line = message::command(self.last_id, command, arguments) + "\n";
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        let descriptors: &[BorrowedFd<'_>] = descriptor.as_slice();
        if !descriptors.is_empty() && !along.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(line.as_bytes())], &mut along, SendFlags::NOSIGNAL)?;
        io::Write::write_all(&mut self.stream, &line.as_bytes()[sent..])
    }

    /// The next line of the protocol; others are passed over.
    fn next(&mut self) -> io::Result<Message> {
        loop {
            if let Some(end) = self.unread.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                match Message::parse(&String::from_utf8_lossy(&line)) {
                    Some(message) => return Ok(message),
                    None => continue,
                }
            }
            if self.unread.len() > LONGEST_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless line"));
            }
            let mut piece = [0; 16 << 10];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the machine has ended")),
                Ok(length) => self.unread.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the machine does not answer"));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn broken(doing: &'static str, cause: impl Into<String>) -> Failure {
    Failure::Broken { doing, cause: cause.into() }
}
