//! `lucarne seal encrypt`: a signed request made unreadable for all but its host.
//!
//! Owns the command; the form is the room's, which age's own tools write too.

use std::path::PathBuf;

use clap::Args;
use lucarne_seal::{
    age::{Recipient, Seed},
    sealed_request,
    trust::read_envelope,
};

use super::seal::{read_octets, unreadable, write_public};
use crate::{failure::Failure, nonces};

#[derive(Args, Clone, Debug)]
pub(crate) struct EncryptArgs {
    /// The request's file, with all its signatures: none can be added later
    file: PathBuf,
    /// The host's own recipient: `age1...`, or `age1tag1...` of its TPM
    #[arg(long, value_name = "AGE-RECIPIENT")]
    host_recipient: Recipient,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl EncryptArgs {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let envelope = read_octets(&self.file)?;
        read_envelope(&envelope).map_err(|refusal| Failure::problem(refusal.code(), refusal.to_string()))?;
        let sealed = sealed_request::seal(&envelope, &Seed::new(nonces::random()?), self.host_recipient);
        write_public(&self.out, &sealed.map_err(|error| unreadable(&self.file, error))?)
    }
}
