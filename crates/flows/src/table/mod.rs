//! The flow table: the connections of the security groups and the counters of the flow records, in one entry and one
//! look-up.
//!
//! Owns every flow of every port of a host from its first packet to its last record. The switch asks [`FlowTable::find`],
//! decides, and says so with [`FlowTable::count`], [`FlowTable::open`] or [`FlowTable::reject`]; so each packet is counted
//! in exactly one record. What is allowed, and what a memo means, the table does not know.
//!
//! A *memo* is what the switch found out for one direction, such as where its packets go. It holds in one *epoch*, which is
//! a number of the switch's plan: a flow whose memo is of an older epoch is judged again at its next packet, or when its
//! timer comes up, so that a new plan costs nothing for the flows that are silent and is obeyed by the very next packet.

mod copies;
mod entry;
mod expiry;
#[cfg(test)]
mod history_tests;
mod index;
mod measure;
#[cfg(test)]
mod measure_tests;
mod room;
#[cfg(test)]
mod tests;
mod wheel;

use std::{sync::Arc, time::Duration};

use lucarne_model::{
    EndReason, FlowRecord, History, Moment,
    flow::{Direction, Side},
    history::Happening,
};

pub use copies::Connection;
use entry::{Cold, DIRECTIONS, Line, Lines, side_by_side};
pub use entry::{FarEnd, Owner, Packet, Timestamps};
use index::Index;
use room::Room;
use wheel::Wheel;

use crate::{
    Settings,
    grounds::{Denial, Grounds},
    key::{FlowKey, Seed},
    phase::Phase,
};

/// The place of a flow in the table. Holds until the flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

impl Slot {
    const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// What the switch decides about a new connection: why it is allowed and how it starts.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Of the packet with which it is taken into the table.
    pub direction: Direction,
    /// Who sent that packet: the responder, when a connection is taken up in mid-stream.
    pub side: Side,
    pub phase: Phase,
    pub allowed: Allowed,
    pub memo: u32,
    pub epoch: u32,
}

/// Under whose groups and on what grounds a connection is allowed, and where its other end is.
#[derive(Clone, Debug)]
pub struct Allowed {
    pub owner: Arc<Owner>,
    pub grounds: Grounds,
    pub far: FarEnd,
}

/// A connection that should be judged again.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub key: FlowKey,
    /// The direction of its first packet.
    pub direction: Direction,
    /// Type and code of that packet.
    pub icmp: [u8; 2],
}

/// The answer to a [`Question`].
pub type Judgement = Result<Allowed, Denial>;

/// What the switch decides about a packet that it drops.
#[derive(Clone, Copy, Debug)]
pub struct Rejection<'a> {
    pub direction: Direction,
    pub denial: Denial,
    pub owner: &'a Arc<Owner>,
    /// Of the plan under which it is dropped.
    pub epoch: u32,
}

/// Takes the records that an operation brings forth.
pub type Emit<'a> = &'a mut dyn FnMut(FlowRecord);

/// All flows of a host.
#[derive(Debug)]
pub struct FlowTable {
    settings: Settings,
    seed: Seed,
    index: Index,
    lines: Vec<Lines>,
    cold: Vec<Cold>,
    wheel: Wheel,
    room: Room,
}

impl FlowTable {
    /// `seed` is random and secret. Address space for the flows of `settings.capacity` is taken at once, memory as it is
    /// used.
    pub fn new(settings: Settings, seed: u64) -> Self {
        let capacity = settings.capacity.clamp(1, (u32::MAX / 4) as usize);
        let port_capacity = settings.port_capacity.max(1);
        Self {
            settings: Settings { capacity, port_capacity, ..settings },
            seed: Seed::expand(seed),
            index: Index::new(),
            lines: Vec::with_capacity(capacity),
            cold: Vec::with_capacity(capacity),
            wheel: Wheel::new(),
            room: Room::default(),
        }
    }

    /// Flows in the table.
    pub const fn len(&self) -> usize {
        self.room.live()
    }
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the table uses, without the owners that flows share.
    pub fn footprint(&self) -> usize {
        size_of_val(self.lines.as_slice())
            + size_of_val(self.cold.as_slice())
            + self.index.footprint()
            + self.wheel.footprint()
            + self.room.footprint()
    }

    /// Where the flows lie, used or not yet: the beginning and the octets of each room. They stay there.
    pub fn rooms(&self) -> [(*const u8, usize); 2] {
        let (lines, cold) = (self.lines.as_ptr(), self.cold.as_ptr());
        [
            (lines.cast(), self.lines.capacity() * size_of::<Lines>()),
            (cold.cast(), self.cold.capacity() * size_of::<Cold>()),
        ]
    }

    /// The flow with this key.
    #[inline]
    pub fn find(&self, key: FlowKey) -> Option<Slot> {
        self.index.find(key.hash(self.seed), |slot| self.lines[slot as usize][0].key == key).map(Slot)
    }

