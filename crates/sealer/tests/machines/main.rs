//! Sealed operations carried out on real QEMU processes, by a real sealing process, and opened with the stock `age`.
#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]

mod canary;
mod controls;
mod dump;
mod house;
mod hypervisor;
mod kernel;
mod memory;
mod orders;
mod sight;
