//! How far away were the pages that came back? The distance of a refault is the number of pages that left between this
//! page's leaving and its return: with that much more memory, it need not have left (Weiner's refault distance).
//!
//! Owns the stamps of leaving, seven bits each, and the sums. Where the stamps are kept is the
//! [`Residency`](crate::residency::Residency)'s matter: the octet of a page that is away has no heat to keep.

use lucarne_model::Pages;

/// When a page left, in seven bits: 0 never, [`LONG_AGO`], else one more than an epoch modulo [`RING`].
pub(crate) type Stamp = u8;

pub(crate) const NEVER: Stamp = 0;
const LONG_AGO: Stamp = 127;
const RING: u64 = 126;
/// Epochs that a stamp tells apart; what left earlier left long ago.
const MEMORY: u64 = 64;
/// So often are old stamps replaced by [`LONG_AGO`]. `MEMORY + SWEEP < RING`, so that none is taken for a young one.
const SWEEP: u64 = 32;
/// A VM's memory holds this many epochs' worth of pages: distances are known up to twice the VM's memory.
const EPOCHS_PER_MEMORY: u64 = 32;

/// Counts what left and what came back.
#[derive(Clone, Debug)]
pub struct Refaults {
    /// Leavings in an epoch.
    epoch_length: u64,
    left: u64,
    first_touches: u64,
    /// By distance in epochs; the last counts what had left long ago.
    by_distance: Vec<u64>,
}

impl Refaults {
    pub(crate) fn new(memory: Pages) -> Self {
        let epoch_length = (memory.0 / EPOCHS_PER_MEMORY).max(1);
        Self { epoch_length, left: 0, first_touches: 0, by_distance: vec![0; MEMORY as usize + 1] }
    }

    /// Pages that left so far.
    pub const fn left(&self) -> u64 {
        self.left
    }
    /// Pages that came in so far and had not been here before.
    pub const fn first_touches(&self) -> u64 {
        self.first_touches
    }
    /// Pages that came back so far because the guest wanted them.
    pub fn total(&self) -> u64 {
        self.by_distance.iter().sum()
    }
    /// How many of the refaults so far would not have been, had the VM had `more` memory.
    pub fn avoidable_with(&self, more: Pages) -> u64 {
        let epochs = (more.0 / self.epoch_length).min(MEMORY) as usize;
        self.by_distance.iter().take(epochs).sum()
    }

    /// The stamp of a page that leaves now, and whether it is time to [`age`](Self::age) the others.
    pub(crate) const fn leave(&mut self) -> (Stamp, bool) {
        let stamp = 1 + (self.epoch() % RING) as Stamp;
        self.left += 1;
        (stamp, self.left.is_multiple_of(self.epoch_length * SWEEP))
    }

    /// Takes note of a page that the guest wanted and that had this stamp.
    pub(crate) fn come_back(&mut self, stamp: Stamp) {
        match self.epochs_since(stamp) {
            None => self.first_touches += 1,
            Some(epochs) => self.by_distance[epochs.min(MEMORY) as usize] += 1,
        }
    }

    /// What becomes of an old stamp.
    pub(crate) fn age(&self, stamp: Stamp) -> Stamp {
        if self.epochs_since(stamp).is_some_and(|epochs| epochs >= MEMORY) { LONG_AGO } else { stamp }
    }

    const fn epoch(&self) -> u64 {
        self.left / self.epoch_length
    }

    fn epochs_since(&self, stamp: Stamp) -> Option<u64> {
        match stamp {
            NEVER => None,
            LONG_AGO => Some(MEMORY),
            stamp => Some((self.epoch() + RING - (u64::from(stamp) - 1)) % RING),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every page's distance, as told by seven bits, is the true one in whole epochs, however long the run.
    #[test]
    fn a_stamp_tells_the_distance_to_the_epoch() {
        let mut refaults = Refaults::new(Pages(32 * 4));
        let mut stamps: Vec<(u64, Stamp)> = Vec::new();
        for at in 0..20_000_u64 {
            let (stamp, sweep) = refaults.leave();
            stamps.push((at / 4, stamp));
            if sweep {
                stamps.iter_mut().for_each(|(_, stamp)| *stamp = refaults.age(*stamp));
            }
        }
        let now = refaults.epoch();
        for (left, stamp) in stamps {
            assert_eq!(refaults.epochs_since(stamp).unwrap().min(MEMORY), (now - left).min(MEMORY));
        }
    }

    #[test]
    fn more_memory_would_have_spared_the_near_ones() {
        let mut refaults = Refaults::new(Pages(320));
        let (early, _) = refaults.leave();
        for _ in 0..100 {
            refaults.leave();
        }
        let (late, _) = refaults.leave();
        refaults.come_back(early);
        refaults.come_back(late);
        refaults.come_back(NEVER);
        assert_eq!((refaults.total(), refaults.first_touches(), refaults.left()), (2, 1, 102));
        assert_eq!(refaults.avoidable_with(Pages(20)), 1);
        assert_eq!(refaults.avoidable_with(Pages(200)), 2);
    }
}