    /// Brings the flows of packets that come next near: look-ups of which none waits for the answer of another wait for
    /// memory together. A packet before may change an answer, so that none is given.
    #[inline]
    pub fn approach(&self, keys: impl IntoIterator<Item = FlowKey>) {
        let packets = |slot: Slot| self.lines[slot.as_usize()][1].packets;
        let touched = keys.into_iter().fold(0, |touched, key| touched ^ self.find(key).map_or(0, packets));
        std::hint::black_box(touched);
    }

    /// The memo of one direction, if it is of this epoch.
    #[inline]
    pub fn memo(&self, slot: Slot, direction: Direction, epoch: u32) -> Option<u32> {
        let line = &self.lines[slot.as_usize()][side_by_side(direction)];
        (line.epoch == epoch).then_some(line.memo)
    }

    #[inline]
    pub fn phase(&self, slot: Slot) -> Phase {
        self.lines[slot.as_usize()][0].phase
    }

    /// Whether a packet ever went this way.
    pub fn was_used(&self, slot: Slot, direction: Direction) -> bool {
        self.lines[slot.as_usize()][side_by_side(direction)].was_used()
    }

    /// What to judge when a connection's memo is old.
    pub fn question(&self, slot: Slot) -> Question {
        question(&self.lines[slot.as_usize()])
    }

    /// Counts a packet of a flow that is known.
    #[inline]
    pub fn count(&mut self, slot: Slot, direction: Direction, packet: &Packet, now: Moment) {
        let line = &mut self.lines[slot.as_usize()][side_by_side(direction)];
        let is_first = line.packets == 0;
        line.packets += 1;
        line.bytes += u64::from(packet.bytes);
        line.last = now;
        line.tcp_flags |= packet.tcp_flags;
        let is_settled = line.phase.is_settled(line.side(), packet.tcp_flags);
        if is_first | !line.tells_nothing(packet) | !is_settled {
            self.count_more(slot, direction, packet, now, is_first);
        }
    }

    /// The rest of a packet that is the first of its interval, tells something, or may change the phase.
    #[inline(never)]
    fn count_more(&mut self, slot: Slot, direction: Direction, packet: &Packet, now: Moment, is_first: bool) {
        let at = side_by_side(direction);
        let line = &mut self.lines[slot.as_usize()][at];
        if is_first {
            self.cold[slot.as_usize()].begin(at, packet, now);
            line.set_icmp(packet.icmp);
        }
        let next = line.phase.step(line.side(), line.key.protocol(), packet.tcp_flags);
        if !line.tells_nothing(packet) {
            self.take_note(slot, direction, packet, now);
        }
        self.enter(slot, next, now);
    }

    /// Writes a new judgement of a connection and the memo of one direction.
    pub fn renew(&mut self, slot: Slot, direction: Direction, memo: u32, epoch: u32, allowed: Allowed) {
        let line = &mut self.lines[slot.as_usize()][side_by_side(direction)];
        (line.memo, line.epoch) = (memo, epoch);
        self.cold[slot.as_usize()].allow(allowed, epoch);
    }

    /// The responder said, beside the connection, that nobody listens: ICMP port unreachable.
    pub fn refuse(&mut self, slot: Slot, now: Moment) {
        if self.phase(slot).end_reason().is_none() {
            self.enter(slot, Phase::Refused, now);
        }
    }

    /// Begins a connection with its first packet. The caller has found that `key` is not in the table.
    pub fn open(&mut self, key: FlowKey, opening: Opening, packet: &Packet, now: Moment, emit: Emit<'_>) -> Slot {
        let direction = opening.direction;
        let Opening { side, memo, epoch, .. } = opening;
        self.make_room(key.port(), now, emit);
        let slot = self.place(key, opening, now);
        let line = &mut self.lines[slot.as_usize()][side_by_side(direction)];
        (line.memo, line.epoch) = (memo, epoch);
        if side == Side::Responder {
            self.cold[slot.as_usize()].history = History::default().with(Happening::Flipped, side);
        }
        self.count(slot, direction, packet, now);
        slot
    }

    /// Counts a packet that is dropped, in a flow beside any connection with the same `key`. When the table is nearly full
    /// or the port has all the flows that it may, new ones share one flow for each port, protocol and reason, without
    /// addresses: a flood is still counted to the last packet, and costs neither room nor records.
    pub fn reject(&mut self, key: FlowKey, rejection: Rejection<'_>, packet: &Packet, now: Moment, emit: Emit<'_>) {
        let Rejection { direction, denial, owner, epoch } = rejection;
        let key = key.because(denial.reason);
        let found = self.find(key).or_else(|| {
            self.gathers(key.port()).then_some(())?;
            self.find(key.gathered())
        });
        let slot = match found {
            Some(slot) => slot,
            None => {
                let key = if self.gathers(key.port()) { key.gathered() } else { key };
                let allowed = Allowed { owner: Arc::clone(owner), grounds: denial.grounds, far: FarEnd::UNKNOWN };
                self.make_room(key.port(), now, emit);
                let (side, phase) = (Side::Initiator, Phase::Tally);
                self.place(key, Opening { direction, side, phase, allowed, memo: 0, epoch }, now)
            }
        };
        let line = &mut self.lines[slot.as_usize()][side_by_side(direction)];
        if line.epoch != epoch {
            line.epoch = epoch;
            self.cold[slot.as_usize()].set_grounds(denial.grounds);
        }
        self.count(slot, direction, packet, now);
    }

