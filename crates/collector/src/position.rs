//! A record's place in the order of answers, and the cursor that names it.
//!
//! Owns the order: by the time of the last packet, then by serial, which is unique. A record's place never changes, so a
//! cursor stays good across restarts, sealing and merging. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{fmt, str::FromStr};

use lucarne_model::{FlowQuery, Moment};

use crate::Kept;

/// Greater is newer, and comes earlier in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) end: Moment,
    pub(crate) serial: u64,
}

impl Position {
    /// Before all records that end at `end`, in growing order.
    pub(crate) const fn at(end: Moment) -> Self {
        Self { end, serial: 0 }
    }
}

impl Kept {
    pub(crate) const fn position(&self) -> Position {
        Position { end: self.record.end, serial: self.serial }
    }
}

/// A text that is not a cursor of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one of a page of flow records")]
pub(crate) struct BadCursor;

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.end.as_micros(), self.serial)
    }
}

impl FromStr for Position {
    type Err = BadCursor;
    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let part = |range| text.get(range).and_then(|hex| u64::from_str_radix(hex, 16).ok()).ok_or(BadCursor);
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BadCursor);
        }
        Ok(Self { end: Moment(part(0..16)?), serial: part(16..32)? })
    }
}

/// The stretch of the order that a page is looked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The earliest end, included.
    pub(crate) since: Moment,
    /// All positions are below this one.
    pub(crate) below: Position,
}

impl Stretch {
    pub(crate) const ALL: Self =
        Self { since: Moment::EPOCH, below: Position { end: Moment(u64::MAX), serial: u64::MAX } };

    /// What a question asks for: from `since`, below both `until` and the cursor.
    pub(crate) fn of(query: &FlowQuery) -> Result<Self, BadCursor> {
        let mut below = query.until.map_or(Self::ALL.below, Position::at);
        if let Some(cursor) = &query.cursor {
            below = below.min(cursor.parse()?);
        }
        Ok(Self { since: query.since, below })
    }

    pub(crate) fn contains(&self, position: Position) -> bool {
        position.end >= self.since && position < self.below
    }

    /// Whether some record that ends within the bounds, both included, could be in it.
    pub(crate) fn meets(&self, earliest: Moment, latest: Moment) -> bool {
        latest >= self.since && earliest <= self.below.end
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_reads_back_and_sorts_as_what_it_names(a: (u64, u64), b: (u64, u64)) {
            let [a, b] = [a, b].map(|(end, serial)| Position { end: Moment(end), serial });
            prop_assert_eq!(a.to_string().parse(), Ok(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
        #[test]
        fn no_cursor_makes_the_parser_panic(text: String) { let _ = text.parse::<Position>(); }
    }

    #[test]
    fn signs_and_other_lengths_are_refused() {
        for text in ["", "+0000000000000010000000000000002", "00", "g0000000000000010000000000000002"] {
            assert_eq!(text.parse::<Position>(), Err(BadCursor), "{text}");
        }
    }
}
