//! Connections of one port at one instant, and another port that begins with them: a guest and its duplicate.
//!
//! Owns what of a connection is carried over: who opened it, how far it is, its history, and what is needed to know its next
//! packets. Counts are not: the copy's records tell what the copy's port saw. Whether a connection is allowed at the other port
//! is the switch's question.

use std::collections::BTreeMap;

use lucarne_model::{History, Moment, flow::Side};

use super::{Allowed, DIRECTIONS, Emit, FlowTable, Lines, Opening, Question, question};
use crate::phase::Phase;

/// A connection as it stood.
#[derive(Clone, Debug)]
pub struct Connection {
    lines: Lines,
    history: History,
}

impl Connection {
    /// What is to be judged before `port` may have it.
    pub fn question(&self, port: u32) -> Question {
        let question = question(&self.lines);
        Question { key: question.key.at(port), ..question }
    }
}

impl FlowTable {
    /// The connections of some ports as they stand; what is dropped is none.
    pub fn connections(&self, wanted: impl Fn(u32) -> bool) -> BTreeMap<u32, Vec<Connection>> {
        let mut found: BTreeMap<u32, Vec<Connection>> = BTreeMap::new();
        for (lines, cold) in self.lines.iter().zip(&self.cold) {
            let [line, _] = lines;
            if !matches!(line.phase, Phase::Free | Phase::Tally) && wanted(line.key.port()) {
                let connection = Connection { lines: *lines, history: cold.history };
                found.entry(line.key.port()).or_default().push(connection);
            }
        }
        found
    }

    /// Lets `port` have a connection that was another's, unless it has one with these ends. It is allowed as of `epoch`.
    pub fn adopt(
        &mut self,
        (port, connection): (u32, &Connection),
        (allowed, epoch): (Allowed, u32),
        now: Moment,
        emit: Emit<'_>,
    ) {
        let Question { key, direction, .. } = connection.question(port);
        if self.find(key).is_some() {
            return;
        }
        self.make_room(port, now, emit);
        let phase = connection.lines[0].phase;
        let slot = self.place(key, Opening { direction, side: Side::Initiator, phase, allowed, memo: 0, epoch }, now);
        self.cold[slot.as_usize()].history = connection.history;
        for at in 0..DIRECTIONS.len() {
            self.lines[slot.as_usize()][at].resume(&connection.lines[at], now);
        }
    }
}
