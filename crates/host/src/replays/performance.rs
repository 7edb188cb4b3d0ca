//! The thread that plays: asks the clients when they are to be asked, and carries their frames to and from the ports.
//!
//! Owns the sockets and the clock. It is a thread of its own, so that neither the switch nor the agent waits for it, however much
//! is played; a switch that takes no more holds it up alone. Sleeping it wakes by what comes first, a frame or the next time.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, ErrorKind},
    net::Ipv4Addr,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    time::{Duration, Instant},
};

use lucarne_model::{MacAddress, Moment, replay::ReplayPort};
use lucarne_replica::clients::Clients;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The longest sleep: so soon it is seen that nobody wants it any more.
const LONGEST: Duration = Duration::from_millis(50);
/// When a switch that was full is tried again.
const FULL: Duration = Duration::from_micros(200);
/// Frames that may wait for a switch that is full; then the oldest are lost, as on any wire.
const WAITING: usize = 4096;
/// Frames taken from one port before the others have their turn.
const TOGETHER: usize = 64;
/// How long what is said last may still be answered, so that the duplicate is left with no connection half closed.
const LINGER: Duration = Duration::from_millis(200);
/// Larger than any frame.
const ROOM: usize = 2048;
/// Where a frame has its sender's link address, and an IPv4 packet in it its sender.
const LINK_SENDER: std::ops::Range<usize> = 6..12;
const SENDER: std::ops::Range<usize> = 26..30;

/// The guest's side of a played client's port.
#[derive(Debug)]
pub(super) struct End {
    socket: UnixDatagram,
    switch: PathBuf,
    guest: PathBuf,
    address: Ipv4Addr,
    mac: MacAddress,
}

impl End {
    pub(super) fn bind(port: &ReplayPort, switch: PathBuf, guest: PathBuf) -> io::Result<Self> {
        match std::fs::remove_file(&guest) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(&guest)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, switch, guest, address: port.address, mac: port.mac })
    }

    /// False when the switch takes no more. Where there is no switch a frame is lost.
    fn send(&self, frame: &[u8]) -> bool {
        !self.socket.send_to(frame, &self.switch).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // The switch removes its own.
        let _ = std::fs::remove_file(&self.guest);
    }
}

/// Plays all of it, in a thread, and gives the clients back; none if nobody wants that any more. `began` is the time of day, and `watch`
/// sees them at each turn.
pub(super) async fn play<C: Clients + Send + 'static>(
    clients: C,
    ends: Vec<End>,
    began: Moment,
    watch: impl FnMut(&C, Moment) + Send + 'static,
    cancel: CancellationToken,
) -> io::Result<Option<C>> {
    let (done, played) = oneshot::channel();
    let performance = Performance::new(clients, began);
    let thread = std::thread::Builder::new().name("replay".into());
    thread.spawn(move || {
        let played = performance.run(&ends, watch, &cancel);
        // Who hears that it is over finds nothing of it.
        drop(ends);
        // Whoever waits may have gone: then nobody wants it.
        drop(done.send(played));
    })?;
    played.await.map_err(io::Error::other)?
}

struct Performance<C> {
    clients: C,
    began: Moment,
    since: Instant,
    /// For ends that are full, in order.
    waiting: VecDeque<(usize, Vec<u8>)>,
}

impl<C: Clients> Performance<C> {
    fn new(clients: C, began: Moment) -> Self {
        Self { clients, began, since: Instant::now(), waiting: VecDeque::new() }
    }

    fn now(&self) -> Moment {
        self.began.plus(self.since.elapsed())
    }

    fn run(
        mut self,
        ends: &[End],
        mut watch: impl FnMut(&C, Moment),
        cancel: &CancellationToken,
    ) -> io::Result<Option<C>> {
        let by_address: HashMap<Ipv4Addr, usize> = ends.iter().enumerate().map(|(at, end)| (end.address, at)).collect();
        let mut events: Vec<PollFd<'_>> = ends.iter().map(|end| PollFd::new(&end.socket, PollFlags::IN)).collect();
        let (mut room, mut over) = ([0; ROOM], None);
        while !cancel.is_cancelled() {
            let next = self.clients.poll(self.now());
            self.send(ends, &by_address);
            watch(&self.clients, self.now());
            if next.is_none() && *over.get_or_insert_with(Instant::now) + LINGER <= Instant::now() {
                return Ok(Some(self.clients));
            }
            let until = next.map_or(LONGEST, |next| next.since(self.now()));
            let limit = if self.waiting.is_empty() { LONGEST } else { FULL };
            sleep(&mut events, until.min(limit))?;
            for (event, end) in events.iter().zip(ends) {
                if !event.revents().is_empty() {
                    self.hear(end, &mut room);
                }
            }
        }
        Ok(None)
    }

    fn hear(&mut self, end: &End, room: &mut [u8]) {
        for _ in 0..TOGETHER {
            // Nobody but the switch sends here; what cannot be read now is read in the next turn.
            let Ok(length) = end.socket.recv(room) else { return };
            let now = self.now();
            self.clients.handle_frame(now, &room[..length]);
        }
    }

    fn send(&mut self, ends: &[End], by_address: &HashMap<Ipv4Addr, usize>) {
        while let Some((at, frame)) = self.waiting.pop_front() {
            if !ends[at].send(&frame) {
                self.waiting.push_front((at, frame));
                break;
            }
        }
        for mut frame in self.clients.frames() {
            let sender = frame.get(SENDER).and_then(|octets| <[u8; 4]>::try_from(octets).ok());
            let Some(at) = sender.and_then(|octets| by_address.get(&Ipv4Addr::from(octets)).copied()) else { continue };
            frame[LINK_SENDER].copy_from_slice(&ends[at].mac.0);
            if !self.waiting.is_empty() || !ends[at].send(&frame) {
                if self.waiting.len() >= WAITING {
                    self.waiting.pop_front();
                }
                self.waiting.push_back((at, frame));
            }
        }
    }
}

fn sleep(events: &mut [PollFd<'_>], span: Duration) -> io::Result<()> {
    let limit =
        Timespec { tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(span.subsec_nanos()) };
    match poll(events, Some(&limit)) {
        Err(error) if error != rustix::io::Errno::INTR => Err(error.into()),
        _ => Ok(()),
    }
}
