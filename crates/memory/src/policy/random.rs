//! Any page: the alternative of US 9,176,764, and what ESX did as its last resort. It needs no scans, and no pattern of
//! use is its enemy.

use super::{Arrival, HOTTEST, Heat, Occasion, Policy};
use crate::{
    dice::Dice,
    residency::ResidentPages,
    run::{Run, add_page},
};

/// Pages that are drawn together, 64 KiB: a page alone costs the kernel several times as much as one of a run.
const BLOCK: u64 = 16;

#[derive(Clone, Debug)]
pub struct Random {
    dice: Dice,
}

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed) }
    }
}

impl Policy for Random {
    fn on_arrival(&self, _: Arrival) -> Heat {
        HOTTEST
    }

    /// Kept as [`Clock`](super::Clock) keeps it, for the statistics alone.
    fn after_scan(&self, heat: Heat, accessed: bool, occasion: Occasion) -> Heat {
        super::Clock.after_scan(heat, accessed, occasion)
    }

    fn idle_at(&self) -> Heat {
        super::Clock.idle_at()
    }

    fn choose(&mut self, resident: &mut ResidentPages, wanted: u64) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut left = wanted;
        while left > 0 {
            let drawn = self.dice.below(resident.len());
            let Some(page) = resident.next_from(drawn) else { break };
            let block = page - page % BLOCK;
            for page in (block..block + BLOCK).filter(|page| resident.contains(*page)).collect::<Vec<_>>() {
                if left == 0 {
                    break;
                }
                resident.take(page);
                add_page(&mut runs, page);
                left -= 1;
            }
        }
        runs
    }
}
