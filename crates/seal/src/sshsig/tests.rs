//! Signatures of authenticators, made here octet by octet; those of `ssh-keygen` are in `tests/other_tools.rs`.

use lucarne_statement::signing::SigningKey;

use super::*;
use crate::example::key;

fn authenticator_key(key: &SigningKey) -> SshKey {
    let der = key.public().to_der();
    SshKey { kind: Kind::SkEd25519, point: der[der.len() - 32..].to_vec(), application: Some(b"ssh:".to_vec()) }
}

/// What an authenticator signs, for OpenSSH's protocol of them.
fn sign(key: &SigningKey, octets: &[u8], namespace: &str, flags: u8, counter: u32) -> Vec<u8> {
    let public = authenticator_key(key);
    let hash = digest(&SHA512, octets);
    let fields = [namespace.as_bytes(), b"", b"sha512", hash.as_ref()];
    let inner = fields.iter().fold(MAGIC.to_vec(), |all, field| [all, string(field)].concat());
    let tail = [&[flags][..], &counter.to_be_bytes()].concat();
    let signed = [&sha256(&[b"ssh:"])[..], &tail, &sha256(&[&inner])].concat();
    let signature = [string(public.kind.name().as_bytes()), string(&key.sign_octets(&signed)), tail].concat();
    let head = [MAGIC, &1u32.to_be_bytes()].concat();
    let fields = [public.to_blob(), namespace.into(), Vec::new(), b"sha512".to_vec(), signature];
    fields.iter().fold(head, |all, field| [all, string(field)].concat())
}

#[test]
fn an_authenticators_signature_counts_when_it_was_touched() {
    let public = authenticator_key(&key(1));
    let good = sign(&key(1), b"octets", NAMESPACE, PRESENT, 7);
    assert_eq!(public.verifies(b"octets", &good), Some(Signed { counter: Some(7) }));
    assert_eq!(public.verifies(b"octets", &sign(&key(1), b"octets", NAMESPACE, 0, 7)), None, "nobody touched it");
    let uncounted = sign(&key(1), b"octets", NAMESPACE, PRESENT, 0);
    assert_eq!(public.verifies(b"octets", &uncounted), Some(Signed { counter: None }));
    assert_eq!(public.verifies(b"other", &good), None);
    assert_eq!(authenticator_key(&key(2)).verifies(b"octets", &good), None);
    assert_eq!(SshKey::from_line(&public.to_line()), Ok(public));
}

/// Attack: a signature that the same key made for something else.
#[test]
fn a_signature_for_another_namespace_does_not_count() {
    let public = authenticator_key(&key(1));
    for namespace in ["git", "file", "", "seal@lucarne "] {
        assert_eq!(public.verifies(b"octets", &sign(&key(1), b"octets", namespace, PRESENT, 7)), None, "{namespace}");
    }
}

#[test]
fn no_single_bit_of_a_signature_can_be_changed() {
    let public = authenticator_key(&key(1));
    let good = sign(&key(1), b"octets", NAMESPACE, PRESENT, 7);
    for at in 0..good.len() * 8 {
        let mut changed = good.clone();
        changed[at / 8] ^= 1 << (at % 8);
        assert_eq!(public.verifies(b"octets", &changed), None, "bit {at}");
    }
    for cut in 0..good.len() {
        assert_eq!(public.verifies(b"octets", &good[..cut]), None);
    }
    assert_eq!(public.verifies(b"octets", &[&good[..], b"x"].concat()), None);
}

#[test]
fn numbers_are_read_in_their_shortest_form_only() {
    assert_eq!(unsigned(&[1]).map(|number| number[31]), Some(1));
    assert_eq!(unsigned(&[0, 0x80]).map(|number| number[31]), Some(0x80));
    for wrong in [&[][..], &[0], &[0, 1], &[0x80], &[1; 33]] {
        assert_eq!(unsigned(wrong), None, "{wrong:?}");
    }
}
