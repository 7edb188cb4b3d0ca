//! Attested launches: what a tenant wants proved before an instance may begin, and what became of it.
//!
//! Owns the vocabulary of policies, states and judgements. What evidence is, is said in [`crate::evidence`]; whether it is to
//! be believed is the room `attest`'s, and holding a VM until then the host's.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AccountId, KnownMeasurementId, Measurement, Moment, Octets, Tags, UserId, instance::StateReason,
    publisher::ManifestVersion,
};

/// How long an answer is waited for where nothing else was asked for.
pub const APPROVE_WITHIN: Duration = Duration::from_secs(600);

/// Octets that a nonce has at least and at most: fewer could be guessed, more prove no more.
pub const NONCE_LENGTHS: std::ops::RangeInclusive<usize> = 16..=64;

/// Against what the measurements are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum AttestMode {
    /// The tenant is shown them, and answers.
    Prompt,
    /// Each must be in the tenant's own list.
    List,
    /// Each must be in the tenant's own list under this configuration's name, and nothing of that may be missing.
    Config { name: String },
    /// All of the host's software must be in one manifest of this publisher of the account's that holds now; of the rest,
    /// what the tenant's own list has under its component and name must be that.
    Manifest { publisher: String },
}

impl fmt::Display for AttestMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prompt => f.write_str("prompt"),
            Self::List => f.write_str("list"),
            Self::Config { name } => write!(f, "config={name}"),
            Self::Manifest { publisher } => write!(f, "manifest={publisher}"),
        }
    }
}

/// A text that is not a mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected prompt, list, config=NAME or manifest=PUBLISHER")]
pub struct ParseModeError;

impl std::str::FromStr for AttestMode {
    type Err = ParseModeError;
    fn from_str(text: &str) -> Result<Self, ParseModeError> {
        match text.split_once('=') {
            None if text == "prompt" => Ok(Self::Prompt),
            None if text == "list" => Ok(Self::List),
            Some(("config", name)) if !name.is_empty() => Ok(Self::Config { name: name.into() }),
            Some(("manifest", publisher)) if !publisher.is_empty() => {
                Ok(Self::Manifest { publisher: publisher.into() })
            }
            _ => Err(ParseModeError),
        }
    }
}

/// What becomes of an instance whose measurements do not match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnMismatch {
    /// The launch is undone as a whole.
    #[default]
    Rollback,
    /// It may exist and be looked at, but its interface never joins the virtual network.
    Quarantine,
}

/// What is wanted of each start of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttestPolicy {
    pub mode: AttestMode,
    #[serde(default)]
    pub on_mismatch: OnMismatch,
    /// How long the answer to a prompt is waited for; 10 minutes if not given.
    #[serde(default = "approve_within")]
    pub approve_within_seconds: u64,
}

fn approve_within() -> u64 {
    APPROVE_WITHIN.as_secs()
}

impl AttestPolicy {
    pub fn approve_within(&self) -> Duration {
        Duration::from_secs(self.approve_within_seconds)
    }
}

/// What is wanted of every instance that is to be part of a VPC, for as long as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VpcAttestPolicy {
    pub policy: AttestPolicy,
    /// How often hosts must prove anew what runs there.
    pub recheck_seconds: u64,
    /// Since when it is so.
    pub since: Moment,
}

impl VpcAttestPolicy {
    /// How often hosts must prove it anew where nothing else was asked for.
    pub const RECHECK: Duration = Duration::from_secs(900);

    pub fn recheck(&self) -> Duration {
        Duration::from_secs(self.recheck_seconds)
    }
}

/// Where an instance's policy is from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicySource {
    /// Its launch asked for it. What its VPC wants holds beside it.
    #[default]
    Launch,
    /// Its VPC wants it.
    Vpc,
}

/// How far the attestation of an instance's present start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AttestState {
    /// Its host has not proved anything yet; it stands before its first instruction, or is on its way there.
    Measuring,
    /// The tenant is asked.
    AwaitingApproval,
    /// The tenant said yes.
    Approved,
    /// All was found where the policy wants it.
    Matched,
    /// It did not match, and exists outside the virtual network.
    Quarantined,
    /// It did not match, and is taken back.
    Mismatched,
    /// The tenant said no.
    Denied,
    /// The tenant did not answer in time.
    Expired,
    /// It runs, and its host is asked to prove it again.
    Rechecking,
}

