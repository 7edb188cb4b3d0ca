//! Attestations of instances: what is asked of a launch, the judgement of its proof, the owner's answer, and what is shown.
//!
//! Owns the records and which answer is taken. Whether a proof is to be believed and what a policy is content with is
//! decided in [`crate::judging`]; when, by the workflow. A VM is let begin by nothing but the state that is kept here.

use std::time::Duration;

use lucarne_api::{
    Call, Problem,
    bodies::{
        NoQuery,
        attestation::{AnswerAttestation, AttestLaunch, ShownAttestation},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, Event, EventKind, Evidence, InstanceId, Octets, UserId,
    actual::ActualInstance,
    attestation::{
        AttestMode, AttestState, InstanceAttestation, Judgement, KnownMeasurement, NONCE_LENGTHS, OnMismatch,
    },
    instance::{Instance, InstanceState, StateReason},
};

use super::{
    checks::{check_name, refuse},
    instances,
};
use crate::{
    Caller, Controller, judging, random,
    records::{AttestationRecord, HostRecord, InstanceRecord},
    store::{Scope, Tx},
};

/// An owner who takes longer has forgotten it, and what is held meanwhile is others' room.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Whether a launch may ask for this.
pub(super) fn check(request: &AttestLaunch) -> Result<(), Problem> {
    let AttestLaunch { policy, nonce } = request;
    if !NONCE_LENGTHS.contains(&nonce.len()) {
        let (least, most) = (NONCE_LENGTHS.start(), NONCE_LENGTHS.end());
        return Err(refuse(format!("a nonce has {least} to {most} octets; this one has {}", nonce.len())));
    }
    if !(1..=LONGEST_WAIT.as_secs()).contains(&policy.approve_within_seconds) {
        return Err(refuse(format!("approve_within_seconds can be 1 to {}", LONGEST_WAIT.as_secs())));
    }
    match &policy.mode {
        AttestMode::Prompt | AttestMode::List => Ok(()),
        AttestMode::Config { name } => check_name(name),
        AttestMode::Manifest { publisher } => {
            Err(refuse(format!("no manifests of `{publisher}` are known to this controller")))
        }
    }
}

/// What an instance carries whose launch asked for this.
pub(super) fn begin(request: &AttestLaunch) -> InstanceAttestation {
    let AttestLaunch { policy, nonce } = request.clone();
    InstanceAttestation { policy, nonce, state: AttestState::Measuring, until: None, proved: None }
}

/// The instance is started again: it is held and measured as at its launch, and its host proves itself anew. What was
/// approved once need not be approved again as long as it is the same.
pub(super) fn begin_again(instance: &mut Instance) {
    if let Some(attestation) = instance.attestation.as_mut().filter(|attestation| attestation.state.may_join()) {
        attestation.nonce = Octets(random::bytes::<32>().to_vec());
        attestation.state = AttestState::Rechecking;
    }
}

/// The record of an instance that has proved nothing yet.
pub(super) fn record(instance: &Instance) -> AttestationRecord {
    let (instance, account) = (instance.id, instance.account);
    AttestationRecord { instance, account, evidence: None, measurements: Vec::new(), history: Vec::new() }
}

/// Forgets what was proved of an instance, with the instance; of one that had nothing to prove there is nothing.
pub(crate) fn forget(tx: &mut Tx<'_>, instance: InstanceId) -> Result<(), Problem> {
    let record: Option<AttestationRecord> = tx.find(Scope::Everything, AttestationRecord::id_of(instance))?;
    record.map_or(Ok(()), |record| tx.delete(&record))
}

fn kept(tx: &Tx<'_>, instance: InstanceId) -> Result<AttestationRecord, Problem> {
    tx.get(Scope::Everything, AttestationRecord::id_of(instance))
}

/// Judges a proof of the instance's present start, and writes down what came of it. The caller puts the instance's record.
pub(crate) fn judge(tx: &mut Tx<'_>, record: &mut InstanceRecord, evidence: &Evidence) -> Result<(), Problem> {
    let Some(host) = record.instance.host else { return Ok(()) };
    let mut host: HostRecord = tx.get(Scope::Everything, host)?;
    let known = tx.list::<KnownMeasurement>(Scope::Account(record.instance.account))?;
    let mut kept = kept(tx, record.instance.id)?;
    let now = tx.now();
    let instance = &mut record.instance;
    let Some(attestation) = &mut instance.attestation else { return Ok(()) };
    let expected = judging::Expected {
        instance: instance.id,
        generation: instance.generation,
        nonce: &attestation.nonce,
        export_key: &host.host.description.export_key,
        attestation_key: host.attestation_key.as_ref(),
    };
    let outcome = judging::prove(evidence, &expected).and_then(|measurements| {
        let content = judging::judge(&attestation.policy.mode, &measurements, &known, &kept.measurements);
        kept.evidence = Some(evidence.clone());
        if attestation.state == AttestState::Measuring || content.is_ok() {
            kept.measurements = measurements;
        }
        content
    });
    // The first key by which a host proves itself is its key.
    if kept.evidence.as_ref() == Some(evidence) && host.attestation_key.is_none() {
        host.attestation_key = Some(evidence.ak_public.clone());
        tx.put(&host)?;
    }
    let is_first = attestation.state == AttestState::Measuring;
    let asks = is_first && attestation.policy.mode == AttestMode::Prompt;
    let reason = outcome.err();
    attestation.state = match (&reason, attestation.policy.on_mismatch) {
        (None, _) if asks => AttestState::AwaitingApproval,
        (None, _) if attestation.policy.mode == AttestMode::Prompt => AttestState::Approved,
        (None, _) => AttestState::Matched,
        // What runs is not taken back: it is cut off.
        (Some(_), OnMismatch::Rollback) if is_first => AttestState::Mismatched,
        (Some(_), _) => AttestState::Quarantined,
    };
    attestation.proved = reason.is_none().then_some(now).or(attestation.proved);
    if asks && reason.is_none() {
        attestation.until = Some(now.plus(attestation.policy.approve_within()));
        (instance.state, instance.changed) = (InstanceState::AwaitingApproval, now);
    }
    kept.note(judgement(instance, now, None, reason.clone()));
    if let Some(StateReason { code, message }) = reason.clone() {
        let (resource, account) = (instance.id.to_string(), instance.account);
        let kind = EventKind::AttestationFailed;
        tx.note_event(Event { at: now, account, kind, resource, code: Some(code), message })?;
    }
    instance.state_reason = reason.or(instance.state_reason.take());
    tx.put(&kept)
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

/// Takes a host's new proof of an instance that runs.
pub(super) fn settle(
    tx: &mut Tx<'_>,
    mut record: InstanceRecord,
    actual: &ActualInstance,
) -> Result<InstanceRecord, Problem> {
    let Some(attestation) = &record.instance.attestation else { return Ok(record) };
    let Some(evidence) = &actual.evidence else { return Ok(record) };
    let is_asked = attestation.state == AttestState::Rechecking
        && actual.generation == record.instance.generation
        && evidence.nonce == attestation.nonce;
    if is_asked {
        judge(tx, &mut record, evidence)?;
        tx.put(&record)?;
    }
    Ok(record)
}

fn judgement(
    instance: &Instance,
    at: lucarne_model::Moment,
    by: Option<UserId>,
    reason: Option<StateReason>,
) -> Judgement {
    let attestation = instance.attestation.as_ref();
    Judgement {
        at,
        generation: instance.generation,
        nonce: attestation.map(|attestation| attestation.nonce.clone()).unwrap_or_default(),
        mode: attestation.map_or(AttestMode::Prompt, |attestation| attestation.policy.mode.clone()),
        state: attestation.map_or(AttestState::Measuring, |attestation| attestation.state),
        by,
        reason,
    }
}

pub(crate) async fn approve_attestation(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Json<AnswerAttestation>>,
) -> Result<Json<Instance>, Problem> {
    answer(controller, call, AttestState::Approved).await
}

pub(crate) async fn deny_attestation(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Json<AnswerAttestation>>,
) -> Result<Json<Instance>, Problem> {
    answer(controller, call, AttestState::Denied).await
}

async fn answer(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Json<AnswerAttestation>>,
    answer: AttestState,
) -> Result<Json<Instance>, Problem> {
    let (id, nonce, by) = (call.path.0, call.body.0.nonce.clone(), call.caller.user()?);
    let caller = (call.caller.account, call.caller.operator);
    let give = move |tx: &mut Tx<'_>| {
        let mut record: InstanceRecord = owned(tx, caller, id)?;
        let attestation = record.instance.attestation.as_mut().ok_or_else(|| unattested(id))?;
        check_answer(id, attestation, &nonce, tx.now())?;
        (attestation.state, attestation.until) = (answer, None);
        (record.instance.state, record.instance.changed) = (InstanceState::Pending, tx.now());
        let mut kept = kept(tx, id)?;
        kept.note(judgement(&record.instance, tx.now(), Some(by), None));
        tx.put(&kept)?;
        tx.put(&record)?;
        Ok(record)
    };
    let record = controller.change(&call, give).await?;
    Ok(instances::show(controller, &call.caller, record))
}

/// The caller's own instance. An operator, who sees those of others, is told why that one is not for it to answer for.
fn owned(tx: &Tx<'_>, (account, operator): (AccountId, bool), id: InstanceId) -> Result<InstanceRecord, Problem> {
    let own = tx.get(Scope::Account(account), id);
    if own.is_err() && operator && tx.find::<InstanceRecord>(Scope::Everything, id)?.is_some() {
        let detail = format!("{id} is a tenant's, and nobody else can say for it what it trusts");
        return Err(Problem::new(ErrorCode::AttestationNotYours, detail));
    }
    own
}

fn unattested(id: InstanceId) -> Problem {
    Problem::new(ErrorCode::AttestationNotFound, format!("nothing was to be proved of {id}"))
}

/// Whether an answer to the proof with this nonce is still waited for.
fn check_answer(
    id: InstanceId,
    attestation: &InstanceAttestation,
    nonce: &Octets,
    now: lucarne_model::Moment,
) -> Result<(), Problem> {
    let refuse = |code, detail: String| Err(Problem::new(code, detail));
    match attestation.state {
        AttestState::Measuring => refuse(ErrorCode::IncorrectState, format!("{id} has not been measured yet")),
        AttestState::Expired => refuse(ErrorCode::AttestationExpired, format!("the time to answer for {id} is over")),
        AttestState::AwaitingApproval if attestation.nonce != *nonce => {
            refuse(ErrorCode::InvalidParameterValue, format!("the proof of {id} has another nonce"))
        }
        AttestState::AwaitingApproval if attestation.until.is_some_and(|until| now >= until) => {
            refuse(ErrorCode::AttestationExpired, format!("the time to answer for {id} is over"))
        }
        AttestState::AwaitingApproval => Ok(()),
        state => refuse(ErrorCode::AttestationAnswered, format!("the attestation of {id} is {state} already")),
    }
}

pub(crate) async fn get_attestation(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Nothing>,
) -> Result<Json<ShownAttestation>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let show = move |tx: &Tx<'_>| {
        let record: InstanceRecord = tx.get(scope, id)?;
        let Instance { account, generation, attestation, .. } = record.instance;
        let attestation = attestation.ok_or_else(|| unattested(id))?;
        let kept = kept(tx, id)?;
        let known = tx.list::<KnownMeasurement>(Scope::Account(account))?;
        let measurements = judging::show(&attestation.policy.mode, &kept.measurements, &known);
        let history = kept.history.into_iter().rev().collect();
        Ok(ShownAttestation { instance: id, account, generation, attestation, measurements, history })
    };
    controller.store.read(show).await.map(Json)
}

pub(crate) async fn get_evidence(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Nothing>,
) -> Result<Json<Evidence>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let read = move |tx: &Tx<'_>| {
        tx.get::<InstanceRecord>(scope, id)?;
        kept(tx, id)?.evidence.ok_or_else(|| {
            Problem::new(ErrorCode::AttestationNotFound, format!("the host of {id} has not proved anything yet"))
        })
    };
    controller.store.read(read).await.map(Json)
}
