//! What packets tell beside their number: the letters of the history, round trips, retransmissions, gaps, closed windows.
//!
//! Owns what is looked for in a packet, and the numbers kept of one direction. A packet that tells nothing new is known by
//! its own line alone ([`Line::tells_nothing`]); only the others touch the cold part.
//!
//! A round trip is measured with one *probe* at a time in each direction: a TCP segment until an acknowledgement reaches its
//! end, with the SYN as the first one; without TCP a request of the initiator until the next packet of the responder. What
//! was sent twice is no probe (Karn's rule): nobody knows which of the two was answered. Nobody but TCP's timestamps (RFC
//! 7323): where segments carry them, the answer says which one it is to by its echo, so that what is sent again is probed too,
//! and an answer to something later, because the probe's own was lost, is none.
//!
//! A segment that begins beyond what was sent so far leaves a hole. In place of a probe the hole is watched: acknowledged before
//! anything fills it, it is a gap, of data that went another way or was never seen.

use lucarne_model::{
    Moment,
    flow::{Direction, RoundTrip, Side},
    history::Happening,
    security_group::TCP,
};

use super::{
    FlowTable, Slot,
    entry::{Line, Packet, side_by_side},
};
use crate::phase::{ACK, FIN, Phase, RST, SYN};

/// Bits of [`Line::seen`] above the letters: a probe of this direction is out.
const PROBING: u16 = 1 << 11;
/// A packet of this direction may answer the other direction's probe.
const AWAITING: u16 = 1 << 12;
/// [`Line::highest`] is known.
const TRACKED: u16 = 1 << 13;
/// TCP: the probe was sent again, so that only an echo can tell its answer. Else: another request followed before the probe
/// was answered, so that nothing is measured with it.
const AMBIGUOUS: u16 = 1 << 14;
/// TCP: not a probe is out, but a hole is watched.
const HOLE: u16 = 1 << 15;

const fn bit(happening: Happening) -> u16 {
    let mut at = 0;
    while at < Happening::ALL.len() {
        if Happening::ALL[at] as u8 == happening as u8 {
            return 1 << at;
        }
        at += 1;
    }
    0
}
const DATA: u16 = bit(Happening::Data);
const PURE_ACK: u16 = bit(Happening::Ack);
/// Letters that are written again at each power of ten.
const COUNTED: u16 = bit(Happening::Retransmission) | bit(Happening::ZeroWindow) | bit(Happening::Gap);
/// Letters of a SYN, of which a side has one or the other.
const ANY_SYN: u16 = bit(Happening::Syn) | bit(Happening::Handshake);
/// How far behind its furthest octet a side's own first SYN may lie: as far as Zeek follows.
const OLD_SYN: u32 = 1 << 20;

/// The letters of a packet as bits, without those that need the packets before it.
#[inline]
fn letters(protocol: u8, packet: &Packet) -> u16 {
    if protocol != TCP {
        return DATA;
    }
    let is_ack = packet.tcp_flags & ACK != 0;
    match packet.tcp_flags & (SYN | FIN | RST) {
        0 if packet.data > 0 => DATA,
        0 if is_ack => PURE_ACK,
        0 => 0,
        SYN if is_ack => bit(Happening::Handshake),
        SYN => bit(Happening::Syn),
        FIN => bit(Happening::Fin),
        RST => bit(Happening::Reset),
        flags if flags & (FIN | RST) == FIN | RST => bit(Happening::Inconsistent),
        _ => bit(Happening::MultiFlag),
    }
}

/// Whether `a` is at or behind `b` in the circle of sequence numbers (RFC 9293 section 3.4).
#[inline]
const fn reaches(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) < 1 << 31
}

/// The sequence number after a segment: SYN and FIN count as an octet.
const fn end_of(packet: &Packet) -> u32 {
    let controls = (packet.tcp_flags & SYN != 0) as u32 + (packet.tcp_flags & FIN != 0) as u32;
    packet.sequence.wrapping_add(packet.data as u32).wrapping_add(controls)
}

const fn closes_window(packet: &Packet) -> bool {
    packet.window == 0 && packet.tcp_flags & RST == 0
}

impl Line {
    /// Goes on where another line of such a connection is. No probe is out: who answers it, answers the other.
    pub(super) fn resume(&mut self, other: &Self, now: Moment) {
        (self.highest, self.aside) = (other.highest, other.aside);
        self.seen = other.seen & !(PROBING | AWAITING | AMBIGUOUS | HOLE);
        if other.was_used() {
            self.last = now;
        }
    }

    /// Whether the packet needs nothing but this line. Moves [`Line::highest`] on, when that is all there is to do.
    #[inline]
    pub(super) fn tells_nothing(&mut self, packet: &Packet) -> bool {
        self.is_plain(packet) || self.tells_nothing_after_all(packet)
    }

