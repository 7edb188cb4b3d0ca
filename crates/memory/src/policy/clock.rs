//! CLOCK over aged access bits: a hand goes round the guest's memory and takes pages that no scan has seen touched for
//! the longest time. The default, for it was never far from the best on recorded guests (`docs/benchmarks.md`).

use super::{Arrival, HOTTEST, Heat, Policy};

/// Scans without a touch after which a page is idle.
const IDLE_AFTER: Heat = 12;

/// Heat is [`HOTTEST`] less the number of scans since the last touch.
#[derive(Clone, Copy, Debug)]
pub struct Clock;

impl Policy for Clock {
    fn on_arrival(&self, arrival: Arrival) -> Heat {
        match arrival {
            Arrival::Wanted | Arrival::Found => HOTTEST,
            // One that is not touched by the next scan goes before those that once were.
            Arrival::Prefetched => HOTTEST - 1,
        }
    }

    fn after_scan(&self, heat: Heat, accessed: bool) -> Heat {
        if accessed { HOTTEST } else { heat.saturating_sub(1) }
    }

    fn idle_at(&self) -> Heat {
        HOTTEST - IDLE_AFTER
    }
}
