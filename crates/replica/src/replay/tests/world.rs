//! A duplicate that is made up: a server with a TCP stack of its own, behind a network that loses, delays and reorders.
//!
//! What it answers follows from the request alone. A request is a line; `NUMBER LENGTH` in it is answered with that many octets.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use lucarne_model::{MacAddress, Moment, replay::ReplayReport};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant,
    wire::{HardwareAddress, IpCidr},
};

use super::super::{
    link::Link,
    packet::{self, Content},
    player::Player,
};
use crate::clients::Clients;

pub(crate) type Answering = fn(&[u8]) -> Option<Vec<u8>>;

/// What the network does to frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Of a hundred frames.
    pub(crate) lost: u64,
    pub(crate) delay_micros: u64,
    /// Up to so much more, for each frame alone.
    pub(crate) jitter_micros: u64,
    pub(crate) seed: u64,
    /// How much later than it wishes the player is asked.
    pub(crate) asked_late_micros: u64,
}

pub(crate) const FAIR: Weather =
    Weather { lost: 0, delay_micros: 100, jitter_micros: 0, seed: 1, asked_late_micros: 0 };

/// A server with a stack for each client's end: one that takes a repeated SYN for another's would answer twice.
pub(crate) struct Server {
    script: Script,
    stacks: BTreeMap<SocketAddrV4, Stack>,
    pub(super) saw_reset: bool,
}

struct Stack {
    interface: Interface,
    link: Link,
    sockets: SocketSet<'static>,
    connection: Connection,
}

/// What it says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    /// To whoever connects.
    pub(crate) greeting: &'static [u8],
    /// What ends a request.
    pub(crate) until: &'static [u8],
    /// To a request; none: it says no more.
    pub(crate) answers: Answering,
}

struct Connection {
    socket: SocketHandle,
    received: Vec<u8>,
    answer: Vec<u8>,
    greeted: bool,
}

const PORT: u16 = 80;
const MTU: usize = 1500;

impl Server {
    pub(crate) fn new(script: Script) -> Self {
        Self { script, stacks: BTreeMap::new(), saw_reset: false }
    }

    fn handle(&mut self, now: Moment, frame: &[u8]) -> Vec<Vec<u8>> {
        let packet = packet::parse(frame).unwrap();
        match packet.content {
            Content::Udp(octets) => {
                let answer = (self.script.answers)(octets);
                answer.map(|answer| packet::datagram(packet.destination, packet.source, &answer)).into_iter().collect()
            }
            Content::Tcp(segment) => {
                self.saw_reset |= segment.resets;
                let new = || Stack::new(*packet.destination.ip());
                let stack = self.stacks.entry(packet.source).or_insert_with(new);
                stack.link.arrived.push_back(packet.octets.to_vec());
                stack.work(now, &self.script)
            }
            Content::Other(_) => Vec::new(),
        }
    }

    /// Does what is due.
    fn work(&mut self, now: Moment) -> Vec<Vec<u8>> {
        let due = self.stacks.values_mut().filter_map(|stack| {
            let is_due = stack.next(now).is_some_and(|next| next <= now);
            is_due.then(|| stack.work(now, &self.script))
        });
        due.flatten().collect()
    }

    fn next(&mut self, now: Moment) -> Option<Moment> {
        self.stacks.values_mut().filter_map(|stack| stack.next(now)).min()
    }
}

impl Stack {
    fn new(address: Ipv4Addr) -> Self {
        let mut link = Link::new(MTU);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = 99;
        let mut interface = Interface::new(config, &mut link, Instant::ZERO);
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(address.into(), 32)).unwrap());
        interface.routes_mut().add_default_ipv4_route(address).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let connection = Connection::listening(&mut sockets);
        Self { interface, link, sockets, connection }
    }

    /// Works until nothing moves.
    fn work(&mut self, now: Moment, script: &Script) -> Vec<Vec<u8>> {
        let instant = Instant::from_micros(now.as_micros() as i64);
        loop {
            self.interface.poll(instant, &mut self.link, &mut self.sockets);
            if !self.connection.serve(self.sockets.get_mut(self.connection.socket), script) {
                return std::mem::take(&mut self.link.leaving);
            }
        }
    }

    fn next(&mut self, now: Moment) -> Option<Moment> {
        let at = self.interface.poll_at(Instant::from_micros(now.as_micros() as i64), &self.sockets)?;
        Some(Moment(at.total_micros() as u64))
    }
}

