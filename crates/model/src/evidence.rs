//! What a host proves a launch with: everything that a verifier needs, and nothing that must be asked for later.
//!
//! Owns the shape and its JSON. The octets are as the TPM gave them; the room `attest` reads and judges them, and writes
//! them as the folder of plain files that other tools take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{InstanceId, octets::Octets, storage::Digest};

/// One platform configuration register of the SHA-256 bank.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PcrValue {
    /// 0 to 23.
    pub index: u8,
    pub value: Digest,
}

/// What a host's TPM said of its registers, bound to what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterQuote {
    /// TPMS_ATTEST of the kind quote.
    pub message: Octets,
    /// TPMT_SIGNATURE over `message` by the attestation key.
    pub signature: Octets,
    /// The registers that were quoted, ascending.
    pub registers: Vec<PcrValue>,
}

/// How the attestation key was proved to live in the TPM that the endorsement key names: what was asked with
/// `MakeCredential` and what the host answered after `ActivateCredential`. It binds whoever believes the asker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialProof {
    /// What only the TPM with both keys could decrypt.
    pub secret: Octets,
    /// The random octets that the asker drew for the encryption, so that anyone can make the same question again.
    pub randomness: Octets,
    /// TPM2B_ID_OBJECT, as it was sent.
    pub credential_blob: Octets,
    /// TPM2B_ENCRYPTED_SECRET, as it was sent.
    pub encrypted_secret: Octets,
    /// What the host answered: a SHA-256 over the secret and the host's key.
    pub answer: Octets,
}

/// Evidence of one launch of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    pub instance: InstanceId,
    /// Which run of the instance, as in its desired state.
    pub generation: u64,
    /// What the tenant drew, so that the quote cannot be an old one.
    pub nonce: Octets,
    /// SHA-256 of the SubjectPublicKeyInfo of the key that the host agent proves itself with in TLS.
    pub host_key: Digest,
    /// TPMS_ATTEST of the kind quote.
    pub quote: Octets,
    /// TPMT_SIGNATURE over `quote` by the attestation key.
    pub signature: Octets,
    /// The registers that were quoted, ascending.
    pub pcrs: Vec<PcrValue>,
    /// The host's event log in the TCG's crypto-agile form.
    pub event_log: Octets,
    /// TPMT_PUBLIC of the attestation key.
    pub ak_public: Octets,
    /// The endorsement key's certificate and those between it and its maker's root, in DER, the key's own first.
    pub ek_certificates: Vec<Octets>,
    pub credential: Option<CredentialProof>,
    /// The canonical description of the guest whose SHA-256 digest was extended into the register of one launch; none
    /// when only the host is quoted.
    pub guest: Option<Octets>,
}
