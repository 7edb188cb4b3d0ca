//! What packets tell beside their number: the letters of the history, round trips, retransmissions, closed windows.
//!
//! Owns what is looked for in a packet, and the numbers kept of one direction. A packet that tells nothing new is known by
//! its own line alone ([`Line::tells_nothing`]); only the others touch the cold part.
//!
//! A round trip is measured with one *probe* at a time in each direction: a TCP segment until an acknowledgement reaches its
//! end, with the SYN as the first one; without TCP a request of the initiator until the next packet of the responder. What
//! was sent twice is no probe (Karn's rule): nobody knows which of the two was answered.

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
const PROBING: u16 = 1 << 10;
/// A packet of this direction may answer the other direction's probe.
const AWAITING: u16 = 1 << 11;
/// [`Line::highest`] is known.
const TRACKED: u16 = 1 << 12;
/// Another request followed before the probe was answered, so that nothing is measured with it.
const AMBIGUOUS: u16 = 1 << 13;

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
const COUNTED: u16 = bit(Happening::Retransmission) | bit(Happening::ZeroWindow);

/// The letters of a packet as bits, without those that need the packets before it.
#[inline]
fn letters(protocol: u8, packet: &Packet) -> u16 {
    if protocol != TCP {
        return DATA;
    }
    let flags = packet.tcp_flags & (SYN | FIN | RST);
    let data = if packet.data > 0 { DATA } else { 0 };
    if flags == 0 {
        return if packet.data == 0 && packet.tcp_flags & ACK != 0 { PURE_ACK } else { data };
    }
    let mut letters = data;
    if flags & SYN != 0 {
        letters |= bit(if packet.tcp_flags & ACK == 0 { Happening::Syn } else { Happening::Handshake });
    }
    if flags & FIN != 0 {
        letters |= bit(Happening::Fin);
    }
    if flags & RST != 0 {
        letters |= bit(Happening::Reset);
    }
    if flags & SYN != 0 && flags != SYN {
        letters |= bit(Happening::MultiFlag);
    } else if flags == FIN | RST {
        letters |= bit(Happening::Inconsistent);
    }
    letters
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
    packet.window == 0 && packet.tcp_flags & (SYN | RST) == 0
}

impl Line {
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
        let in_order = self.seen & (TRACKED | PROBING) == TRACKED | PROBING && reaches(packet.sequence, self.highest);
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
        if self.seen & (TRACKED | PROBING) != TRACKED | PROBING || !reaches(packet.sequence, self.highest) {
            return self.phase == Phase::Tally;
        }
        self.highest = end_of(packet);
        true
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

/// What is kept of one direction for measuring: of the interval, but for `smoothed`, `sent` and `zero_windows_ever`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measures {
    /// Microseconds, of the samples of the interval. Probes follow one another, so their sum is at most its length.
    sum: u32,
    min: u32,
    max: u32,
    smoothed: u32,
    /// The lower bits of the time at which the probe was sent.
    sent: u32,
    pub(super) retransmissions: u32,
    /// At most 65,535 in an interval, and then no probe is sent any more.
    count: u16,
    pub(super) zero_windows: u16,
}

impl Measures {
    fn sample(&mut self, micros: u32) {
        self.min = if self.count == 0 { micros } else { self.min.min(micros) };
        self.max = self.max.max(micros);
        self.sum = self.sum.saturating_add(micros);
        self.count = self.count.saturating_add(1);
        // RFC 6298 section 2: the first sample is the estimate, later ones weigh an eighth.
        let old = u64::from(self.smoothed);
        self.smoothed = if old == 0 { micros.max(1) } else { ((old * 7 + u64::from(micros)) / 8).max(1) as u32 };
    }

    pub(super) fn round_trip(&self) -> Option<RoundTrip> {
        let Self { sum, min, max, smoothed, .. } = *self;
        let count = u32::from(self.count);
        (count > 0).then(|| RoundTrip { count, min, mean: sum / count, max, smoothed })
    }

    /// Begins a new interval.
    pub(super) fn clear(&mut self) {
        *self = Self { smoothed: self.smoothed, sent: self.sent, ..Self::default() };
    }
}

/// Whether the `n`th event of a kind writes its letter: the first, the 10th, the 100th, and so on.
const fn is_power_of_ten(n: u32) -> bool {
    n == 10u32.pow(match n.checked_ilog10() {
        Some(log) => log,
        None => return false,
    })
}