    /// Ends a live connection that is denied now, and reports it.
    pub fn cut(&mut self, slot: Slot, denial: &Denial, emit: Emit<'_>) {
        if let Grounds::Mitigation(_) = denial.grounds {
            self.cold[slot.as_usize()].set_grounds(denial.grounds);
        }
        self.finish(slot, denial.end_of_live(), emit);
    }

    /// Ends a flow, whatever its phase, and reports it.
    pub fn finish(&mut self, slot: Slot, reason: EndReason, emit: Emit<'_>) {
        self.report(slot, reason, emit);
        self.vacate(slot);
    }

    /// Ends every flow: the agent stops. Dropped and ended flows keep their own reason.
    pub fn finish_all(&mut self, reason: EndReason, emit: Emit<'_>) {
        self.finish_where(|_| true, reason, emit);
    }

    /// Ends all flows of a port that is going away. Dropped and ended flows keep their own reason.
    pub fn finish_port(&mut self, port: u32, reason: EndReason, emit: Emit<'_>) {
        self.finish_where(|key| key.port() == port, reason, emit);
    }

    fn finish_where(&mut self, wanted: impl Fn(FlowKey) -> bool, reason: EndReason, emit: Emit<'_>) {
        for slot in 0..self.lines.len() as u32 {
            let line = &self.lines[slot as usize][0];
            if line.phase != Phase::Free && wanted(line.key) {
                self.finish(Slot(slot), own_reason(line).unwrap_or(reason), emit);
            }
        }
    }

    /// Shows what the flows of a stretch of the table, from `from` on, have counted since they were last reported: one record for each
    /// direction with a packet since `since`. Nothing ends and nothing is reported by that. Returns where the next stretch
    /// begins, if there is one: packets wait for no more than one. A flow that comes or goes between two stretches is seen or not.
    pub fn look(&self, from: usize, since: Moment, show: Emit<'_>) -> Option<usize> {
        let end = from.saturating_add(expiry::BUDGET).min(self.lines.len());
        for slot in from..end {
            let lines = &self.lines[slot];
            let shown = lines.iter().zip(DIRECTIONS).filter(|(line, _)| line.was_used() && line.last >= since);
            for (line, direction) in shown.filter(|_| lines[0].phase != Phase::Free) {
                show(self.cold[slot].record(line, direction, EndReason::ActiveSlice));
            }
        }
        (end < self.lines.len()).then_some(end)
    }

    /// One record for each direction that was ever used. At the end of a connection even without packets in the interval,
    /// so that its end is told; of flows that are only counted, which have no end, only with packets.
    fn report(&mut self, slot: Slot, reason: EndReason, emit: Emit<'_>) {
        let cold = &mut self.cold[slot.as_usize()];
        let says_end = !matches!(reason, EndReason::ActiveSlice);
        for (at, direction) in DIRECTIONS.into_iter().enumerate() {
            let line = &mut self.lines[slot.as_usize()][at];
            let ends = says_end && line.phase != Phase::Tally && line.was_used();
            if line.packets > 0 || ends {
                emit(cold.record(line, direction, reason));
                (line.packets, line.bytes, line.tcp_flags) = (0, 0, 0);
                cold.measures[at].clear();
            }
        }
    }

    /// Moves a connection to `next`; when that ends it, its record is made after the linger time.
    fn enter(&mut self, slot: Slot, next: Phase, now: Moment) {
        let lines = &mut self.lines[slot.as_usize()];
        if lines[0].phase == next {
            return;
        }
        let (key, before) = (lines[0].key, lines[0].phase);
        for line in lines {
            line.phase = next;
        }
        self.note_phase(key.port(), before, next);
        if next.end_reason().is_some() {
            self.arm(slot, now.plus(self.settings.linger), now);
        } else if before.is_handshake() && !next.is_handshake() {
            // Its timer stood at the limit of the handshake; from here on it is reported at each interval.
            let slice = self.cold[slot.as_usize()].interval_began.plus(self.interval(slot));
            self.arm(slot, slice, now);
        }
    }

    /// How often the flow is reported.
    fn interval(&self, slot: Slot) -> Duration {
        self.cold[slot.as_usize()].owner.interval.unwrap_or(self.settings.interval)
    }

    fn arm(&mut self, slot: Slot, due: Moment, now: Moment) {
        self.wheel.arm(slot.0, due, now, &mut self.cold);
    }
}

/// What opened a connection.
fn question(lines: &Lines) -> Question {
    let opener = usize::from(!lines[0].opened);
    Question { key: lines[0].key, direction: DIRECTIONS[opener], icmp: lines[opener].icmp() }
}

/// The reason that a flow has by itself, whatever makes it leave the table.
fn own_reason(line: &Line) -> Option<EndReason> {
    line.key.reason().or(line.phase.end_reason())
}

fn last_packet(lines: &Lines) -> Moment {
    lines[0].last.max(lines[1].last)
}
