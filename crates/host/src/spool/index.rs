//! Which segments there are, and what follows from their sizes and from how far the collector has come.
//!
//! Owns the decisions: into which segment a frame goes, when the spool is full, which segments may go. A segment is named for
//! the number of its first record and ends where the next begins. The last one is written to and never goes, because it
//! knows the next number. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;

/// Segments that a full spool has, about: what is acknowledged is given back in pieces of this part of it.
const SEGMENTS: u64 = 16;
const SMALLEST_SEGMENT: u64 = 64 << 10;
const LARGEST_SEGMENT: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) octets: u64,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Into the segment that is written to.
    Here,
    /// Into one that is to be begun.
    NewSegment,
    Full,
}

#[derive(Debug)]
pub(super) struct Index {
    /// In order; never empty.
    segments: VecDeque<Segment>,
    /// The number of the next record.
    end: u64,
    /// The collector has all below it.
    acknowledged: u64,
    /// Octets that all segments together may have.
    capacity: u64,
}

impl Index {
    /// `found` are the segments before `last`, in order; the next record is number `end`.
    pub(super) fn new(found: Vec<Segment>, last: Segment, end: u64, capacity: u64) -> Self {
        let mut segments = VecDeque::from(found);
        segments.push_back(last);
        Self { segments, end, acknowledged: 0, capacity }
    }

    pub(super) const fn end(&self) -> u64 {
        self.end
    }
    /// The number of the oldest record that is here, or of the next one.
    #[cfg(test)]
    pub(super) fn first(&self) -> u64 {
        self.segments.front().map_or(self.end, |segment| segment.first)
    }
    pub(super) fn octets(&self) -> u64 {
        self.segments.iter().map(|segment| segment.octets).sum()
    }

    /// Octets of the segment that is written to.
    pub(super) fn last_octets(&self) -> u64 {
        self.segments.back().map_or(0, |last| last.octets)
    }

    pub(super) fn room_for(&self, octets: u64) -> Room {
        let segment = (self.capacity / SEGMENTS).clamp(SMALLEST_SEGMENT, LARGEST_SEGMENT);
        if self.last_octets() + octets <= segment {
            return if self.octets() + octets <= self.capacity { Room::Here } else { Room::Full };
        }
        // A new segment lets the last one go if all of it is acknowledged.
        let kept = if self.acknowledged >= self.end { 0 } else { self.octets() };
        if kept + octets <= self.capacity { Room::NewSegment } else { Room::Full }
    }

    /// A new segment is written to from now on; it has `octets` of head. Gives those that may go.
    pub(super) fn opened(&mut self, octets: u64) -> Vec<u64> {
        // One without records is begun anew under the same name.
        self.segments.retain(|segment| segment.first != self.end);
        self.segments.push_back(Segment { first: self.end, octets });
        self.acknowledge(self.acknowledged)
    }

    pub(super) fn appended(&mut self, octets: u64, count: u64) {
        self.end += count;
        if let Some(last) = self.segments.back_mut() {
            last.octets += octets;
        }
    }

    /// The segment that is written to has been cut back, and the next record is number `end` again.
    pub(super) fn cut(&mut self, octets: u64, end: u64) {
        self.end = end;
        if let Some(last) = self.segments.back_mut() {
            last.octets = octets;
        }
    }

    /// The next record is number `next`, above all that are here: nothing of them is wanted. Gives the segments that may go.
    pub(super) fn skip_to(&mut self, next: u64) -> Vec<u64> {
        (self.end, self.acknowledged) = (next, next);
        let over = self.segments.drain(..).map(|segment| segment.first).collect();
        self.segments.push_back(Segment { first: next, octets: 0 });
        over
    }

    /// The collector has all below `next`. Gives the segments that may go, oldest first.
    pub(super) fn acknowledge(&mut self, next: u64) -> Vec<u64> {
        self.acknowledged = self.acknowledged.max(next.min(self.end));
        let mut over = Vec::new();
        while let (Some(oldest), Some(second)) = (self.segments.front(), self.segments.get(1)) {
            if second.first > self.acknowledged {
                break;
            }
            over.push(oldest.first);
            self.segments.pop_front();
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: u64 = 1 << 20;

    fn index() -> Index {
        Index::new(Vec::new(), Segment { first: 5, octets: 12 }, 5, CAPACITY)
    }

    /// Puts a frame where the index says; false when there is no room.
    fn put(index: &mut Index, octets: u64) -> (bool, Vec<u64>) {
        let over = match index.room_for(octets) {
            Room::Full => return (false, Vec::new()),
            Room::NewSegment => index.opened(12),
            Room::Here => Vec::new(),
        };
        index.appended(octets, 1);
        (true, over)
    }

    proptest! {
        /// Whatever comes and is acknowledged: the bound holds but for heads, what is not acknowledged stays, and the
        /// numbers run on.
        #[test]
        fn a_spool_never_grows_beyond_its_size_and_never_lets_go_of_what_is_wanted(
            steps in prop::collection::vec((1u64..60_000, any::<bool>(), 0u64..20), 1..300)
        ) {
            let (mut index, mut gone, mut acknowledged) = (index(), Vec::new(), 5);
            for (octets, acknowledges, behind) in steps {
                let (_, over) = put(&mut index, octets);
                gone.extend(over);
                if acknowledges {
                    acknowledged = acknowledged.max(index.end().saturating_sub(behind));
                    gone.extend(index.acknowledge(acknowledged));
                }
                prop_assert!(index.octets() <= CAPACITY + 12 * (SEGMENTS + 1));
                prop_assert!(index.first() <= acknowledged && index.first() <= index.end());
            }
            prop_assert!(gone.is_sorted() && gone.iter().all(|first| *first < index.first()));
        }
    }

    #[test]
    fn a_full_spool_has_room_again_when_its_oldest_segment_is_acknowledged() {
        let mut index = index();
        while put(&mut index, 10_000).0 {}
        assert!(index.octets() > CAPACITY - 10_000);
        let oldest = index.first();
        assert_eq!(index.acknowledge(oldest + 1), Vec::<u64>::new(), "part of a segment frees nothing");
        assert_eq!(index.acknowledge(oldest + 7), [oldest]);
        assert!(put(&mut index, 10_000).0);
    }

    #[test]
    fn a_spool_whose_last_segment_is_all_taken_is_never_full() {
        let mut index = index();
        for _ in 0..1000 {
            assert!(put(&mut index, 60_000).0);
            index.acknowledge(index.end());
        }
        assert!(index.octets() <= 2 * SMALLEST_SEGMENT);
    }
}