impl Connection {
    fn listening(sockets: &mut SocketSet<'static>) -> Self {
        let buffer = || SocketBuffer::new(vec![0; 16 << 10]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.listen(PORT).unwrap();
        Self { socket: sockets.add(socket), received: Vec::new(), answer: Vec::new(), greeted: false }
    }

    fn serve(&mut self, socket: &mut Socket<'static>, script: &Script) -> bool {
        let mut moved = false;
        if socket.may_send() && !std::mem::replace(&mut self.greeted, true) {
            self.answer.extend_from_slice(script.greeting);
        }
        while socket.can_recv() {
            socket.recv(|octets| (octets.len(), self.received.extend_from_slice(octets))).unwrap();
            moved = true;
        }
        let length = script.until.len();
        while let Some(end) = self.received.windows(length).position(|window| window == script.until) {
            let request: Vec<u8> = self.received.drain(..end + length).collect();
            match (script.answers)(&request) {
                Some(octets) => self.answer.extend(octets),
                None => socket.close(),
            }
            moved = true;
        }
        if !self.answer.is_empty() && socket.may_send() {
            let sent = socket.send_slice(&self.answer).unwrap();
            self.answer.drain(..sent);
            moved |= sent > 0;
        }
        if socket.state() == State::CloseWait && self.answer.is_empty() {
            socket.close();
            moved = true;
        }
        moved
    }
}

/// A network between a player and a server.
struct Air {
    weather: Weather,
    /// By when they arrive; whether at the player.
    flying: BTreeMap<(Moment, u64), (bool, Vec<u8>)>,
    sent: u64,
    chance: u64,
}

impl Air {
    fn draw(&mut self, below: u64) -> u64 {
        // Knuth's MMIX generator.
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % below
    }

    fn send(&mut self, now: Moment, to_player: bool, frames: impl IntoIterator<Item = Vec<u8>>) {
        for frame in frames {
            self.sent += 1;
            let lost = self.draw(100) < self.weather.lost;
            let delay = self.weather.delay_micros + self.draw(self.weather.jitter_micros + 1);
            if !lost {
                self.flying.insert((now.plus(Duration::from_micros(delay)), self.sent), (to_player, frame));
            }
        }
    }
}

/// When it begins.
pub(crate) const BEGINNING: Moment = Moment::from_secs(1_768_500_000);

/// Plays everything, and tells how it went and how long it took.
pub(super) fn play(player: &mut Player, server: &mut Server, weather: Weather) -> (Vec<ReplayReport>, Duration) {
    let took = run(player, server, weather);
    (player.reports(), took)
}

/// Has clients do all that they do, and tells how long it took.
pub(crate) fn run(player: &mut (impl Clients + Debug), server: &mut Server, weather: Weather) -> Duration {
    let mut now = BEGINNING;
    let mut air = Air { weather, flying: BTreeMap::new(), sent: 0, chance: weather.seed };
    let framed = |packets: Vec<Vec<u8>>| packets.into_iter().map(|it| packet::frame(MacAddress::ROUTER, &it));
    for _ in 0..2_000_000 {
        let asked = player.poll(now);
        air.send(now, false, player.frames());
        let Some(asked) = asked else {
            // What was sent last arrives too.
            let last = std::mem::take(&mut air.flying).into_values().filter(|(to_player, _)| !to_player);
            last.for_each(|(_, frame)| drop(server.handle(now, &frame)));
            return now.since(BEGINNING);
        };
        air.send(now, true, framed(server.work(now)));
        let asked = asked.plus(Duration::from_micros(weather.asked_late_micros));
        let arrives = air.flying.first_key_value().map(|((at, _), _)| *at);
        let next = [Some(asked), arrives, server.next(now).map(|at| at.max(Moment(now.0 + 1)))];
        now = next.into_iter().flatten().min().unwrap().max(now);
        while let Some(entry) = air.flying.first_entry().filter(|entry| entry.key().0 <= now) {
            let (to_player, frame) = entry.remove();
            if to_player {
                player.handle_frame(now, &frame);
                air.send(now, false, player.frames());
            } else {
                let answers = server.handle(now, &frame);
                air.send(now, true, framed(answers));
            }
        }
    }
    panic!("it does not end: {player:?}");
}
