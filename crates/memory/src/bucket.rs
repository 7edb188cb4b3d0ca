//! The leaky bucket: a VM that has held more memory than its share for long enough gives some back, gradually; one that
//! has held less for long enough may have more again, gradually.
//!
//! Owns the level, and the allowance that follows from it. The thresholds come with each sample, for they may move with
//! the host's pressure; sampling is the host's work, and moving pages the pager's. `docs/book/memory.md` has the
//! arithmetic and a picture.

use lucarne_model::{Moment, Pages};

/// A pause between samples counts as this much at most: nobody is charged for the time when nobody looked.
pub const LONGEST_INTERVAL_MILLIS: u64 = 10_000;

/// What a bucket is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Holding more fills the bucket by the excess times the time.
    pub fill_above: Pages,
    /// Holding less drains it by what is missing times the time. At most `fill_above`.
    pub drain_below: Pages,
    /// The allowance never falls below this; at most `drain_below`. Is it less, a VM that always wants more ends up between
    /// this and `fill_above`; is it the same, such a VM ends up here.
    pub floor: Pages,
    /// Page-milliseconds that it holds.
    pub depth: u64,
    /// Pages in a second by which the allowance falls or rises.
    pub rate: Pages,
    /// The VM's memory: the highest allowance.
    pub memory: Pages,
}

/// Which way a VM's pages go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// The allowance stays as it is.
    #[default]
    Still,
    /// The bucket was full and is not yet empty: the allowance falls.
    Out,
    /// The bucket is empty: the allowance rises.
    Back,
}

/// One VM's bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Page-milliseconds.
    level: u64,
    allowance: Pages,
    flow: Flow,
    /// Thousandths of a page that the rate owes.
    owed: u64,
    sampled_at: Moment,
}

impl Bucket {
    /// An empty bucket: the VM may have all of its memory.
    pub const fn new(memory: Pages, now: Moment) -> Self {
        Self { level: 0, allowance: memory, flow: Flow::Still, owed: 0, sampled_at: now }
    }

    /// Pages that the VM may hold.
    pub const fn allowance(&self) -> Pages {
        self.allowance
    }
    /// Page-milliseconds in it.
    pub const fn level(&self) -> u64 {
        self.level
    }
    pub const fn flow(&self) -> Flow {
        self.flow
    }

    /// Takes note that the VM holds `used` pages, as it did since the last sample, and returns what it may hold now.
    pub fn sample(&mut self, used: Pages, now: Moment, shape: &Shape) -> Pages {
        let millis = self.millis_until(now);
        let excess = used.saturating_sub(shape.fill_above).0.saturating_mul(millis);
        let missing = shape.drain_below.saturating_sub(used).0.saturating_mul(millis);
        self.level = self.level.saturating_add(excess).min(shape.depth).saturating_sub(missing);
        self.turn(shape);
        self.move_allowance(used, millis, shape);
        self.allowance
    }

    /// Fills it at once: the host cannot wait.
    pub fn tip(&mut self, shape: &Shape) {
        self.level = shape.depth;
        self.flow = Flow::Out;
    }

    /// Whole milliseconds since the last sample; what is left of one counts at the next.
    const fn millis_until(&mut self, now: Moment) -> u64 {
        let millis = now.since(self.sampled_at).as_micros() as u64 / 1000;
        self.sampled_at = Moment(self.sampled_at.0.saturating_add(millis * 1000));
        if millis > LONGEST_INTERVAL_MILLIS { LONGEST_INTERVAL_MILLIS } else { millis }
    }

    /// A bucket that was full leaks until it is empty, so that a VM at its threshold is not squeezed and let go by turns.
    const fn turn(&mut self, shape: &Shape) {
        self.flow = match self.flow {
            _ if self.level == 0 => Flow::Back,
            _ if self.level >= shape.depth => Flow::Out,
            Flow::Out => Flow::Out,
            Flow::Still | Flow::Back => Flow::Still,
        };
    }

    fn move_allowance(&mut self, used: Pages, millis: u64, shape: &Shape) {
        let due = shape.rate.0.saturating_mul(millis).saturating_add(self.owed);
        let step = Pages(due / 1000);
        self.owed = if self.flow == Flow::Still { 0 } else { due % 1000 };
        self.allowance = match self.flow {
            Flow::Still => self.allowance.min(shape.memory),
            Flow::Back => (self.allowance + step).min(shape.memory),
            // From what it holds: an allowance that was not used is not given back, it is gone.
            Flow::Out => (self.allowance.min(used) - step).max(shape.floor).min(self.allowance),
        };
    }
}

#[cfg(test)]
mod tests;
