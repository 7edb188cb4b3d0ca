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

mod entry;
mod expiry;
mod index;
#[cfg(test)]
mod tests;
mod wheel;

use std::sync::Arc;

use lucarne_model::{
    EndReason, FlowRecord, Moment, RuleId,
    flow::{Direction, Side},
};

use entry::{Cold, DIRECTIONS, Line, Lines, side_by_side};
pub use entry::{Owner, Packet};
use index::Index;
use wheel::Wheel;

use crate::{
    Settings,
    key::{FlowKey, Seed},
    phase::Phase,
};

/// The place of a flow in the table. Holds until the flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

/// What the switch decides about a new connection: by which rule it is allowed and how it starts.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Of the packet with which it is taken into the table.
    pub direction: Direction,
    /// Who sent that packet: the responder, when a connection is taken up in mid-stream.
    pub side: Side,
    pub phase: Phase,
    pub owner: Arc<Owner>,
    pub rule: Option<RuleId>,
    pub memo: u32,
    pub epoch: u32,
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

/// The answer: under whose groups and by which rule it is allowed, or why it is not.
pub type Judgement = Result<(Arc<Owner>, Option<RuleId>), EndReason>;

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
    free: Vec<u32>,
    wheel: Wheel,
    /// Where the search for something to give up goes on.
    hand: usize,
}

impl FlowTable {
    /// `seed` is random and secret. Address space for the flows of `settings.capacity` is taken at once, memory as it is
    /// used.
    pub fn new(settings: Settings, seed: u64) -> Self {
        let capacity = settings.capacity.clamp(1, (u32::MAX / 4) as usize);
        Self {
            settings: Settings { capacity, ..settings },
            seed: Seed::expand(seed),
            index: Index::new(),
            lines: Vec::with_capacity(capacity),
            cold: Vec::with_capacity(capacity),
            free: Vec::new(),
            wheel: Wheel::new(),
            hand: 0,
        }
    }

