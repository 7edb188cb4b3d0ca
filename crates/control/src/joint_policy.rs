//! What is wanted of an instance by its launch and by its VPC together.
//!
//! Owns the rule that the stricter wins: both must be content, and if either would have nothing left of an instance that does
//! not match, nothing is left. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;

use lucarne_model::attestation::{
    AttestMode, AttestPolicy, InstanceAttestation, OnMismatch, PolicySource, VpcAttestPolicy,
};

/// All that must be content, and what happens if it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JointPolicy {
    /// Each once, that of the launch first.
    pub(crate) modes: Vec<AttestMode>,
    pub(crate) on_mismatch: OnMismatch,
}

impl JointPolicy {
    /// An instance that was begun by its VPC's policy goes by what the VPC wants now, or last wanted.
    pub(crate) fn of(attestation: &InstanceAttestation, vpc: Option<&VpcAttestPolicy>) -> Self {
        let own = Some(&attestation.policy).filter(|_| attestation.source == PolicySource::Launch || vpc.is_none());
        let all: Vec<&AttestPolicy> = own.into_iter().chain(vpc.map(|vpc| &vpc.policy)).collect();
        let mut modes: Vec<AttestMode> = Vec::new();
        for policy in &all {
            if !modes.contains(&policy.mode) {
                modes.push(policy.mode.clone());
            }
        }
        let rolls_back = all.iter().any(|policy| policy.on_mismatch == OnMismatch::Rollback);
        Self { modes, on_mismatch: if rolls_back { OnMismatch::Rollback } else { OnMismatch::Quarantine } }
    }

    /// Whether somebody is to be asked.
    pub(crate) fn asks(&self) -> bool {
        self.modes.contains(&AttestMode::Prompt)
    }

    /// Those who must say now what they publish.
    pub(crate) fn publishers(&self) -> BTreeSet<String> {
        let publisher = |mode: &AttestMode| match mode {
            AttestMode::Manifest { publisher } => Some(publisher.clone()),
            AttestMode::Prompt | AttestMode::List | AttestMode::Config { .. } => None,
        };
        self.modes.iter().filter_map(publisher).collect()
    }
}

#[cfg(test)]
mod tests {
    use lucarne_model::{
        Moment, Octets,
        attestation::{APPROVE_WITHIN, AttestState},
    };

    use super::*;

    fn policy(mode: &AttestMode, on_mismatch: OnMismatch) -> AttestPolicy {
        AttestPolicy { mode: mode.clone(), on_mismatch, approve_within_seconds: APPROVE_WITHIN.as_secs() }
    }

    #[test]
    fn launch_and_vpc_must_both_be_content_and_the_harder_end_is_the_end() {
        use OnMismatch::{Quarantine, Rollback};
        let (list, manifest) = (AttestMode::List, AttestMode::Manifest { publisher: "p".into() });
        let joint = |source, own: (&AttestMode, OnMismatch), vpc: Option<(&AttestMode, OnMismatch)>| {
            let (policy_of, nonce, state) = (policy(own.0, own.1), Octets::default(), AttestState::Measuring);
            let attestation = InstanceAttestation {
                policy: policy_of,
                source,
                nonce,
                state,
                until: None,
                proved: None,
                asked: None,
                checked: None,
            };
            let vpc = vpc.map(|(mode, on_mismatch)| VpcAttestPolicy {
                policy: policy(mode, on_mismatch),
                recheck_seconds: 1,
                since: Moment::EPOCH,
            });
            let JointPolicy { modes, on_mismatch } = JointPolicy::of(&attestation, vpc.as_ref());
            (modes, on_mismatch)
        };
        use PolicySource::{Launch, Vpc};
        let both = vec![list.clone(), manifest.clone()];
        let cases = [
            (joint(Launch, (&list, Quarantine), None), (vec![list.clone()], Quarantine)),
            (joint(Launch, (&list, Quarantine), Some((&manifest, Quarantine))), (both.clone(), Quarantine)),
            (joint(Launch, (&list, Rollback), Some((&manifest, Quarantine))), (both.clone(), Rollback)),
            (joint(Launch, (&list, Quarantine), Some((&manifest, Rollback))), (both, Rollback)),
            (joint(Launch, (&list, Quarantine), Some((&list, Quarantine))), (vec![list.clone()], Quarantine)),
            (joint(Vpc, (&list, Rollback), Some((&manifest, Quarantine))), (vec![manifest.clone()], Quarantine)),
            (joint(Vpc, (&list, Rollback), None), (vec![list.clone()], Rollback)),
        ];
        for (at, (found, expected)) in cases.into_iter().enumerate() {
            assert_eq!(found, expected, "case {at}");
        }
    }
}
