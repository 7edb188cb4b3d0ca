//! Hosts' TPMs: presented, asked to prove their keys, and asked by tenants too.
//!
//! Owns the records and who hears of an answer. What a record is worth is decided in [`crate::enrolment`]; challenges travel
//! in hosts' desired states ([`crate::challenges`]), because nothing dials a host.

use lucarne_api::{
    Call, Problem,
    answer::Done,
    bodies::{
        NoQuery,
        tpm::{ChallengeHost, ChallengedHost},
    },
    input::Json,
};
use lucarne_attest::{
    credential::Credential,
    enrolment::{EnrolmentError, TpmKeys},
};
use lucarne_model::{
    AccountId, ErrorCode, Event, EventKind, HostId, InstanceId,
    instance::StateReason,
    tpm::{ChallengeAnswer, HostTpm, PresentedTpm, TpmMaker},
};
use tokio::sync::oneshot;

use super::{attestations::unattested, checks::refuse};
use crate::{
    Caller, Controller,
    challenges::{Asker, PATIENCE},
    clock,
    enrolment::{self, Asked},
    judging, random,
    records::{HostRecord, InstanceRecord, ProvedTpm, TpmRecord},
    store::{Scope, Tx},
};

/// The setting that is there while hosts take no instance before they have proved their TPM.
pub(crate) const REQUIRE_TPM: &str = "require-tpm";
/// More octets than a credential for any key has.
const LARGEST: usize = 1024;

fn told(reason: StateReason) -> Problem {
    Problem::new(reason.code, reason.message)
}

pub(crate) async fn present_tpm(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<PresentedTpm>>,
) -> Result<Done, Problem> {
    let (host, presented) = (call.caller.host()?, call.body.0);
    if let Some(identity) = presented.identity() {
        TpmKeys::read(identity).map_err(|error| Problem::new(error.code(), error.to_string()))?;
    }
    let shown = controller.store.write(move |tx| take_in(tx, host, presented)).await?;
    controller.challenges.give_up_enrolment(host);
    ask(controller, host).await?;
    let required = controller.settings.require_tpm;
    match shown.reason {
        Some(reason) if reason.code == ErrorCode::TpmChanged => Err(told(reason)),
        Some(reason) if reason.code == ErrorCode::EndorsementUntrusted && required => Err(told(reason)),
        _ => Ok(Done),
    }
}

fn take_in(tx: &mut Tx<'_>, host: HostId, presented: PresentedTpm) -> Result<HostTpm, Problem> {
    let record = match find(tx, host)? {
        Some(known) => {
            let record = TpmRecord { presented, failed: None, ..known };
            tx.put(&record)?;
            record
        }
        None => {
            let record = TpmRecord { host, presented, proved: None, failed: None };
            tx.insert(&record)?;
            record
        }
    };
    let makers = tx.list::<TpmMaker>(Scope::Everything)?;
    judge(tx, &record, &makers)
}

fn find(tx: &Tx<'_>, host: HostId) -> Result<Option<TpmRecord>, Problem> {
    tx.find(Scope::Everything, TpmRecord::id_of(host))
}

/// Has the host's record say what its TPM counts for now, and operators told of a change.
fn judge(tx: &mut Tx<'_>, record: &TpmRecord, makers: &[TpmMaker]) -> Result<HostTpm, Problem> {
    let mut host: HostRecord = tx.get(Scope::Everything, record.host)?;
    let host_key = judging::fingerprint(&host.host.description.export_key);
    let shown = enrolment::shown(record, host_key.as_ref(), makers, tx.now());
    if let Some(event) = changed(host.host.tpm.as_ref(), &shown) {
        let (kind, code, message) = event;
        let resource = record.host.to_string();
        tx.note_event(Event { at: tx.now(), account: AccountId::OPERATOR, kind, resource, code, message })?;
    }
    host.host.tpm = Some(shown.clone());
    tx.put(&host)?;
    Ok(shown)
}

/// What operators are told; that a TPM has yet to answer is no news.
fn changed(before: Option<&HostTpm>, now: &HostTpm) -> Option<(EventKind, Option<ErrorCode>, String)> {
    let code = |tpm: &HostTpm| tpm.reason.as_ref().map(|reason| reason.code);
    let was_proved = before.is_some_and(HostTpm::is_proved);
    match &now.reason {
        None if was_proved => None,
        None => {
            let by = now.maker.as_deref().unwrap_or_default();
            Some((EventKind::TpmProved, None, format!("its TPM proved its keys; {by} vouches for it")))
        }
        Some(reason) if was_proved || reason.code != ErrorCode::HostNotProved => {
            let is_news = before.and_then(code) != Some(reason.code);
            is_news.then(|| (EventKind::TpmNotProved, Some(reason.code), reason.message.clone()))
        }
        Some(_) => None,
    }
}

