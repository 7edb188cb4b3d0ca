//! Room for flows: which places are free, how many each port has, and what is given up when there is no more.
//!
//! Owns the policy, which `docs/book/flows.md` states. A table without room gives up, of the next few flows in turn, the one
//! of least worth ([`Phase::worth`]), and among equals the longest silent. That is not the oldest of all, which would cost
//! every packet the upkeep of a list. A port that has all the flows that it may gives up its own in the same way.
//!
//! A connection with an answer that is given up has a record of its own, `evicted-for-space`. Attempts without one, of which
//! a flood consists, are counted together: one flow without addresses for each port and protocol takes over their
//! packets, so that not a packet is lost and the flood costs neither room nor records.

use lucarne_model::{EndReason, Moment, flow::Side};

use super::{Allowed, Cold, DIRECTIONS, Emit, FarEnd, FlowTable, Line, Lines, Opening, Slot, last_packet, own_reason};
use crate::{FlowKey, grounds::Grounds, phase::Phase};

/// Flows that are compared at once, and how many times that before anything is taken.
const ROW: usize = 16;
const ROWS: usize = 16;
/// Rows that are looked through for a flow of one port.
const PORT_ROWS: usize = 256;
/// Worth more than any flow: what many flows were gathered into.
const GATHERED: u8 = 3;

/// Which places are taken, and by whom.
#[derive(Debug)]
pub(super) struct Room {
    live: usize,
    /// The first free place; each has the next one as the memo of its first line.
    free: u32,
    /// Where the search for something to give up goes on.
    hand: usize,
    /// By number.
    ports: Vec<Share>,
}

/// The end of the list of free places.
const NONE: u32 = u32::MAX;

impl Default for Room {
    fn default() -> Self {
        Self { live: 0, free: NONE, hand: 0, ports: Vec::new() }
    }
}

/// What one port has.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    flows: u32,
    /// Of these, connections that are open.
    open: u32,
    /// Where the search among its own goes on.
    hand: u32,
}

impl Room {
    pub(super) const fn live(&self) -> usize {
        self.live
    }

    /// Bytes of memory.
    pub(super) fn footprint(&self) -> usize {
        self.ports.capacity() * size_of::<Share>()
    }

    fn share(&mut self, port: u32) -> &mut Share {
        let at = port as usize;
        if at >= self.ports.len() {
            self.ports.resize(at + 1, Share::default());
        }
        &mut self.ports[at]
    }
}

impl FlowTable {
    /// Whether new flows of this port that are only counted should be counted together: the last eighth of the room is for
    /// connections.
    pub(super) fn gathers(&self, port: u32) -> bool {
        let nearly = |capacity: usize| capacity - capacity / 8;
        self.len() >= nearly(self.settings.capacity) || self.flows_of(port) >= nearly(self.settings.port_capacity)
    }

    /// Flows of one port.
    fn flows_of(&self, port: u32) -> usize {
        self.room.ports.get(port as usize).map_or(0, |share| share.flows as usize)
    }

    /// Connections of one port that both sides have spoken in, and that have not ended.
    pub fn open_connections(&self, port: u32) -> u32 {
        self.room.ports.get(port as usize).map_or(0, |share| share.open)
    }

    /// A flow goes from one phase to another, [`Phase::Free`] among them.
    pub(super) fn note_phase(&mut self, port: u32, before: Phase, after: Phase) {
        match (before.is_open(), after.is_open()) {
            (false, true) => self.room.share(port).open += 1,
            (true, false) => self.room.share(port).open -= 1,
            _ => {}
        }
    }

    /// Gives up what must go so that one flow more of `port` has a place.
    pub(super) fn make_room(&mut self, port: u32, now: Moment, emit: Emit<'_>) {
        // Giving up may take a place itself, for what is gathered; a few rounds are always enough.
        for _ in 0..4 {
            if self.flows_of(port) < self.settings.port_capacity || !self.evict_of(port, now, emit) {
                break;
            }
        }
        while self.len() >= self.settings.capacity && self.evict(now, emit) {}
    }

    /// Takes a place for a new flow, of which there is one.
    pub(super) fn place(&mut self, key: FlowKey, opening: Opening, now: Moment) -> Slot {
        let Opening { direction, side, phase, allowed, epoch, .. } = opening;
        let Allowed { owner, grounds, far } = allowed;
        let mut lines = [Line { key, phase, ..Line::default() }; 2];
        let initiator = if side == Side::Initiator { direction } else { direction.reverse() };
        lines[super::side_by_side(initiator)].opened = true;
        let cold = Cold::new(owner, grounds, far, epoch, now);
        let slot = match self.room.free {
            NONE => {
                self.lines.push(lines);
                self.cold.push(cold);
                Slot(self.lines.len() as u32 - 1)
            }
            free => {
                self.room.free = self.lines[free as usize][0].memo;
                self.lines[free as usize] = lines;
                self.cold[free as usize] = cold;
                Slot(free)
            }
        };
        self.room.live += 1;
        self.room.share(key.port()).flows += 1;
        self.note_phase(key.port(), Phase::Free, phase);
        self.index.insert(key.hash(self.seed), slot.0);
        let first_look = self.first_look(slot);
        self.arm(slot, now.plus(first_look), now);
        slot
    }

