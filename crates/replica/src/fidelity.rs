//! What a duplicate must have in common with its source, at each level.
//!
//! Owns what the levels demand of a machine and of its host, and which level a duplicate on a host would be of.

use lucarne_model::{
    Bytes, Vcpus,
    instance::Instance,
    replica::{Fidelity, MemoryCopy},
};

/// A machine for a duplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    pub vcpus: Vcpus,
    pub memory: Bytes,
}

/// The least machine that a level takes. A guest that goes on with its memory keeps the machine that it has: its kernel counted
/// processors and memory long ago.
pub fn machine(source: &Instance, level: Fidelity, memory: MemoryCopy, least_memory: Bytes) -> Machine {
    let same = Machine { vcpus: source.vcpus, memory: source.memory };
    match (level, memory) {
        (Fidelity::Low, MemoryCopy::Cold) => {
            Machine { vcpus: Vcpus(1), memory: least_memory.max(Bytes::mib(1)).min(source.memory) }
        }
        _ => same,
    }
}

/// What a host tells of what it would run the duplicate with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ground<'a> {
    /// The hypervisor that the source's host tells, with its version; empty where it tells none.
    pub source: &'a str,
    pub duplicate: &'a str,
    /// Whether both are on one host, and so on the same processors.
    pub one_host: bool,
}

/// The level that a duplicate of `source` with this machine would be of.
pub fn reached(source: &Instance, machine: Machine, ground: Ground<'_>) -> Fidelity {
    let same_size = machine.vcpus == source.vcpus && machine.memory == source.memory;
    let enough = machine.vcpus >= source.vcpus && machine.memory >= source.memory;
    let same_hypervisor = !ground.source.is_empty() && ground.source == ground.duplicate;
    match (same_size, enough) {
        (true, _) if same_hypervisor && ground.one_host => Fidelity::Exact,
        (_, true) => Fidelity::High,
        _ => Fidelity::Low,
    }
}