    /// The short way for nearly all packets of TCP: acknowledgements that answer no probe, and data in order.
    #[inline]
    fn is_plain(&mut self, packet: &Packet) -> bool {
        let is_ack = packet.tcp_flags & (SYN | FIN | RST | ACK) == ACK;
        let letter = if packet.data == 0 { PURE_ACK } else { DATA };
        if !is_ack || packet.window == 0 || self.seen & (letter | AWAITING) != letter {
            return false;
        }
        if packet.data == 0 {
            return true;
        }
        let in_order = self.seen & (TRACKED | PROBING) == TRACKED | PROBING && packet.sequence == self.highest;
        if in_order {
            self.highest = end_of(packet);
        }
        in_order
    }

    #[inline(never)]
    fn tells_nothing_after_all(&mut self, packet: &Packet) -> bool {
        let protocol = self.key.protocol();
        if letters(protocol, packet) & !self.seen != 0 {
            return false;
        }
        if protocol != TCP {
            return self.tells_nothing_without_tcp();
        }
        if packet.tcp_flags & (SYN | FIN | RST) != 0 || closes_window(packet) {
            return self.phase == Phase::Tally;
        }
        if self.seen & AWAITING != 0 && reaches(packet.acknowledgement, self.awaited) {
            return false;
        }
        if packet.data == 0 {
            return true;
        }
        if self.seen & (TRACKED | PROBING) != TRACKED | PROBING || packet.sequence != self.highest {
            return self.phase == Phase::Tally;
        }
        self.highest = end_of(packet);
        true
    }

    /// The letters of a packet that the history has not, or that it has of another packet than this one: SYN, FIN and reset
    /// are written again where their sequence number is another.
    fn new_letters(&self, packet: &Packet) -> u16 {
        let letters = letters(self.key.protocol(), packet);
        let known = self.seen | if self.seen & ANY_SYN == 0 { 0 } else { ANY_SYN };
        let is_another = match packet.tcp_flags & (SYN | FIN | RST) {
            _ if self.phase == Phase::Tally || self.key.protocol() != TCP => false,
            SYN => !(1..=OLD_SYN).contains(&self.highest.wrapping_sub(packet.sequence)),
            FIN => end_of(packet) != self.highest,
            RST => packet.sequence != self.highest,
            _ => false,
        };
        if is_another { letters } else { letters & !known }
    }

    #[inline]
    fn tells_nothing_without_tcp(&mut self) -> bool {
        if !matches!(self.phase, Phase::Asked | Phase::Answered) {
            return true;
        }
        match self.side() {
            Side::Responder => self.seen & AWAITING == 0,
            Side::Initiator if self.seen & PROBING == 0 => false,
            Side::Initiator => {
                self.seen |= AMBIGUOUS;
                true
            }
        }
    }
}

/// A number that saturates at 16,777,215: three octets, because two million of each are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct U24([u8; 3]);

impl From<u32> for U24 {
    fn from(number: u32) -> Self {
        let [_, octets @ ..] = number.min(0x00ff_ffff).to_be_bytes();
        Self(octets)
    }
}
impl From<U24> for u32 {
    fn from(U24([high, middle, low]): U24) -> Self {
        Self::from_be_bytes([0, high, middle, low])
    }
}

/// What is kept of one direction for measuring: of the interval, but for `smoothed`, `sent` and `stamp`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measures {
    /// Microseconds, of the samples of the interval. Probes follow one another, so their sum is at most its length.
    sum: u32,
    /// The lower bits of the time at which the probe was sent.
    sent: u32,
    /// The probe's timestamp (RFC 7323); 0 where it has none.
    stamp: u32,
    min: U24,
    max: U24,
    smoothed: U24,
    pub(super) retransmissions: U24,
    /// At most 65,535 in an interval, and then no probe is sent any more.
    count: u16,
    pub(super) zero_windows: u16,
}

/// What an acknowledgement that reaches the end of a probe says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It is the answer.
    Yes,
    /// It answers something else, and the probe's answer will not come.
    No,
    /// It answers what was sent before the probe.
    NotYet,
}

impl Measures {
    fn sample(&mut self, micros: u32) {
        self.min = if self.count == 0 { micros } else { u32::from(self.min).min(micros) }.into();
        self.max = u32::from(self.max).max(micros).into();
        self.sum = self.sum.saturating_add(micros);
        self.count = self.count.saturating_add(1);
        // RFC 6298 section 2: the first sample is the estimate, later ones weigh an eighth.
        let old = u64::from(u32::from(self.smoothed));
        let smoothed = if old == 0 { micros.max(1) } else { ((old * 7 + u64::from(micros)) / 8).max(1) as u32 };
        self.smoothed = smoothed.into();
    }