/// All hosts' TPMs, judged by the makers that are trusted now.
pub(super) fn judge_all(tx: &mut Tx<'_>) -> Result<(), Problem> {
    let makers = tx.list::<TpmMaker>(Scope::Everything)?;
    let records = tx.list::<TpmRecord>(Scope::Everything)?;
    records.iter().try_for_each(|record| judge(tx, record, &makers).map(drop))
}

/// Judges those that count for something else by now: a certificate's time may be over, or has begun.
pub(crate) async fn look_again(controller: &Controller) -> Result<(), Problem> {
    let others = |tx: &Tx<'_>| {
        let makers = tx.list::<TpmMaker>(Scope::Everything)?;
        let mut others = Vec::new();
        for record in tx.list::<TpmRecord>(Scope::Everything)? {
            let host: HostRecord = tx.get(Scope::Everything, record.host)?;
            let host_key = judging::fingerprint(&host.host.description.export_key);
            let shown = enrolment::shown(&record, host_key.as_ref(), &makers, tx.now());
            others.extend((host.host.tpm.as_ref() != Some(&shown)).then_some(record.host));
        }
        Ok(others)
    };
    let others = controller.store.read(others).await?;
    if others.is_empty() {
        return Ok(());
    }
    controller.store.write(move |tx| others.into_iter().try_for_each(|host| judge_again(tx, host))).await
}

/// The same of a host that said something new of itself.
pub(super) fn judge_again(tx: &mut Tx<'_>, host: HostId) -> Result<(), Problem> {
    let Some(record) = find(tx, host)? else { return Ok(()) };
    let makers = tx.list::<TpmMaker>(Scope::Everything)?;
    judge(tx, &record, &makers).map(drop)
}

pub(super) fn forget(tx: &mut Tx<'_>, host: HostId) -> Result<(), Problem> {
    find(tx, host)?.map_or(Ok(()), |record| tx.delete(&record))
}

/// What the host's TPM proved, as it counts now, or why it does not.
pub(super) fn proved(tx: &Tx<'_>, host: &HostRecord) -> Result<Result<ProvedTpm, StateReason>, Problem> {
    let Some(record) = find(tx, host.host.id)? else {
        let message = "the host has not presented a TPM yet".to_owned();
        return Ok(Err(StateReason { code: ErrorCode::HostNotProved, message }));
    };
    let makers = tx.list::<TpmMaker>(Scope::Everything)?;
    let host_key = judging::fingerprint(&host.host.description.export_key);
    let standing = enrolment::standing(&record, host_key.as_ref(), &makers, tx.now());
    Ok(standing.map(|(proved, _)| proved.clone()))
}

/// Asks the host's TPM to prove its keys, if it is to and is not being asked.
async fn ask(controller: &Controller, host: HostId) -> Result<(), Problem> {
    let now = clock::now();
    if controller.challenges.enrols(host, now) {
        return Ok(());
    }
    let question = move |tx: &Tx<'_>| {
        let Some(record) = find(tx, host)? else { return Ok(None) };
        let known: HostRecord = tx.get(Scope::Everything, host)?;
        let Some(host_key) = judging::fingerprint(&known.host.description.export_key) else { return Ok(None) };
        let Some(identity) = enrolment::to_prove(&record, &host_key) else { return Ok(None) };
        let asked = TpmKeys::read(identity).and_then(|keys| keys.ask(random::bytes(), random::bytes()));
        let question = asked.map_err(|error: EnrolmentError| Problem::new(error.code(), error.to_string()))?;
        Ok(Some(Asked { identity: identity.clone(), host_key, question }))
    };
    let Some(asked) = controller.store.read(question).await? else { return Ok(()) };
    let credential = asked.question.credential().clone();
    // One whose TPM has more to do than it can is asked at the next round.
    if controller.challenges.ask(host, &credential, Asker::Enrolment(Box::new(asked)), now).is_ok() {
        controller.store.changes().touch(&host.to_string());
    }
    Ok(())
}

/// Asks all hosts that have something to prove and answer: of those whose answer was lost, or was none.
pub(crate) async fn ask_all(controller: &Controller) -> Result<(), Problem> {
    let open = |tx: &Tx<'_>| {
        let hosts = tx.list::<HostRecord>(Scope::Everything)?;
        let open = hosts.into_iter().filter(|record| record.host.tpm.as_ref().is_some_and(|tpm| !tpm.is_proved()));
        Ok(open.map(|record| record.host.id).collect::<Vec<_>>())
    };
    let now = clock::now();
    for host in controller.store.read(open).await? {
        if !controller.fleet.is_down(host, now)
            && let Err(problem) = ask(controller, host).await
        {
            tracing::warn!(%host, %problem, "a host's TPM cannot be asked to prove its keys");
        }
    }
    Ok(())
}

