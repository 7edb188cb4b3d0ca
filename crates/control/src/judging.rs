//! What a proof is worth, and whether a policy is content with what it says.
//!
//! Owns the order of the controller's checks, and which part of an account's list a policy asks, and which publisher. Pure: records come in,
//! and measurements or a reason come out. What a TPM's octets mean, and what matches what, is the room `attest`'s.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::Display;

use base64::{Engine, engine::general_purpose::STANDARD};
use lucarne_attest::{
    event_log::EventLog,
    measure,
    pcr::{self, Values},
    qualifying::Purpose,
    quote::{self, Quote},
    reference::{self, Known},
    series::Version,
    spki,
    verify::is_software,
    wire::Key,
};
use lucarne_model::{
    Component, ErrorCode, Evidence, InstanceId, Measurement, Octets,
    attestation::{AttestMode, JudgedMeasurement, KnownMeasurement, Voucher},
    instance::StateReason,
    publisher::ManifestVersion,
    storage::Digest,
};
use ring::digest::{SHA256, digest};

use crate::consultation::{Answers, unknown};

/// What a proof must be of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) instance: InstanceId,
    pub(crate) generation: u64,
    pub(crate) nonce: &'a Octets,
    /// As the host said at its hello: the point of its key, uncompressed, in base64.
    pub(crate) export_key: &'a str,
    /// TPMT_PUBLIC of the key that was proved to live in the host's TPM.
    pub(crate) attestation_key: &'a Octets,
}

fn refused(code: ErrorCode, error: impl Display) -> StateReason {
    StateReason { code, message: error.to_string() }
}

/// All that was measured of the host and of the guest, if the proof is one: of this launch, this host and its TPM, and of
/// the present.
pub(crate) fn prove(evidence: &Evidence, expected: &Expected<'_>) -> Result<Vec<Measurement>, StateReason> {
    let host_key = fingerprint(expected.export_key)
        .ok_or_else(|| refused(ErrorCode::HostNotProved, "the host has said no key that a proof could be bound to"))?;
    if evidence.host_key != host_key {
        return Err(refused(ErrorCode::QuoteRelayed, "the quote was made for another host's key"));
    }
    if *expected.attestation_key != evidence.ak_public {
        let message = "the quote is signed by another key than the one that was proved to live in this host's TPM";
        return Err(refused(ErrorCode::AttestationKeyUntrusted, message));
    }
    let ak = quote::read_public(&evidence.ak_public).map_err(|error| refused(error.code(), &error))?;
    let values = Values::from(evidence.pcrs.as_slice());
    let Expected { instance, generation, nonce, .. } = *expected;
    let purpose = Purpose { nonce, host_key: &host_key, instance, generation };
    let quote = Quote { message: &evidence.quote, signature: &evidence.signature };
    quote.verify(&ak, &purpose, &values, &pcr::QUOTED).map_err(|error| refused(error.code(), &error))?;
    read(evidence, &values)
}

/// What the registers stand for: the log explains those of the host, the description that of the guest.
fn read(evidence: &Evidence, values: &Values) -> Result<Vec<Measurement>, StateReason> {
    let log = EventLog::parse(&evidence.event_log).map_err(|error| refused(error.code(), &error))?;
    let hosts: Vec<u8> = pcr::QUOTED.into_iter().filter(|register| *register != pcr::GUEST).collect();
    log.explains(values, &hosts).map_err(|error| refused(error.code(), &error))?;
    let mut measured = measure::measurements(&log).map_err(|error| refused(error.code(), &error))?;
    let none = || refused(ErrorCode::GuestMismatch, "nothing is said of the guest");
    let (guest, quoted) = evidence.guest.as_ref().zip(values.get(pcr::GUEST)).ok_or_else(none)?;
    measured.extend(measure::guest(guest, quoted).map_err(|error| refused(error.code(), &error))?);
    Ok(measured)
}

/// SHA-256 of the SubjectPublicKeyInfo of a key on P-256: the point, uncompressed, in base64.
pub(crate) fn fingerprint(export_key: &str) -> Option<Digest> {
    let point = STANDARD.decode(export_key).ok()?;
    let (x, y) = point.strip_prefix(&[4])?.split_at_checked(32)?;
    let der = spki::write(&Key::P256 { x: x.to_vec(), y: y.to_vec() })?;
    let hash = digest(&SHA256, &der);
    Some(Digest::from_bytes(hash.as_ref().try_into().ok()?))
}

/// All that a policy may ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Knowledge<'a> {
    /// The account's own list.
    pub(crate) list: &'a [KnownMeasurement],
    /// What was approved, or found to match, before; empty at a launch.
    pub(crate) approved: &'a [Measurement],
    /// What publishers show now.
    pub(crate) answers: &'a Answers,
}

/// Whether all modes are content, and the manifest that the host's software is in if one was asked for.
pub(crate) fn judge<'a>(
    modes: &[AttestMode],
    measured: &[Measurement],
    knowledge: &Knowledge<'a>,
) -> Result<Option<(&'a str, &'a Version)>, StateReason> {
    let mut vouched = None;
    for mode in modes {
        vouched = judge_by(mode, measured, knowledge)?.or(vouched);
    }
    Ok(vouched)
}

