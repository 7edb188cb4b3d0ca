//! Room 2: what does this machine run, and who says that it is so? Judges; hands measure, quote and ask.
//!
//! Read it in this order; `docs/book/attestation.md` tells the same for tenants and operators:
//! - what a TPM says, octet by octet: [`wire`]; where a measurement goes: [`pcr`]; how a boot is told: [`event_log`];
//! - what was measured, in canonical form: [`measure`], written as [`canonical`] JSON;
//! - of which TPM it is: [`endorsement`] by its maker, [`credential`] that only that TPM opens; both of a host's
//!   [`enrolment`]; keys as others write them: [`spki`];
//! - whether the TPM said it now and for this launch: [`quote`], bound to what [`qualifying`] says;
//! - what is known, and who says so: [`mod@reference`], of which a publisher's part is a [`manifest`], [`signing`] it, in an
//!   append-only [`log`] over a [`merkle`] tree; a publisher asked for all versions of a [`series`];
//! - all of it together: [`verify`], over [`evidence`] as a folder of plain files.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod credential;
pub mod endorsement;
pub mod enrolment;
pub mod event_log;
pub mod evidence;
#[cfg(test)]
mod example;
pub mod log;
pub mod manifest;
pub mod measure;
pub mod pcr;
pub mod qualifying;
pub mod quote;
pub mod reference;
pub mod series;
pub mod spki;
pub mod verify;
pub mod wire;

pub use lucarne_statement::{canonical, merkle, signing};
