//! The TPM of a host: what the host presents, what is asked of it, and what is shown of it.
//!
//! Owns the shapes. Whether what is presented is believed is judged by the room `attest` and decided by the controller; the
//! octets are as the TPM gave them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, Moment, Octets, Tags, TpmMakerId, instance::StateReason, storage::Digest};

/// What a host says of its TPM, each time that it has opened it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PresentedTpm {
    /// The machine's own.
    Hardware(TpmIdentity),
    /// A program beside the agent.
    Software(TpmIdentity),
    /// There is none, or it does not work.
    None { reason: StateReason },
}

impl PresentedTpm {
    pub const fn identity(&self) -> Option<&TpmIdentity> {
        match self {
            Self::Hardware(identity) | Self::Software(identity) => Some(identity),
            Self::None { .. } => None,
        }
    }
    pub const fn kind(&self) -> TpmKind {
        match self {
            Self::Hardware(_) => TpmKind::Hardware,
            Self::Software(_) => TpmKind::Software,
            Self::None { .. } => TpmKind::None,
        }
    }
}

/// Which TPM it is, and by which of its keys it signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TpmIdentity {
    pub model: TpmModel,
    /// TPMT_PUBLIC of the endorsement key.
    pub endorsement_public: Octets,
    /// Its certificate and those between it and its maker's root, in DER, the key's own first; empty where it has none.
    pub endorsement_certificates: Vec<Octets>,
    /// TPMT_PUBLIC of the attestation key.
    pub attestation_public: Octets,
}

/// What a TPM says of itself; proof is in its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TpmModel {
    /// Letters of the TCG's registry, such as `INTC` for Intel, and `IBM` for software.
    pub manufacturer: String,
    pub model: String,
    pub firmware: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TpmKind {
    Hardware,
    Software,
    None,
}

/// A host's TPM, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostTpm {
    /// By the host's word.
    pub kind: TpmKind,
    /// By the TPM's word.
    pub model: Option<TpmModel>,
    /// SHA-256 of the endorsement key's SubjectPublicKeyInfo.
    pub endorsement_key: Option<Digest>,
    /// SHA-256 of the attestation key's SubjectPublicKeyInfo.
    pub attestation_key: Option<Digest>,
    /// The trusted maker that vouches for the endorsement key, by its name in the controller's list.
    pub maker: Option<String>,
    /// When it was proved that both keys live in one TPM, and that this host has it; none while that does not count.
    pub proved: Option<Moment>,
    /// Why it does not count.
    pub reason: Option<StateReason>,
}

impl HostTpm {
    /// Whether what this TPM signs is believed.
    pub const fn is_proved(&self) -> bool {
        self.proved.is_some()
    }
}

/// A maker whose TPMs the operator trusts: the root of their endorsement certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TpmMaker {
    pub id: TpmMakerId,
    /// Always the operator's.
    pub account: AccountId,
    pub name: String,
    /// The root's certificate, in DER.
    pub certificate: Octets,
    /// SHA-256 of it.
    pub fingerprint: Digest,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

/// A credential for a host's TPM to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredChallenge {
    /// Names who waits for the answer; hard to guess.
    pub token: String,
    /// TPM2B_ID_OBJECT.
    pub credential_blob: Octets,
    /// TPM2B_ENCRYPTED_SECRET.
    pub encrypted_secret: Octets,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum ChallengeAnswer {
    /// The TPM opened it. The secret itself is not told: a SHA-256 over it and the key of the host that answers is.
    Opened {
        answer: Octets,
    },
    Failed {
        reason: StateReason,
    },
}
