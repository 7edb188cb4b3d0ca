//! A made-up capture: what a link carries when 100,000 conversations go over it in a minute, as a pcap file.
//!
//! Owns the mix ([`MIX`]) and the octets of the frames, drawn from one seed, so that every run and every program reads the
//! same file. TCP has sequence numbers, timestamps (RFC 7323), retransmissions and closings; checksums of TCP, UDP and ICMP
//! are left zero, because no flow meter reads them.

use std::io::{self, Write};

use crate::dice::Dice;

/// Kinds of conversations, and of how many in a hundred.
pub const MIX: [(Kind, u64); 5] =
    [(Kind::Visit, 42), (Kind::Lookup, 30), (Kind::Session, 8), (Kind::Scan, 15), (Kind::Ping, 5)];

/// What a conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTPS: a request of some 600 octets, an answer of some 5,000, closed by both.
    Visit,
    /// DNS: a question and its answer.
    Lookup,
    /// TCP with some 25 questions and answers of hundreds of octets; half of them are still open at the end.
    Session,
    /// A SYN that is answered with a reset, or not at all.
    Scan,
    /// One to five echoes.
    Ping,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub conversations: u64,
    pub packets: u64,
    /// Of IP packets.
    pub bytes: u64,
}

/// The minute begins here: 2026-01-15.
const SINCE: u64 = 1_768_478_400;
/// Microseconds in which conversations begin.
const SPAN: u64 = 60_000_000;
const SERVERS: u64 = 2_000;
const CLIENTS: u64 = 40_000;
/// Octets of data in a full segment, with timestamps beside them.
const SEGMENT: u32 = 1448;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const ETHERNET: usize = 14;

/// Who takes part in a conversation; the first began it.
#[derive(Clone, Copy)]
struct Ends {
    addresses: [u32; 2],
    ports: [u16; 2],
    protocol: u8,
}

/// A packet of a conversation.
#[derive(Clone, Copy)]
struct Event {
    at: u64,
    talk: u32,
    /// Which of the two ends sent it.
    from: u8,
    flags: u8,
    data: u16,
    sequence: u32,
    acknowledgement: u32,
    stamps: [u32; 2],
}

/// Writes a capture of so many conversations.
pub fn write(seed: u64, conversations: u32, to: &mut impl Write) -> io::Result<Totals> {
    let mut dice = Dice(seed);
    let (mut talks, mut events) = (Vec::new(), Vec::new());
    for talk in 0..conversations {
        let (kind, ends) = begin(&mut dice);
        talks.push(ends);
        converse(kind, talk, &mut dice, &mut events);
    }
    events.sort_by_key(|event| event.at);
    let mut header = Vec::new();
    // Magic, version 2.4, no correction, the longest frame, Ethernet.
    for word in [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 262_144, 1u32] {
        header.extend(word.to_le_bytes());
    }
    to.write_all(&header)?;
    let mut totals = Totals { conversations: conversations.into(), ..Totals::default() };
    let mut frame = Vec::new();
    for event in &events {
        lay_out(event, &talks[event.talk as usize], &mut frame);
        let length = frame.len() as u32;
        for word in [(SINCE + event.at / 1_000_000) as u32, (event.at % 1_000_000) as u32, length, length] {
            to.write_all(&word.to_le_bytes())?;
        }
        to.write_all(&frame)?;
        totals.packets += 1;
        totals.bytes += u64::from(length) - ETHERNET as u64;
    }
    to.flush()?;
    Ok(totals)
}

fn begin(dice: &mut Dice) -> (Kind, Ends) {
    let mut roll = dice.below(100);
    let found = MIX.iter().find(|(_, share)| {
        let is_it = roll < *share;
        roll = roll.saturating_sub(*share);
        is_it
    });
    let kind = found.map_or(Kind::Ping, |(kind, _)| *kind);
    let client = 0x0a00_0000 + dice.below(CLIENTS) as u32;
    let server = 0xc633_0000 + dice.favourite(SERVERS) as u32;
    let service = match kind {
        Kind::Visit => 443,
        Kind::Lookup => 53,
        Kind::Session => 5432,
        Kind::Scan => [22, 23, 80, 445, 3389, 8080, 5900, 6379][dice.below(8) as usize],
        Kind::Ping => 0,
    };
    let protocol = match kind {
        Kind::Lookup => 17,
        Kind::Ping => 1,
        _ => 6,
    };
    let from = 32_768 + dice.below(28_232) as u16;
    (kind, Ends { addresses: [client, server], ports: [from, service], protocol })
}

fn converse(kind: Kind, talk: u32, dice: &mut Dice, events: &mut Vec<Event>) {
    let mut wire = Wire::new(talk, dice.below(SPAN), dice, events);
    match kind {
        Kind::Visit => {
            wire.open();
            let (request, answer) = (wire.dice.spread(600.0), wire.dice.spread(5000.0));
            wire.ask(request as u32, answer as u32);
            wire.close();
        }
        Kind::Session => {
            wire.open();
            for _ in 0..wire.dice.spread(25.0).min(400) {
                let (question, answer) = (wire.dice.spread(200.0), wire.dice.spread(700.0));
                wire.ask(question as u32, answer as u32);
                wire.at += wire.dice.spread(400_000.0);
            }
            if wire.dice.below(2) == 0 {
                wire.close();
            }
        }
        Kind::Scan => {
            wire.send(0, SYN, 0);
            if wire.dice.below(2) == 0 {
                wire.at += wire.trip;
                wire.send(1, RST | ACK, 0);
            }
        }
        Kind::Lookup => {
            let (question, answer) = (30 + wire.dice.below(40), 60 + wire.dice.below(300));
            wire.exchange(question as u16, answer as u16);
        }
        Kind::Ping => {
            for _ in 0..1 + wire.dice.below(5) {
                wire.exchange(56, 56);
                wire.at += 1_000_000;
            }
        }
    }
}

