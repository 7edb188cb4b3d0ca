//! Room 2: what does this machine run, and who says that it is so? Judges; hands measure, quote and ask.
//!
//! Read it in this order; `docs/book/attestation.md` tells the same for tenants and operators:
//! - what a TPM says, octet by octet: [`wire`];
//! - where a measurement goes: [`pcr`]; what a quote is bound to: [`qualifying`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod pcr;
pub mod qualifying;
pub mod wire;
