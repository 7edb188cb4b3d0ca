//! Attestations of instances: what is asked of a launch or a start, the owner's answer, and what is shown.
//!
//! Owns which policy may be asked for, and which answer is taken. Proofs are judged in [`super::judgements`]. A VM is let begin
//! by nothing but the state that is kept here.

use std::time::Duration;

use axum::body::Body;
use lucarne_api::{
    Call, Problem,
    answer::Download,
    bodies::{
        NoQuery,
        attestation::{AnswerAttestation, AttestLaunch, ShownAttestation},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode, Evidence, InstanceId, Moment, Octets,
    attestation::{
        AttestMode, AttestPolicy, AttestState, InstanceAttestation, KnownMeasurement, NONCE_LENGTHS, PolicySource,
        VpcAttestPolicy,
    },
    instance::{Instance, InstanceState},
};

use super::{
    checks::{check_name, refuse},
    instances,
    judgements::{judgement, kept, wanted},
};
use crate::{
    Caller, Controller, consultation, judging, random,
    records::InstanceRecord,
    store::{Scope, Tx},
};

/// An owner who takes longer has forgotten it, and what is held meanwhile is others' room.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Whether a launch may ask for this.
pub(super) fn check(tx: &Tx<'_>, account: AccountId, request: &AttestLaunch) -> Result<(), Problem> {
    let AttestLaunch { policy, nonce } = request;
    if !NONCE_LENGTHS.contains(&nonce.len()) {
        let (least, most) = (NONCE_LENGTHS.start(), NONCE_LENGTHS.end());
        return Err(refuse(format!("a nonce has {least} to {most} octets; this one has {}", nonce.len())));
    }
    check_policy(tx, account, policy)
}

/// Whether the account may want this of an instance.
pub(super) fn check_policy(tx: &Tx<'_>, account: AccountId, policy: &AttestPolicy) -> Result<(), Problem> {
    if !(1..=LONGEST_WAIT.as_secs()).contains(&policy.approve_within_seconds) {
        return Err(refuse(format!("approve_within_seconds can be 1 to {}", LONGEST_WAIT.as_secs())));
    }
    match &policy.mode {
        AttestMode::Prompt | AttestMode::List => Ok(()),
        AttestMode::Config { name } => check_name(name),
        AttestMode::Manifest { publisher } => match consultation::by_name(tx, account, publisher)? {
            Some(_) => Ok(()),
            None => {
                let unknown = consultation::unknown(publisher);
                Err(Problem::new(unknown.code, unknown.message))
            }
        },
    }
}

/// What an instance carries whose launch asked for this, or whose VPC wants it.
pub(super) fn begin(request: Option<&AttestLaunch>, vpc: Option<&VpcAttestPolicy>) -> Option<InstanceAttestation> {
    let (policy, source, nonce) = match (request, vpc) {
        (Some(request), _) => (request.policy.clone(), PolicySource::Launch, request.nonce.clone()),
        (None, Some(vpc)) => (vpc.policy.clone(), PolicySource::Vpc, fresh_nonce()),
        (None, None) => return None,
    };
    let state = AttestState::Measuring;
    Some(InstanceAttestation { policy, source, nonce, state, until: None, proved: None, asked: None, checked: None })
}

pub(super) fn fresh_nonce() -> Octets {
    Octets(random::bytes::<32>().to_vec())
}

/// The instance is started again: it is held and measured as at its launch, and its host proves itself anew. What was
/// approved once need not be approved again as long as it is the same.
pub(super) fn begin_again(instance: &mut Instance, now: Moment) {
    if let Some(attestation) = instance.attestation.as_mut().filter(|attestation| attestation.state.may_join()) {
        (attestation.nonce, attestation.state) = (fresh_nonce(), AttestState::Rechecking);
        attestation.asked = Some(now);
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

pub(super) fn unattested(id: InstanceId) -> Problem {
    Problem::new(ErrorCode::AttestationNotFound, format!("nothing was to be proved of {id}"))
}

/// Whether an answer to the proof with this nonce is still waited for.
fn check_answer(id: InstanceId, attestation: &InstanceAttestation, nonce: &Octets, now: Moment) -> Result<(), Problem> {
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
        let attestation = record.instance.attestation.clone().ok_or_else(|| unattested(id))?;
        let wanted = wanted(tx, &record.instance, &attestation)?;
        let Instance { account, generation, .. } = record.instance;
        let kept = kept(tx, id)?;
        let known = tx.list::<KnownMeasurement>(Scope::Account(account))?;
        let manifest = kept.held_against.as_ref().map(|held| (&held.manifest, held.measurements.as_slice()));
        let measurements = judging::show(&wanted.modes, &kept.measurements, &known, manifest);
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

pub(crate) async fn get_attested_manifest(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Nothing>,
) -> Result<Download, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let read = move |tx: &Tx<'_>| {
        tx.get::<InstanceRecord>(scope, id)?;
        kept(tx, id)?.held_against.ok_or_else(|| {
            Problem::new(ErrorCode::InvalidManifestNotFound, format!("the host of {id} was held against no manifest"))
        })
    };
    let held = controller.store.read(read).await?;
    let text = serde_json::to_vec(&held.published).map_err(|error| {
        tracing::error!(%error, "a manifest that was kept cannot be written");
        Problem::new(ErrorCode::Internal, "the manifest that was kept cannot be written")
    })?;
    Ok(Download(Body::from(text)))
}