/// One conversation while it is made.
struct Wire<'a> {
    talk: u32,
    /// Microseconds since the minute began.
    at: u64,
    /// The way there and back.
    trip: u64,
    next: [u32; 2],
    stamps: [u32; 2],
    dice: &'a mut Dice,
    events: &'a mut Vec<Event>,
}

impl<'a> Wire<'a> {
    fn new(talk: u32, at: u64, dice: &'a mut Dice, events: &'a mut Vec<Event>) -> Self {
        let next = [dice.roll() as u32, dice.roll() as u32];
        let trip = dice.spread(20_000.0);
        Self { talk, at, trip, next, stamps: [0; 2], dice, events }
    }

    fn send(&mut self, from: usize, flags: u8, data: u16) {
        let now = (self.at / 1000) as u32 + 7_000_000 * (1 + from as u32);
        self.stamps[from] = now;
        self.events.push(Event {
            at: self.at,
            talk: self.talk,
            from: from as u8,
            flags,
            data,
            sequence: self.next[from],
            acknowledgement: if flags & ACK == 0 { 0 } else { self.next[1 - from] },
            stamps: [now, self.stamps[1 - from]],
        });
        self.next[from] = self.next[from].wrapping_add(u32::from(data) + u32::from(flags & (SYN | FIN) != 0));
    }

    fn open(&mut self) {
        self.send(0, SYN, 0);
        self.at += self.trip;
        self.send(1, SYN | ACK, 0);
        self.at += 40;
        self.send(0, ACK, 0);
    }

    /// A question and its answer, acknowledged at every second segment; one segment in a hundred is lost and sent again.
    fn ask(&mut self, question: u32, answer: u32) {
        self.stream(0, question);
        self.at += self.trip;
        self.stream(1, answer);
    }

    fn stream(&mut self, from: usize, mut left: u32) {
        let mut count = 0;
        while left > 0 {
            let data = left.min(SEGMENT);
            left -= data;
            count += 1;
            self.send(from, if left == 0 { PSH | ACK } else { ACK }, data as u16);
            if self.dice.below(100) == 0 {
                self.at += 2 * self.trip;
                self.next[from] = self.next[from].wrapping_sub(data);
                self.send(from, PSH | ACK, data as u16);
            }
            self.at += 12;
            if count % 2 == 0 || left == 0 {
                self.send(1 - from, ACK, 0);
                self.at += 5;
            }
        }
    }

    fn close(&mut self) {
        self.at += 100;
        self.send(0, FIN | ACK, 0);
        self.at += self.trip;
        self.send(1, FIN | ACK, 0);
        self.at += 40;
        self.send(0, ACK, 0);
    }

    /// Without TCP.
    fn exchange(&mut self, question: u16, answer: u16) {
        self.send(0, 0, question);
        self.at += self.trip;
        self.send(1, 0, answer);
    }
}

/// The frame of an event, in `frame`.
fn lay_out(event: &Event, ends: &Ends, frame: &mut Vec<u8>) {
    let (from, to) = (usize::from(event.from), usize::from(1 - event.from));
    frame.clear();
    frame.extend([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
    frame.extend([0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, ends.protocol, 0, 0]);
    frame.extend(ends.addresses[from].to_be_bytes());
    frame.extend(ends.addresses[to].to_be_bytes());
    match ends.protocol {
        6 => lay_out_tcp(event, [ends.ports[from], ends.ports[to]], frame),
        17 => {
            for word in [ends.ports[from], ends.ports[to], 8 + event.data, 0] {
                frame.extend(word.to_be_bytes());
            }
        }
        _ => {
            let [high, low] = ends.ports[0].to_be_bytes();
            frame.extend([if from == 0 { 8 } else { 0 }, 0, 0, 0, high, low, 0, 1]);
        }
    }
    frame.resize(frame.len() + usize::from(event.data), 0);
    let length = (frame.len() - ETHERNET) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    let words = frame[ETHERNET..ETHERNET + 20].chunks(2);
    let sum: u32 = words.map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// The header with its timestamps: kind 8, 10 octets, behind two that only align it.
fn lay_out_tcp(event: &Event, ports: [u16; 2], frame: &mut Vec<u8>) {
    frame.extend(ports.into_iter().flat_map(u16::to_be_bytes));
    frame.extend(event.sequence.to_be_bytes());
    frame.extend(event.acknowledgement.to_be_bytes());
    frame.extend([8 << 4, event.flags, 0xfa, 0xf0, 0, 0, 0, 0, 1, 1, 8, 10]);
    frame.extend(event.stamps.into_iter().flat_map(u32::to_be_bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_capture_and_its_frames_are_as_long_as_they_say() {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let totals = write(7, 300, &mut first).unwrap();
        assert_eq!(write(7, 300, &mut second).unwrap(), totals);
        assert_eq!(first, second);
        let (mut at, mut packets, mut bytes) = (24, 0, 0);
        while at < first.len() {
            let length = u32::from_le_bytes(first[at + 8..at + 12].try_into().unwrap()) as usize;
            let frame = &first[at + 16..at + 16 + length];
            let said = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            assert_eq!(said, length - ETHERNET);
            (at, packets, bytes) = (at + 16 + length, packets + 1, bytes + said as u64);
        }
        assert_eq!((packets, bytes), (totals.packets, totals.bytes));
    }
}