    /// What an acknowledgement with this echo is to the probe.
    fn judge(&self, was_resent: bool, echo: Option<u32>) -> Answer {
        match (self.stamp, echo) {
            (0, _) | (_, None) if was_resent => Answer::No,
            (0, _) | (_, None) => Answer::Yes,
            (stamp, Some(echo)) if stamp == echo => Answer::Yes,
            (stamp, Some(echo)) if !reaches(stamp, echo) => Answer::No,
            // An acknowledgement of two segments echoes the first (RFC 7323 section 4.3).
            _ if !was_resent => Answer::Yes,
            _ => Answer::NotYet,
        }
    }

    pub(super) fn round_trip(&self) -> Option<RoundTrip> {
        let [min, max, smoothed] = [self.min, self.max, self.smoothed].map(u32::from);
        let count = u32::from(self.count);
        (count > 0).then(|| RoundTrip { count, min, mean: (self.sum / count).clamp(min, max), max, smoothed })
    }

    /// Begins a new interval.
    pub(super) fn clear(&mut self) {
        *self = Self { smoothed: self.smoothed, sent: self.sent, stamp: self.stamp, ..Self::default() };
    }
}

impl FlowTable {
    /// Takes note of what a packet tells: of one for which [`Line::tells_nothing`] does not hold.
    #[cold]
    #[inline(never)]
    pub(super) fn take_note(&mut self, slot: Slot, direction: Direction, packet: &Packet, now: Moment) {
        let line = &mut self.lines[slot.as_usize()][side_by_side(direction)];
        let protocol = line.key.protocol();
        let new = line.new_letters(packet);
        line.seen |= new;
        let side = line.side();
        let cold = &mut self.cold[slot.as_usize()];
        let mut left = new;
        while left != 0 {
            cold.history = cold.history.with(Happening::ALL[left.trailing_zeros() as usize], side);
            left &= left - 1;
        }
        match line.phase {
            Phase::Tally | Phase::OneWay => {}
            _ if protocol == TCP => self.follow_tcp(slot, direction, packet, now),
            _ => self.follow_exchange(slot, direction, now),
        }
    }

    fn follow_tcp(&mut self, slot: Slot, direction: Direction, packet: &Packet, now: Moment) {
        if packet.tcp_flags & ACK != 0 {
            self.take_answer(slot, direction, packet, now);
        }
        let line = &mut self.lines[slot.as_usize()][side_by_side(direction)];
        if closes_window(packet) && line.phase.takes_data(line.side()) {
            let measures = &mut self.cold[slot.as_usize()].measures[side_by_side(direction)];
            measures.zero_windows = measures.zero_windows.saturating_add(1);
            let n = measures.zero_windows.into();
            self.write_counted(slot, direction, Happening::ZeroWindow, n);
        }
        let line = &mut self.lines[slot.as_usize()][side_by_side(direction)];
        if packet.tcp_flags & RST != 0 {
            // By which another reset is told from the same one again; nothing else is to follow it.
            (line.highest, line.seen) = (packet.sequence, line.seen | TRACKED);
        } else if end_of(packet) != packet.sequence {
            self.take_segment(slot, direction, packet, now);
        }
    }

    /// Looks whether a packet answers the other direction's probe, or acknowledges its hole.
    fn take_answer(&mut self, slot: Slot, direction: Direction, packet: &Packet, now: Moment) {
        let (here, there) = (side_by_side(direction), side_by_side(direction.reverse()));
        let lines = &mut self.lines[slot.as_usize()];
        if lines[here].seen & AWAITING == 0 || !reaches(packet.acknowledgement, lines[here].awaited) {
            return;
        }
        let asked = &mut lines[there];
        if asked.seen & HOLE != 0 {
            let n = asked.count_gap();
            self.end_probe(slot, direction.reverse(), None);
            return self.write_counted(slot, direction.reverse(), Happening::Gap, n.into());
        }
        let was_resent = asked.seen & AMBIGUOUS != 0;
        let echo = packet.timestamps.map(|stamps| stamps.echo);
        match self.cold[slot.as_usize()].measures[there].judge(was_resent, echo) {
            Answer::Yes => self.end_probe(slot, direction.reverse(), Some(now)),
            Answer::No => self.end_probe(slot, direction.reverse(), None),
            Answer::NotYet => {}
        }
    }

