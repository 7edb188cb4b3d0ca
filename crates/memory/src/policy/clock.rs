//! CLOCK over aged access bits: a hand goes round the guest's memory and takes the coldest pages it meets. A page's heat
//! tells how lately it was touched, and a little how often. The default, for it was never far from the best on recorded
//! guests (`docs/benchmarks.md`).

use super::{Arrival, HOTTEST, Heat, Occasion, Policy};

/// A page that has just come, and one that a scan has seen since: seven eighths of the way up. That scan saw the touch for
/// which the page came, and perhaps no other, so it does not count.
const NEW: Heat = KNOWN + 1;
const KNOWN: Heat = 112;
/// What a regular scan without a touch takes away: after a dozen of them a page that was touched once is idle.
const REGULAR_LOSS: Heat = KNOWN.div_ceil(12);

/// A scan that sees a touch takes heat half of the way to [`HOTTEST`]; one that sees none takes a little away. So what is
/// touched once in a while stays above what comes, is used and is done with.
#[derive(Clone, Copy, Debug)]
pub struct Clock;

impl Policy for Clock {
    fn on_arrival(&self, arrival: Arrival) -> Heat {
        match arrival {
            Arrival::Wanted | Arrival::Found => NEW,
            // One that is not touched by the next scan goes before those that once were.
            Arrival::Prefetched => HOTTEST / 2,
        }
    }

    fn after_scan(&self, heat: Heat, accessed: bool, occasion: Occasion) -> Heat {
        let after = match occasion {
            _ if accessed && heat == NEW => KNOWN,
            _ if accessed => heat + (HOTTEST - heat).div_ceil(2),
            Occasion::Regular => heat.saturating_sub(REGULAR_LOSS),
            Occasion::Refaults => heat.saturating_sub(1),
        };
        if after == NEW { KNOWN } else { after }
    }

    fn idle_at(&self) -> Heat {
        0
    }

    /// Between two regular scans more may come than there is room for. All of it would be as hot, and the hand would take it
    /// in the order of its place.
    fn scans_at_refaults(&self) -> bool {
        true
    }
}
