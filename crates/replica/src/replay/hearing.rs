//! What the duplicate answers on a connection, heard as it comes, so that nothing of it need be kept.
//!
//! Owns which octets belong to which exchange. What a difference is worth is decided in [`verdict`](super::verdict).
//!
//! HTTP is heard by its own framing. Of anything else an exchange is a [`Turn`]: what the client sends without having heard
//! anything in between, and what it is answered. As long as the octets are those of the recording they belong where the recording
//! has them, whenever they come; from the first other one on they belong to what was sent last.

use std::ops::Range;

use lucarne_model::Moment;

use super::{
    connection::Connection,
    http::{HttpExchange, Reader},
};

/// What is heard.
#[derive(Debug)]
pub(super) enum Hearing {
    Http(Reader),
    Turns(HeardTurns),
}

#[derive(Debug, Default)]
pub(super) struct HeardTurns {
    /// Octets so far, and how many of them are those of the recording, from the first on.
    taken: usize,
    pub(super) agreed: usize,
    pub(super) turns: Vec<HeardTurn>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeardTurn {
    pub(super) octets: u64,
    pub(super) began: Option<Moment>,
}

/// A stretch of a connection in which the client speaks, and then the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// How many octets the client has sent with it; none before a greeting.
    pub(super) asked: usize,
    /// Where the answer is in what the server sent.
    pub(super) answer: Range<usize>,
}

/// The turns of a recorded connection.
pub(super) fn turns(connection: &Connection) -> Vec<Turn> {
    let all = connection.answered.octets.len();
    let mut turns: Vec<Turn> = Vec::new();
    for piece in &connection.sent.pieces {
        let after = piece.after.min(all);
        match turns.last_mut() {
            Some(turn) if after <= turn.answer.start => turn.asked = piece.end,
            last => {
                // A server that speaks first greets: that is an answer to nothing.
                let greets = last.is_none() && after > 0;
                last.into_iter().for_each(|turn| turn.answer.end = after);
                if greets {
                    turns.push(Turn { asked: 0, answer: 0..after });
                }
                turns.push(Turn { asked: piece.end, answer: after..all });
            }
        }
    }
    if turns.is_empty() && all > 0 {
        turns.push(Turn { asked: 0, answer: 0..all });
    }
    turns
}

impl Hearing {
    pub(super) fn of(connection: &Connection, turns: usize) -> Self {
        match &connection.http {
            Some(exchanges) => Self::Http(Reader::of_answers(exchanges.iter().map(|one| one.head_only).collect())),
            None => Self::Turns(HeardTurns { turns: vec![HeardTurn::default(); turns], ..HeardTurns::default() }),
        }
    }

    /// Takes octets that came when the client had sent `asked`.
    pub(super) fn take(&mut self, octets: &[u8], now: Moment, asked: usize, connection: &Connection, turns: &[Turn]) {
        match self {
            Self::Http(reader) => reader.take(octets, now),
            Self::Turns(heard) => heard.take(octets, now, asked, &connection.answered.octets, turns),
        }
    }

    /// Whole answers of HTTP.
    pub(super) fn answers(&self) -> usize {
        match self {
            Self::Http(reader) => reader.messages.len(),
            Self::Turns(_) => 0,
        }
    }

    /// The server will say no more.
    pub(super) fn end(&mut self, ended: bool) {
        if let Self::Http(reader) = self {
            reader.end(ended);
        }
    }
}

impl HeardTurns {
    fn take(&mut self, octets: &[u8], now: Moment, asked: usize, recorded: &[u8], turns: &[Turn]) {
        let rest = recorded.get(self.taken..).filter(|_| self.agreed == self.taken).unwrap_or_default();
        let agreed = rest.iter().zip(octets).take_while(|(recorded, heard)| recorded == heard).count();
        let (before, after) = (self.taken, self.taken + agreed);
        let first = turns.partition_point(|turn| turn.answer.end <= before);
        let touched = turns.iter().zip(&mut self.turns).skip(first).take_while(|(turn, _)| turn.answer.start < after);
        for (turn, heard) in touched {
            let common = turn.answer.end.min(after).saturating_sub(turn.answer.start.max(before));
            heard.take(common, now);
        }
        self.agreed += agreed;
        self.taken += octets.len();
        // The last turn that was begun.
        let current = turns.partition_point(|turn| turn.asked <= asked).saturating_sub(1);
        if let Some(heard) = self.turns.get_mut(current) {
            heard.take(octets.len() - agreed, now);
        }
    }
}

impl HeardTurn {
    fn take(&mut self, octets: usize, now: Moment) {
        if octets > 0 {
            self.octets += octets as u64;
            self.began.get_or_insert(now);
        }
    }
}

/// When the client may say what it says next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// That many octets have come; the server's end counts as one.
    Octets(usize),
    /// That many answers have: it had whole ones only, and another answer may be shorter.
    Answers(usize),
}

impl Gate {
    /// For what the client said after so much of the server's stream.
    pub(super) fn after(octets: usize, http: Option<&[HttpExchange]>) -> Self {
        let whole = http.and_then(|exchanges| exchanges.binary_search_by_key(&octets, |one| one.answered).ok());
        whole.map_or(Self::Octets(octets), |last| Self::Answers(last + 1))
    }
}
