//! One TPM 2.0: the machine's own, or swtpm as a child of ours. Commands there, answers back, and what keys are kept.
//!
//! A hand: it acts and does not judge. What a TPM's words are worth is decided by the room `lucarne_attest`, whose
//! structures ([`lucarne_attest::wire`]) it speaks. In reading order:
//! - pure: the numbers [`code`], what is sent ([`command`]), what comes back ([`answer`]), refusals in words
//!   ([`response_code`]), the keys that are made ([`template`]), who made the TPM ([`identity`]);
//! - the exchange: [`transport`], and [`tpm`] over it;
//! - [`keys`]: endorsement key and attestation key, kept over restarts;
//! - [`agreement`]: keys to which what only this TPM may read is sealed;
//! - [`swtpm`]: the program, made ready, started, and ended with us.

pub mod agreement;
mod answer;
mod code;
mod command;
mod error;
mod identity;
mod keys;
mod response_code;
pub mod swtpm;
mod template;
mod tpm;
mod transport;

pub use answer::{Malformed, PcrValues, Quote};
pub use code::CommandCode;
pub use error::Error;
pub use identity::Maker;
pub use keys::{Credential, Keys};
pub use response_code::ResponseCode;
pub use tpm::Tpm;
pub use transport::Transport;