impl FlowTable {
    /// Takes note of what a packet tells: of one for which [`Line::tells_nothing`] does not hold.
    #[cold]
    #[inline(never)]
    pub(super) fn take_note(&mut self, slot: Slot, direction: Direction, packet: &Packet, now: Moment) {
        let line = &mut self.lines[slot.as_usize()][side_by_side(direction)];
        let protocol = line.key.protocol();
        let new = letters(protocol, packet) & !line.seen;
        line.seen |= new;
        let side = line.side();
        let cold = &mut self.cold[slot.as_usize()];
        for happening in Happening::ALL.into_iter().filter(|happening| new & bit(*happening) != 0) {
            cold.history = cold.history.with(happening, side);
        }
        match line.phase {
            Phase::Tally | Phase::OneWay => {}
            _ if protocol == TCP => self.follow_tcp(slot, direction, packet, now),
            _ => self.follow_exchange(slot, direction, now),
        }
    }

    fn follow_tcp(&mut self, slot: Slot, direction: Direction, packet: &Packet, now: Moment) {
        let here = side_by_side(direction);
        if packet.tcp_flags & ACK != 0 {
            let line = &self.lines[slot.as_usize()][here];
            if line.seen & AWAITING != 0 && reaches(packet.acknowledgement, line.awaited) {
                self.end_probe(slot, direction.reverse(), Some(now));
            }
        }
        if closes_window(packet) {
            let measures = &mut self.cold[slot.as_usize()].measures[here];
            measures.zero_windows = measures.zero_windows.saturating_add(1);
            let n = measures.zero_windows.into();
            self.write_counted(slot, direction, Happening::ZeroWindow, n);
        }
        let end = end_of(packet);
        if end == packet.sequence || packet.tcp_flags & RST != 0 {
            return;
        }
        let line = &mut self.lines[slot.as_usize()][here];
        let is_new = line.seen & TRACKED == 0 || reaches(packet.sequence, line.highest);
        if is_new || reaches(end, line.highest) {
            line.highest = end;
            line.seen |= TRACKED;
        }
        if !is_new {
            self.end_probe(slot, direction, None);
            if packet.data > 0 {
                let measures = &mut self.cold[slot.as_usize()].measures[here];
                measures.retransmissions = measures.retransmissions.saturating_add(1);
                let n = measures.retransmissions;
                self.write_counted(slot, direction, Happening::Retransmission, n);
            }
        } else if line.seen & PROBING == 0 {
            self.begin_probe(slot, direction, end, now);
        }
    }

    /// Without TCP: who asks is answered by the next packet of the other side.
    fn follow_exchange(&mut self, slot: Slot, direction: Direction, now: Moment) {
        let line = &self.lines[slot.as_usize()][side_by_side(direction)];
        match line.side() {
            Side::Initiator if line.seen & PROBING == 0 => self.begin_probe(slot, direction, 0, now),
            Side::Responder if line.seen & AWAITING != 0 => {
                let asked = &self.lines[slot.as_usize()][side_by_side(direction.reverse())];
                let answered = asked.seen & AMBIGUOUS == 0;
                self.end_probe(slot, direction.reverse(), answered.then_some(now));
            }
            _ => {}
        }
    }

    fn begin_probe(&mut self, slot: Slot, direction: Direction, awaited: u32, now: Moment) {
        let (here, there) = (side_by_side(direction), side_by_side(direction.reverse()));
        let measures = &mut self.cold[slot.as_usize()].measures[here];
        if measures.count == u16::MAX {
            return;
        }
        measures.sent = now.as_micros() as u32;
        let lines = &mut self.lines[slot.as_usize()];
        lines[here].seen |= PROBING;
        lines[there].seen |= AWAITING;
        lines[there].awaited = awaited;
    }

    /// The probe of this direction was answered, or is of no use any more.
    fn end_probe(&mut self, slot: Slot, direction: Direction, answered: Option<Moment>) {
        let (here, there) = (side_by_side(direction), side_by_side(direction.reverse()));
        let lines = &mut self.lines[slot.as_usize()];
        lines[here].seen &= !(PROBING | AMBIGUOUS);
        lines[there].seen &= !AWAITING;
        if let Some(now) = answered {
            let measures = &mut self.cold[slot.as_usize()].measures[here];
            measures.sample((now.as_micros() as u32).wrapping_sub(measures.sent));
        }
    }

    /// Writes the letter of the `n`th such event of the interval, if it has one.
    fn write_counted(&mut self, slot: Slot, direction: Direction, happening: Happening, n: u32) {
        let line = &mut self.lines[slot.as_usize()][side_by_side(direction)];
        let first_ever = line.seen & bit(happening) == 0;
        line.seen |= bit(happening) & COUNTED;
        let side = line.side();
        let cold = &mut self.cold[slot.as_usize()];
        if first_ever || n > 1 && is_power_of_ten(n) {
            cold.history = cold.history.with(happening, side);
        }
    }
}
