//! A recording as sessions: who asked whom what, and what was answered.
//!
//! Owns which frames belong together, from whose point of view a session is told, and which sessions can be played. Frames come
//! from a [`Capture`]; connections are followed by [`connection`](super::connection).
//!
//! A frame between two instances is in a recording twice, as either interface saw it. A session is told as its server's interface
//! saw it where that was recorded, for that one knows how long the server took; else as its client's did.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddrV4,
};

use lucarne_model::{Cidr, Moment, flow::Direction};

use super::{
    capture::{Capture, CaptureError, Frame},
    connection::{Connection, Followed},
    packet::{self, Content, Packet, Protocol},
};

#[derive(Debug)]
pub struct Recorded {
    /// In the order of their beginnings.
    pub sessions: Vec<Session>,
    pub left_out: LeftOut,
    /// Frames that hosts say they did not record.
    pub lost: u64,
    /// Where the recording breaks off. What was before that is there.
    pub damage: Option<CaptureError>,
}

/// What of a recording cannot be played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Connections that were open before.
    pub already_open: u64,
    /// Sessions with servers that are not in the network.
    pub to_outside: u64,
    /// Frames that hold no whole packet of IPv4.
    pub packets: u64,
}

#[derive(Clone, Debug)]
pub struct Session {
    pub origin: Origin,
    pub client: SocketAddrV4,
    pub server: SocketAddrV4,
    pub began: Moment,
    pub ended: Moment,
    pub talk: Talk,
    pub(super) protocol: Protocol,
}

/// Where a session's client was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Internet,
    Instance,
}

#[derive(Clone, Debug)]
pub enum Talk {
    Tcp(Connection),
    Udp(Datagrams),
    /// The client's packets of a protocol without ports, which are played as they are, and not compared.
    Packets(Vec<(Moment, Vec<u8>)>),
}

/// What was said over UDP between two ends.
#[derive(Clone, Debug, Default)]
pub struct Datagrams {
    pub sent: Vec<(Moment, Vec<u8>)>,
    pub answered: Vec<AnsweredDatagram>,
}

#[derive(Clone, Debug)]
pub struct AnsweredDatagram {
    pub at: Moment,
    pub octets: Vec<u8>,
    /// How many the client had sent before.
    pub after: usize,
}

/// Reads a recording of a network whose instances have their addresses in `network`.
pub fn read(octets: &[u8], network: Cidr) -> Recorded {
    let mut watch = Watch::default();
    let (mut lost, mut damage) = (0u64, None);
    for frame in Capture::new(octets) {
        match frame {
            Ok(frame) => {
                lost = lost.saturating_add(frame.lost);
                watch.take(&frame);
            }
            Err(error) => damage = Some(error),
        }
    }
    let (sessions, left_out) = watch.finish(network);
    Recorded { sessions, left_out, lost, damage }
}

/// Two ends as one interface saw them: the lesser one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Pair {
    interface: u32,
    protocol: Protocol,
    ends: [SocketAddrV4; 2],
}

/// All that is seen.
#[derive(Debug, Default)]
struct Watch {
    seen: Vec<Seen>,
    /// The last session of each pair.
    latest: HashMap<Pair, usize>,
    already_open: HashSet<[SocketAddrV4; 2]>,
    packets_left_out: u64,
}

/// A session as an interface saw it.
#[derive(Debug)]
struct Seen {
    protocol: Protocol,
    client: SocketAddrV4,
    server: SocketAddrV4,
    /// By the server's interface.
    at_server: bool,
    began: Moment,
    ended: Moment,
    talk: SeenTalk,
}

#[derive(Debug)]
enum SeenTalk {
    Tcp(Box<Followed>),
    Udp(Datagrams),
    Packets(Vec<(Moment, Vec<u8>)>),
}

impl Watch {
    fn take(&mut self, frame: &Frame<'_>) {
        let Some(packet) = packet::parse(frame.octets) else {
            self.packets_left_out += 1;
            return;
        };
        let (source, destination) = (packet.source, packet.destination);
        let ends = [source.min(destination), source.max(destination)];
        let pair = Pair { interface: frame.interface, protocol: packet.protocol(), ends };
        let known = self.latest.get(&pair).copied().filter(|at| !self.seen[*at].is_followed_by(&packet));
        let Some(at) = known.or_else(|| self.begin(pair, &packet, frame)) else {
            self.already_open.insert(ends);
            return;
        };
        let seen = &mut self.seen[at];
        seen.ended = seen.ended.max(frame.at);
        seen.take(&packet, frame.at);
    }

