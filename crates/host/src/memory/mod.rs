//! Guests' memory on this host: paged, governed, and told of.
//!
//! Owns which pager serves which VM, and the sleep of VMs. In reading order: [`guests`] starts, stops and adopts VMs with
//! their pagers; [`supervisor`] keeps a pager alive; [`sleep`] hibernates and wakes; [`moving`]
//! brings VMs to other hosts, awake or asleep; [`warm`] lets them begin where another
//! stopped; [`cutting`] holds what several were at one instant, and [`duplicating`] has others go on from there; [`governing`] is the loop that measures ([`measure`]), asks the room `memory`, and does what it says; [`view`] is
//! how measurements are read; [`loans`] lends memory to other hosts, and borrows theirs.

mod cpu;
mod cutting;
mod duplicating;
mod governing;
mod guests;
mod loans;
mod measure;
mod moving;
mod sleep;
mod supervisor;
mod view;
pub(crate) mod warm;

use lucarne_memory::oversubscription::Oversubscription;
use lucarne_model::{Bytes, InstanceId, Vcpus, memory::MemorySettings, memory_report::Ability};

pub(crate) use cutting::CutError;
pub(crate) use duplicating::DuplicateError;
pub(crate) use governing::govern;
pub use guests::Memory;
pub(crate) use guests::Tools;
pub(crate) use loans::{LendingTools, Word};
pub(crate) use measure::process_ticks;
pub(crate) use warm::WarmError;

/// What the operator gave of this machine to guests' pages.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// All of it.
    pub(crate) memory: Bytes,
    /// Of that, what is kept free.
    pub(crate) unallocated: Bytes,
    /// Of that, what compressed pages may take at most.
    pub(crate) compressed: Bytes,
    /// Thousandths by which promises exceed it.
    pub(crate) factor: u32,
    /// Whether pages can leave.
    pub(crate) paging: Ability,
}

impl Budget {
    /// As the room `memory` has it.
    pub(crate) fn oversubscription(&self) -> Oversubscription {
        Oversubscription { factor: self.factor, unallocated: self.unallocated, pool: self.compressed }
    }
}

/// A VM that is to be governed: what runs here, and how its owner wants its memory kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Governed {
    pub(crate) instance: InstanceId,
    pub(crate) vcpus: Vcpus,
    pub(crate) memory: Bytes,
    pub(crate) settings: MemorySettings,
}
