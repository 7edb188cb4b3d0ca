//! What a duplicate is thought to cost: octets and time.
//!
//! Owns the figures, which were measured on a machine of two cores without KVM; a real one is faster. What it came to is told by
//! hosts afterwards.

use lucarne_model::{
    Bytes,
    replica::{CopyType, MemoryCopy},
    replication::{PlannedObject, ReplicaEstimate},
};

/// The state of a VM's devices, without its memory.
const DEVICES: u64 = 288 << 10;
/// An overlay over a disk that nobody has written to.
const OVERLAY: u64 = 256 << 10;
/// Stopping a VM, saving its devices and letting it go on.
const PAUSE_MICROS: u64 = 16_000;
/// From the cut until a duplicate with its memory runs.
const MILLIS_TO_GO_ON: u64 = 500;
/// From the cut until a duplicate that boots answers.
const MILLIS_TO_BOOT: u64 = 6_000;
/// What one host copies behind while its VMs run.
const OCTETS_A_SECOND: u64 = 100 << 20;

pub fn estimate(objects: &[PlannedObject]) -> ReplicaEstimate {
    let mut estimate = ReplicaEstimate::default();
    for object in objects {
        let Some(copy) = object.copy else { continue };
        let size = object.size.unwrap_or(Bytes::ZERO);
        let (at_once, copied) = match object.memory {
            Some(MemoryCopy::Live) => (DEVICES, size),
            // It has no memory to copy.
            Some(MemoryCopy::Cold) => (0, Bytes::ZERO),
            None => (OVERLAY, size),
        };
        estimate.octets_at_once = estimate.octets_at_once + Bytes(at_once);
        if copy == CopyType::Deep {
            estimate.octets_behind = estimate.octets_behind + copied;
        }
    }
    let runs = |memory| objects.iter().any(|object| object.memory == Some(memory));
    if runs(MemoryCopy::Live) || runs(MemoryCopy::Cold) {
        estimate.pause_micros = PAUSE_MICROS;
    }
    estimate.millis_until_running = match (runs(MemoryCopy::Cold), runs(MemoryCopy::Live)) {
        (true, _) => MILLIS_TO_BOOT,
        (false, true) => MILLIS_TO_GO_ON,
        (false, false) => 0,
    };
    estimate.millis_until_complete =
        estimate.millis_until_running + estimate.octets_behind.0.saturating_mul(1000) / OCTETS_A_SECOND;
    estimate
}