    /// Gives a flow's place back, without a word.
    pub(super) fn vacate(&mut self, slot: Slot) {
        let at = slot.as_usize();
        let Line { key, phase, .. } = self.lines[at][0];
        self.note_phase(key.port(), phase, Phase::Free);
        self.wheel.disarm(slot.0, &mut self.cold);
        self.index.remove(key.hash(self.seed), slot.0);
        self.lines[at] = Lines::default();
        self.lines[at][0].memo = std::mem::replace(&mut self.room.free, slot.0);
        self.room.live -= 1;
        self.room.share(key.port()).flows -= 1;
    }

    /// Gives up one flow of whatever port. Only where nothing but open connections stands in a long row does one go.
    fn evict(&mut self, now: Moment, emit: Emit<'_>) -> bool {
        let (victim, hand) = self.least(self.room.hand, ROWS, |_| true);
        self.room.hand = hand;
        victim.is_some_and(|victim| {
            self.give_up(victim, now, emit);
            true
        })
    }

    /// Gives up one flow of this port; not, when none is found in a long search.
    fn evict_of(&mut self, port: u32, now: Moment, emit: Emit<'_>) -> bool {
        let hand = self.room.share(port).hand as usize;
        let (victim, hand) = self.least(hand, PORT_ROWS, |key| key.port() == port);
        self.room.share(port).hand = hand as u32;
        victim.is_some_and(|victim| {
            self.give_up(victim, now, emit);
            true
        })
    }

    /// The flow of least worth in the first row that has one worth less than an open connection, or in all the rows; and
    /// where to go on.
    fn least(&self, mut hand: usize, rows: usize, wanted: impl Fn(FlowKey) -> bool) -> (Option<Slot>, usize) {
        let count = self.lines.len();
        let mut victim = None;
        for _ in 0..rows.min(count.div_ceil(ROW)) {
            let row = (0..ROW.min(count)).map(|n| (hand + n) % count);
            let candidates = row.filter(|at| {
                let line = &self.lines[*at][0];
                line.phase != Phase::Free && wanted(line.key)
            });
            let least = candidates.map(|at| (worth(&self.lines[at][0]), last_packet(&self.lines[at]), at)).min();
            hand = (hand + ROW) % count;
            victim = victim.into_iter().chain(least).min();
            if victim.is_some_and(|(worth, ..)| worth < Phase::Established.worth()) {
                break;
            }
        }
        (victim.map(|(_, _, at)| Slot(at as u32)), hand)
    }

    fn give_up(&mut self, slot: Slot, now: Moment, emit: Emit<'_>) {
        let line = &self.lines[slot.as_usize()][0];
        match own_reason(line) {
            Some(reason) => self.finish(slot, reason, emit),
            None if line.phase.worth() < Phase::Established.worth() => self.gather(slot, now),
            None => self.finish(slot, EndReason::EvictedForSpace, emit),
        }
    }

    /// Moves the packets of a flow that is given up to the one that counts all such flows of its port and protocol.
    fn gather(&mut self, slot: Slot, now: Moment) {
        let (lines, cold) = (self.lines[slot.as_usize()], self.cold[slot.as_usize()].clone());
        self.vacate(slot);
        let key = lines[0].key.because(EndReason::EvictedForSpace).gathered();
        let (direction, side) = (if lines[0].opened { DIRECTIONS[0] } else { DIRECTIONS[1] }, Side::Initiator);
        let into = self.find(key).unwrap_or_else(|| {
            let far = FarEnd { prefix_length: 0, ..cold.far() };
            let allowed = Allowed { owner: cold.owner.clone(), grounds: Grounds::Nothing, far };
            self.place(key, Opening { direction, side, phase: Phase::Tally, allowed, memo: 0, epoch: 0 }, now)
        });
        for (at, given) in lines.iter().enumerate().filter(|(_, line)| line.packets > 0) {
            let line = &mut self.lines[into.as_usize()][at];
            self.cold[into.as_usize()].join(at, &cold, line.packets == 0);
            line.packets += given.packets;
            line.bytes += given.bytes;
            line.tcp_flags |= given.tcp_flags;
            line.last = line.last.max(given.last);
        }
    }
}

fn worth(line: &Line) -> u8 {
    if line.key.is_gathered() { GATHERED } else { line.phase.worth() }
}
