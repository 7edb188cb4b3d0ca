//! What the switch's thread sleeps on: its sockets, and a bell that other threads ring.
//!
//! Owns the kernel's poll descriptor and the meaning of its tokens. What is done about an [`Event`] is the worker's.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use crate::tunnel::Tunnel;

/// Events taken with one call.
const EVENTS: usize = 64;
const BELL: u64 = u64::MAX;
const TUNNEL: u64 = u64::MAX - 1;

/// What there is to do. Ports are named by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A command waits.
    Bell,
    /// A datagram of another host waits.
    Tunnel,
    /// A frame of a guest waits.
    FromGuest(usize),
    /// A guest that was full has room.
    RoomAtGuest(usize),
}

/// Wakes the thread. It rings when it is dropped, too, so that the thread sees that nobody can ring any more.
#[derive(Clone, Debug)]
pub(super) struct Doorbell(Arc<OwnedFd>);

impl Doorbell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }
    pub(super) fn ring(&self) {
        // It fails only when it has rung 2^64 - 1 times unheard, and then it rings.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
    pub(super) fn hush(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        self.ring();
    }
}

/// The poll descriptor.
#[derive(Debug)]
pub(super) struct Poller(OwnedFd);

impl Poller {
    pub(super) fn new(bell: &Doorbell, tunnel: &Tunnel) -> io::Result<Self> {
        let poller = Self(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        poller.add(bell.0.as_fd(), BELL, epoll::EventFlags::IN)?;
        poller.add(tunnel.as_fd(), TUNNEL, epoll::EventFlags::IN)?;
        Ok(poller)
    }

    /// Begins to tell of frames from the port's guest, until the descriptor is closed.
    pub(super) fn watch_inbox(&self, inbox: BorrowedFd<'_>, port: usize) -> io::Result<()> {
        self.add(inbox, from_guest(port), epoll::EventFlags::IN)
    }

    /// The port has another number from now on.
    pub(super) fn rename_inbox(&self, inbox: BorrowedFd<'_>, port: usize) -> io::Result<()> {
        let data = epoll::EventData::new_u64(from_guest(port));
        Ok(epoll::modify(&self.0, inbox, data, epoll::EventFlags::IN)?)
    }

    /// Tells once when the port's guest has room.
    pub(super) fn watch_outbox(&self, outbox: BorrowedFd<'_>, port: usize) -> io::Result<()> {
        let once = epoll::EventFlags::OUT | epoll::EventFlags::ONESHOT;
        match self.add(outbox, from_guest(port) + 1, once) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let data = epoll::EventData::new_u64(from_guest(port) + 1);
                Ok(epoll::modify(&self.0, outbox, data, once)?)
            }
            result => result,
        }
    }

    /// Sleeps until there is something to do, or for `limit`; leaves in `into` what there is.
    pub(super) fn wait(&self, limit: Option<Duration>, into: &mut Vec<Event>) -> io::Result<()> {
        into.clear();
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        let mut room = [const { MaybeUninit::uninit() }; EVENTS];
        let (events, _) = epoll::wait(&self.0, &mut room, limit.as_ref())?;
        into.extend(events.iter().map(|event| match { event.data }.u64() {
            BELL => Event::Bell,
            TUNNEL => Event::Tunnel,
            token if token % 2 == 0 => Event::FromGuest((token / 2) as usize),
            token => Event::RoomAtGuest((token / 2) as usize),
        }));
        Ok(())
    }

    fn add(&self, source: BorrowedFd<'_>, token: u64, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.0, source, epoll::EventData::new_u64(token), flags)?)
    }
}

const fn from_guest(port: usize) -> u64 {
    port as u64 * 2
}
