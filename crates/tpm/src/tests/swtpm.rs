//! With a real swtpm, whose process and folder end with the test.

use lucarne_attest::{
    pcr::{self, Values},
    wire::{Attest, HashAlgorithm, Public, Wire as _},
};

use super::*;
use crate::{Keys, keys::Credential};

/// A software TPM that was just made.
struct Made {
    _folder: tempfile::TempDir,
    place: Place,
    authority: Authority,
}

fn made() -> Made {
    let folder = tempfile::tempdir().unwrap();
    let (place, authority) =
        (Place::new(folder.path().join("tpm")), Authority::new(folder.path().join("ca"), "authority of a test"));
    assert!(!place.is_made());
    manufacture(&place, &authority, "host-of-a-test").unwrap();
    Made { _folder: folder, place, authority }
}

impl Made {
    fn open(&self) -> (Swtpm, Tpm, Keys) {
        let (swtpm, mut tpm) = Swtpm::start(&self.place).unwrap();
        let keys = Keys::open(&mut tpm, &self.place.folder().join("ak")).unwrap();
        keys.check(&mut tpm).unwrap();
        (swtpm, tpm, keys)
    }
}

#[test]
fn a_software_tpm_keeps_its_keys_and_certificate_over_restarts_and_not_its_registers() {
    let made = made();
    let (first, certificate) = {
        let (_swtpm, mut tpm, keys) = made.open();
        tpm.extend(pcr::AGENT, &[7; 32]).unwrap();
        assert_eq!(tpm.read_pcrs(&[pcr::AGENT]).unwrap()[&pcr::AGENT], pcr::extend([0; 32], [7; 32]));
        (keys.attestation_public().to_vec(), keys.certificate().unwrap().to_vec())
    };
    let (_swtpm, mut tpm, keys) = made.open();
    assert_eq!((keys.attestation_public(), keys.certificate()), (first.as_slice(), Some(certificate.as_slice())));
    assert_eq!(tpm.read_pcrs(&[pcr::AGENT]).unwrap()[&pcr::AGENT], [0; 32]);
    assert_eq!(made.authority.root().unwrap().matches("BEGIN CERTIFICATE").count(), 1);
    let maker = tpm.maker().unwrap();
    assert_eq!((maker.manufacturer.as_str(), maker.model.as_str()), ("IBM", "SW   TPM"));
    assert_eq!(tpm.random(16).unwrap().len(), 16);
}

#[test]
fn a_key_that_another_tpm_wrapped_is_replaced() {
    let (one, other) = (made(), made());
    let file = one.place.folder().join("ak");
    let (_swtpm, _, foreign) = other.open();
    fs::copy(other.place.folder().join("ak"), &file).unwrap();
    let (_swtpm, _, keys) = one.open();
    assert_ne!(keys.attestation_name(), foreign.attestation_name());
    fs::write(&file, "damaged").unwrap();
    drop(_swtpm);
    let (_swtpm, mut tpm) = Swtpm::start(&one.place).unwrap();
    assert!(matches!(Keys::open(&mut tpm, &file), Err(Error::State { .. })));
}

#[test]
fn a_quote_is_over_all_registers_that_were_asked_for_and_over_the_qualifying_data() {
    let made = made();
    let (_swtpm, mut tpm, keys) = made.open();
    for round in 0..2 {
        tpm.reset(pcr::GUEST).unwrap();
        tpm.extend(pcr::GUEST, &[round; 32]).unwrap();
        let quote = keys.quote(&mut tpm, &[9; 32], &pcr::QUOTED).unwrap();
        let mut values = Values::default();
        tpm.read_pcrs(&pcr::QUOTED).unwrap().into_iter().for_each(|(register, value)| values.set(register, value));
        assert_eq!(values.get(pcr::GUEST), Some(pcr::extend([0; 32], [round; 32])));
        let attest = Attest::from_octets(&quote.attest).unwrap();
        assert_eq!(attest.qualifying, [9; 32]);
        assert_eq!(Some(attest.pcr_digest), pcr::digest_of(&attest.selections, &values, HashAlgorithm::Sha256));
    }
    let key = Public::from_octets(keys.attestation_public()).unwrap();
    assert!(key.is_attestation_key());
    assert_eq!(keys.attestation_name(), key.name());
    let refused = tpm.reset(pcr::HARDWARE).unwrap_err();
    assert!(matches!(&refused, Error::Refused { code, .. } if code.to_string().contains("locality")), "{refused}");
    assert!(!refused.is_lost());
}

/// Three transient objects are all that it has room for, and every session that is left lying takes one of three.
#[test]
fn credentials_that_are_refused_leave_nothing_in_the_tpm() {
    let made = made();
    let (_swtpm, mut tpm, keys) = made.open();
    let (blob, secret) = ([&[0, 68][..], &[0, 32], &[3; 66]].concat(), [&[0, 2][..], &[1; 2]].concat());
    for _ in 0..5 {
        let refused = keys.activate(&mut tpm, Credential { blob: &blob, secret: &secret }).unwrap_err();
        assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    }
    assert_eq!(keys.endorsement_public(&mut tpm).unwrap(), keys.endorsement_public(&mut tpm).unwrap());
    keys.quote(&mut tpm, &[0; 32], &pcr::QUOTED).unwrap();
}

#[test]
fn a_software_tpm_that_was_killed_is_an_error_at_once_and_comes_back_when_it_is_started_again() {
    let made = made();
    let (mut swtpm, mut tpm, keys) = made.open();
    assert!(swtpm.ended().unwrap().is_none());
    let process = rustix::process::Pid::from_raw(swtpm.process_id() as i32).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let lost = keys.quote(&mut tpm, &[0; 32], &pcr::QUOTED).unwrap_err();
    assert!(matches!(lost, Error::NoAnswer { .. }) && lost.is_lost(), "{lost}");
    assert!(matches!(keys.quote(&mut tpm, &[0; 32], &pcr::QUOTED), Err(Error::Lost)));
    drop((swtpm, tpm));
    let (_swtpm, mut tpm, again) = made.open();
    assert_eq!(again.attestation_name(), keys.attestation_name());
    again.quote(&mut tpm, &[0; 32], &pcr::QUOTED).unwrap();
}

#[test]
fn what_is_left_of_a_tpm_that_was_not_finished_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (place, authority) =
        (Place::new(folder.path().join("tpm")), Authority::new(folder.path().join("ca"), "authority of a test"));
    fs::create_dir_all(place.folder().join("state.new")).unwrap();
    fs::write(place.folder().join("state.new/tpm2-00.permall"), "half of it").unwrap();
    manufacture(&place, &authority, "host-of-a-test").unwrap();
    assert!(place.is_made() && !place.folder().join("state.new").exists());
    drop(Swtpm::start(&place).unwrap());
    fs::write(place.folder().join("state/tpm2-00.permall"), "damaged").unwrap();
    let refused = Swtpm::start(&place).unwrap_err();
    assert!(matches!(&refused, Error::Start { said, .. } if !said.is_empty()), "{refused}");
}
