//! Guest memory: its unit, where a page can be, how an owner wants it kept, and what a host tells of it.
//!
//! Owns the words. Whose pages go where is decided in the room `memory`, and done by a VM's pager; see
//! [`crate::desired`] and [`crate::actual`] for the messages that carry these.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Sub, SubAssign},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Bytes;

/// A count of guest pages of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Pages(pub u64);

impl Pages {
    pub const ZERO: Self = Self(0);
    /// Bytes in a page.
    pub const SIZE: u64 = 4096;

    pub const fn mib(n: u64) -> Self {
        Self(n << 8)
    }
    /// Whole pages of `bytes`; a last part of a page counts as one.
    pub const fn covering(bytes: Bytes) -> Self {
        Self(bytes.0.div_ceil(Self::SIZE))
    }
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0.saturating_mul(Self::SIZE))
    }
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}
impl Add for Pages {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}
impl AddAssign for Pages {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl Sub for Pages {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.saturating_sub(other)
    }
}
impl SubAssign for Pages {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}
impl Sum for Pages {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}
impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().fmt(f)
    }
}

/// How a VM shares the host's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryMode {
    /// Has what it was launched with; pages that it does not use may leak out and come back.
    #[default]
    Generic,
    /// Takes what is unused, in order of priority, and gives it back when generic VMs need it.
    Soaker,
}

impl fmt::Display for MemoryMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Generic => "generic",
            Self::Soaker => "soaker",
        })
    }
}

/// A soaker's rank: a higher one takes first and gives back last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Priority(pub u8);

impl Default for Priority {
    fn default() -> Self {
        Self(50)
    }
}

/// Which pages leave first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EvictionPolicy {
    /// Those whose access bits were clear for the most scans.
    #[default]
    Clock,
    /// Those used least often, where uses long ago count less (US 9,176,764 says least frequently used).
    DecayedLfu,
    /// Any.
    Random,
}

/// Between which amounts of resident memory a VM's leaky bucket neither fills nor drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryThresholds {
    /// Resident memory above which an interval fills the bucket.
    pub fill_above: Bytes,
    /// Resident memory below which an interval drains it; at most `fill_above`.
    pub drain_below: Bytes,
}

/// How an owner, or the operator, wants an instance's memory kept. Which of them are possible is said by
/// `lucarne_memory::settings`. The minimums count while it is a soaker, the thresholds while it is generic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemorySettings {
    #[serde(default)]
    pub mode: MemoryMode,
    #[serde(default)]
    pub priority: Priority,
    /// A soaker that would be left with less is paused, then hibernated. None: an eighth of its memory,
    /// at most the other minimum.
    #[serde(default)]
    pub minimum_operating: Option<Bytes>,
    /// A soaker that was hibernated comes back when it can have this much; at least the other minimum. None: a
    /// quarter of its memory, at least the other minimum.
    #[serde(default)]
    pub minimum_starting: Option<Bytes>,
    /// None of its pages leaves the host's memory.
    #[serde(default)]
    pub pinned: bool,
    /// None: they move with the host's pressure.
    #[serde(default)]
    pub thresholds: Option<MemoryThresholds>,
    #[serde(default)]
    pub eviction: EvictionPolicy,
}

/// Where a page of a guest can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Never written; reads as zeros.
    Untouched,
    /// One repeated value, kept as that value.
    SameFilled,
    Resident,
    /// In the host's compressed pool.
    Compressed,
    Ssd,
    /// In another host's memory.
    Remote,
    /// In a snapshot: of this VM, of the one that it was cloned from, or of an image's warm state.
    Snapshot,
}

impl Place {
    pub const ALL: [Self; 7] =
        [Self::Untouched, Self::SameFilled, Self::Resident, Self::Compressed, Self::Ssd, Self::Remote, Self::Snapshot];
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Untouched => "untouched",
            Self::SameFilled => "same-filled",
            Self::Resident => "resident",
            Self::Compressed => "compressed",
            Self::Ssd => "ssd",
            Self::Remote => "remote",
            Self::Snapshot => "snapshot",
        })
    }
}

/// How many of a VM's pages are where. The sum is the VM's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PagesByPlace {
    pub untouched: Pages,
    pub same_filled: Pages,
    pub resident: Pages,
    pub compressed: Pages,
    pub ssd: Pages,
    pub remote: Pages,
    pub snapshot: Pages,
}

impl PagesByPlace {
    pub const fn at(&self, place: Place) -> Pages {
        match place {
            Place::Untouched => self.untouched,
            Place::SameFilled => self.same_filled,
            Place::Resident => self.resident,
            Place::Compressed => self.compressed,
            Place::Ssd => self.ssd,
            Place::Remote => self.remote,
            Place::Snapshot => self.snapshot,
        }
    }
    pub const fn at_mut(&mut self, place: Place) -> &mut Pages {
        match place {
            Place::Untouched => &mut self.untouched,
            Place::SameFilled => &mut self.same_filled,
            Place::Resident => &mut self.resident,
            Place::Compressed => &mut self.compressed,
            Place::Ssd => &mut self.ssd,
            Place::Remote => &mut self.remote,
            Place::Snapshot => &mut self.snapshot,
        }
    }
    pub fn total(&self) -> Pages {
        Place::ALL.iter().map(|place| self.at(*place)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_page_counts_as_one() {
        assert_eq!(Pages::covering(Bytes(1)), Pages(1));
        assert_eq!(Pages::covering(Bytes(8192)), Pages(2));
        assert_eq!(Pages::mib(1).bytes(), Bytes::mib(1));
    }

    #[test]
    fn every_place_is_counted_once() {
        let mut pages = PagesByPlace::default();
        for (at, place) in Place::ALL.into_iter().enumerate() {
            *pages.at_mut(place) = Pages(1 << (8 * at));
        }
        assert_eq!(pages.total(), Pages(0x0001_0101_0101_0101));
        assert!(Place::ALL.iter().all(|place| pages.at(*place) > Pages::ZERO));
    }
}
