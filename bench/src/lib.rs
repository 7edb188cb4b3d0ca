//! What the benches share: a real `lucarne dev` to measure, made-up flow records and captures, a sink for exports, `nfcapd` as a peer, and
//! the tables in which they say what they found.
//!
//! Owns no figures: each bench is a program of its own in `src/bin`.

pub mod cloud;
mod dice;
pub mod figures;
pub mod flow_mix;
pub mod nfcapd;
pub mod sink;
pub mod trace;
