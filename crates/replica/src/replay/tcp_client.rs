//! One TCP connection to the duplicate: packets in and out, octets in and out.
//!
//! Owns a `smoltcp` interface with one socket, which does what a client's kernel does: handshake, numbers that follow the
//! duplicate's own, windows, retransmission. A stack for each connection costs a packet one look-up, however many there are. When
//! something is said is decided by [`Conversation`](super::conversation::Conversation).

use std::{fmt, net::SocketAddrV4};

use lucarne_model::{Moment, replay::SessionOpening};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant,
    wire::{HardwareAddress, IpCidr},
};

use super::link::Link;

/// What may wait to be read; it is read at once.
const RECEIVE_BUFFER: usize = 32 << 10;
/// What may be on its way; no larger than what will be said at all.
const SEND_BUFFER: usize = 32 << 10;

pub(crate) struct TcpClient {
    interface: Interface,
    link: Link,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    opening: SessionOpening,
    /// The client has closed or reset it.
    closed: bool,
}

impl TcpClient {
    /// Connects. `seed` is of the connection's own numbers; `mtu` is the largest packet sent; `says` is how much there is to say.
    pub(crate) fn new(now: Moment, ends: [SocketAddrV4; 2], seed: u64, mtu: usize, says: usize) -> Self {
        let [local, remote] = ends;
        let mut link = Link::new(mtu);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut link, instant(now));
        interface.update_ip_addrs(|addresses| {
            // There is room: an interface has at least one address.
            let _ = addresses.push(IpCidr::new((*local.ip()).into(), 32));
        });
        // Everyone is reached over the link; on one without neighbours the gateway is only a name.
        let _ = interface.routes_mut().add_default_ipv4_route(*local.ip());
        let buffer = |size| SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(RECEIVE_BUFFER), buffer(says.clamp(1, SEND_BUFFER)));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        // Refused are ports of 0 only, which no recorded packet of TCP has that was answered.
        let connected = socket.connect(interface.context(), (*remote.ip(), remote.port()), (*local.ip(), local.port()));
        let opening = if connected.is_ok() { SessionOpening::Unanswered } else { SessionOpening::Refused };
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        Self { interface, link, sockets, socket, opening, closed: false }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }
    fn state(&self) -> State {
        self.sockets.get::<Socket<'_>>(self.socket).state()
    }

    pub(crate) fn handle_packet(&mut self, packet: &[u8]) {
        self.link.arrived.push_back(packet.to_vec());
    }

    /// Takes what has come, sends what there is to send, and gives what was said to `hear`.
    pub(crate) fn poll(&mut self, now: Moment, mut hear: impl FnMut(&[u8])) {
        loop {
            self.interface.poll(instant(now), &mut self.link, &mut self.sockets);
            match self.state() {
                State::SynSent => {}
                State::Closed if self.opening == SessionOpening::Unanswered && !self.closed => {
                    self.opening = SessionOpening::Refused;
                }
                State::Closed => {}
                _ => self.opening = SessionOpening::Accepted,
            }
            let mut heard = false;
            let socket = self.socket();
            while socket.can_recv() {
                let taken = socket.recv(|octets| {
                    hear(octets);
                    (octets.len(), octets.len())
                });
                if taken.is_err() {
                    break;
                }
                heard = true;
            }
            if !heard && self.link.arrived.is_empty() {
                return;
            }
        }
    }

    /// How much of `octets` was taken to be sent.
    pub(crate) fn say(&mut self, octets: &[u8]) -> usize {
        let socket = self.socket();
        if socket.may_send() { socket.send_slice(octets).unwrap_or(0) } else { 0 }
    }

    pub(crate) fn finish(&mut self) {
        self.closed = true;
        self.socket().close();
    }

    pub(crate) fn reset(&mut self) {
        self.closed = true;
        self.socket().abort();
    }

    pub(crate) const fn opening(&self) -> SessionOpening {
        self.opening
    }
    /// The server will say no more.
    pub(crate) fn server_ended(&self) -> bool {
        let state = self.state();
        matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait) || state == State::Closed
    }
    /// Nothing will be said any more, by either side.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state(), State::Closed | State::TimeWait)
    }
    pub(crate) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Packets to be sent.
    pub(crate) fn packets(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.link.leaving.drain(..)
    }

    pub(crate) fn next_poll(&mut self, now: Moment) -> Option<Moment> {
        let due = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Moment(u64::try_from(due.total_micros()).unwrap_or_default()))
    }
}

impl fmt::Debug for TcpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpClient").field("state", &self.state()).field("opening", &self.opening).finish()
    }
}

fn instant(now: Moment) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}
