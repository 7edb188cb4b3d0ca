//! Evidence that is right in every part holds; each thing that is wrong is refused, by the check that is there for it.

use std::slice::from_ref;

use lucarne_model::evidence::PcrValue;

use super::*;
use crate::{
    event_log::Event,
    evidence::{from_files, to_files},
    example::{Ak, Machine, Maker, NONCE, NOW, host, measured},
    log::{self, Head, Standing},
    manifest::Manifest,
    merkle::Tree,
    signing::{Envelope, SigningKey},
    wire::{Attributes, HashAlgorithm, MAGIC, PcrSelection, PcrSelections, Signature, Wire as _},
};

/// Evidence with one thing wrong, and the check and code that must say so.
type Case = (&'static str, CheckName, ErrorCode, fn(&Machine, &mut Evidence));

fn relog(machine: &Machine, evidence: &mut Evidence, change: impl Fn(&mut Vec<Event>)) {
    let mut log = machine.log.clone();
    change(&mut log.events);
    evidence.event_log = log.to_octets().into();
}

fn register(evidence: &mut Evidence, index: u8) -> &mut PcrValue {
    evidence.pcrs.iter_mut().find(|pcr| pcr.index == index).expect("it is quoted")
}

const CASES: &[Case] = {
    use CheckName as N;
    use ErrorCode as C;
    &[
        ("forged signature", N::Signature, C::QuoteSignatureInvalid, |_, e| {
            let last = e.signature.len() - 1;
            e.signature.0[last] ^= 1;
        }),
        ("changed message", N::Signature, C::QuoteSignatureInvalid, |_, e| e.quote.0[50] ^= 1),
        ("another attestation key", N::Signature, C::QuoteSignatureInvalid, |_, e| {
            e.ak_public = Ak::new().public.to_octets().into();
        }),
        ("a key that signs anything", N::Signature, C::AttestationKeyUntrusted, |m, e| {
            let attributes = Attributes(m.ak.public.attributes.0 & !Attributes::RESTRICTED.0);
            e.ak_public = Public { attributes, ..m.ak.public.clone() }.to_octets().into();
        }),
        ("another attestation key that signs", N::Credential, C::CredentialMismatch, |_, e| {
            let other = Machine::new();
            e.ak_public = other.ak.public.to_octets().into();
            other.quote(e, |_| {});
        }),
        ("an answer that was guessed", N::Credential, C::CredentialMismatch, |_, e| {
            e.credential.as_mut().expect("a proof").answer.0[0] ^= 1;
        }),
        ("an unknown maker", N::Endorsement, C::EndorsementUntrusted, |_, e| {
            e.ek_certificates = vec![Maker::new().endorse(&[2, 23, 133, 8, 1]).0];
        }),
        ("another TPM of the same maker", N::Credential, C::CredentialMismatch, |m, e| {
            e.ek_certificates = vec![m.maker.endorse(&[2, 23, 133, 8, 1]).0];
        }),
        ("no certificate", N::Endorsement, C::EndorsementUntrusted, |_, e| e.ek_certificates.clear()),
        ("a statement that no TPM made", N::Generated, C::QuoteNotGenerated, |m, e| m.quote(e, |a| a.magic = !MAGIC)),
        ("a stale nonce", N::Nonce, C::QuoteStale, |m, e| {
            e.nonce = b"an older nonce..".to_vec().into();
            m.quote(e, |_| {});
        }),
        ("a nonce that was put in later", N::Purpose, C::QuoteStale, |m, e| {
            m.quote(e, |a| a.qualifying = vec![0; 32]);
        }),
        ("the quote of another launch", N::Purpose, C::QuoteStale, |_, e| e.generation += 1),
        ("a quote that is relayed under this host's name", N::Purpose, C::QuoteStale, |m, e| {
            let ours = e.host_key.clone();
            e.host_key = Digest::from_bytes([8; 32]);
            m.quote(e, |_| {});
            e.host_key = ours;
        }),
        ("a quote of another host", N::Host, C::QuoteRelayed, |m, e| {
            e.host_key = Digest::from_bytes([8; 32]);
            m.quote(e, |_| {});
        }),
        ("counters that went back", N::Clock, C::QuoteClockBack, |m, e| m.quote(e, |a| a.clock.resets = 0)),
        ("a digest over other values", N::Registers, C::PcrDigestMismatch, |_, e| {
            register(e, 11).value = Digest::from_bytes([1; 32]);
        }),
        ("a register that is left out", N::Registers, C::QuoteIncomplete, |m, e| {
            let fewer = PcrSelection::new(HashAlgorithm::Sha256, [0, 1, 2, 8, 9, 11, 23]);
            m.quote(e, |a| a.selections = PcrSelections(vec![fewer]));
        }),
        ("the SHA-1 bank", N::Registers, C::EvidenceSha1Only, |m, e| {
            let bank = PcrSelection::new(HashAlgorithm::Sha1, pcr::QUOTED);
            m.quote(e, |a| a.selections = PcrSelections(vec![bank]));
        }),
        ("a signature over SHA-1", N::Signature, C::EvidenceSha1Only, |m, e| {
            if let Signature::Ecdsa { r, s, .. } = m.ak.sign(&e.quote) {
                e.signature = Signature::Ecdsa { hash: HashAlgorithm::Sha1, r, s }.to_octets().into();
            }
        }),
        ("a log of SHA-1 alone", N::EventLog, C::EvidenceSha1Only, |m, e| {
            let mut log = m.log.clone();
            log.header.algorithms = vec![(HashAlgorithm::Sha1.id(), 20)];
            e.event_log = log.to_octets().into();
        }),
        ("an extra event", N::EventLog, C::EventLogMismatch, |m, e| {
            relog(m, e, |events| events.push(events[0].clone()))
        }),
        ("a missing event", N::EventLog, C::EventLogMismatch, |m, e| relog(m, e, |events| drop(events.remove(5)))),
        ("reordered events", N::EventLog, C::EventLogMismatch, |m, e| relog(m, e, |events| events.swap(5, 6))),
        ("a changed digest", N::EventLog, C::EventLogMismatch, |m, e| {
            relog(m, e, |events| events[5].digests[0].1[0] ^= 1);
        }),
        ("a changed name", N::Measurements, C::EventLogMismatch, |m, e| {
            relog(m, e, |events| *events[5].data.last_mut().expect("data") = b' ');
        }),
        ("a log that is cut", N::EventLog, C::EventLogMalformed, |_, e| {
            e.event_log.0.pop();
        }),
        ("another guest", N::Guest, C::GuestMismatch, |_, e| {
            let disk = measured(Component::DiskImage, "another");
            e.guest = Some(measure::describe_guest(vec![disk]).expect("a description").into());
        }),
        ("a register of the guest that was not reset", N::Guest, C::GuestMismatch, |m, e| {
            register(e, pcr::GUEST).value = Digest::from_bytes([3; 32]);
            m.quote(e, |_| {});
        }),
        ("a quote that is none", N::Signature, C::EvidenceMalformed, |_, e| e.signature = vec![1, 2, 3].into()),
    ]
};

const HOST_KEY: [u8; 32] = [9; 32];
const BEFORE: Clock = Clock { milliseconds: 4, resets: 1, restarts: 0, safe: true };

fn judged(machine: &Machine, evidence: &Evidence, published: Option<&Published>) -> Report {
    let (host_key, key) = (Digest::from_bytes(HOST_KEY), notary().public());
    let roots = from_ref(&machine.maker.root);
    let trust = Trust {
        now: NOW,
        roots: Some(roots),
        nonce: Some(NONCE),
        host_key: Some(&host_key),
        manifest_key: Some(&key),
        clock: Some(BEFORE),
        seen: None,
    };
    verify(evidence, published, &trust)
}

fn notary() -> SigningKey {
    SigningKey::from_seed([3; 32]).expect("a key")
}

/// What a notary published of `measurements`, in a log of its own.
fn published(measurements: Vec<Measurement>) -> Published {
    let key = notary();
    let manifest = Manifest {
        publisher: "notary".into(),
        name: "host".into(),
        version: 1,
        valid_from: Moment::from_secs(1000),
        valid_until: Moment::from_secs(2000),
        oldest_accepted: 1,
        measurements,
    };
    let envelope: Envelope = key.sign(&manifest).expect("signed");
    let mut tree = Tree::default();
    tree.push(log::leaf(&envelope).expect("a leaf"));
    let standings = vec![Standing { name: "host".into(), newest: 1, oldest_accepted: 1, revoked: Vec::new() }];
    let root = Digest::from_bytes(tree.root(1).expect("a root"));
    let head = Head { publisher: "notary".into(), size: 1, root, time: NOW, standings };
    let inclusion = log::prove_inclusion(&tree, 0, 1).expect("a proof");
    Published { manifest: envelope, head: key.sign(&head).expect("signed"), inclusion }
}

#[test]
fn evidence_that_is_right_in_every_part_holds_also_as_files() {
    let machine = Machine::new();
    let (evidence, manifest) = (machine.evidence(), published(host()));
    let files = to_files(&evidence, Some(&manifest)).expect("files");
    assert_eq!(from_files(&files), Ok((evidence.clone(), Some(manifest.clone()))));
    let report = judged(&machine, &evidence, Some(&manifest));
    assert!(report.holds_without(&[]), "{report:#?}");
    assert_eq!(report.host, host());
    assert_eq!(report.guest.len(), 1);
}

#[test]
fn each_thing_that_is_wrong_is_refused_by_its_check_and_code() {
    let machine = Machine::new();
    for (what, check, code, change) in CASES {
        let mut evidence = machine.evidence();
        change(&machine, &mut evidence);
        let report = judged(&machine, &evidence, None);
        match report.outcome(*check) {
            Some(Outcome::Refused { code: found, .. }) => assert_eq!(found, code, "{what}"),
            other => panic!("{what}: {check:?} came to {other:?}"),
        }
        assert!(report.refusal().is_some() && !report.holds_without(&[CheckName::Manifest, CheckName::Reference]));
    }
}

#[test]
fn a_host_with_one_octet_changed_is_not_what_the_publisher_vouches_for() {
    let machine = Machine::new();
    let mut known = host();
    known[5].digest = Digest::from_bytes([0; 32]);
    for (measurements, expected) in [(known, "known for it is"), (host()[..5].to_vec(), "nobody vouches for")] {
        let report = judged(&machine, &machine.evidence(), Some(&published(measurements)));
        match report.outcome(CheckName::Reference) {
            Some(Outcome::Refused { code: ErrorCode::MeasurementUnknown, detail }) => {
                assert!(detail.contains(expected))
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A manifest for another time or of another signer is refused, and nothing is compared with it.
#[test]
fn nothing_is_held_against_a_manifest_that_does_not_hold() {
    let machine = Machine::new();
    let mut manifest = published(host());
    manifest.head.signatures[0].sig.0[0] ^= 1;
    let report = judged(&machine, &machine.evidence(), Some(&manifest));
    assert_eq!(
        report.refusal().map(|(check, code, _)| (check, code)),
        Some((CheckName::Manifest, ErrorCode::ManifestInvalid))
    );
    assert!(matches!(report.outcome(CheckName::Reference), Some(Outcome::NotJudged { .. })));
}

#[test]
fn what_is_not_given_is_not_judged_and_never_taken_for_good() {
    let machine = Machine::new();
    let report = verify(&machine.evidence(), Some(&published(host())), &Trust { now: NOW, ..Trust::default() });
    let open = [
        CheckName::Endorsement,
        CheckName::Credential,
        CheckName::Nonce,
        CheckName::Host,
        CheckName::Clock,
        CheckName::Manifest,
        CheckName::Reference,
    ];
    for check in &report.checks {
        assert_eq!(matches!(check.outcome, Outcome::NotJudged { .. }), open.contains(&check.check), "{check:?}");
    }
    assert_eq!(report.refusal(), None);
    assert!(report.holds_without(&open) && !report.holds_without(&open[1..]));
}

#[test]
fn a_host_alone_is_judged_without_a_guest() {
    let machine = Machine::new();
    let mut evidence = machine.evidence();
    evidence.guest = None;
    let report = judged(&machine, &evidence, None);
    let open = [CheckName::Guest, CheckName::Manifest, CheckName::Reference];
    assert!(report.holds_without(&open), "{report:#?}");
}