    /// Follows the octets of a segment that has some, SYN and FIN included.
    fn take_segment(&mut self, slot: Slot, direction: Direction, packet: &Packet, now: Moment) {
        let (line, end) = (&mut self.lines[slot.as_usize()][side_by_side(direction)], end_of(packet));
        let (seen, highest) = (line.seen, line.highest);
        let is_new = seen & TRACKED == 0 || reaches(packet.sequence, highest);
        if is_new || reaches(end, highest) {
            (line.highest, line.seen) = (end, seen | TRACKED);
        }
        let skips = is_new && seen & TRACKED != 0 && packet.sequence != highest && packet.tcp_flags & SYN == 0;
        let stamp = packet.timestamps.map_or(0, |stamps| stamps.value);
        if !is_new {
            self.probe_again(slot, direction, (end, stamp), now);
            if packet.data > 0 {
                let measures = &mut self.cold[slot.as_usize()].measures[side_by_side(direction)];
                let n = u32::from(measures.retransmissions).saturating_add(1);
                measures.retransmissions = n.into();
                self.write_counted(slot, direction, Happening::Retransmission, n);
            }
        } else if skips && seen & HOLE == 0 && line.phase.end_reason().is_none() {
            self.end_probe(slot, direction, None);
            self.begin_probe(slot, direction, (highest.wrapping_add(1), 0), now);
            self.lines[slot.as_usize()][side_by_side(direction)].seen |= HOLE;
        } else if seen & PROBING == 0 {
            self.begin_probe(slot, direction, (end, stamp), now);
        }
    }

    /// A segment was sent again: with another timestamp than what is out it is a probe itself, else there is none.
    fn probe_again(&mut self, slot: Slot, direction: Direction, probe: (u32, u32), now: Moment) {
        let at = side_by_side(direction);
        let is_out = self.lines[slot.as_usize()][at].seen & PROBING != 0;
        let same = is_out && self.cold[slot.as_usize()].measures[at].stamp == probe.1;
        self.end_probe(slot, direction, None);
        if probe.1 != 0 && !same {
            self.begin_probe(slot, direction, probe, now);
            let line = &mut self.lines[slot.as_usize()][at];
            line.seen |= (line.seen & PROBING != 0) as u16 * AMBIGUOUS;
        }
    }

    /// Without TCP: who asks is answered by the next packet of the other side.
    fn follow_exchange(&mut self, slot: Slot, direction: Direction, now: Moment) {
        let line = &self.lines[slot.as_usize()][side_by_side(direction)];
        match line.side() {
            Side::Initiator if line.seen & PROBING == 0 => self.begin_probe(slot, direction, (0, 0), now),
            Side::Responder if line.seen & AWAITING != 0 => {
                let asked = &self.lines[slot.as_usize()][side_by_side(direction.reverse())];
                let answered = asked.seen & AMBIGUOUS == 0;
                self.end_probe(slot, direction.reverse(), answered.then_some(now));
            }
            _ => {}
        }
    }

    /// A probe is out, with its timestamp; the acknowledgement `awaited` answers it.
    fn begin_probe(&mut self, slot: Slot, direction: Direction, (awaited, stamp): (u32, u32), now: Moment) {
        let (here, there) = (side_by_side(direction), side_by_side(direction.reverse()));
        let measures = &mut self.cold[slot.as_usize()].measures[here];
        if measures.count == u16::MAX {
            return;
        }
        (measures.sent, measures.stamp) = (now.as_micros() as u32, stamp);
        let lines = &mut self.lines[slot.as_usize()];
        lines[here].seen |= PROBING;
        lines[there].seen |= AWAITING;
        lines[there].awaited = awaited;
    }

    /// The probe of this direction was answered, or is of no use any more.
    fn end_probe(&mut self, slot: Slot, direction: Direction, answered: Option<Moment>) {
        let (here, there) = (side_by_side(direction), side_by_side(direction.reverse()));
        let lines = &mut self.lines[slot.as_usize()];
        lines[here].seen &= !(PROBING | AMBIGUOUS | HOLE);
        lines[there].seen &= !AWAITING;
        if let Some(now) = answered {
            let measures = &mut self.cold[slot.as_usize()].measures[here];
            measures.sample((now.as_micros() as u32).wrapping_sub(measures.sent));
        }
    }

    /// Writes the letter of the `n`th such event, if it has one: the first has, and the 10th, the 100th and so on, each once.
    fn write_counted(&mut self, slot: Slot, direction: Direction, happening: Happening, n: u32) {
        let line = &mut self.lines[slot.as_usize()][side_by_side(direction)];
        line.seen |= bit(happening) & COUNTED;
        let side = line.side();
        let cold = &mut self.cold[slot.as_usize()];
        if n >= 10u32.saturating_pow(cold.history.count(happening, side)) {
            cold.history = cold.history.with(happening, side);
        }
    }
}
