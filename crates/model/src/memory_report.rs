//! What a host tells of memory: of the machine's as a whole, and of each VM's pages.
//!
//! Owns the shapes that travel in a [`Report`](crate::actual::Report) and are shown as they are. The words that they are made
//! of are in [`crate::memory`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Bytes, InstanceId, Moment, Pages,
    instance::StateReason,
    lease::Lending,
    memory::{MemoryMode, PagesByPlace, Place},
    memory_move::{MoveWish, Moving},
};

/// What a host tells of its memory and of that of its VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryReport {
    pub host: HostMemory,
    pub instances: Vec<InstanceMemory>,
    /// Instances that it would rather have elsewhere.
    #[serde(default)]
    pub wishes: Vec<MoveWish>,
    /// Instances that run and are being brought to another host.
    #[serde(default)]
    pub moving: Vec<Moving>,
}

/// Whether the machine lets its agent do a thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Ability {
    Available,
    Unavailable {
        /// Why not, and what would help.
        reason: String,
    },
}

impl Ability {
    pub const fn is_available(&self) -> bool {
        matches!(self, Self::Available)
    }
}

/// Where a host's memory is. `total` is the sum of what follows it, to the byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostMemory {
    /// What the operator gave to guests and their keeping.
    pub total: Bytes,
    /// Guests' pages in memory.
    pub resident: Bytes,
    /// Guests' pages that are kept compressed.
    pub compressed: Bytes,
    /// Pages that several guests share; each counts once, and not as resident.
    pub shared: Bytes,
    /// What QEMU and the pagers need for themselves.
    pub overhead: Bytes,
    /// Copies of other hosts' pages; the first to go when guests here need the room.
    #[serde(default)]
    pub lent: Bytes,
    /// Kept unallocated, as the operator says.
    pub pool: Bytes,
    pub free: Bytes,
    /// Whether guests' pages can leave this host's memory; if not, memory is promised once.
    pub paging: Ability,
    /// Whether soakers get only the processor time that others leave.
    pub cpu_weights: Ability,
    /// What it would lend and borrow; no part of the sum.
    #[serde(default)]
    pub lending: Lending,
}

impl HostMemory {
    /// The sum of the parts, which is [`Self::total`].
    pub fn parts(&self) -> Bytes {
        let kept = [self.resident, self.compressed, self.shared, self.overhead, self.lent];
        kept.into_iter().chain([self.pool, self.free]).sum()
    }
}

/// What becomes of a VM for want of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryState {
    /// Its processors run.
    #[default]
    Active,
    /// Its processors stand; its pages are where they are.
    Paused,
    /// It has no process and no page in memory; it goes on where it stopped.
    Hibernated,
}

impl std::fmt::Display for MemoryState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Hibernated => "hibernated",
        })
    }
}

/// Page faults that brought a page from one place, and how long the guest waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FaultsFrom {
    pub place: Place,
    pub count: u64,
    pub p50_micros: u32,
    pub p99_micros: u32,
}

/// The memory of one VM at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceMemory {
    pub instance: InstanceId,
    /// When this was so.
    pub at: Moment,
    pub mode: MemoryMode,
    pub state: MemoryState,
    pub pages: PagesByPlace,
    /// Pages that it may have in memory; none: as many as it wants.
    pub target: Option<Pages>,
    /// How full its bucket is, in thousandths; one that is full gives pages back.
    pub bucket: u32,
    /// Since its pager began.
    pub faults: Vec<FaultsFrom>,
    /// Pages that left memory.
    pub evictions: u64,
    /// Pages that came back.
    pub refaults: u64,
    /// How often its pager was started again after it had died.
    pub pager_restarts: u32,
    /// What hinders its pages from moving as they should.
    pub trouble: Option<StateReason>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_hosts_memory_counts_once() {
        let memory = HostMemory {
            total: Bytes(127),
            resident: Bytes(1),
            compressed: Bytes(2),
            shared: Bytes(4),
            overhead: Bytes(8),
            pool: Bytes(16),
            free: Bytes(32),
            lent: Bytes(64),
            paging: Ability::Available,
            cpu_weights: Ability::Available,
            lending: Lending::default(),
        };
        assert_eq!(memory.parts(), memory.total);
    }
}
