//! The asking of a load: clients against a duplicate, as a state machine over frames and time.
//!
//! Owns which requests are open, and from which ports they are asked. When one is due is the word of [`Arrivals`], what its answer is
//! that of [`Request`]; the report is that of [`Tally`]. As of replays: the caller gives frames that came, asks again at the time that
//! it was told, and sends what there is to send; nothing here waits or knows what time it is.

use std::{
    collections::{BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use lucarne_model::{
    MacAddress, Moment,
    load::{LoadReport, LoadTerms},
};

use super::{
    arrivals::{Arrival, Arrivals},
    request::{Ask, Outcome, Request},
    tally::Tally,
};
use crate::replay::packet::{self, Content, Packet};

/// Requests at one time, with those whose end is not heard yet: each has buffers of its own. What is more begins late, which counts
/// as latency, or not at all.
const AT_ONE_TIME: usize = 2048;
/// How long the stack of a connection that is over answers what comes late.
const LINGER: Duration = Duration::from_secs(1);
/// Ports that are asked from.
const FIRST_PORT: u16 = 1024;
const PORTS: usize = (u16::MAX - FIRST_PORT) as usize + 1;
/// Changes a number into another that shows nothing of it.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What is asked, and by whom.
#[derive(Clone, Debug)]
pub struct Order {
    pub terms: LoadTerms,
    /// Who is asked.
    pub address: Ipv4Addr,
    /// The clients' own; they have them in turn. There is at least one.
    pub sources: Vec<Ipv4Addr>,
    /// The largest packet that the network carries.
    pub mtu: usize,
    /// From which the connections' own numbers are made.
    pub seed: u64,
}

#[derive(Debug)]
pub struct Asking {
    order: Order,
    server: SocketAddrV4,
    ask: Ask,
    arrivals: Arrivals,
    live: HashMap<u64, Live>,
    by_end: HashMap<SocketAddrV4, u64>,
    /// When each of those that live is to be polled.
    timers: BTreeSet<(Moment, u64)>,
    /// The port that each source has used last.
    cursors: HashMap<Ipv4Addr, u16>,
    begun: u64,
    tally: Tally,
    leaving: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Live {
    arrival: Arrival,
    end: SocketAddrV4,
    request: Request,
    /// What of it was counted.
    counted: (u64, u64),
    timer: Option<Moment>,
    /// When it was over.
    over: Option<Moment>,
}

impl Asking {
    /// The first request is due when it begins.
    pub fn new(order: Order, began: Moment) -> Self {
        let server = SocketAddrV4::new(order.address, order.terms.port);
        let ask = Ask::new(&order.terms, order.address);
        let (arrivals, tally) = (Arrivals::new(&order.terms, began), Tally::new(began));
        let (live, by_end, timers, cursors, leaving) = Default::default();
        Self { order, server, ask, arrivals, live, by_end, timers, cursors, begun: 0, tally, leaving }
    }

    /// What came of it so far.
    pub fn report(&self) -> LoadReport {
        self.tally.report()
    }

    /// Frames to be sent, in order.
    pub fn frames(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.leaving.drain(..)
    }

    /// Takes a frame that came from the duplicate.
    pub fn handle_frame(&mut self, now: Moment, frame: &[u8]) {
        let Some(packet) = packet::parse(frame) else { return };
        if let Some(own) = packet::refused_datagram(&packet, self.server) {
            self.with(now, own, Request::handle_refusal);
            return;
        }
        if packet.source != self.server {
            return;
        }
        self.with(now, packet.destination, |request| match packet {
            Packet { content: Content::Udp(octets), .. } => request.handle_packet(&[], Some(octets)),
            Packet { content: Content::Tcp(_), octets, .. } => request.handle_packet(octets, None),
            Packet { content: Content::Other(_), .. } => {}
        });
    }

    /// Tells the request that is asked from there, if there is one, and moves it on.
    fn with(&mut self, now: Moment, end: SocketAddrV4, tell: impl FnOnce(&mut Request)) {
        let Some(id) = self.by_end.get(&end).copied() else { return };
        let Some(live) = self.live.get_mut(&id) else { return };
        tell(&mut live.request);
        self.move_on(now, id);
    }

    /// Does what is due, and tells when to ask again; none when everything is over.
    pub fn poll(&mut self, now: Moment) -> Option<Moment> {
        self.tally.elapse(now);
        loop {
            let due = self.timers.first().copied().filter(|(due, _)| *due <= now);
            if let Some((_, id)) = due {
                self.move_on(now, id);
            } else if !self.begin_next(now) {
                break;
            }
        }
        if now >= self.arrivals.end() {
            let left = self.arrivals.give_up();
            self.tally.unsent(left);
        }
        let has_room = self.live.len() < AT_ONE_TIME;
        let next = self.arrivals.next().filter(|_| has_room);
        // The end is a time of its own: what waits for room until then is given up.
        let end = Some(self.arrivals.end()).filter(|end| now < *end);
        self.timers.first().map(|(due, _)| *due).into_iter().chain(next).chain(end).min()
    }

    /// Begins the request that is due; whether there was one.
    fn begin_next(&mut self, now: Moment) -> bool {
        if self.live.len() >= AT_ONE_TIME {
            return false;
        }
        let Some(arrival) = self.arrivals.take(now) else { return false };
        let source = self.order.sources[arrival.client as usize % self.order.sources.len().max(1)];
        let end = self.free_end(source);
        let id = self.begun;
        self.begun += 1;
        let seed = self.order.seed.wrapping_add(id.wrapping_mul(SPREAD));
        let request = self.ask.begin(now, [end, self.server], seed, self.order.mtu);
        self.tally.sent(now, arrival.due);
        self.by_end.insert(end, id);
        self.live.insert(id, Live { arrival, end, request, counted: (0, 0), timer: None, over: None });
        self.move_on(now, id);
        true
    }

    /// The source's port whose last use is longest ago. One is free: fewer requests live than there are ports.
    fn free_end(&mut self, source: Ipv4Addr) -> SocketAddrV4 {
        let cursor = self.cursors.entry(source).or_insert(FIRST_PORT + (self.order.seed % PORTS as u64) as u16);
        loop {
            *cursor = cursor.checked_add(1).unwrap_or(FIRST_PORT);
            let end = SocketAddrV4::new(source, *cursor);
            if !self.by_end.contains_key(&end) {
                return end;
            }
        }
    }

    /// Moves a request on, and has what comes of it sent, told, and ended.
    fn move_on(&mut self, now: Moment, id: u64) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let outcome: Option<Outcome> = live.request.poll(now);
        if live.over.is_none()
            && let Some(outcome) = outcome
        {
            live.over = Some(now);
            live.request.finish(now, outcome);
            self.tally.ended(now, live.arrival.due, outcome);
            self.arrivals.free(live.arrival.client, now, outcome.is_ok());
        }
        live.request.take_packets(|packet| self.leaving.push(packet::frame(MacAddress::ROUTER, &packet)));
        let (said, heard) = live.request.octets();
        let before = std::mem::replace(&mut live.counted, (said, heard));
        self.tally.octets(said - before.0, heard - before.1);
        let lingers = live.over.map(|over| over.plus(LINGER));
        let is_gone = live.over.is_some() && live.request.is_gone() || lingers.is_some_and(|end| end <= now);
        let timer = live.request.next_poll(now, live.over.is_some()).into_iter().chain(lingers).min();
        // What is due at once was done: it waits for something else.
        let timer = timer.map(|timer| timer.max(now.plus(Duration::from_micros(1))));
        if let Some(before) = std::mem::replace(&mut live.timer, timer) {
            self.timers.remove(&(before, id));
        }
        if is_gone {
            self.by_end.remove(&live.end);
            self.live.remove(&id);
        } else {
            self.timers.extend(timer.map(|timer| (timer, id)));
        }
    }
}
