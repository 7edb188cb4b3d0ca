//! A host's TPM, from what the host presents to what counts: when it is asked, what an answer makes of it, what is shown.
//!
//! Owns those decisions. Pure: records come in, and records or reasons come out. What a key, a certificate or an answer is
//! worth is the room `attest`'s; when somebody is asked, and who hears of it, [`crate::services::tpms`]'.
//!
//! The keys that a host has proved once are its keys: another attestation key of the same TPM takes a new proof, another TPM
//! is refused. Whether a maker vouches is looked at anew whenever the list of makers changes, and as time goes on.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::Display;

use lucarne_attest::{
    credential::Question,
    enrolment::{self, TpmKeys},
};
use lucarne_model::{
    ErrorCode, Moment,
    instance::StateReason,
    storage::Digest,
    tpm::{ChallengeAnswer, HostTpm, PresentedTpm, TpmIdentity, TpmMaker},
};

use crate::records::{ProvedTpm, TpmRecord};

fn refused(code: ErrorCode, error: impl Display) -> StateReason {
    StateReason { code, message: error.to_string() }
}

/// What was asked of a host's TPM, and of which keys.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) identity: TpmIdentity,
    /// SHA-256 of the SubjectPublicKeyInfo of the key that the host answers with.
    pub(crate) host_key: Digest,
    pub(crate) question: Question,
}

/// The keys that the host is to prove, if it has not and may.
pub(crate) fn to_prove<'a>(record: &'a TpmRecord, host_key: &Digest) -> Option<&'a TpmIdentity> {
    let identity = record.presented.identity()?;
    let is_another = record.proved.as_ref().is_some_and(|proved| !same_tpm(&proved.identity, identity));
    (!is_another && !is_proved(record, identity, host_key)).then_some(identity)
}

fn is_proved(record: &TpmRecord, identity: &TpmIdentity, host_key: &Digest) -> bool {
    record.proved.as_ref().is_some_and(|proved| {
        same_tpm(&proved.identity, identity)
            && proved.identity.attestation_public == identity.attestation_public
            && proved.host_key == *host_key
    })
}

fn same_tpm(one: &TpmIdentity, other: &TpmIdentity) -> bool {
    one.endorsement_public == other.endorsement_public
}

/// What an answer proves of the TPM that the host presents now.
pub(crate) fn settle(
    record: &TpmRecord,
    asked: &Asked,
    answer: &ChallengeAnswer,
    at: Moment,
) -> Result<ProvedTpm, StateReason> {
    let answer = match answer {
        ChallengeAnswer::Opened { answer } => answer,
        ChallengeAnswer::Failed { reason } => return Err(reason.clone()),
    };
    if record.presented.identity() != Some(&asked.identity) {
        return Err(refused(
            ErrorCode::ChallengeExpired,
            "the host presents other keys by now than those it was asked for",
        ));
    }
    let judged = asked.question.judge(answer, &asked.host_key);
    let proof = judged.map_err(|error| refused(error.code(), error))?;
    let Asked { identity, host_key, .. } = asked.clone();
    Ok(ProvedTpm { identity, proof, host_key, at })
}

/// What was proved and counts now, and the maker who vouches for it; or why nothing does. `host_key` is that of the key which
/// the host says is its own.
pub(crate) fn standing<'a>(
    record: &'a TpmRecord,
    host_key: Option<&Digest>,
    makers: &'a [TpmMaker],
    now: Moment,
) -> Result<(&'a ProvedTpm, &'a TpmMaker), StateReason> {
    let identity = match &record.presented {
        PresentedTpm::Hardware(identity) | PresentedTpm::Software(identity) => identity,
        PresentedTpm::None { reason } => return Err(reason.clone()),
    };
    if record.proved.as_ref().is_some_and(|proved| !same_tpm(&proved.identity, identity)) {
        let message = "the host presents another TPM than the one that it proved; delete the host and enrol it anew";
        return Err(refused(ErrorCode::TpmChanged, message));
    }
    let maker = enrolment::vouching(&identity.endorsement_certificates, makers, now);
    let maker = maker.map_err(|error| refused(error.code(), error))?;
    let proved = record.proved.as_ref();
    let proved = proved.filter(|_| host_key.is_some_and(|host_key| is_proved(record, identity, host_key)));
    proved.map(|proved| (proved, maker)).ok_or_else(|| {
        let waits =
            || refused(ErrorCode::HostNotProved, "the TPM was asked to prove its keys, and has not answered yet");
        record.failed.clone().unwrap_or_else(waits)
    })
}

/// The same, as operators see it.
pub(crate) fn shown(record: &TpmRecord, host_key: Option<&Digest>, makers: &[TpmMaker], now: Moment) -> HostTpm {
    let identity = record.presented.identity();
    let keys = identity.and_then(|identity| TpmKeys::read(identity).ok());
    let standing = standing(record, host_key, makers, now);
    HostTpm {
        kind: record.presented.kind(),
        model: identity.map(|identity| identity.model.clone()),
        endorsement_key: keys.as_ref().and_then(|keys| enrolment::fingerprint(&keys.endorsement)),
        attestation_key: keys.as_ref().and_then(|keys| enrolment::fingerprint(&keys.attestation.key)),
        maker: standing.as_ref().ok().map(|(_, maker)| maker.name.clone()),
        proved: standing.as_ref().ok().map(|(proved, _)| proved.at),
        reason: standing.err(),
    }
}

#[cfg(test)]
#[path = "enrolment_tests.rs"]
mod tests;