    /// None: it is not with this that a session begins.
    fn begin(&mut self, pair: Pair, packet: &Packet<'_>, frame: &Frame<'_>) -> Option<usize> {
        let talk = match packet.content {
            Content::Tcp(segment) if segment.opens && segment.acknowledged.is_none() => {
                SeenTalk::Tcp(Box::new(Followed::new(segment.sequence)))
            }
            Content::Tcp(_) => return None,
            Content::Udp(_) => SeenTalk::Udp(Datagrams::default()),
            Content::Other(_) => SeenTalk::Packets(Vec::new()),
        };
        self.seen.push(Seen {
            protocol: pair.protocol,
            client: packet.source,
            server: packet.destination,
            at_server: frame.direction == Some(Direction::Ingress),
            began: frame.at,
            ended: frame.at,
            talk,
        });
        self.latest.insert(pair, self.seen.len() - 1);
        Some(self.seen.len() - 1)
    }

    fn finish(self, network: Cidr) -> (Vec<Session>, LeftOut) {
        let already_open = self.already_open.len() as u64;
        let mut left_out = LeftOut { already_open, packets: self.packets_left_out, to_outside: 0 };
        // One of those that are the same session: the server's point of view goes before the client's.
        let mut told: BTreeMap<_, Seen> = BTreeMap::new();
        for seen in self.seen {
            let same = seen.identity();
            if told.get(&same).is_none_or(|other| seen.at_server && !other.at_server) {
                told.insert(same, seen);
            }
        }
        let (inside, outside): (Vec<Seen>, Vec<Seen>) =
            told.into_values().partition(|seen| network.contains(*seen.server.ip()));
        left_out.to_outside = outside.len() as u64;
        let mut sessions: Vec<Session> = inside.into_iter().map(|seen| seen.finish(network)).collect();
        sessions.sort_by_key(|session| (session.began, session.client, session.server));
        (sessions, left_out)
    }
}

impl Seen {
    /// Whether with this packet another session between the same ends begins.
    fn is_followed_by(&self, packet: &Packet<'_>) -> bool {
        let (SeenTalk::Tcp(followed), Content::Tcp(segment)) = (&self.talk, &packet.content) else { return false };
        segment.opens && segment.acknowledged.is_none() && followed.number != segment.sequence
    }

    fn take(&mut self, packet: &Packet<'_>, at: Moment) {
        let from_client = packet.source == self.client;
        match (&mut self.talk, packet.content) {
            (SeenTalk::Tcp(followed), Content::Tcp(segment)) => followed.take(from_client, &segment, at),
            (SeenTalk::Udp(talk), Content::Udp(octets)) if from_client => talk.sent.push((at, octets.to_vec())),
            (SeenTalk::Udp(talk), Content::Udp(octets)) => {
                let after = talk.sent.len();
                talk.answered.push(AnsweredDatagram { at, octets: octets.to_vec(), after });
            }
            (SeenTalk::Packets(packets), Content::Other(_)) if from_client => {
                packets.push((at, packet.octets.to_vec()));
            }
            _ => {}
        }
    }

    /// What it has in common with the same session as seen by another interface.
    fn identity(&self) -> (Protocol, SocketAddrV4, SocketAddrV4, u32) {
        let number = match &self.talk {
            SeenTalk::Tcp(followed) => followed.number,
            SeenTalk::Udp(_) | SeenTalk::Packets(_) => 0,
        };
        (self.protocol, self.client, self.server, number)
    }

    fn finish(self, network: Cidr) -> Session {
        let inside = network.contains(*self.client.ip());
        let talk = match self.talk {
            SeenTalk::Tcp(followed) => Talk::Tcp(followed.finish()),
            SeenTalk::Udp(talk) => Talk::Udp(talk),
            SeenTalk::Packets(packets) => Talk::Packets(packets),
        };
        let origin = if inside { Origin::Instance } else { Origin::Internet };
        let Self { protocol, client, server, began, ended, .. } = self;
        Session { origin, client, server, began, ended, talk, protocol }
    }
}
