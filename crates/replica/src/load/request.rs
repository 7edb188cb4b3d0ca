//! One request: what is said, and what counts as its answer.
//!
//! Owns the three kinds. Connections have the kernel of replays' clients ([`TcpClient`]), heads of HTTP their reader. Whether a server
//! is slow is for the report to say: here is only a time after which nothing is waited for.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use lucarne_model::{
    Moment,
    load::{LoadKind, LoadTerms},
    replay::SessionOpening,
};

use crate::replay::{http::Reader, packet, tcp_client::TcpClient};

/// How long an answer is waited for, all of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What came of it.
pub(super) type Outcome = Result<(), Failure>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Refused,
    Reset,
    TimedOut,
    Status(u16),
    Broken,
}

/// What is said with each request, made once.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) kind: LoadKind,
    octets: Arc<[u8]>,
}

#[derive(Debug)]
pub(super) struct Request {
    ask: Ask,
    deadline: Moment,
    said: usize,
    heard: u64,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Connection { client: Box<TcpClient>, reader: Reader },
    Datagram { leaving: Option<Vec<u8>>, refused: bool },
}

impl Ask {
    pub(super) fn new(terms: &LoadTerms, address: Ipv4Addr) -> Self {
        let mut content = vec![b'x'; terms.size as usize];
        // Servers that read lines have a whole one.
        if let Some(last) = content.last_mut() {
            *last = b'\n';
        }
        let octets = match terms.kind {
            LoadKind::Tcp | LoadKind::Udp => content,
            LoadKind::Http => {
                let path = terms.path.as_deref().unwrap_or("/");
                let method = if content.is_empty() { "GET" } else { "POST" };
                let port = terms.port;
                let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}:{port}\r\n");
                head += "User-Agent: lucarne-load\r\nAccept: */*\r\nConnection: close\r\n";
                if !content.is_empty() {
                    head += &format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", content.len());
                }
                [head.as_bytes(), b"\r\n", &content].concat()
            }
        };
        Self { kind: terms.kind, octets: octets.into() }
    }

    pub(super) fn begin(&self, now: Moment, ends: [SocketAddrV4; 2], seed: u64, mtu: usize) -> Request {
        let part = match self.kind {
            LoadKind::Http | LoadKind::Tcp => {
                let client = Box::new(TcpClient::new(now, ends, seed, mtu, self.octets.len()));
                Part::Connection { client, reader: Reader::of_answers(Vec::new()) }
            }
            LoadKind::Udp => {
                let leaving = Some(packet::datagram(ends[0], ends[1], &self.octets));
                Part::Datagram { leaving, refused: false }
            }
        };
        Request { ask: self.clone(), deadline: now.plus(PATIENCE), said: 0, heard: 0, part }
    }
}

impl Request {
    /// Takes a packet of its connection, or what a datagram carries.
    pub(super) fn handle_packet(&mut self, packet: &[u8], datagram: Option<&[u8]>) {
        match (&mut self.part, datagram) {
            (Part::Connection { client, .. }, None) => client.handle_packet(packet),
            // An empty datagram is an answer too.
            (Part::Datagram { .. }, Some(octets)) => self.heard += octets.len() as u64 + 1,
            _ => {}
        }
    }

    /// Its host has said that nobody listens.
    pub(super) const fn handle_refusal(&mut self) {
        if let Part::Datagram { refused, .. } = &mut self.part {
            *refused = true;
        }
    }

    /// Moves it on as far as it goes, and tells what came of it when that is known.
    pub(super) fn poll(&mut self, now: Moment) -> Option<Outcome> {
        self.exchange(now);
        let outcome = match &self.part {
            Part::Connection { client, reader } => self.judge(client, reader),
            Part::Datagram { refused: true, .. } => Some(Err(Failure::Refused)),
            Part::Datagram { .. } => (self.heard > 0).then_some(Ok(())),
        };
        outcome.or_else(|| (self.deadline <= now).then_some(Err(Failure::TimedOut)))
    }

    /// Says what can be said, and hears what there is.
    fn exchange(&mut self, now: Moment) {
        let Self { ask, said, heard, part, .. } = self;
        let Part::Connection { client, reader } = part else { return };
        loop {
            client.poll(now, |octets| {
                *heard += octets.len() as u64;
                if ask.kind == LoadKind::Http && reader.messages.is_empty() {
                    reader.take(octets, now);
                }
            });
            let is_open = client.opening() == SessionOpening::Accepted && !client.is_closed();
            let taken = if is_open { client.say(&ask.octets[*said..]) } else { 0 };
            *said += taken;
            if taken == 0 {
                break;
            }
        }
        if ask.kind == LoadKind::Http && client.server_ended() && reader.messages.is_empty() {
            reader.end(!client.is_over());
        }
    }

    fn judge(&self, client: &TcpClient, reader: &Reader) -> Option<Outcome> {
        match client.opening() {
            SessionOpening::Unanswered => return None,
            SessionOpening::Refused => return Some(Err(Failure::Refused)),
            SessionOpening::Accepted => {}
        }
        let answer = match self.ask.kind {
            LoadKind::Http => reader.messages.first().map(|answer| match answer.status {
                200..300 => Ok(()),
                status => Err(Failure::Status(status)),
            }),
            LoadKind::Tcp | LoadKind::Udp => (self.ask.octets.is_empty() || self.heard > 0).then_some(Ok(())),
        };
        let failure = || {
            // Nobody but the server can have ended it yet.
            if client.is_over() {
                return Some(Err(Failure::Reset));
            }
            (reader.broken || client.server_ended()).then_some(Err(Failure::Broken))
        };
        answer.or_else(failure)
    }

    /// Ends it after its outcome: in order where it was answered.
    pub(super) fn finish(&mut self, now: Moment, outcome: Outcome) {
        if let Part::Connection { client, .. } = &mut self.part {
            match outcome {
                Ok(()) | Err(Failure::Status(_)) => client.finish(),
                Err(_) => client.reset(),
            }
            client.poll(now, |_| {});
        }
    }

    /// Nothing more is to be said, not even that its end was heard.
    pub(super) fn is_gone(&self) -> bool {
        match &self.part {
            Part::Connection { client, .. } => client.is_over(),
            Part::Datagram { .. } => true,
        }
    }

    /// What is to be sent. Content that is sent is counted.
    pub(super) fn take_packets(&mut self, mut send: impl FnMut(Vec<u8>)) {
        match &mut self.part {
            Part::Connection { client, .. } => client.packets().for_each(send),
            Part::Datagram { leaving, .. } => {
                if let Some(packet) = leaving.take() {
                    self.said = self.ask.octets.len();
                    send(packet);
                }
            }
        }
    }

    /// Octets said and heard.
    pub(super) const fn octets(&self) -> (u64, u64) {
        let heard = match self.part {
            Part::Connection { .. } => self.heard,
            // An empty one was counted as one octet.
            Part::Datagram { .. } => self.heard.saturating_sub(1),
        };
        (self.said as u64, heard)
    }

    /// When it is to be polled next.
    pub(super) fn next_poll(&mut self, now: Moment, is_over: bool) -> Option<Moment> {
        let stack = match &mut self.part {
            Part::Connection { client, .. } => client.next_poll(now),
            Part::Datagram { .. } => None,
        };
        let deadline = (!is_over).then_some(self.deadline);
        stack.into_iter().chain(deadline).min()
    }
}
