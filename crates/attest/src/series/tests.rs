//! An answer is believed as a whole or not at all, and each reason why nobody vouches for a host has its own code.

use lucarne_model::{Component, storage::Digest};
use proptest::prelude::*;

use super::*;
use crate::{log::Standing, merkle::Tree, signing::SigningKey};

const NOW: Moment = Moment::from_secs(5000);

/// A notary that has published these versions, in a log that its head speaks for.
struct Notary {
    key: SigningKey,
    manifests: Vec<Manifest>,
    tree: Tree,
    standing: Standing,
}

fn measured(component: Component, content: u8) -> Measurement {
    Measurement { component, name: "it".into(), digest: Digest::from_bytes([content; 32]) }
}

/// A host on which each version has another QEMU and another agent.
fn host(version: u8) -> Vec<Measurement> {
    vec![measured(Component::Hypervisor, version), measured(Component::Agent, 100 + version)]
}

fn manifest(version: u64) -> Manifest {
    Manifest {
        publisher: "notary".into(),
        name: "host".into(),
        version,
        valid_from: Moment::from_secs(1000),
        valid_until: Moment::from_secs(9000),
        oldest_accepted: 1,
        measurements: host(version as u8),
    }
}

impl Notary {
    fn new(versions: u64) -> Self {
        Self::of((1..=versions).map(manifest).collect())
    }

    fn of(manifests: Vec<Manifest>) -> Self {
        let (key, mut tree) = (SigningKey::from_seed([1; 32]).expect("a key"), Tree::default());
        let leaf = |one: &Manifest| log::leaf(&key.sign(one).expect("signed")).expect("a leaf");
        manifests.iter().for_each(|one| tree.push(leaf(one)));
        let newest = manifests.len() as u64;
        let standing = Standing { name: "host".into(), newest, oldest_accepted: 1, revoked: Vec::new() };
        Self { key, manifests, tree, standing }
    }

    fn head(&self, time: Moment) -> Head {
        let size = self.tree.size();
        let root = Digest::from_bytes(self.tree.root(size).expect("a root"));
        Head { publisher: "notary".into(), size, root, time, standings: vec![self.standing.clone()] }
    }

    fn show(&self, seen: u64, time: Moment) -> Series {
        let (head, size) = (self.head(time), self.tree.size());
        let logged = |(at, one): (usize, &Manifest)| Logged {
            manifest: self.key.sign(one).expect("signed"),
            inclusion: log::prove_inclusion(&self.tree, at as u64, size).expect("a proof"),
        };
        Series {
            consistency: log::prove_consistency(&self.tree, seen, size).filter(|_| seen < size),
            versions: self.manifests.iter().enumerate().rev().map(logged).collect(),
            head: self.key.sign(&head).expect("signed"),
        }
    }

    fn believed(&self) -> Shown {
        self.show(0, NOW).verify(&self.key.public(), "host", NOW, None).expect("it is believed")
    }
}

#[test]
fn the_newest_version_that_holds_and_is_the_hosts_vouches() {
    let shown = Notary::new(3).believed();
    for version in 1..=3 {
        assert_eq!(shown.vouch(&host(version)).map(|found| found.manifest.version), Ok(u64::from(version)));
    }
    let hardware = [host(2), vec![measured(Component::Cpu, 9), measured(Component::GuestKernel, 9)]].concat();
    assert!(shown.vouch(&hardware).is_ok(), "what a publisher cannot know is not its business");
}

