//! What is played without connections: datagrams of UDP, and packets of protocols without ports.
//!
//! Owns their times: each is sent when it is due. At the maximum speed there are no times, and a datagram waits for the answers
//! that had come before it in the recording.

use std::{net::SocketAddrV4, time::Duration};

use lucarne_model::{Moment, replay::ReplaySpeed};

use super::{
    conversation::Course,
    http::Digest,
    packet,
    recorded::{Datagrams, Talk},
    tally::Times,
    verdict::{self, Judged},
};

#[derive(Debug)]
pub(super) struct Sending {
    ends: [SocketAddrV4; 2],
    course: Course,
    sent: Vec<Moment>,
    /// When each answer came, its length and its content.
    heard: Vec<(Moment, u64, Digest)>,
    stirred: Moment,
    leaving: Vec<Vec<u8>>,
    over: bool,
}

/// Answers that are kept beyond those that were recorded.
const EXTRA: usize = 1000;

impl Sending {
    pub(super) fn new(now: Moment, ends: [SocketAddrV4; 2], course: Course) -> Self {
        let (sent, heard, leaving) = Default::default();
        Self { ends, course, sent, heard, stirred: now, leaving, over: false }
    }

    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn judge(&self, recorded: &Talk) -> Vec<Judged> {
        match recorded {
            Talk::Udp(talk) => verdict::datagrams(talk, &self.heard, &self.sent),
            Talk::Tcp(_) | Talk::Packets(_) => Vec::new(),
        }
    }

    pub(super) fn packets(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.leaving.drain(..)
    }

    pub(super) fn handle_datagram(&mut self, now: Moment, octets: &[u8], recorded: &Talk) {
        let Talk::Udp(talk) = recorded else { return };
        if !self.over && self.heard.len() < talk.answered.len() + EXTRA {
            self.heard.push((now, octets.len() as u64, Digest::of(octets)));
            self.stirred = now;
        }
    }

    /// Sends what is due.
    pub(super) fn poll(&mut self, now: Moment, recorded: &Talk, late: &mut Times) {
        while let Some((due, packet)) = self.next(recorded).filter(|(due, _)| *due <= now) {
            self.leaving.push(packet);
            self.sent.push(now);
            late.add(now.since(due).as_micros() as u64);
            self.stirred = now;
        }
        self.over |= self.waits_until(recorded).is_some_and(|end| end <= now);
    }

    /// The packet that is sent next, and when.
    fn next(&self, recorded: &Talk) -> Option<(Moment, Vec<u8>)> {
        let [from, to] = self.ends;
        let number = self.sent.len();
        match recorded {
            Talk::Udp(talk) => {
                let (at, octets) = talk.sent.get(number)?;
                Some((self.due(*at, number, talk), packet::datagram(from, to, octets)))
            }
            Talk::Packets(packets) => {
                let (at, octets) = packets.get(number)?;
                let packet = packet::readdressed(octets, *from.ip(), *to.ip());
                Some((self.course.timing.due(*at), packet))
            }
            Talk::Tcp(_) => None,
        }
    }

    fn due(&self, at: Moment, number: usize, talk: &Datagrams) -> Moment {
        let due = self.course.timing.due(at);
        if self.course.timing.speed != ReplaySpeed::Max {
            return due;
        }
        let answered = talk.answered.iter().filter(|answer| answer.after <= number).count();
        // What it waits for stirred it when it came.
        let waits = if self.heard.len() < answered { self.course.patience } else { Duration::ZERO };
        due.max(self.stirred.plus(waits))
    }

    /// Until when the last answers are waited for; none while there is something to send.
    fn waits_until(&self, recorded: &Talk) -> Option<Moment> {
        match recorded {
            Talk::Udp(talk) if self.sent.len() < talk.sent.len() => None,
            Talk::Packets(packets) if self.sent.len() < packets.len() => None,
            Talk::Udp(talk) if self.heard.len() < talk.answered.len() => Some(self.stirred.plus(self.course.patience)),
            Talk::Udp(_) | Talk::Packets(_) | Talk::Tcp(_) => Some(self.stirred),
        }
    }

    pub(super) fn next_poll(&self, recorded: &Talk) -> Option<Moment> {
        if self.over {
            return None;
        }
        self.next(recorded).map(|(due, _)| due).or_else(|| self.waits_until(recorded))
    }
}
