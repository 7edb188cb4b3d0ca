//! What the benches share: a real `lucarne dev` to measure, a collector with a host, made-up flow records and captures, a
//! sink for exports, `nfcapd` as a peer, what memory a process takes, a first program for a
//! guest, how long they run, and the tables in which they say what they found.
//!
//! Owns no figures: each bench is a program of its own in `src/bin`.

pub mod cloud;
#[cfg(feature = "collecting")]
pub mod collecting;
pub mod cpio;
mod dice;
pub mod figures;
pub mod flow_mix;
pub mod length;
pub mod memory;
pub mod nfcapd;
pub mod sink;
pub mod trace;
