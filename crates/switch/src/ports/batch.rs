//! A batch: frames one behind the other in one buffer.
//!
//! Owns the buffer's layout. It grows to what was once needed and keeps that room, so that no frame costs an allocation.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Some frames, at most as many as it was made for.
#[derive(Clone, Debug)]
pub struct Batch {
    octets: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
    capacity: usize,
    longest: usize,
}

impl Batch {
    /// For `capacity` frames, none longer than `longest` octets.
    pub const fn new(capacity: usize, longest: usize) -> Self {
        Self { octets: Vec::new(), ends: Vec::new(), capacity, longest }
    }

    pub const fn len(&self) -> usize {
        self.ends.len()
    }
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    pub const fn is_full(&self) -> bool {
        self.ends.len() >= self.capacity
    }

    pub fn clear(&mut self) {
        self.octets.clear();
        self.ends.clear();
    }

    /// Puts a frame behind the others; false when the batch is full or the frame too long.
    pub fn push(&mut self, frame: &[u8]) -> bool {
        let fits = !self.is_full() && frame.len() <= self.longest;
        if fits {
            self.octets.extend_from_slice(frame);
            self.ends.push(self.octets.len());
        }
        fits
    }

    /// Lends room for the longest frame to `fill`, which says how much of it it used. Does nothing when the batch is full.
    pub fn fill<E>(&mut self, fill: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        if self.is_full() {
            return Ok(());
        }
        let start = self.octets.len();
        self.octets.resize(start + self.longest, 0);
        let filled = fill(&mut self.octets[start..]);
        let length = filled.as_ref().map_or(0, |length| (*length).min(self.longest));
        self.octets.truncate(start + length);
        filled.map(|_| self.ends.push(start + length))
    }

    /// The frames in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| &self.octets[std::mem::replace(&mut start, *end)..*end])
    }

    /// Calls `take` with each frame in order, to be changed in place.
    pub fn for_each_mut(&mut self, mut take: impl FnMut(&mut [u8])) {
        let mut start = 0;
        for end in &self.ends {
            take(&mut self.octets[start..*end]);
            start = *end;
        }
    }

    /// Removes the first `count` frames.
    pub fn remove_first(&mut self, count: usize) {
        let count = count.min(self.ends.len());
        if count == 0 {
            return;
        }
        let octets = self.ends[count - 1];
        self.ends.drain(..count);
        self.octets.drain(..octets);
        self.ends.iter_mut().for_each(|end| *end -= octets);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever way frames come in and go out, the batch is a queue of limited length.
        #[test]
        fn a_batch_is_a_bounded_queue(steps in prop::collection::vec((any::<bool>(), 0usize..12, 0usize..4), 0..40)) {
            let mut batch = Batch::new(5, 8);
            let mut model: Vec<Vec<u8>> = Vec::new();
            for (number, (lend, length, remove)) in steps.into_iter().enumerate() {
                let frame = vec![number as u8; length];
                let room = model.len() < 5;
                if lend {
                    let taken = length.min(8);
                    batch.fill(|into| { into[..taken].copy_from_slice(&frame[..taken]); Ok::<_, ()>(taken) }).unwrap();
                    model.extend(room.then(|| frame[..taken].to_vec()));
                } else {
                    let fits = room && length <= 8;
                    prop_assert_eq!(batch.push(&frame), fits);
                    model.extend(fits.then_some(frame));
                }
                batch.remove_first(remove);
                model.drain(..remove.min(model.len()));
                prop_assert_eq!(batch.iter().collect::<Vec<_>>(), model.iter().map(Vec::as_slice).collect::<Vec<_>>());
                let mut seen = Vec::new();
                batch.for_each_mut(|frame| seen.push(frame.to_vec()));
                prop_assert_eq!(&seen, &model);
            }
        }
    }

    #[test]
    fn what_could_not_be_filled_leaves_nothing() {
        let mut batch = Batch::new(2, 8);
        assert_eq!(batch.fill(|_| Err("none")), Err("none"));
        assert!(batch.is_empty() && batch.push(b"frame"));
        assert_eq!(batch.iter().collect::<Vec<_>>(), [b"frame"]);
    }
}
