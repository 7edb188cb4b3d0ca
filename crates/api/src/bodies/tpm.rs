//! Bodies about hosts' TPMs: makers that operators trust, and challenges of tenants. Owns their shapes; the words are
//! `lucarne_model`'s.

use lucarne_model::{Octets, Tags};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A maker whose TPMs are trusted from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddTpmMaker {
    pub name: String,
    /// The certificate, in DER, that its endorsement certificates lead to.
    pub certificate: Octets,
    #[serde(default)]
    pub tags: Tags,
}

/// A credential that the caller made for the keys of an instance's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChallengeHost {
    /// TPM2B_ID_OBJECT.
    pub credential_blob: Octets,
    /// TPM2B_ENCRYPTED_SECRET.
    pub encrypted_secret: Octets,
}

/// What the host answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengedHost {
    /// SHA-256 over the secret and the host's key, as the book has it.
    pub answer: Octets,
}
