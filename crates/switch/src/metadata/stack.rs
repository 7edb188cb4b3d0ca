//! The TCP side of the metadata service at one port: frames in, requests out, answers back as frames.
//!
//! Owns a `smoltcp` interface without neighbours (the frame's link header is cut off and put on here: there is only one
//! guest at a port), [`CONNECTIONS`] sockets, and their time limits. What is answered is [`super::router`]'s decision.

use std::{collections::VecDeque, fmt, net::Ipv4Addr, time::Duration};

use lucarne_model::{MacAddress, Moment};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant,
    wire::{HardwareAddress, IpCidr},
};

use super::{
    request::{self, Head, MAX_HEAD},
    router::Answer,
};

/// Connections that a guest may have at one time; more are refused.
pub(super) const CONNECTIONS: usize = 8;
/// The whole time that a connection may take.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Frames that may wait between two polls.
const WAITING: usize = 128;
const SERVICE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const HTTP: u16 = 80;
const RECEIVE_BUFFER: usize = 2048;
const SEND_BUFFER: usize = 4096;
const LINK_HEADER: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];

/// The service's TCP at one port.
pub(super) struct Stack {
    interface: Interface,
    link: Link,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
}

/// One socket and what went over it since it last listened.
struct Connection {
    socket: SocketHandle,
    received: Vec<u8>,
    answer: Vec<u8>,
    sent: usize,
    /// Set while it is in use.
    deadline: Option<Moment>,
}

impl Stack {
    /// `seed` is random; `mtu` is the largest IP packet sent.
    pub(super) fn new(seed: u64, mtu: usize) -> Self {
        let mut link = Link { arrived: VecDeque::new(), leaving: Vec::new(), mtu };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut link, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // There is room: an interface has at least one address.
            let _ = addresses.push(IpCidr::new(SERVICE.into(), 32));
        });
        // Every guest is reached over the link; on a link without neighbours the gateway is only a name.
        let _ = interface.routes_mut().add_default_ipv4_route(SERVICE);
        let mut sockets = SocketSet::new(Vec::with_capacity(CONNECTIONS));
        let connections = (0..CONNECTIONS).map(|_| Connection::listening(&mut sockets)).collect();
        Self { interface, link, sockets, connections }
    }

    /// Takes a frame; false when it is not IPv4 or too many wait.
    pub(super) fn handle_frame(&mut self, frame: &[u8]) -> bool {
        let fits = self.link.arrived.len() < WAITING && frame.get(12..14) == Some(&IPV4);
        if fits {
            self.link.arrived.push_back(frame[LINK_HEADER..].to_vec());
        }
        fits
    }

    /// Moves every connection on as far as it goes. `respond` is asked with what a client has sent so far.
    pub(super) fn poll(&mut self, now: Moment, respond: impl Fn(Head<'_>) -> Option<Answer>) {
        loop {
            self.interface.poll(instant(now), &mut self.link, &mut self.sockets);
            let mut moved = false;
            for connection in &mut self.connections {
                let socket = self.sockets.get_mut(connection.socket);
                moved |= connection.advance(socket, now, &respond);
            }
            if !moved {
                return;
            }
        }
    }

    /// The frames that have come to be sent to the guest, which has the address `guest`.
    pub(super) fn frames(&mut self, guest: MacAddress) -> impl Iterator<Item = Vec<u8>> + '_ {
        let header = move || [&guest.0[..], &MacAddress::ROUTER.0, &IPV4].concat();
        self.link.leaving.drain(..).map(move |packet| [header(), packet].concat())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.link.leaving.is_empty() && self.connections.iter().all(|connection| connection.deadline.is_none())
    }

    pub(super) fn next_poll(&mut self, now: Moment) -> Option<Moment> {
        let due = self.interface.poll_at(instant(now), &self.sockets);
        let due = due.map(|due| Moment(u64::try_from(due.total_micros()).unwrap_or_default()));
        self.connections.iter().filter_map(|connection| connection.deadline).chain(due).min()
    }
}

impl Connection {
    fn listening(sockets: &mut SocketSet<'static>) -> Self {
        let buffer = |size| SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(RECEIVE_BUFFER), buffer(SEND_BUFFER));
        // An acknowledgement must have left before a socket listens again.
        socket.set_ack_delay(None);
        listen(&mut socket);
        let (received, answer) = Default::default();
        Self { socket: sockets.add(socket), received, answer, sent: 0, deadline: None }
    }

    /// One step; whether there may be another at once.
    fn advance(&mut self, socket: &mut Socket<'_>, now: Moment, respond: &dyn Fn(Head<'_>) -> Option<Answer>) -> bool {
        match socket.state() {
            State::Listen => return false,
            // Waiting out the last segments of a finished exchange is the client's part here: a socket that waited would
            // refuse the ninth request within ten seconds, and cloud-init makes thirty.
            State::Closed | State::TimeWait => {
                listen(socket);
                (self.received, self.answer, self.sent, self.deadline) = Default::default();
                return true;
            }
            _ => {}
        }
        if now >= *self.deadline.get_or_insert(now.plus(TIME_LIMIT)) {
            socket.abort();
            return true;
        }
        self.read(socket, respond) | self.write(socket)
    }

    fn read(&mut self, socket: &mut Socket<'_>, respond: &dyn Fn(Head<'_>) -> Option<Answer>) -> bool {
        let before = self.received.len();
        while socket.can_recv() && self.answer.is_empty() {
            let room = MAX_HEAD - self.received.len();
            let taken = socket.recv(|octets| {
                let taken = octets.len().min(room);
                self.received.extend_from_slice(&octets[..taken]);
                (taken, taken)
            });
            if taken.is_err() || room == 0 {
                break;
            }
            if let Some(answer) = respond(request::parse(&self.received)) {
                socket.set_hop_limit(answer.token_ttl.map(|_| 1));
                self.answer = answer.to_octets();
            }
        }
        // A client that has said all that it will, and it was not a request, or that goes on behind one.
        if self.answer.is_empty() && !socket.may_recv() && socket.state() != State::SynReceived {
            socket.abort();
            return true;
        }
        self.received.len() != before
    }

    fn write(&mut self, socket: &mut Socket<'_>) -> bool {
        if self.answer.is_empty() || !socket.may_send() {
            return false;
        }
        let sent = socket.send_slice(&self.answer[self.sent..]).unwrap_or_default();
        self.sent += sent;
        let done = self.sent == self.answer.len();
        if done {
            socket.close();
        }
        sent > 0 || done
    }
}

/// Makes a socket wait for the next client, forgetting the last one without a word to it.
fn listen(socket: &mut Socket<'_>) {
    socket.abort();
    socket.set_hop_limit(None);
    // It cannot fail: the socket is closed and the port is not zero.
    let _ = socket.listen(HTTP);
}

fn instant(now: Moment) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.connections.iter().filter(|connection| connection.deadline.is_some()).count();
        f.debug_struct("Stack").field("connections", &used).field("waiting", &self.link.arrived.len()).finish()
    }
}

/// The interface's device: IP packets in two queues.
pub(super) struct Link {
    pub(super) arrived: VecDeque<Vec<u8>>,
    pub(super) leaving: Vec<Vec<u8>>,
    pub(super) mtu: usize,
}
pub(super) struct Arrived(Vec<u8>);
pub(super) struct Leaving<'a>(&'a mut Vec<Vec<u8>>);

impl Device for Link {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Leaving(&mut self.leaving)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        (self.leaving.len() < WAITING).then_some(Leaving(&mut self.leaving))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}
impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}
impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.push(packet);
        result
    }
}
