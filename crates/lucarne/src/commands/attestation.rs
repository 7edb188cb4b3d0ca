//! `lucarne attestation`: what hosts prove, and whether it is to be believed.

use clap::Subcommand;

use super::attestation_verify::VerifyArgs;

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum AttestationCommand {
    /// Judge evidence in a folder, with nobody asked: every check with its result; exits 1 with the first that refuses
    Verify(VerifyArgs),
}
