//! Least frequently used, where uses long ago count less. US 9,176,764 names least frequently used; without decay, pages
//! that were busy during the boot stay for ever, which costs hundreds of times the optimum's refaults
//! (`docs/benchmarks.md`).

use super::{Arrival, Heat, Occasion, Policy};

/// What a scan that saw a touch adds. With a quarter lost at each scan, a page that is always touched nears
/// `4 * TOUCH = 124`, which is below [`HOTTEST`](super::HOTTEST).
const TOUCH: Heat = 31;

/// Heat is the sum of touches, of which each scan takes away a quarter.
#[derive(Clone, Copy, Debug)]
pub struct DecayedLfu;

impl Policy for DecayedLfu {
    /// A page that came on demand stands as if two scans had seen it: it must not leave before it is worked with.
    fn on_arrival(&self, arrival: Arrival) -> Heat {
        match arrival {
            Arrival::Wanted | Arrival::Found => 2 * TOUCH,
            Arrival::Prefetched => TOUCH,
        }
    }

    fn after_scan(&self, heat: Heat, accessed: bool, _: Occasion) -> Heat {
        let decayed = heat - heat.div_ceil(4);
        if accessed { decayed + TOUCH } else { decayed }
    }

    fn idle_at(&self) -> Heat {
        0
    }
}
