//! What is said so that nobody can change it afterwards: signed statements, and the proof that a log holds them.
//!
//! Rooms that need another's word share it, and each says what its own statements are. Read it in this order:
//! - a document has one text: [`canonical`] JSON; who signed it, and for which type: [`signing`];
//! - a log of them is a [`merkle`] tree; that an entry is in it, and that it only grew, is a [`proof`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod canonical;
pub mod merkle;
pub mod proof;
pub mod signing;

/// SHA-256 over the parts one after the other.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let digest = context.finish();
    std::array::from_fn(|at| digest.as_ref().get(at).copied().unwrap_or_default())
}
