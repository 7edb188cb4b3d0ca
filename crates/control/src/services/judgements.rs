//! Judgements of proofs, written down: what an instance's attestation becomes by each, and its history.
//!
//! Owns the records. Whether a proof is to be believed, and whether policies are content with it, is decided in
//! [`crate::judging`]; whose policies they are in [`crate::joint_policy`]; when it is judged, by the workflow of a launch and
//! by [`super::rechecks`].

use std::{collections::BTreeSet, time::Duration};

use lucarne_api::Problem;
use lucarne_model::{
    ErrorCode, Event, EventKind, Evidence, InstanceId, Moment, UserId,
    attestation::{AttestMode, AttestState, InstanceAttestation, Judgement, KnownMeasurement, OnMismatch},
    instance::{Instance, InstanceState, StateReason},
    network::Vpc,
    publisher::ManifestVersion,
};

use super::tpms;
use crate::{
    attestation_records::{AttestationRecord, HeldAgainst},
    consultation::Answers,
    joint_policy::JointPolicy,
    judging,
    records::{HostRecord, InstanceRecord, ProvedTpm},
    store::{Scope, Tx},
};

/// How long an instance that matched before goes on without a word of its publisher, when its host is to prove it again: a
/// notary that is away is no sign that a host is bad, one that is away for longer than this cannot be waited for.
const WITHOUT_PUBLISHER: Duration = Duration::from_secs(24 * 3600);

/// The record of an instance that has proved nothing yet.
pub(super) fn record(instance: &Instance) -> AttestationRecord {
    let (instance, account) = (instance.id, instance.account);
    let (measurements, history) = (Vec::new(), Vec::new());
    AttestationRecord { instance, account, evidence: None, measurements, held_against: None, history }
}

/// Forgets what was proved of an instance, with the instance; of one that had nothing to prove there is nothing.
pub(crate) fn forget(tx: &mut Tx<'_>, instance: InstanceId) -> Result<(), Problem> {
    let record: Option<AttestationRecord> = tx.find(Scope::Everything, AttestationRecord::id_of(instance))?;
    record.map_or(Ok(()), |record| tx.delete(&record))
}

pub(super) fn kept(tx: &Tx<'_>, instance: InstanceId) -> Result<AttestationRecord, Problem> {
    tx.get(Scope::Everything, AttestationRecord::id_of(instance))
}

/// What is wanted of the instance now, by its launch and its VPC.
pub(super) fn wanted(
    tx: &Tx<'_>,
    instance: &Instance,
    attestation: &InstanceAttestation,
) -> Result<JointPolicy, Problem> {
    let vpc: Vpc = tx.get(Scope::Everything, instance.vpc)?;
    Ok(JointPolicy::of(attestation, vpc.attest_policy.as_ref()))
}

/// The publishers without whose answer a proof of the instance cannot be judged.
pub(crate) fn publishers(tx: &Tx<'_>, instance: &Instance) -> Result<BTreeSet<String>, Problem> {
    let wanted = instance.attestation.as_ref().map(|attestation| wanted(tx, instance, attestation)).transpose()?;
    Ok(wanted.map(|wanted| wanted.publishers()).unwrap_or_default())
}

/// Judges a proof of the instance's present start, and writes down what came of it. The caller puts the instance's record.
pub(crate) fn judge(
    tx: &mut Tx<'_>,
    record: &mut InstanceRecord,
    evidence: &Evidence,
    answers: &Answers,
) -> Result<(), Problem> {
    let Some(host) = record.instance.host else { return Ok(()) };
    let Some(attestation) = record.instance.attestation.clone() else { return Ok(()) };
    let host: HostRecord = tx.get(Scope::Everything, host)?;
    let tpm = tpms::proved(tx, &host)?;
    let list = tx.list::<KnownMeasurement>(Scope::Account(record.instance.account))?;
    let wanted = wanted(tx, &record.instance, &attestation)?;
    let mut kept = kept(tx, record.instance.id)?;
    let proved = tpm.and_then(|tpm| {
        let expected = judging::Expected {
            instance: record.instance.id,
            generation: record.instance.generation,
            nonce: &attestation.nonce,
            export_key: &host.host.description.export_key,
            attestation_key: &tpm.identity.attestation_public,
        };
        judging::prove(evidence, &expected).map(|measurements| (measurements, tpm))
    });
    let is_first = attestation.state == AttestState::Measuring;
    let outcome = proved.as_ref().map_err(Clone::clone).and_then(|(measurements, _)| {
        let knowledge = judging::Knowledge { list: &list, approved: &kept.measurements, answers };
        judging::judge(&wanted.modes, measurements, &knowledge)
    });
    if outcome.as_ref().is_err_and(|reason| waits_for_publisher(&attestation, reason, tx.now())) {
        return Ok(());
    }
    let outcome = outcome.map(|vouched| vouched.map(|(publisher, version)| held_against(publisher, version)));
    if let Ok((measurements, tpm)) = proved {
        kept.evidence = Some(with_tpm(evidence, tpm));
        // What runs is held against what was approved of it, also when it was found to be something else once.
        if is_first || outcome.is_ok() {
            kept.measurements = measurements;
        }
    }
    let outcome = outcome.map(|found| kept.held_against = found.or(kept.held_against.take()));
    let reason = outcome.as_ref().err().cloned();
    settle(&mut record.instance, &wanted, outcome, tx.now());
    let asked_manifest = reason.is_none() && !wanted.publishers().is_empty();
    let manifest = kept.held_against.as_ref().map(|held| held.manifest.clone()).filter(|_| asked_manifest);
    kept.note(Judgement { manifest, ..judgement(&record.instance, tx.now(), None, reason.clone()) });
    tx.put(&kept)?;
    // Of what is cut off already there is nothing new to tell.
    let reason = reason.filter(|_| attestation.state != AttestState::Quarantined);
    reason.map_or(Ok(()), |reason| tell(tx, &record.instance, reason))
}