#[test]
fn each_reason_not_to_vouch_has_its_own_code() {
    let code = |notary: &Notary, host: &[Measurement]| notary.believed().vouch(host).expect_err("refused").code();
    let mut notary = Notary::new(3);
    assert_eq!(code(&notary, &host(9)), ErrorCode::MeasurementUnknown);
    let mixed = [host(1)[0].clone(), host(2)[1].clone()];
    assert_eq!(code(&notary, &mixed), ErrorCode::MeasurementUnknown, "nobody published that together");
    assert_eq!(code(&notary, &[measured(Component::Cpu, 1)]), ErrorCode::MeasurementUnknown);
    notary.standing.revoked = vec![3];
    assert_eq!(code(&notary, &host(3)), ErrorCode::ManifestRevoked);
    notary.standing.oldest_accepted = 2;
    assert_eq!(code(&notary, &host(1)), ErrorCode::ManifestRolledBack);
    let expired = Notary::of(vec![Manifest { valid_until: Moment::from_secs(4999), ..manifest(1) }]);
    assert_eq!(code(&expired, &host(1)), ErrorCode::ManifestExpired);
    assert_eq!(code(&expired, &host(2)), ErrorCode::ManifestExpired, "nothing that holds is left");
    notary.standing.name = "other".into();
    assert_eq!(code(&notary, &host(2)), ErrorCode::ManifestNotLogged);
    assert_eq!(code(&Notary::new(0), &host(1)), ErrorCode::InvalidManifestNotFound);
}

#[test]
fn a_refusal_names_what_was_found_and_what_is_known() {
    let refused = Notary::new(2).believed().vouch(&host(7)).expect_err("refused").to_string();
    for part in ["host 2 of notary", "hypervisor `it`", &"07".repeat(32), &"02".repeat(32)] {
        assert!(refused.contains(part), "{refused}");
    }
}

/// How an answer is changed on its way.
type Change = fn(&mut Series, &Notary);

#[test]
fn an_answer_is_believed_only_if_all_of_it_is_the_publishers_own_and_of_now() {
    let honest = Notary::new(3);
    let cases: [(Change, ErrorCode); 6] = [
        (|shown, _| shown.head.signatures[0].sig.0[0] ^= 1, ErrorCode::ManifestInvalid),
        (|shown, _| shown.versions[0].manifest.payload.0[0] ^= 1, ErrorCode::ManifestInvalid),
        (|shown, _| shown.versions[0].inclusion.index = 0, ErrorCode::ManifestNotLogged),
        (
            |shown, notary| shown.versions[0].manifest = notary.key.sign(&manifest(9)).expect("signed"),
            ErrorCode::ManifestNotLogged,
        ),
        (
            |shown, notary| {
                let other = Manifest { name: "guest".into(), ..manifest(3) };
                shown.versions[0].manifest = notary.key.sign(&other).expect("signed");
            },
            ErrorCode::ManifestInvalid,
        ),
        (
            |shown, notary| {
                *shown = notary.show(0, NOW.minus(FRESH).minus(Duration::from_secs(1)));
            },
            ErrorCode::LogStale,
        ),
    ];
    for (at, (change, expected)) in cases.into_iter().enumerate() {
        let mut shown = honest.show(0, NOW);
        change(&mut shown, &honest);
        let refused = shown.verify(&honest.key.public(), "host", NOW, None).expect_err("refused");
        assert_eq!(refused.code(), expected, "case {at}: {refused}");
    }
    let other = SigningKey::from_seed([2; 32]).expect("a key").public();
    let refused = honest.show(0, NOW).verify(&other, "host", NOW, None).expect_err("refused");
    assert_eq!(refused.code(), ErrorCode::ManifestInvalid);
}

proptest! {
    /// Whoever saw a head of a log takes every later one of it, and none of a log that was rewritten, cut, or kept back.
    #[test]
    fn a_log_that_was_seen_goes_on_or_is_refused(before in 0..8u64, more in 0..5u64, rewritten in 0..8u64) {
        let (seen, later) = (Notary::new(before).head(NOW), Notary::new(before + more));
        let verify = |notary: &Notary| {
            let shown = notary.show(before, NOW);
            shown.verify(&notary.key.public(), "host", NOW, Some(&seen)).map(|_| ()).map_err(|error| error.code())
        };
        prop_assert_eq!(verify(&later), Ok(()));
        if before > 1 {
            prop_assert_eq!(verify(&Notary::new(before - 1)), Err(ErrorCode::LogForked));
        }
        if rewritten < before {
            let mut fork = later.manifests.clone();
            fork[rewritten as usize].measurements = host(99);
            prop_assert_eq!(verify(&Notary::of(fork)), Err(ErrorCode::LogForked));
        }
    }
}
