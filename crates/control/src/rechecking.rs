//! When the host of an instance that runs is asked to prove it again, and when it has failed to.
//!
//! Owns the schedule: each instance has a time of its own within its VPC's interval, so that hosts are never asked for all at
//! once, and a controller that was away knows from the records alone what is due. Pure: what is asked and judged is done by
//! [`crate::services::rechecks`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{collections::BTreeMap, time::Duration};

use lucarne_model::{
    ErrorCode, Evidence, HostId, InstanceId, Moment,
    actual::ActualInstance,
    attestation::{AttestState, InstanceAttestation, VpcAttestPolicy},
    instance::{Instance, InstanceState, StateReason},
};

use crate::workflow::steps::Observed;

/// How long a host that answers may take to prove an instance again. It is cut off then: silence proves nothing.
const PATIENCE: Duration = Duration::from_secs(300);
/// How many proofs one host is asked for at a time: its TPM makes one after the other.
const OF_ONE_HOST: usize = 4;

/// An instance and all that its recheck depends on.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) instance: Instance,
    /// That of its VPC.
    pub(crate) policy: Option<VpcAttestPolicy>,
    /// When its host's agent was last found to have been started.
    pub(crate) host_began: Option<Moment>,
    pub(crate) told: Observed,
}

/// What is to be done for one instance.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    /// Its host is asked, with a new nonce.
    Ask,
    /// Its host has answered.
    Judge(Box<Evidence>),
    /// Its host has not answered in time.
    CutOff(StateReason),
}

/// What is to be done now for each of them; whoever was not looked at for longest first.
pub(crate) fn plan(subjects: &[Subject], now: Moment) -> Vec<(InstanceId, Next)> {
    let mut pending: BTreeMap<HostId, usize> = BTreeMap::new();
    let asked = subjects.iter().filter(|one| one.attestation().is_some_and(|about| about.asked.is_some()));
    asked.filter_map(|one| one.instance.host).for_each(|host| *pending.entry(host).or_default() += 1);
    let mut due: Vec<(&Subject, Next)> = subjects.iter().filter_map(|one| Some((one, one.next(now)?))).collect();
    due.sort_by_key(|(one, _)| one.attestation().and_then(|about| about.checked));
    let mut take = |one: &Subject| {
        let of_host = one.instance.host.map(|host| pending.entry(host).or_default());
        of_host.is_some_and(|count| {
            *count += 1;
            *count <= OF_ONE_HOST
        })
    };
    let taken = due.into_iter().filter(|(one, next)| *next != Next::Ask || one.is_asked() || take(one));
    taken.map(|(one, next)| (one.instance.id, next)).collect()
}

impl Subject {
    fn attestation(&self) -> Option<&InstanceAttestation> {
        self.instance.attestation.as_ref()
    }

    fn is_asked(&self) -> bool {
        self.attestation().is_some_and(|about| about.asked.is_some())
    }

    fn next(&self, now: Moment) -> Option<Next> {
        let attestation = self.attestation()?;
        if attestation.state == AttestState::Measuring {
            return None;
        }
        if attestation.awaits_evidence() {
            return self.answered(attestation, now);
        }
        self.is_due(attestation, now).then_some(Next::Ask)
    }

    fn answered(&self, attestation: &InstanceAttestation, now: Moment) -> Option<Next> {
        let present = match &self.told {
            Observed::Said(actual) if actual.generation == self.instance.generation => Some(actual),
            Observed::Said(_) | Observed::Unplaced | Observed::Unknown | Observed::HostDown => None,
        };
        let proof = present.and_then(|actual| actual.evidence.as_ref());
        if let Some(evidence) = proof.filter(|evidence| evidence.nonce == attestation.nonce) {
            return Some(Next::Judge(evidence.clone()));
        }
        let is_late = attestation.asked.is_some_and(|asked| now.since(asked) > PATIENCE);
        if !is_late || self.instance.state != InstanceState::Running {
            return None;
        }
        match self.told {
            // Nothing of it is reached meanwhile; its host has all the time again when it is back.
            Observed::HostDown => Some(Next::Ask),
            _ => Some(Next::CutOff(silence(present))),
        }
    }

    /// Only what has matched: what never did stays where it is, and what was cut off comes back when it matches again.
    fn is_due(&self, attestation: &InstanceAttestation, now: Moment) -> bool {
        let Some(policy) = &self.policy else { return false };
        let has_matched = attestation.state.may_join() || attestation.proved.is_some();
        if !has_matched || self.instance.state != InstanceState::Running || self.told == Observed::HostDown {
            return false;
        }
        let checked = attestation.checked.unwrap_or_default();
        let host_is_new = self.host_began.is_some_and(|began| began > checked);
        host_is_new || slot(self.instance.id, policy.recheck(), now) > checked.max(policy.since)
    }
}

/// The newest of the instance's own times, one in each interval.
fn slot(instance: InstanceId, interval: Duration, now: Moment) -> Moment {
    let interval = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX).max(1);
    // The bits of an id are random.
    let phase = (instance.bits() % u128::from(interval)) as u64;
    let into = (now.as_micros() % interval + interval - phase) % interval;
    Moment(now.as_micros().saturating_sub(into))
}

fn silence(present: Option<&ActualInstance>) -> StateReason {
    let why = present.and_then(|actual| actual.reason.as_ref()).map(|reason| format!(": {}", reason.message));
    let message = format!("its host did not prove it again within {} s", PATIENCE.as_secs());
    StateReason { code: ErrorCode::HostNotProved, message: message + &why.unwrap_or_default() }
}

#[cfg(test)]
mod tests;
