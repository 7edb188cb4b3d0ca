//! Bodies of attested launches and of lists of known measurements. Owns their shapes; the words are `lucarne_model`'s.

use lucarne_model::{
    AccountId, InstanceId, Measurement, Octets,
    attestation::{AttestPolicy, InstanceAttestation, JudgedMeasurement, Judgement, KnownMeasurement, VpcAttestPolicy},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is to be proved before the instances of a launch may begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttestLaunch {
    pub policy: AttestPolicy,
    /// 16 to 64 octets that the caller drew and keeps: only who knows that they are new knows that the proof is.
    pub nonce: Octets,
}

/// An answer to what was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerAttestation {
    /// That of the proof which is answered, so that no other is.
    pub nonce: Octets,
}

/// An instance's attestation with all that was measured of its present start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShownAttestation {
    pub instance: InstanceId,
    pub account: AccountId,
    pub generation: u64,
    pub attestation: InstanceAttestation,
    /// The host's first, then the guest's; empty until there is a proof.
    pub measurements: Vec<JudgedMeasurement>,
    /// Judgements and answers, newest first.
    pub history: Vec<Judgement>,
}

/// Measurements for the account's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddMeasurements {
    /// 1 to 1000; what the list has already is not added again.
    pub measurements: Vec<Measurement>,
    /// The configuration that all of them are part of.
    #[serde(default)]
    pub configuration: Option<String>,
    #[serde(default)]
    pub note: Option<String>,
}

/// Those of the account's list that were asked to be in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddedMeasurements {
    pub items: Vec<KnownMeasurement>,
}

/// What is wanted of every instance of a VPC from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetAttestPolicy {
    pub policy: AttestPolicy,
    /// How often hosts must prove anew what runs there; 15 minutes if not given.
    #[serde(default = "usual_recheck")]
    pub recheck_seconds: u64,
}

fn usual_recheck() -> u64 {
    VpcAttestPolicy::RECHECK.as_secs()
}
