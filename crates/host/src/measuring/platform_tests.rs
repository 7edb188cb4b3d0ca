//! With a real swtpm: what is proved is what is there, whatever happens to the TPM or to a file.

use lucarne_attest::{enrolment::TpmKeys, quote, wire::Public};
use lucarne_model::{Component, tpm::TpmKind};

use super::*;

struct Bed {
    folder: tempfile::TempDir,
}

impl Bed {
    /// A host with a shim whose one octet the tests change.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("shim.so"), b"a").unwrap();
        Self { folder }
    }
    fn shim(&self) -> PathBuf {
        self.folder.path().join("shim.so")
    }
    fn files(&self) -> Files {
        Files(self.folder.path().join("tpm"))
    }
    fn host(&self) -> Host {
        let own = Own { shim: Some(self.shim()), configuration: "{}".to_owned() };
        Host { name: "host-of-a-test".to_owned(), key: Digest::from_bytes([5; 32]), own }
    }
    fn open(&self) -> Platform {
        Platform::open(&Which::Software, self.files(), self.host()).unwrap()
    }
}

fn wanted(nonce: u8) -> Wanted {
    let disk = Measurement {
        component: Component::DiskImage,
        name: "ami".to_owned(),
        digest: Digest::from_bytes([nonce; 32]),
    };
    let (instance, nonce) = (InstanceId::from_bits(7), Octets(vec![nonce; 16]));
    Wanted { instance, generation: 3, nonce, measured: vec![disk] }
}

/// What the evidence says of the host, once the room of attestation has believed it.
fn believed(evidence: &Evidence) -> Vec<Measurement> {
    let purpose = Purpose {
        nonce: &evidence.nonce,
        host_key: &evidence.host_key,
        instance: evidence.instance,
        generation: evidence.generation,
    };
    let key: Public = quote::read_public(&evidence.ak_public).unwrap();
    let quoted = Values::from(evidence.pcrs.as_slice());
    let quote = quote::Quote { message: &evidence.quote, signature: &evidence.signature };
    quote.verify(&key, &purpose, &quoted, &pcr::QUOTED).unwrap();
    let log = EventLog::parse(&evidence.event_log).unwrap();
    log.explains(&quoted, &log::of_the_host()).unwrap();
    let guest = measure::guest(evidence.guest.as_ref().unwrap(), quoted.get(pcr::GUEST).unwrap()).unwrap();
    assert_eq!(guest.len(), 1);
    assert_eq!(evidence.ek_certificates.len(), 1);
    measure::measurements(&log).unwrap()
}

/// Other people's tools read the log too: what they replay are the registers that were quoted.
#[test]
fn the_event_log_is_read_by_tpm2_eventlog() {
    let bed = Bed::new();
    let evidence = bed.open().prove(wanted(1)).unwrap();
    let path = bed.folder.path().join("log");
    fs::write(&path, &evidence.event_log[..]).unwrap();
    let read = std::process::Command::new("tpm2_eventlog").arg(&path).output();
    let read = read.expect("the Debian package tpm2-tools has it");
    let told = String::from_utf8_lossy(&read.stdout);
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    for register in evidence.pcrs.iter().filter(|pcr| [pcr::HYPERVISOR, pcr::AGENT].contains(&pcr.index)) {
        assert!(told.contains(&format!("{:<2} : 0x{}", register.index, register.value)), "{told}");
    }
}

fn shims(measurements: &[Measurement]) -> usize {
    measurements.iter().filter(|measured| measured.component == Component::Shim).count()
}

#[test]
fn evidence_is_believed_and_tells_at_once_when_one_octet_of_the_host_changes() {
    let bed = Bed::new();
    let mut platform = bed.open();
    let before = believed(&platform.prove(wanted(1)).unwrap());
    for component in [Component::Agent, Component::AgentConfiguration, Component::KernelCommandLine, Component::Cpu] {
        assert!(before.iter().any(|measured| measured.component == component), "{component}");
    }
    assert_eq!(shims(&before), 1);
    assert_eq!(believed(&platform.prove(wanted(2)).unwrap()), before, "a second launch begins as the first");
    fs::write(bed.shim(), b"b").unwrap();
    assert_eq!(shims(&believed(&platform.prove(wanted(3)).unwrap())), 2);
    fs::remove_file(bed.shim()).unwrap();
    let refused = platform.prove(wanted(4)).unwrap_err();
    assert!(matches!(&refused, PlatformError::Measure { name, .. } if name == "shim.so"), "{refused}");
}