impl AttestState {
    /// Whether the VM may leave the place before its first instruction.
    pub const fn may_begin(self) -> bool {
        matches!(self, Self::Approved | Self::Matched | Self::Quarantined | Self::Rechecking)
    }
    /// Whether its interface is part of the virtual network. A VM that has proved nothing has no business there.
    pub const fn may_join(self) -> bool {
        matches!(self, Self::Approved | Self::Matched | Self::Rechecking)
    }
    /// Whether the host's proof is still to come.
    pub const fn awaits_evidence(self) -> bool {
        matches!(self, Self::Measuring | Self::Rechecking)
    }
}

impl fmt::Display for AttestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Measuring => "measuring",
            Self::AwaitingApproval => "awaiting-approval",
            Self::Approved => "approved",
            Self::Matched => "matched",
            Self::Quarantined => "quarantined",
            Self::Mismatched => "mismatched",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Rechecking => "rechecking",
        })
    }
}

/// What an instance carries of its attestation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceAttestation {
    pub policy: AttestPolicy,
    #[serde(default)]
    pub source: PolicySource,
    /// What its host must have signed, so that the proof is not an old one.
    pub nonce: Octets,
    pub state: AttestState,
    /// When an answer comes too late; set while one is waited for.
    #[serde(default)]
    pub until: Option<Moment>,
    /// When its host last proved what is wanted.
    #[serde(default)]
    pub proved: Option<Moment>,
    /// Since when its host is asked to prove what runs already, if it is.
    #[serde(default)]
    pub asked: Option<Moment>,
    /// When a proof of its host's was judged last, or found missing.
    #[serde(default)]
    pub checked: Option<Moment>,
}

impl InstanceAttestation {
    /// Whether the host's proof with the nonce is still to come.
    pub fn awaits_evidence(&self) -> bool {
        self.state.awaits_evidence() || self.asked.is_some()
    }
}

/// Who says that a measurement is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Voucher {
    /// The tenant's own list; with the configuration that it belongs to there, if any.
    Own { configuration: Option<String>, note: Option<String> },
    /// A manifest of a publisher whom the tenant trusts.
    Manifest(ManifestVersion),
}

/// One measurement and whether it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JudgedMeasurement {
    #[serde(flatten)]
    pub measurement: Measurement,
    /// Empty: nobody vouches for it.
    pub vouchers: Vec<Voucher>,
    /// Whether the policy is content with it; none where the tenant is asked, or the policy says nothing of it.
    pub matches: Option<bool>,
}

/// A measurement that a tenant trusts, in the tenant's own list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KnownMeasurement {
    pub id: KnownMeasurementId,
    pub account: AccountId,
    pub measurement: Measurement,
    /// The configuration that it is part of, if any.
    pub configuration: Option<String>,
    pub note: Option<String>,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

/// One judgement of one proof, or one answer of the tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Judgement {
    pub at: Moment,
    pub generation: u64,
    pub nonce: Octets,
    pub mode: AttestMode,
    /// What the attestation became by it.
    pub state: AttestState,
    /// Who answered, where somebody did.
    pub by: Option<UserId>,
    /// The manifest that the host's software was found in, where one was asked for.
    #[serde(default)]
    pub manifest: Option<ManifestVersion>,
    /// Why it is not content.
    pub reason: Option<StateReason>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_its_mode_and_leaves_the_rest_to_defaults() {
        let policy: AttestPolicy = serde_json::from_str(r#"{"mode":{"kind":"config","name":"web"}}"#).unwrap();
        assert_eq!((policy.on_mismatch, policy.approve_within()), (OnMismatch::Rollback, APPROVE_WITHIN));
        assert_eq!(policy.mode.to_string(), "config=web");
        assert!(
            serde_json::from_str::<AttestPolicy>(r#"{"mode":{"kind":"prompt"},"on_mismtach":"rollback"}"#).is_err()
        );
    }

    #[test]
    fn a_mode_reads_as_it_is_written() {
        for text in ["prompt", "list", "config=web tier", "manifest=notary.example"] {
            assert_eq!(text.parse::<AttestMode>().unwrap().to_string(), text);
        }
        for wrong in ["", "config", "config=", "manifest=", "prompt=1"] {
            assert!(wrong.parse::<AttestMode>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_joins_the_network_that_may_not_begin() {
        use AttestState as S;
        let all = [
            S::Measuring,
            S::AwaitingApproval,
            S::Approved,
            S::Matched,
            S::Quarantined,
            S::Mismatched,
            S::Denied,
            S::Expired,
            S::Rechecking,
        ];
        for state in all {
            assert!(!state.may_join() || state.may_begin(), "{state}");
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{state}\""));
        }
        assert!(S::Quarantined.may_begin() && !S::Quarantined.may_join());
    }
}
