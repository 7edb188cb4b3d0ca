//! What a proof is worth, and whether a policy is content with what it says.
//!
//! Owns the order of the controller's checks, and which part of an account's list a policy asks. Pure: records come in,
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
    spki,
    wire::Key,
};
use lucarne_model::{
    ErrorCode, Evidence, InstanceId, Measurement, Octets,
    attestation::{AttestMode, JudgedMeasurement, KnownMeasurement, Voucher},
    instance::StateReason,
    storage::Digest,
};
use ring::digest::{SHA256, digest};

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

/// Whether the policy is content. Where the owner is asked it is, until something was approved: then nothing may differ
/// from that.
pub(crate) fn judge(
    mode: &AttestMode,
    measured: &[Measurement],
    list: &[KnownMeasurement],
    approved: &[Measurement],
) -> Result<(), StateReason> {
    let outcome = match mode {
        AttestMode::Prompt if approved.is_empty() => Ok(()),
        AttestMode::Prompt => {
            let own = || Voucher::Own { configuration: None, note: None };
            let known: Vec<_> = approved.iter().map(|one| Known { measurement: one.clone(), by: own() }).collect();
            reference::judge(measured, &known).complete()
        }
        AttestMode::List => reference::judge(measured, &known(mode, list)).all_known(),
        AttestMode::Config { .. } => reference::judge(measured, &known(mode, list)).complete(),
        AttestMode::Manifest { publisher } => {
            let message = format!("no manifest of `{publisher}` is known");
            return Err(refused(ErrorCode::InvalidManifestNotFound, message));
        }
    };
    outcome.map_err(|error| refused(error.code(), error))
}

/// That of the list which the policy asks; where the owner decides, all of it is to be seen.
fn known(mode: &AttestMode, list: &[KnownMeasurement]) -> Vec<Known<Voucher>> {
    let is_asked = |one: &&KnownMeasurement| match mode {
        AttestMode::Prompt | AttestMode::List => true,
        AttestMode::Config { name } => one.configuration.as_ref() == Some(name),
        AttestMode::Manifest { .. } => false,
    };
    let voucher = |one: &KnownMeasurement| {
        let by = Voucher::Own { configuration: one.configuration.clone(), note: one.note.clone() };
        Known { measurement: one.measurement.clone(), by }
    };
    list.iter().filter(is_asked).map(voucher).collect()
}

/// Each measurement with who vouches for it, and whether that contents the policy.
pub(crate) fn show(mode: &AttestMode, measured: &[Measurement], list: &[KnownMeasurement]) -> Vec<JudgedMeasurement> {
    let known = known(mode, list);
    let judged = reference::judge(measured, &known).judged;
    let asks = *mode == AttestMode::Prompt;
    let shown = |one: reference::Judged<'_, Voucher>| JudgedMeasurement {
        measurement: one.measurement.clone(),
        matches: (!asks).then_some(!one.vouchers.is_empty()),
        vouchers: one.vouchers.into_iter().cloned().collect(),
    };
    judged.into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use lucarne_model::{AccountId, Component, KnownMeasurementId, Moment};

    use super::*;

    fn measurement(component: Component, name: &str, content: u8) -> Measurement {
        Measurement { component, name: name.into(), digest: Digest::from_bytes([content; 32]) }
    }

    fn listed(measurement: &Measurement, configuration: Option<&str>) -> KnownMeasurement {
        KnownMeasurement {
            id: KnownMeasurementId::from_bits(1),
            account: AccountId::from_bits(1),
            measurement: measurement.clone(),
            configuration: configuration.map(Into::into),
            note: None,
            created: Moment::EPOCH,
            tags: Default::default(),
        }
    }

    #[test]
    fn a_list_knows_what_is_in_it_whatever_it_belongs_to() {
        let agent = measurement(Component::Agent, "lucarne", 1);
        let kernel = measurement(Component::GuestKernel, "kernel", 2);
        let list = [listed(&agent, None), listed(&kernel, Some("web"))];
        assert_eq!(judge(&AttestMode::List, &[agent.clone(), kernel.clone()], &list, &[]), Ok(()));
        let changed = measurement(Component::Agent, "lucarne", 9);
        let reason = judge(&AttestMode::List, &[changed.clone(), kernel], &list, &[]).unwrap_err();
        assert_eq!(reason.code, ErrorCode::MeasurementUnknown);
        assert!(reason.message.contains("agent `lucarne`"), "{}", reason.message);
        let shown = show(&AttestMode::List, &[agent, changed], &list);
        assert_eq!(shown.iter().map(|one| one.matches).collect::<Vec<_>>(), [Some(true), Some(false)]);
    }

    #[test]
    fn a_configuration_wants_all_of_its_own_and_nothing_else() {
        let web = AttestMode::Config { name: "web".into() };
        let (old, new) = (measurement(Component::Agent, "lucarne", 1), measurement(Component::Agent, "lucarne", 2));
        let kernel = measurement(Component::GuestKernel, "kernel", 3);
        let of_others = measurement(Component::GuestInitramfs, "initramfs", 4);
        let list = [
            listed(&old, Some("web")),
            listed(&new, Some("web")),
            listed(&kernel, Some("web")),
            listed(&of_others, None),
        ];
        for agent in [&old, &new] {
            assert_eq!(judge(&web, &[agent.clone(), kernel.clone()], &list, &[]), Ok(()), "either version");
        }
        assert!(judge(&web, std::slice::from_ref(&old), &list, &[]).is_err(), "the kernel was not measured");
        assert!(judge(&web, &[old, kernel, of_others], &list, &[]).is_err(), "known, but not of this configuration");
    }

    #[test]
    fn what_was_approved_once_may_not_become_anything_else() {
        let before = [measurement(Component::Kernel, "vmlinuz", 1)];
        let after = [measurement(Component::Kernel, "vmlinuz", 2)];
        assert_eq!(judge(&AttestMode::Prompt, &before, &[], &[]), Ok(()));
        assert_eq!(judge(&AttestMode::Prompt, &before, &[], &before), Ok(()));
        assert!(judge(&AttestMode::Prompt, &after, &[], &before).is_err());
        assert!(judge(&AttestMode::Prompt, &[], &[], &before).is_err(), "what was there is missing");
    }

    #[test]
    fn who_is_asked_sees_what_the_list_knows_and_no_verdict() {
        let kernel = measurement(Component::Kernel, "vmlinuz", 1);
        let shown = show(&AttestMode::Prompt, std::slice::from_ref(&kernel), &[listed(&kernel, Some("web"))]);
        assert_eq!((shown[0].vouchers.len(), shown[0].matches), (1, None));
    }
}
