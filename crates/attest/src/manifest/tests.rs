//! A manifest holds only if all of it holds: signature, publisher, log, history, version, time.

use lucarne_model::{Component, storage::Digest};

use super::*;
use crate::{log::Standing, merkle::Tree, signing::SigningKey};

const NOW: Moment = Moment::from_secs(1500);

fn key(octet: u8) -> SigningKey {
    SigningKey::from_seed([octet; 32]).expect("a key")
}

fn manifest(version: u64) -> Manifest {
    let qemu =
        Measurement { component: Component::Hypervisor, name: "qemu".into(), digest: Digest::from_bytes([7; 32]) };
    Manifest {
        publisher: "notary".into(),
        name: "host".into(),
        version,
        valid_from: Moment::from_secs(1000),
        valid_until: Moment::from_secs(2000),
        oldest_accepted: 2,
        measurements: vec![qemu],
    }
}

/// A log of versions 1 to 3, of which the first is rolled back, with the head changed as a test likes.
struct Notary {
    key: SigningKey,
    envelopes: Vec<Envelope>,
    tree: Tree,
}

impl Notary {
    fn new(manifests: impl IntoIterator<Item = Manifest>) -> Self {
        let key = key(1);
        let envelopes: Vec<_> = manifests.into_iter().map(|one| key.sign(&one).expect("signed")).collect();
        let mut tree = Tree::default();
        envelopes.iter().for_each(|envelope| tree.push(log::leaf(envelope).expect("a leaf")));
        Self { key, envelopes, tree }
    }
    fn head(&self) -> Head {
        let size = self.tree.size();
        let standings = vec![Standing { name: "host".into(), newest: size, oldest_accepted: 2, revoked: Vec::new() }];
        let root = Digest::from_bytes(self.tree.root(size).expect("a root"));
        Head { publisher: "notary".into(), size, root, time: NOW, standings }
    }
    fn publish(&self, index: usize, change: impl Fn(&mut Head)) -> Published {
        let mut head = self.head();
        change(&mut head);
        let inclusion = log::prove_inclusion(&self.tree, index as u64, self.tree.size()).expect("a proof");
        Published { manifest: self.envelopes[index].clone(), head: self.key.sign(&head).expect("signed"), inclusion }
    }
}

#[test]
fn each_reason_not_to_hold_has_its_own_code() {
    let notary = Notary::new((1..=3).map(manifest));
    let public = notary.key.public();
    let good = notary.publish(2, |_| {});
    assert_eq!(good.verify(&public, NOW, None), Ok(manifest(3)));
    assert!(notary.publish(1, |_| {}).verify(&public, NOW, None).is_ok(), "the one before is accepted still");

    let code = |published: &Published, now| published.verify(&public, now, None).expect_err("refused").code();
    for now in [Moment::from_secs(999), Moment::from_secs(2001)] {
        assert_eq!(code(&good, now), ErrorCode::ManifestExpired);
    }
    let revoked = notary.publish(2, |head| head.standings[0].revoked.push(3));
    assert_eq!(code(&revoked, NOW), ErrorCode::ManifestRevoked);
    assert_eq!(code(&notary.publish(0, |_| {}), NOW), ErrorCode::ManifestRolledBack);
    let silent = notary.publish(2, |head| head.standings.clear());
    assert_eq!(code(&silent, NOW), ErrorCode::ManifestNotLogged);
    let unlogged = Published { manifest: notary.key.sign(&manifest(2)).expect("signed"), ..notary.publish(2, |_| {}) };
    assert_eq!(code(&unlogged, NOW), ErrorCode::ManifestNotLogged);
    let other = notary.publish(2, |head| head.publisher = "another".into());
    assert_eq!(code(&other, NOW), ErrorCode::ManifestInvalid);
    let forged = Published { manifest: key(2).sign(&manifest(3)).expect("signed"), ..good.clone() };
    assert_eq!(code(&forged, NOW), ErrorCode::ManifestInvalid);
    let head = Published { head: key(2).sign(&notary.head()).expect("signed"), ..good };
    assert_eq!(code(&head, NOW), ErrorCode::ManifestInvalid);
}

#[test]
fn a_log_that_was_forked_since_it_was_last_seen_is_refused() {
    let before = Notary::new((1..=2).map(manifest));
    let (honest, forked) = (Notary::new((1..=3).map(manifest)), Notary::new([1, 9, 3].map(manifest)));
    let seen_head = before.head();
    for (notary, expected) in [(honest, None), (forked, Some(ErrorCode::LogForked))] {
        let consistency = log::prove_consistency(&notary.tree, 2, 3);
        let seen = Seen { head: &seen_head, consistency: consistency.as_ref() };
        let result = notary.publish(2, |_| {}).verify(&notary.key.public(), NOW, Some(seen));
        assert_eq!(result.err().map(|error| error.code()), expected);
    }
}

#[test]
fn what_is_published_reads_back_from_json() {
    let good = Notary::new([manifest(2)]).publish(0, |head| head.standings[0].newest = 2);
    let text = serde_json::to_string(&good).expect("json");
    assert_eq!(serde_json::from_str::<Published>(&text).expect("published"), good);
    assert!(good.verify(&key(1).public(), NOW, None).is_ok());
}
