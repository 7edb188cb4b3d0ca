//! What proves, to whoever asks with a nonce, what this host runs and what a VM on it was measured as.
//!
//! Owns the trait and why there is no proof. The TPM behind it, and the measured start that its registers speak of, are the
//! business of whoever implements it.

use std::fmt;

use async_trait::async_trait;
use lucarne_model::{Evidence, InstanceId, Measurement, Octets};

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
#[error("the TPM of this host gave no proof")]
pub struct ProverError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// One host's means of proof. Calls may come at once; each is for one VM, and none sees another's.
#[async_trait]
pub trait Prover: fmt::Debug + Send + Sync {
    /// Evidence of this host and of the VM with these measurements, signed with the nonce.
    async fn prove(
        &self,
        instance: InstanceId,
        generation: u64,
        nonce: &Octets,
        measured: &[Measurement],
    ) -> Result<Evidence, ProverError>;
}