/// Whether one mode is content. Where the owner is asked it is, until something was approved: then nothing may differ from
/// that.
fn judge_by<'a>(
    mode: &AttestMode,
    measured: &[Measurement],
    knowledge: &Knowledge<'a>,
) -> Result<Option<(&'a str, &'a Version)>, StateReason> {
    let known = known(mode, knowledge.list);
    let outcome = match mode {
        AttestMode::Prompt if knowledge.approved.is_empty() => Ok(()),
        AttestMode::Prompt => {
            let own = || Voucher::Own { configuration: None, note: None };
            let approved = knowledge.approved.iter().map(|one| Known { measurement: one.clone(), by: own() });
            reference::judge(measured, &approved.collect::<Vec<_>>()).complete()
        }
        AttestMode::List => reference::judge(measured, &known).all_known(),
        AttestMode::Config { .. } => reference::judge(measured, &known).complete(),
        AttestMode::Manifest { publisher } => {
            let vouched = vouch(publisher, measured, knowledge.answers)?;
            let rest: Vec<_> = measured.iter().filter(|one| !is_published(one)).cloned().collect();
            let outcome = reference::judge(&rest, &known).none_changed();
            return outcome.map(|()| Some(vouched)).map_err(|error| refused(error.code(), error));
        }
    };
    outcome.map(|()| None).map_err(|error| refused(error.code(), error))
}

fn vouch<'a>(
    publisher: &str,
    measured: &[Measurement],
    answers: &'a Answers,
) -> Result<(&'a str, &'a Version), StateReason> {
    let (name, answer) = answers.get_key_value(publisher).ok_or_else(|| unknown(publisher))?;
    let vouched = answer.as_ref().map_err(Clone::clone)?.vouch(measured);
    vouched.map(|version| (name.as_str(), version)).map_err(|error| refused(error.code(), error))
}

/// Whether a publisher can know it: the host's software.
fn is_published(measurement: &Measurement) -> bool {
    is_software(measurement.component) && !measurement.component.is_guests()
}

/// That of the list which the policy asks; where the owner decides, all of it is to be seen.
fn known(mode: &AttestMode, list: &[KnownMeasurement]) -> Vec<Known<Voucher>> {
    let is_asked = |one: &&KnownMeasurement| match mode {
        AttestMode::Prompt | AttestMode::List | AttestMode::Manifest { .. } => true,
        AttestMode::Config { name } => one.configuration.as_ref() == Some(name),
    };
    let voucher = |one: &KnownMeasurement| {
        let by = Voucher::Own { configuration: one.configuration.clone(), note: one.note.clone() };
        Known { measurement: one.measurement.clone(), by }
    };
    list.iter().filter(is_asked).map(voucher).collect()
}

/// Whether an instance can go on from a warm state and content all modes: who goes by a list wants nothing that is not in it,
/// and each host's warm state is another.
pub(crate) fn may_begin_warm(modes: &[AttestMode], list: &[KnownMeasurement]) -> bool {
    modes.iter().all(|mode| match mode {
        AttestMode::Prompt | AttestMode::Manifest { .. } => true,
        AttestMode::List | AttestMode::Config { .. } => {
            known(mode, list).iter().any(|one| one.measurement.component == Component::WarmState)
        }
    })
}

/// Each measurement with who vouches for it, and whether that contents all modes. `manifest` is what the host's software was
/// found in last, and what that one knows.
pub(crate) fn show(
    modes: &[AttestMode],
    measured: &[Measurement],
    list: &[KnownMeasurement],
    manifest: Option<(&ManifestVersion, &[Measurement])>,
) -> Vec<JudgedMeasurement> {
    let published = |one: &Measurement| manifest.filter(|(_, known)| known.contains(one)).map(|(version, _)| version);
    let shown = |one: &Measurement| {
        let judged = modes.iter().map(|mode| shown_by(mode, one, list, published(one).is_some()));
        let (mut vouchers, mut verdicts) = (Vec::new(), Vec::new());
        for (by, verdict) in judged {
            vouchers.extend(by.into_iter().filter(|by| !vouchers.contains(by)).collect::<Vec<_>>());
            verdicts.extend(verdict);
        }
        vouchers.extend(published(one).cloned().map(Voucher::Manifest));
        let matches = (!verdicts.is_empty()).then(|| verdicts.iter().all(|verdict| *verdict));
        JudgedMeasurement { measurement: one.clone(), vouchers, matches }
    };
    measured.iter().map(shown).collect()
}

/// Who of the account's list vouches for one measurement, and what one mode says of it.
fn shown_by(
    mode: &AttestMode,
    one: &Measurement,
    list: &[KnownMeasurement],
    is_in_manifest: bool,
) -> (Vec<Voucher>, Option<bool>) {
    let known = known(mode, list);
    let judgement = reference::judge(std::slice::from_ref(one), &known);
    let vouchers: Vec<Voucher> =
        judgement.judged.iter().flat_map(|judged| &judged.vouchers).map(|by| (*by).clone()).collect();
    let is_known = !vouchers.is_empty();
    let verdict = match mode {
        AttestMode::Prompt => None,
        // What is the instance's own is passed over, unless the list speaks of it.
        AttestMode::List | AttestMode::Config { .. } if !one.component.is_instances_own() => Some(is_known),
        AttestMode::Manifest { .. } if is_published(one) => Some(is_in_manifest),
        AttestMode::List | AttestMode::Config { .. } | AttestMode::Manifest { .. } => {
            (is_known || judgement.none_changed().is_err()).then_some(is_known)
        }
    };
    (vouchers, verdict)
}

#[cfg(test)]
mod tests;
