//! The whole of it, end to end: real processes, and real VMs where a test says so.

mod adoption;
mod attestation;
mod crossing;
mod demo;
mod faults;
mod findings;
mod flow_logs;
mod hosts;
mod machines;
mod memory;
mod migration;
mod moving_volumes;
mod notary;
mod questions;
mod recordings;
mod records;
mod refusals;
mod remote_memory;
mod replays;
mod replica_deepening;
mod replica_faults;
mod replicas;
mod ring;
mod seals;
mod warm;
mod workflows;