    /// Entries in use.
    pub fn len(&self) -> usize {
        self.lines.len() - self.free.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The flow with this key.
    #[inline]
    pub fn find(&self, key: FlowKey) -> Option<Slot> {
        self.index.find(key.hash(self.seed), |slot| self.lines[slot as usize][0].key == key).map(Slot)
    }

    /// The memo of one direction, if it is of this epoch.
    #[inline]
    pub fn memo(&self, slot: Slot, direction: Direction, epoch: u32) -> Option<u32> {
        let line = &self.lines[slot.0 as usize][side_by_side(direction)];
        (line.epoch == epoch).then_some(line.memo)
    }

    #[inline]
    pub fn phase(&self, slot: Slot) -> Phase {
        self.lines[slot.0 as usize][0].phase
    }

    /// What to judge when a connection's memo is old.
    pub fn question(&self, slot: Slot) -> Question {
        let lines = &self.lines[slot.0 as usize];
        let opener = usize::from(!lines[0].opened);
        Question { key: lines[0].key, direction: DIRECTIONS[opener], icmp: lines[opener].icmp }
    }

    /// Counts a packet of a flow that is known.
    #[inline]
    pub fn count(&mut self, slot: Slot, direction: Direction, packet: &Packet, now: Moment) {
        let line = &mut self.lines[slot.0 as usize][side_by_side(direction)];
        line.count(packet, now);
        if !line.phase.is_settled(line.side(), packet.tcp_flags) {
            let next = line.phase.step(line.side(), line.key.protocol(), packet.tcp_flags);
            self.enter(slot, next, now);
        }
    }

    /// Writes a new judgement of a connection and the memo of one direction.
    pub fn renew(
        &mut self,
        slot: Slot,
        direction: Direction,
        memo: u32,
        epoch: u32,
        owner: Arc<Owner>,
        rule: Option<RuleId>,
    ) {
        let line = &mut self.lines[slot.0 as usize][side_by_side(direction)];
        (line.memo, line.epoch) = (memo, epoch);
        let cold = &mut self.cold[slot.0 as usize];
        (cold.owner, cold.rule, cold.judged) = (owner, rule, epoch);
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
        let (memo, epoch) = (opening.memo, opening.epoch);
        let slot = self.occupy(key, opening, now, emit);
        let line = &mut self.lines[slot.0 as usize][side_by_side(direction)];
        (line.memo, line.epoch) = (memo, epoch);
        self.count(slot, direction, packet, now);
        slot
    }

    /// Counts a packet that is dropped for `reason`, in a flow beside any connection with the same `key`. When the table
    /// is nearly full, new ones share one flow for each port, protocol and reason, without addresses: a flood is still
    /// counted to the last packet, and costs neither room nor records.
    pub fn reject(
        &mut self,
        (key, direction): (FlowKey, Direction),
        reason: EndReason,
        owner: &Arc<Owner>,
        packet: &Packet,
        now: Moment,
        emit: Emit<'_>,
    ) {
        let key = key.rejected(reason);
        let slot = self.find(key).unwrap_or_else(|| {
            let key = if self.is_crowded() { key.aggregated() } else { key };
            self.find(key).unwrap_or_else(|| {
                let (side, owner) = (Side::Initiator, Arc::clone(owner));
                let opening = Opening { direction, side, phase: Phase::Rejected, owner, rule: None, memo: 0, epoch: 0 };
                self.occupy(key, opening, now, emit)
            })
        });
        self.count(slot, direction, packet, now);
    }

    /// Ends a flow, whatever its phase, and reports it.
    pub fn finish(&mut self, slot: Slot, reason: EndReason, emit: Emit<'_>) {
        let at = slot.0 as usize;
        let key = self.lines[at][0].key;
        self.report(slot, reason, emit);
        self.index.remove(key.hash(self.seed), slot.0);
        self.lines[at] = Lines::default();
        self.free.push(slot.0);
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

    fn is_crowded(&self) -> bool {
        self.len() >= self.settings.capacity - self.settings.capacity / 8
    }

    /// One record for each direction that was ever used. At the end of a connection even without packets in the interval,
    /// so that its end is told; of dropped flows, which have no end, only with packets.
    fn report(&mut self, slot: Slot, reason: EndReason, emit: Emit<'_>) {
        let cold = &self.cold[slot.0 as usize];
        let says_end = !matches!(reason, EndReason::ActiveSlice);
        for (direction, line) in DIRECTIONS.into_iter().zip(&mut self.lines[slot.0 as usize]) {
            let ends = says_end && line.phase != Phase::Rejected && line.was_used();
            if line.packets > 0 || ends {
                emit(line.record(direction, cold, reason));
                line.clear();
            }
        }
    }

    /// Moves a connection to `next`; when that ends it, its record is made after the linger time.
    fn enter(&mut self, slot: Slot, next: Phase, now: Moment) {
        let lines = &mut self.lines[slot.0 as usize];
        if lines[0].phase == next {
            return;
        }
        let was_handshake = lines[0].phase.is_handshake();
        for line in lines {
            line.phase = next;
        }
        let cold = &mut self.cold[slot.0 as usize];
        if next.end_reason().is_some() {
            cold.ended = now;
            self.arm(slot, now.plus(self.settings.linger), now);
        } else if was_handshake && !next.is_handshake() {
            // Its timer stood at the limit of the handshake; from here on it is reported at each interval.
            let slice = cold.interval_began.plus(self.settings.interval);
            self.arm(slot, slice, now);
        }
    }

    fn arm(&mut self, slot: Slot, due: Moment, now: Moment) {
        self.cold[slot.0 as usize].stamp = self.wheel.arm(slot.0, due, now);
    }

    /// Takes a place for a new flow, if need be another's.
    fn occupy(&mut self, key: FlowKey, opening: Opening, now: Moment, emit: Emit<'_>) -> Slot {
        if self.len() >= self.settings.capacity {
            self.evict(emit);
        }
        let Opening { direction, side, phase, owner, rule, epoch, .. } = opening;
        let mut lines = [Line { key, phase, ..Line::default() }; 2];
        let initiator = if side == Side::Initiator { direction } else { direction.reverse() };
        lines[side_by_side(initiator)].opened = true;
        let cold = Cold { owner, rule, interval_began: now, ended: Moment::EPOCH, judged: epoch, stamp: 0 };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.lines[slot as usize] = lines;
                self.cold[slot as usize] = cold;
                Slot(slot)
            }
            None => {
                self.lines.push(lines);
                self.cold.push(cold);
                Slot(self.lines.len() as u32 - 1)
            }
        };
        self.index.insert(key.hash(self.seed), slot.0);
        let first_look = if phase == Phase::Rejected { self.settings.first_reject } else { self.first_deadline(slot) };
        self.arm(slot, now.plus(first_look), now);
        slot
    }

    /// Gives up one flow: of the next few in turn the least worth, and among equals the longest silent. That is not the
    /// oldest of all, which would cost every packet the upkeep of a list. Only where nothing but open connections stands
    /// in a long row does one of them go.
    fn evict(&mut self, emit: Emit<'_>) {
        const ROW: usize = 16;
        const ROWS: usize = 16;
        let count = self.lines.len();
        let mut victim = None;
        for _ in 0..ROWS {
            let row = (0..ROW.min(count)).map(|n| (self.hand + n) % count);
            let value = |at: usize| (self.lines[at][0].phase.worth(), last_packet(&self.lines[at]), at);
            let least = row.filter(|at| self.lines[*at][0].phase != Phase::Free).map(value).min();
            self.hand = (self.hand + ROW) % count;
            victim = victim.into_iter().chain(least).min();
            if victim.is_some_and(|(worth, ..)| worth < Phase::Established.worth()) {
                break;
            }
        }
        let Some((_, _, victim)) = victim else { return };
        let reason = own_reason(&self.lines[victim][0]).unwrap_or(EndReason::EvictedForSpace);
        self.finish(Slot(victim as u32), reason, emit);
    }
}

/// The reason that a flow has by itself, whatever makes it leave the table.
fn own_reason(line: &Line) -> Option<EndReason> {
    line.key.reason().or(line.phase.end_reason())
}

fn last_packet(lines: &Lines) -> Moment {
    lines[0].last.max(lines[1].last)
}
