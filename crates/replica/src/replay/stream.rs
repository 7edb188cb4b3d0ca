//! One direction of a TCP connection, put together from its segments.
//!
//! Owns the order of octets by sequence numbers, with retransmissions folded, and when each of them came. Which segments belong to
//! the connection is known to [`connection`](super::connection).

use std::collections::BTreeMap;

use lucarne_model::Moment;

/// Octets that wait for some before them. More are taken for a sign that those were not recorded.
const AHEAD: usize = 4 << 20;

/// What one side said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    pub octets: Vec<u8>,
    /// As they came in segments.
    pub pieces: Vec<Piece>,
}

/// Octets that came together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// How many octets there were with them.
    pub end: usize,
    pub at: Moment,
    /// How much of the other side's stream their sender had when it sent them; its end counts as one octet.
    pub after: usize,
}

/// A stream that is being put together.
#[derive(Debug, Default)]
pub(super) struct Half {
    pub(super) stream: Stream,
    /// The number of the first octet, once the side has opened.
    pub(super) first: Option<u32>,
    ahead: BTreeMap<u64, Ahead>,
    waiting: usize,
    /// Where the stream ends, as the side said.
    end: Option<u64>,
    /// When all up to there had come.
    pub(super) ended: Option<Mark>,
    torn: bool,
}

/// When something came, and after how much of the other side's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub at: Moment,
    pub after: usize,
}

#[derive(Debug)]
struct Ahead {
    octets: Vec<u8>,
    after: usize,
}

impl Half {
    /// Of a side that opened with that number.
    pub(super) fn opened(number: u32) -> Self {
        Self { first: Some(number.wrapping_add(1)), ..Self::default() }
    }

    /// Takes a segment's content.
    pub(super) fn take(&mut self, sequence: u32, octets: &[u8], ends: bool, mark: Mark) {
        let (Some(first), false) = (self.first, self.torn) else { return };
        let have = self.stream.octets.len() as u64;
        let expected = first.wrapping_add(have as u32);
        // Half of all numbers are before the expected one, half behind it.
        let distance = i64::from(sequence.wrapping_sub(expected) as i32);
        let Some(at) = have.checked_add_signed(distance) else { return };
        if ends {
            self.end.get_or_insert(at + octets.len() as u64);
        }
        if at > have && !octets.is_empty() {
            self.keep(at, octets, mark.after);
        } else {
            self.append(at, octets, mark);
        }
        while let Some((at, ahead)) = self.ahead.pop_first() {
            if at > self.stream.octets.len() as u64 {
                self.ahead.insert(at, ahead);
                break;
            }
            self.waiting -= ahead.octets.len();
            self.append(at, &ahead.octets, Mark { after: ahead.after, ..mark });
        }
        if self.end == Some(self.stream.octets.len() as u64) {
            self.ended.get_or_insert(mark);
        }
    }

    fn keep(&mut self, at: u64, octets: &[u8], after: usize) {
        if self.waiting + octets.len() > AHEAD {
            self.torn = true;
            self.ahead.clear();
            return;
        }
        let longer = self.ahead.get(&at).is_none_or(|kept| kept.octets.len() < octets.len());
        if longer {
            self.waiting += octets.len();
            let before = self.ahead.insert(at, Ahead { octets: octets.to_vec(), after });
            self.waiting -= before.map_or(0, |before| before.octets.len());
        }
    }

    /// Puts what is new of octets that begin at or before the end of the stream behind it.
    fn append(&mut self, at: u64, octets: &[u8], mark: Mark) {
        let have = self.stream.octets.len();
        let known = usize::try_from(have as u64 - at.min(have as u64)).unwrap_or(usize::MAX);
        let Some(new) = octets.get(known..).filter(|new| !new.is_empty()) else { return };
        // What was sent earlier and came later was sent after no more than what came before it.
        let after = self.stream.pieces.last().map_or(mark.after, |last| last.after.max(mark.after));
        self.stream.octets.extend_from_slice(new);
        self.stream.pieces.push(Piece { end: have + new.len(), at: mark.at, after });
    }

    /// How far the stream was followed; its end counts as one octet.
    pub(super) fn known(&self) -> usize {
        self.stream.octets.len() + usize::from(self.ended.is_some())
    }

    /// Whether something of it was not recorded.
    pub(super) fn is_torn(&self) -> bool {
        self.torn || !self.ahead.is_empty() || self.end.is_some() && self.ended.is_none()
    }
}
