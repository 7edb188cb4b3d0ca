//! Others' tools and ours agree on a real TPM implementation: swtpm, spoken to by tpm2-tools, of which we read and judge
//! what it says, and which take what we write.
#![allow(clippy::unwrap_used)] // a test says by it what must not fail

mod machine;

use std::{fs, time::SystemTime};

use lucarne_attest::{
    credential,
    event_log::EventLog,
    evidence::{self, from_files, to_files},
    measure,
    pcr::{self, Values},
    spki,
    verify::{CheckName, Trust, purpose, verify},
    wire::{Public, Wire as _},
};
use lucarne_model::{
    Component, Evidence, InstanceId, Measurement, Moment, Octets, evidence::CredentialProof, storage::Digest,
};

use crate::machine::{Kind, Machine};

fn measured(component: Component, octet: u8) -> Measurement {
    Measurement { component, name: component.to_string(), digest: Digest::from_bytes([octet; 32]) }
}

/// What was measured of the host, extended into the TPM as its log says.
fn boot(machine: &Machine) -> EventLog {
    let host = [Component::GuestFirmware, Component::Cpu, Component::Kernel, Component::Hypervisor, Component::Agent];
    let mut log = EventLog::new();
    for component in host {
        let event = measure::event(&measured(component, 7), measure::register(component, false)).unwrap();
        machine.extend(event.register, event.extends().unwrap());
        log.events.push(event);
    }
    log
}

/// A launch measured and quoted; and the attestation key asked to prove where it lives.
fn evidence(machine: &Machine, kind: &Kind) -> Evidence {
    let log = boot(machine);
    let guest = measure::describe_guest(vec![measured(Component::GuestKernel, 8)]).unwrap();
    machine.extend(pcr::GUEST.into(), measure::guest_digest(&guest));
    let mut values = Values::default();
    pcr::QUOTED.into_iter().for_each(|register| values.set(register, [0; 32]));
    log.replay().iter().for_each(|(register, value)| values.set(register, value));
    values.set(pcr::GUEST, measure::guest_register(&guest));
    let ak_public = machine.make_keys(kind);
    let mut evidence = Evidence {
        instance: InstanceId::from_bits(77),
        generation: 1,
        nonce: vec![5; 16].into(),
        host_key: host_key(),
        quote: Octets::default(),
        signature: Octets::default(),
        pcrs: values.to_evidence(),
        event_log: log.to_octets().into(),
        credential: Some(activate(machine, &ak_public)),
        ak_public,
        ek_certificates: machine.chain(),
        guest: Some(guest.into()),
    };
    (evidence.quote, evidence.signature) = machine.quote(&purpose(&evidence).qualifying_data());
    evidence
}

fn host_key() -> Digest {
    Digest::from_bytes([9; 32])
}

fn activate(machine: &Machine, ak_public: &Octets) -> CredentialProof {
    let ak = Public::from_octets(ak_public).unwrap();
    let ek = spki::read(&machine.ek_der()).unwrap();
    let (secret, randomness) = ([3; 32], [6; credential::RANDOMNESS]);
    let asked = credential::make(&ek, &ak.name(), &secret, &randomness).unwrap();
    let answer = machine.activate(&asked);
    CredentialProof {
        secret: secret[..].into(),
        randomness: randomness[..].into(),
        credential_blob: asked.credential_blob.into(),
        encrypted_secret: asked.encrypted_secret.into(),
        answer: credential::answer(&answer, &host_key())[..].into(),
    }
}

fn now() -> Moment {
    Moment::from_secs(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
}

/// A TPM that others wrote says what we read, opens what we encrypted for it alone, and its quote is judged good by us and by
/// others from the same files.
fn agrees_on(kind: &Kind) {
    let machine = Machine::start();
    let evidence = evidence(&machine, kind);
    let (roots, host_key) = (machine.roots(), evidence.host_key.clone());
    let trust = Trust {
        now: now(),
        roots: Some(&roots),
        nonce: Some(&evidence.nonce),
        host_key: Some(&host_key),
        ..Trust::default()
    };
    let report = verify(&evidence, None, &trust);
    let open = [CheckName::Clock, CheckName::Manifest, CheckName::Reference];
    assert!(report.holds_without(&open), "{report:#?}");

    let files = to_files(&evidence, None).unwrap();
    assert_eq!(from_files(&files), Ok((evidence.clone(), None)));
    let folder = machine.write(&files);
    let qualifying = purpose(&evidence).qualifying_data();
    assert!(machine.check_quote(&folder, &qualifying), "others judge it good too");
    assert!(!machine.check_quote(&folder, &[0; 32]), "and not for another nonce");
    assert_eq!(fs::read(folder.join("quote.pcrs")).unwrap(), machine.quoted_pcrs(), "written as their own tool does");
    let told = machine.read_log(&folder.join("event_log.bin"));
    assert_eq!(told.matches("EV_EVENT_TAG").count(), 5, "{told}");

    let mut changed = evidence.clone();
    changed.pcrs[5].value = Digest::from_bytes([1; 32]);
    let folder = machine.write(&evidence::to_files(&changed, None).unwrap());
    assert!(!machine.check_quote(&folder, &qualifying), "a register that was changed is found by others");
    assert!(verify(&changed, None, &trust).refusal().is_some(), "and by us");
}

#[test]
fn others_and_we_agree_on_quotes_by_elliptic_curves() {
    agrees_on(&Kind::ECC_UNDER_RSA);
}

#[test]
fn others_and_we_agree_on_quotes_by_rsa() {
    agrees_on(&Kind::RSA);
}

#[test]
fn a_tpm_opens_what_was_encrypted_for_its_endorsement_key_on_p256() {
    let machine = Machine::start();
    let ak_public = machine.make_keys(&Kind::ECC);
    let proof = activate(&machine, &ak_public);
    assert_eq!(*proof.answer, credential::answer(&proof.secret, &host_key()));
}
