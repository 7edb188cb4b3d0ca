//! The room of a recording: into which part of it the next frame goes, and which parts go for it.
//!
//! Owns the arithmetic. A recording is a row of numbered parts, each a file that opens by itself, so that the oldest frames can
//! go without anything being written again.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;

use lucarne_model::recording::RecordingRoom;

/// A part is an eighth of the room, but of a size that is worth a file and can be held in memory.
const PARTS: u64 = 8;
const SMALLEST: u64 = 64 << 10;
const LARGEST: u64 = 8 << 20;

/// The parts of a recording.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    room: RecordingRoom,
    parts: VecDeque<Part>,
    /// Whether the last part can grow: one of an earlier run does not.
    open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) number: u64,
    pub(super) octets: u64,
}

/// Where something goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// Behind what was placed last.
    Here,
    /// Into a new part of this number.
    New(u64),
    /// There is no room any more.
    Full,
}

impl Ring {
    /// With the parts that are there, the oldest first.
    pub(super) fn new(room: RecordingRoom, parts: Vec<Part>) -> Self {
        Self { room, parts: parts.into(), open: false }
    }

    /// Makes room for something that takes so many octets behind what is there, or so many at the beginning of a part. Also
    /// says which parts go.
    pub(super) fn place(&mut self, behind: u64, anew: u64) -> (Placement, Vec<u64>) {
        let size = self.room.size().0;
        let largest = (size / PARTS).clamp(SMALLEST, LARGEST);
        let fits = |part: &&Part| part.octets + behind <= largest;
        let here = self.open && self.parts.back().as_ref().is_some_and(fits);
        let needed = if here { behind } else { anew };
        let mut gone = Vec::new();
        while self.octets() + needed > size {
            let oldest = match self.room {
                RecordingRoom::Ring { .. } if self.parts.len() > usize::from(here) => self.parts.pop_front(),
                _ => None,
            };
            let Some(oldest) = oldest else { return (Placement::Full, gone) };
            gone.push(oldest.number);
        }
        if here && let Some(last) = self.parts.back_mut() {
            last.octets += behind;
            return (Placement::Here, gone);
        }
        let number = gone.last().copied().max(self.parts.back().map(|part| part.number)).map_or(0, |last| last + 1);
        self.parts.push_back(Part { number, octets: anew });
        self.open = true;
        (Placement::New(number), gone)
    }

    /// The last part does not grow any more.
    pub(super) const fn close(&mut self) {
        self.open = false;
    }

    pub(super) fn octets(&self) -> u64 {
        self.parts.iter().map(|part| part.octets).sum()
    }
}

#[cfg(test)]
mod tests {
    use lucarne_model::Bytes;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The parts never take more than the room; what goes is the oldest, and only of a ring; and nothing is put aside that
        /// has room.
        #[test]
        fn what_is_kept_fits_and_is_the_newest(
            ring: bool, frames in prop::collection::vec((100u64..70_000, prop::bool::weighted(0.02)), 0..600),
        ) {
            let size = Bytes::mib(1);
            let room = if ring { RecordingRoom::Ring { size } } else { RecordingRoom::Max { size } };
            let mut tested = Ring::new(room, Vec::new());
            let (mut kept, mut full) = (VecDeque::<(u64, u64)>::new(), false);
            for (length, closes) in frames {
                if closes {
                    tested.close();
                }
                let before: u64 = kept.iter().map(|(_, octets)| octets).sum();
                let (placement, gone) = tested.place(length, length + 200);
                prop_assert!(gone.is_empty() || ring);
                for number in gone {
                    prop_assert_eq!(kept.front().map(|(oldest, _)| *oldest), Some(number));
                    while kept.front().is_some_and(|(oldest, _)| *oldest == number) {
                        kept.pop_front();
                    }
                }
                match placement {
                    Placement::Here => {
                        let number = kept.back().unwrap().0;
                        kept.push_back((number, length));
                    }
                    Placement::New(number) => {
                        prop_assert!(kept.back().is_none_or(|(last, _)| *last < number));
                        kept.push_back((number, length + 200));
                    }
                    Placement::Full => {
                        prop_assert!(!ring && before + length + 200 > size.0);
                        full = true;
                    }
                }
                let octets: u64 = kept.iter().map(|(_, octets)| octets).sum();
                prop_assert!(octets <= size.0 && octets == tested.octets());
                prop_assert!(!full || !ring);
            }
        }
    }

    #[test]
    fn what_an_earlier_run_left_counts_and_does_not_grow() {
        let room = RecordingRoom::Max { size: Bytes::mib(1) };
        let mut ring = Ring::new(room, vec![Part { number: 4, octets: 1000 }]);
        assert_eq!(ring.place(10, 20), (Placement::New(5), Vec::new()));
        assert_eq!(ring.place(10, 20), (Placement::Here, Vec::new()));
        assert_eq!(ring.octets(), 1030);
    }
}
