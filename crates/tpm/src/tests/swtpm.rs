//! With a real swtpm, whose process and folder end with the test.

use std::sync::{Arc, Mutex};

use lucarne_attest::{
    credential, endorsement,
    pcr::{self, Values},
    quote, spki,
    wire::{Attest, HashAlgorithm, Public, Wire as _},
};
use lucarne_model::{Moment, Octets};
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};

use super::*;
use crate::{
    Keys, Transport,
    agreement::{self, Epoch},
    keys::Credential,
};

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

/// Those who ask have no TPM: the room of attestation makes the question.
#[test]
fn a_credential_is_opened_only_by_the_tpm_that_has_both_of_its_keys() {
    let made = made();
    let (_swtpm, mut tpm, keys) = made.open();
    let roots = [Octets(der(&made.authority.root().unwrap()))];
    let chain = [Octets::from(keys.certificate().unwrap())];
    let endorsement = endorsement::verify(&chain, &roots, Moment::from_secs(2_000_000_000)).unwrap();
    assert_eq!(endorsement, Public::from_octets(&keys.endorsement_public(&mut tpm).unwrap()).unwrap().key);
    let mut open = |name: &[u8]| {
        let made = credential::make(&endorsement, name, &[6; 32], &[1; credential::RANDOMNESS]).unwrap();
        keys.activate(&mut tpm, Credential { blob: &made.credential_blob, secret: &made.encrypted_secret })
    };
    assert_eq!(open(keys.attestation_name()).unwrap(), [6; 32]);
    let refused = open(&[&[0, 0x0b][..], &[1; 32]].concat()).unwrap_err();
    assert!(matches!(&refused, Error::Refused { code, .. } if code.to_string().contains("integrity")), "{refused}");
    assert_eq!(open(keys.attestation_name()).unwrap(), [6; 32]);
}

/// Other people's tools believe our quotes too, and find a false nonce.
#[test]
fn a_quote_is_believed_by_the_room_of_attestation_and_by_tpm2_checkquote() {
    let made = made();
    let (_swtpm, mut tpm, keys) = made.open();
    let quote = keys.quote(&mut tpm, &[9; 32], &pcr::QUOTED).unwrap();
    let key = Public::from_octets(keys.attestation_public()).unwrap();
    let believed = quote::Quote { message: &quote.attest, signature: &quote.signature }.verify_signature(&key);
    assert_eq!(believed.unwrap().qualifying, [9; 32]);
    let folder = tempfile::tempdir().unwrap();
    let key = String::from(Octets(spki::write(&key.key).unwrap()));
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n");
    for (name, content) in [("ak.pem", pem.as_bytes()), ("quote", &quote.attest), ("signature", &quote.signature)] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let checked = |nonce: &str| {
        let mut check = Command::new("tpm2_checkquote");
        check.args(["-u", "ak.pem", "-m", "quote", "-s", "signature", "-g", "sha256", "-q", nonce]);
        check.current_dir(folder.path()).output().expect("the Debian package tpm2-tools has it")
    };
    let output = checked(&"09".repeat(32));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!checked(&"08".repeat(32)).status.success());
}

/// A way to a TPM that breaks after so many octets of answers: within one, or between two.
#[derive(Debug)]
struct Cut {
    way: Arc<Mutex<Socket>>,
    left: usize,
    tells: bool,
}

impl Transport for Cut {
    fn exchange(&mut self, command: &[u8], within: Duration) -> io::Result<Vec<u8>> {
        let mut answer = self.way.lock().unwrap().exchange(command, within)?;
        if answer.len() <= self.left {
            self.left -= answer.len();
            return Ok(answer);
        }
        answer.truncate(std::mem::take(&mut self.left));
        if self.tells { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) } else { Ok(answer) }
    }
}

#[test]
fn a_tpm_that_fails_after_any_number_of_octets_is_an_error_and_lost() {
    let made = made();
    let (swtpm, data) = Swtpm::spawn(&made.place.state(), &made.place.log()).unwrap();
    let way = Arc::new(Mutex::new(Socket::new(data)));
    let file = made.place.folder().join("ak");
    let through = |left, tells| Tpm::start(Box::new(Cut { way: way.clone(), left, tells }));
    let keys = Keys::open(&mut through(usize::MAX, true).unwrap(), &file).unwrap();
    let attested = |left, tells| -> Result<(), Error> {
        let mut tpm = through(left, tells)?;
        let failed = (|| {
            tpm.reset(pcr::GUEST)?;
            tpm.extend(pcr::GUEST, &[1; 32])?;
            keys.quote(&mut tpm, &[2; 32], &pcr::QUOTED)?;
            tpm.read_pcrs(&pcr::QUOTED).map(drop)
        })();
        // Once lost it answers nothing more, whatever is asked.
        if failed.is_err() {
            assert!(matches!(tpm.random(1), Err(Error::Lost)));
        }
        failed
    };
    let whole = (0..4096).step_by(64).find(|left| attested(*left, true).is_ok()).expect("it ends");
    for (left, tells) in (0..whole - 64).step_by(13).flat_map(|left| [(left, true), (left, false)]) {
        let error = attested(left, tells).unwrap_err();
        assert!(error.is_lost(), "after {left} octets: {error}");
    }
    attested(whole, true).unwrap();
    drop(swtpm);
}

/// What stands between the first and last line of PEM.
fn der(pem: &str) -> Vec<u8> {
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    Octets::try_from(text).unwrap().0
}

/// The secret stays in the TPM, and is the one that the other side comes to.
#[test]
fn a_tpm_agrees_on_a_secret_with_whoever_has_its_public_key() {
    let made = made();
    let agree = |tpm: &mut Tpm, epoch: Epoch, public: agreement::Point| {
        let random = ring::rand::SystemRandom::new();
        let ours = EphemeralPrivateKey::generate(&ECDH_P256, &random).unwrap();
        let share = ours.compute_public_key().unwrap();
        let (x, y) = share.as_ref()[1..].split_at(32);
        let share = agreement::Point { x: x.try_into().unwrap(), y: y.try_into().unwrap() };
        let theirs = epoch.agree(tpm, &share).unwrap().x;
        let public = UnparsedPublicKey::new(&ECDH_P256, [&[4], &public.x[..], &public.y].concat());
        agree_ephemeral(ours, &public, |ours| assert_eq!(ours, theirs)).unwrap();
    };
    let first = {
        let (_swtpm, mut tpm, _keys) = made.open();
        let first = Epoch(1).public(&mut tpm).unwrap();
        assert_ne!(Epoch(2).public(&mut tpm).unwrap(), first);
        // More often than a TPM has room for keys.
        (0..5).for_each(|_| agree(&mut tpm, Epoch(1), first));
        let off_the_curve = agreement::Point { x: [1; 32], y: [1; 32] };
        assert!(matches!(Epoch(1).agree(&mut tpm, &off_the_curve), Err(Error::Refused { .. })));
        agree(&mut tpm, Epoch(1), first);
        first
    };
    let (_swtpm, mut tpm, _keys) = made.open();
    assert_eq!(Epoch(1).public(&mut tpm).unwrap(), first, "after a restart it is the same key");
    agree(&mut tpm, Epoch(1), first);
}
