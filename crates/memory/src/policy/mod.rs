//! Which pages leave first: a policy says how hot a page is after each scan, and picks victims.
//!
//! Owns the trait and the table of policies. The octet for each page is [`Residency`](crate::residency::Residency)'s.

mod clock;
mod decayed_lfu;
mod random;

pub use clock::Clock;
pub use decayed_lfu::DecayedLfu;
use lucarne_model::memory::EvictionPolicy;
pub use random::Random;

use crate::{residency::ResidentPages, run::Run};

/// How hot a resident page is: 0 the coldest, [`HOTTEST`] the hottest.
pub type Heat = u8;
pub const HOTTEST: Heat = 127;

/// Why a page is in the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The guest touched it.
    Wanted,
    /// It was fetched in the hope that the guest will touch it.
    Prefetched,
    /// It was here when the pager began to look.
    Found,
}

/// Why a scan was made ([`Looks`](crate::looks::Looks) decides).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// It was time.
    Regular,
    /// Refaults had cost the guest more than a scan does. The last scan may have been a moment ago.
    Refaults,
}

/// One way of choosing. Pure: chance comes from a seed that was passed in, and time from the scans.
pub trait Policy: std::fmt::Debug + Send {
    /// The heat of a page that has just come.
    fn on_arrival(&self, arrival: Arrival) -> Heat;

    /// The heat, after a scan, of a page that had `heat` before.
    fn after_scan(&self, heat: Heat, accessed: bool, occasion: Occasion) -> Heat;

    /// Pages of this heat and colder count as idle.
    fn idle_at(&self) -> Heat;

    /// Whether scans beside the regular ones help it, as soon as refaults cost more.
    fn scans_at_refaults(&self) -> bool {
        false
    }

    /// Takes up to `wanted` victims out of `resident`: fewer only when there are no more.
    fn choose(&mut self, resident: &mut ResidentPages, wanted: u64) -> Vec<Run> {
        resident.take_coldest(wanted)
    }
}

/// The policy of this name. `seed` is for one that draws.
pub fn named(name: EvictionPolicy, seed: u64) -> Box<dyn Policy> {
    match name {
        EvictionPolicy::Clock => Box::new(Clock),
        EvictionPolicy::DecayedLfu => Box::new(DecayedLfu),
        EvictionPolicy::Random => Box::new(Random::new(seed)),
    }
}

#[cfg(test)]
mod tests;
