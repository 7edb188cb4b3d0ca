//! A lender's talk with borrowers: who is let in, what is answered, and who is shown out.
//!
//! Owns the connections, each with a thread of its own. Nobody is heard whose certificate the host CA did not sign for a host
//! that has a lease here; a host whose lease ends, because it was removed or for want of memory, is cut off at once.

use std::{
    collections::BTreeMap,
    io,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread,
    time::Duration,
};

use lucarne_model::HostId;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::shelf::{Owner, Shelf};
use crate::{
    pager::locked,
    peer::{host_of, read_frame, write_frame},
    wire::{Answer, Ask, Hello, Refusal, Role, VERSION},
};

/// Connections at once; more are closed unheard. A VM has two.
const CONNECTIONS: usize = 1024;
/// How long a stranger may take to prove who it is, and anyone to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A borrower that says nothing for so long is gone: one that is there asks every second.
const SILENCE: Duration = Duration::from_secs(30);

type Stream = StreamOwned<ServerConnection, TcpStream>;

/// What all conversations share.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) shelf: Mutex<Shelf>,
    /// None until the host's certificate is known: nobody is let in.
    pub(super) tls: RwLock<Option<Arc<ServerConfig>>>,
    pub(super) open: Mutex<Open>,
}

/// The connections that stand.
#[derive(Debug, Default)]
pub(super) struct Open {
    next: u64,
    streams: BTreeMap<u64, Guest>,
}

/// One connection, and whose it is once that is known.
#[derive(Debug)]
struct Guest {
    stream: TcpStream,
    lease: Option<(HostId, u64)>,
}

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("there is no TLS yet")]
    NotReady,
    #[error("it was refused: {0}")]
    Refused(Refusal),
    #[error("its certificate names no host")]
    NoHost,
}

impl Door {
    /// Until the process ends.
    pub(super) fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "no connection can be taken");
                    thread::sleep(PATIENCE / 50);
                    continue;
                }
            };
            let Ok(number) = self.note(&stream) else { continue };
            let door = self.clone();
            let talk = thread::Builder::new().name("borrower".into()).spawn(move || {
                if let Err(over) = door.receive(stream, number) {
                    tracing::debug!(%over, "a borrower's connection ended");
                }
                locked(&door.open).streams.remove(&number);
            });
            if talk.is_err() {
                locked(&self.open).streams.remove(&number);
            }
        }
    }

    /// A number for the connection; an error when there are too many.
    fn note(&self, stream: &TcpStream) -> io::Result<u64> {
        let stream = stream.try_clone()?;
        let mut open = locked(&self.open);
        if open.streams.len() >= CONNECTIONS {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let number = open.next;
        open.next += 1;
        open.streams.insert(number, Guest { stream, lease: None });
        Ok(number)
    }

    /// Ends the connections of those whose lease is over.
    pub(super) fn show_out(&self) {
        let open = locked(&self.open);
        for guest in open.streams.values() {
            let is_over = guest.lease.is_some_and(|(host, epoch)| !locked(&self.shelf).has_lease(host, epoch));
            if is_over {
                // One that is gone already needs no showing out.
                let _ = guest.stream.shutdown(Shutdown::Both);
            }
        }
    }

    fn receive(&self, stream: TcpStream, number: u64) -> Result<(), Over> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let config = self.tls.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Over::NotReady)?;
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let host = host_of(stream.conn.peer_certificates()).ok_or(Over::NoHost)?;
        let mut buffer = Vec::new();
        if !read_frame(&mut stream, &mut buffer)? {
            return Ok(());
        }
        let Some(Ask::Hello(hello)) = Ask::decode(&buffer) else { return refuse(stream, Refusal::NotUnderstood) };
        let owner = (host, hello.instance);
        if let Err(refusal) = self.welcome(owner, &hello, number) {
            return refuse(stream, refusal);
        }
        stream.sock.set_read_timeout(Some(SILENCE))?;
        let ended = self.talk(stream, owner, hello.session, buffer);
        if hello.role == Role::Bring {
            locked(&self.shelf).end(owner, hello.session);
        }
        ended
    }

    /// From here on the connection lasts as long as its lease.
    fn welcome(&self, owner: Owner, hello: &Hello, number: u64) -> Result<(), Refusal> {
        if hello.version != VERSION {
            return Err(Refusal::Version);
        }
        if let Some(guest) = locked(&self.open).streams.get_mut(&number) {
            guest.lease = Some((owner.0, hello.epoch));
        }
        let mut shelf = locked(&self.shelf);
        if !shelf.has_lease(owner.0, hello.epoch) {
            return Err(Refusal::NoLease);
        }
        match hello.role {
            Role::Bring => shelf.begin(owner, hello.epoch, hello.session),
            Role::Fetch => shelf.check(owner, hello.session),
        }
    }

    fn talk(&self, mut stream: Stream, owner: Owner, session: u64, mut buffer: Vec<u8>) -> Result<(), Over> {
        write_frame(&mut stream, &Answer::Welcome.encode())?;
        while read_frame(&mut stream, &mut buffer)? {
            let answer = match Ask::decode(&buffer) {
                Some(ask) => self.answer(owner, session, &ask),
                None => Err(Refusal::NotUnderstood),
            };
            match answer {
                Ok(answer) => write_frame(&mut stream, &answer.encode())?,
                Err(refusal) => return refuse(stream, refusal),
            }
        }
        Ok(())
    }

    fn answer(&self, owner: Owner, session: u64, ask: &Ask) -> Result<Answer, Refusal> {
        let mut shelf = locked(&self.shelf);
        let taken = match ask {
            Ask::Hello(_) => return Err(Refusal::NotUnderstood),
            Ask::Fetch(generations) => return shelf.fetch(owner, session, generations).map(Answer::Fetched),
            Ask::Bring(brought) => shelf.keep(owner, session, brought)?,
            Ask::Free(generations) => shelf.free(owner, session, generations).map(|()| 0)?,
        };
        Ok(Answer::Kept { taken, given_up: shelf.given_up(owner, session)? })
    }
}

fn refuse(mut stream: Stream, refusal: Refusal) -> Result<(), Over> {
    write_frame(&mut stream, &Answer::Refused(refusal).encode())?;
    Err(Over::Refused(refusal))
}