/// The evidence with what was proved of the TPM that signed it.
fn with_tpm(evidence: &Evidence, tpm: ProvedTpm) -> Evidence {
    let ek_certificates = tpm.identity.endorsement_certificates;
    Evidence { ek_certificates, credential: Some(tpm.proof), ..evidence.clone() }
}

/// Its owner is told.
fn tell(tx: &mut Tx<'_>, instance: &Instance, StateReason { code, message }: StateReason) -> Result<(), Problem> {
    let (resource, account, kind) = (instance.id.to_string(), instance.account, EventKind::AttestationFailed);
    tx.note_event(Event { at: tx.now(), account, kind, resource, code: Some(code), message })
}

/// Whether only its publisher's word is missing, of an instance that runs, and not for too long.
fn waits_for_publisher(attestation: &InstanceAttestation, reason: &StateReason, now: Moment) -> bool {
    reason.code == ErrorCode::PublisherUnreachable
        && attestation.asked.is_some_and(|asked| now.since(asked) < WITHOUT_PUBLISHER)
}

fn held_against(publisher: &str, version: &lucarne_attest::series::Version) -> HeldAgainst {
    let (series, number) = (version.manifest.name.clone(), version.manifest.version);
    HeldAgainst {
        manifest: ManifestVersion { publisher: publisher.to_owned(), series, version: number },
        measurements: version.manifest.measurements.clone(),
        published: version.published.clone(),
    }
}

/// What the attestation becomes.
fn settle(instance: &mut Instance, wanted: &JointPolicy, outcome: Result<(), StateReason>, now: Moment) {
    let Some(attestation) = &mut instance.attestation else { return };
    let is_first = attestation.state == AttestState::Measuring;
    let was_cut_off = attestation.state == AttestState::Quarantined;
    (attestation.asked, attestation.checked) = (None, Some(now));
    attestation.state = match (&outcome, wanted.on_mismatch) {
        (Ok(()), _) if is_first && wanted.asks() => AttestState::AwaitingApproval,
        (Ok(()), _) if wanted.asks() => AttestState::Approved,
        (Ok(()), _) => AttestState::Matched,
        // What runs is not taken back: it is cut off.
        (Err(_), OnMismatch::Rollback) if is_first => AttestState::Mismatched,
        (Err(_), _) => AttestState::Quarantined,
    };
    match outcome {
        Ok(()) => {
            attestation.proved = Some(now);
            if was_cut_off {
                instance.state_reason = None;
            }
        }
        Err(reason) => instance.state_reason = Some(reason),
    }
    if attestation.state == AttestState::AwaitingApproval {
        attestation.until = Some(now.plus(attestation.policy.approve_within()));
        (instance.state, instance.changed) = (InstanceState::AwaitingApproval, now);
    }
}

/// Nobody answered in time.
pub(crate) fn expire(tx: &mut Tx<'_>, record: &mut InstanceRecord) -> Result<(), Problem> {
    let mut kept = kept(tx, record.instance.id)?;
    if let Some(attestation) = &mut record.instance.attestation {
        attestation.state = AttestState::Expired;
    }
    kept.note(judgement(&record.instance, tx.now(), None, None));
    tx.put(&kept)
}

/// The host of an instance that runs has not proved it when it was to. The caller puts the instance's record.
pub(super) fn cut_off(tx: &mut Tx<'_>, record: &mut InstanceRecord, reason: StateReason) -> Result<(), Problem> {
    let mut kept = kept(tx, record.instance.id)?;
    let Some(attestation) = &mut record.instance.attestation else { return Ok(()) };
    let was_cut_off = std::mem::replace(&mut attestation.state, AttestState::Quarantined) == AttestState::Quarantined;
    (attestation.asked, attestation.checked) = (None, Some(tx.now()));
    record.instance.state_reason = Some(reason.clone());
    kept.note(judgement(&record.instance, tx.now(), None, Some(reason.clone())));
    tx.put(&kept)?;
    if was_cut_off { Ok(()) } else { tell(tx, &record.instance, reason) }
}

pub(super) fn judgement(instance: &Instance, at: Moment, by: Option<UserId>, reason: Option<StateReason>) -> Judgement {
    let attestation = instance.attestation.as_ref();
    Judgement {
        at,
        generation: instance.generation,
        nonce: attestation.map(|attestation| attestation.nonce.clone()).unwrap_or_default(),
        mode: attestation.map_or(AttestMode::Prompt, |attestation| attestation.policy.mode.clone()),
        state: attestation.map_or(AttestState::Measuring, |attestation| attestation.state),
        by,
        manifest: None,
        reason,
    }
}