pub(crate) async fn answer_challenge(
    controller: &Controller,
    call: Call<Caller, (String,), NoQuery, Json<ChallengeAnswer>>,
) -> Result<Done, Problem> {
    let (host, answer) = (call.caller.host()?, call.body.0);
    let over = || Problem::new(ErrorCode::ChallengeExpired, "nobody waits for the answer to this challenge any more");
    match controller.challenges.take(host, &call.path.0, clock::now()).ok_or_else(over)? {
        Asker::Tenant(waiting) => waiting.send(answer).map(|()| Done).map_err(|_| over()),
        Asker::Enrolment(asked) => {
            let failed = controller.store.write(move |tx| settle(tx, host, &asked, &answer)).await?;
            failed.map_or(Ok(Done), |reason| Err(told(reason)))
        }
    }
}

/// Why the answer proved nothing, if it did not; that is written down too.
fn settle(
    tx: &mut Tx<'_>,
    host: HostId,
    asked: &Asked,
    answer: &ChallengeAnswer,
) -> Result<Option<StateReason>, Problem> {
    let mut record: TpmRecord = tx.get(Scope::Everything, TpmRecord::id_of(host))?;
    let outcome = enrolment::settle(&record, asked, answer, tx.now());
    let key = &asked.identity.endorsement_public;
    let others = tx.list::<TpmRecord>(Scope::Everything)?;
    let is_others = |other: &TpmRecord| {
        other.host != host && other.proved.as_ref().is_some_and(|proved| proved.identity.endorsement_public == *key)
    };
    let outcome = match others.iter().find(|other| is_others(other)) {
        Some(other) if outcome.is_ok() => {
            let message =
                format!("{} has proved the same TPM; delete that host if this one takes its place", other.host);
            Err(StateReason { code: ErrorCode::TpmInUse, message })
        }
        _ => outcome,
    };
    let failed = match outcome {
        Ok(proved) => {
            (record.proved, record.failed) = (Some(proved), None);
            None
        }
        Err(reason) => {
            record.failed = Some(reason.clone());
            Some(reason)
        }
    };
    tx.put(&record)?;
    let makers = tx.list::<TpmMaker>(Scope::Everything)?;
    judge(tx, &record, &makers)?;
    Ok(failed)
}

/// A tenant's own question to its instance's host, whose answer it judges itself.
pub(crate) async fn challenge_host(
    controller: &Controller,
    call: Call<Caller, (InstanceId,), NoQuery, Json<ChallengeHost>>,
) -> Result<Json<ChallengedHost>, Problem> {
    let (scope, id, asked) = (call.caller.scope(), call.path.0, call.body.0);
    if asked.credential_blob.len() + asked.encrypted_secret.len() > LARGEST {
        return Err(refuse(format!("a credential has at most {LARGEST} octets")));
    }
    let record = controller.store.read(move |tx| tx.get::<InstanceRecord>(scope, id)).await?;
    if record.instance.attestation.is_none() {
        return Err(unattested(id));
    }
    let now = clock::now();
    let unreachable = |why: &str| Problem::new(ErrorCode::HostUnreachable, format!("the host of {id} {why}"));
    let host = record.instance.host.filter(|host| !controller.fleet.is_down(*host, now));
    let host = host.ok_or_else(|| unreachable("does not answer; try again when it is back"))?;
    let credential = Credential {
        credential_blob: asked.credential_blob.to_vec(),
        encrypted_secret: asked.encrypted_secret.to_vec(),
    };
    let (waiting, answered) = oneshot::channel();
    let token = controller.challenges.ask(host, &credential, Asker::Tenant(waiting), now);
    let token = token.map_err(|busy| Problem::new(ErrorCode::RequestLimitExceeded, busy.to_string()))?;
    controller.store.changes().touch(&host.to_string());
    let answer = tokio::time::timeout(PATIENCE, answered).await;
    controller.challenges.give_up(&token);
    match answer.ok().and_then(Result::ok) {
        Some(ChallengeAnswer::Opened { answer }) => Ok(Json(ChallengedHost { answer })),
        Some(ChallengeAnswer::Failed { reason }) => Err(told(reason)),
        None => Err(unreachable("did not answer the challenge in time")),
    }
}