#[test]
fn a_tpm_that_is_killed_is_told_again_what_was_measured() {
    let bed = Bed::new();
    let mut platform = bed.open();
    let before = platform.prove(wanted(1)).unwrap();
    assert!(!platform.has_ended());
    let process = platform.software.as_ref().unwrap().process_id();
    let process = rustix::process::Pid::from_raw(process as i32).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let lost = platform.prove(wanted(2)).unwrap_err();
    assert!(lost.is_loss(), "{lost}");
    drop(platform);
    let after = bed.open().prove(wanted(2)).unwrap();
    assert_eq!(believed(&after), believed(&before));
    assert_eq!(after.ak_public, before.ak_public);
}

/// The TPM opens what was made for its own two keys and for nobody else's, and answers for this host alone.
#[test]
fn a_presented_tpm_answers_for_its_own_keys_and_says_what_is_the_matter_otherwise() {
    let bed = Bed::new();
    let mut platform = bed.open();
    let presented = platform.presented();
    assert_eq!(presented.kind(), TpmKind::Software);
    let keys = TpmKeys::read(presented.identity().unwrap()).unwrap();
    let question = keys.ask([3; 32], [7; credential::RANDOMNESS]).unwrap();
    let challenge = |credential: &credential::Credential| DesiredChallenge {
        token: String::new(),
        credential_blob: credential.credential_blob.clone().into(),
        encrypted_secret: credential.encrypted_secret.clone().into(),
    };
    let answer = platform.answer(&challenge(question.credential())).unwrap();
    let proof = question.judge(&answer, &bed.host().key).unwrap();
    assert_eq!(credential::verify(&proof, &keys.endorsement, &keys.attestation.name(), &bed.host().key), Ok(()));
    assert!(question.judge(&answer, &Digest::from_bytes([6; 32])).is_err(), "it is another host's answer too");

    let other_ak = credential::make(&keys.endorsement, &[9; 34], &[3; 32], &[7; credential::RANDOMNESS]).unwrap();
    let refused = platform.answer(&challenge(&other_ak)).unwrap_err();
    assert_eq!((refused.code(), refused.is_loss()), (ErrorCode::CredentialMismatch, false), "{refused}");

    let process = platform.software.as_ref().unwrap().process_id();
    let process = rustix::process::Pid::from_raw(process as i32).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let lost = platform.answer(&challenge(question.credential())).unwrap_err();
    assert_eq!((lost.code(), lost.is_loss()), (ErrorCode::TpmFailed, true), "{lost}");
    drop(platform);
    assert_eq!(bed.open().presented(), presented, "it comes back as the same TPM");
}

/// The log is ahead of the TPM when the agent is killed between the two.
#[test]
fn events_that_were_written_and_not_extended_are_extended_at_the_next_start() {
    let bed = Bed::new();
    let mut platform = bed.open();
    let shim =
        Measurement { component: Component::Shim, name: "shim.so".to_owned(), digest: Digest::from_bytes([1; 32]) };
    let from = platform.log.events.len();
    platform.log.events.extend(log::news(&platform.log, &[shim], false).unwrap());
    let kept = platform.log.clone();
    let registers = values(platform.tpm.read_pcrs(&log::of_the_host()).unwrap());
    let resumed = log::resume(Some(kept.clone()), &EventLog::new(), &registers).unwrap();
    assert_eq!(resumed, Resumed { log: kept, extended: from });
    platform.extend_from(resumed.extended).unwrap();
    assert_eq!(shims(&believed(&platform.prove(wanted(1)).unwrap())), 2);
}

#[test]
fn registers_that_somebody_else_extends_are_found_out() {
    let bed = Bed::new();
    let mut platform = bed.open();
    platform.tpm.extend(pcr::AGENT, &[1; 32]).unwrap();
    let evidence = platform.prove(wanted(1)).unwrap();
    let log = EventLog::parse(&evidence.event_log).unwrap();
    assert!(log.explains(&Values::from(evidence.pcrs.as_slice()), &[pcr::AGENT]).is_err());
}
