//! Signatures are checked before a word is read, each by its own key's algorithm, and nothing that was changed passes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lucarne_statement::signing::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::{
    example::{HOUR, NOW, TENANT, key, octets, operation, person, read, request, signed, terms, trust},
    key::SharedSecret,
    operation::OperationName,
};

fn open(octets: &[u8]) -> Result<Opened, Refusal> {
    trust().open(octets, Channel::Carried, NOW)
}

fn good() -> Envelope {
    signed(&request(read(4096), terms()), &[1])
}

#[test]
fn people_are_counted_and_not_their_keys() {
    let signers = |keys: &[u8]| {
        let opened = open(&octets(&signed(&request(read(1), terms()), keys))).expect("a request");
        opened.signers.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(signers(&[1]), ["alice"]);
    assert_eq!(signers(&[1, 11]), ["alice"]);
    assert_eq!(signers(&[1, 2, 11]), ["alice", "bob"]);
}

/// Attack: strip or swap the result's key, or change anything else at all.
#[test]
fn no_single_bit_of_an_envelope_can_be_changed() {
    let good = octets(&signed(&request(read(4096), terms()), &[1, 2]));
    let trust = trust();
    let open = |octets: &[u8]| trust.open(octets, Channel::Carried, NOW);
    assert!(open(&good).is_ok());
    for at in 0..good.len() * 8 {
        let mut changed = good.clone();
        changed[at / 8] ^= 1 << (at % 8);
        assert!(open(&changed).is_err(), "bit {at}: {}", String::from_utf8_lossy(&changed));
    }
}

/// The same within what was signed, behind its base64.
#[test]
fn no_single_bit_of_a_request_can_be_changed() {
    let (good, trust) = (good(), trust());
    for at in 0..good.payload.len() * 8 {
        let mut changed = good.clone();
        changed.payload.0[at / 8] ^= 1 << (at % 8);
        let opened = trust.open(&octets(&changed), Channel::Carried, NOW);
        assert!(matches!(opened, Err(Refusal::Signature(_))), "bit {at}");
    }
}

/// Attack: two parsers, two meanings. What is signed is read in one form only, also when a trusted key signed another.
#[test]
fn a_request_has_one_text() {
    let canonical_text = String::from_utf8(good().payload.0).expect("text");
    let sign_text = |text: &str| {
        let mut envelope = good();
        envelope.payload = text.as_bytes().into();
        envelope.signatures.clear();
        octets(&key(1).sign_too(envelope))
    };
    assert!(open(&sign_text(&canonical_text)).is_ok());
    let others = [
        canonical_text.replacen('{', "{ ", 1),
        canonical_text.replacen("\"length\":4096", "\"length\":4096.0", 1),
        canonical_text.replacen("\"length\":4096", "\"length\":4.096e3", 1),
        canonical_text.replacen("\"length\":4096", "\"length\":1,\"length\":4096", 1),
        canonical_text.replacen("\"length\":4096", "\"length\":4096,\"more\":1", 1),
        canonical_text.replacen("{\"lowest_policy\"", "{\"beacon\":null,\"lowest_policy\"", 1),
        canonical_text.replacen("ticket", "\\u0074icket", 1),
        canonical_text.replacen("\"lowest_policy\":3", "\"lowest_policy\":9007199254740993", 1),
        format!("{canonical_text} "),
        format!("\u{feff}{canonical_text}"),
        "[".repeat(10_000),
        String::new(),
    ];
    for text in others.iter().filter(|text| **text != canonical_text) {
        assert!(matches!(open(&sign_text(text)), Err(Refusal::Request(_))), "{text}");
    }
}

/// Attack: a signature of another protocol, or of another kind of ours.
#[test]
fn a_signature_for_another_type_does_not_count() {
    let mut other = good();
    other.payload_type = "application/vnd.lucarne.manifest.v1+json".to_owned();
    other.signatures.clear();
    let other = key(1).sign_too(other);
    assert!(matches!(open(&octets(&other)), Err(Refusal::Type { .. })));
    let mut relabelled = other;
    relabelled.payload_type = Request::TYPE.to_owned();
    assert!(matches!(open(&octets(&relabelled)), Err(Refusal::Signature(_))));
}

#[test]
fn every_signature_must_count() {
    let envelope = signed(&request(read(1), terms()), &[1, 99]);
    assert_eq!(open(&octets(&envelope)), Err(Refusal::UnknownKey(key(99).public().id())));
    let twice = signed(&request(read(1), terms()), &[1, 1]);
    assert!(matches!(open(&octets(&twice)), Err(Refusal::SignedTwice(_))));
    let mut none = good();
    none.signatures.clear();
    assert!(matches!(open(&octets(&none)), Err(Refusal::Signatures { found: 0, .. })));
    let many: Vec<u8> = (1..=9).collect();
    assert!(matches!(open(&octets(&signed(&request(read(1), terms()), &many))), Err(Refusal::Signatures { .. })));
    // Somebody else's name under a signature makes it nobody's.
    let mut named = good();
    named.signatures[0].keyid = key(2).public().id();
    assert_eq!(open(&octets(&named)), Err(Refusal::Signature(key(2).public().id())));
}

#[test]
fn an_envelope_that_is_too_large_is_not_read() {
    assert!(matches!(open(&vec![b' '; MOST_OCTETS + 1]), Err(Refusal::TooLarge { .. })));
}

#[test]
fn keys_end_and_are_revoked() {
    let mut trust = trust();
    let key_id = key(1).public().id();
    let until = NOW.minus(HOUR);
    let enrolled = |until| Enrolled {
        person: person("alice"),
        account: AccountId::OPERATOR,
        key: VerifyingKey::Ed25519(key(1).public()),
        until: Some(until),
    };
    trust.enrol(enrolled(until));
    let open = |trust: &Trust| trust.open(&octets(&good()), Channel::Carried, NOW);
    assert_eq!(open(&trust), Err(Refusal::KeyExpired(key_id.clone(), until)));
    trust.enrol(enrolled(NOW));
    assert!(open(&trust).is_ok());
    trust.revoke(key_id.clone());
    assert_eq!(open(&trust), Err(Refusal::RevokedKey(key_id)));
}

/// An authority of the tenant's, and a request that Tom signed with a key that it vouches for.
fn certified(change: impl FnOnce(&mut Certificate), authority: &SigningKey) -> (Trust, Envelope) {
    let mut trust = trust();
    trust.recognise(Authority { account: TENANT, key: VerifyingKey::Ed25519(key(50).public()) });
    let mut certificate = Certificate {
        person: person("tom"),
        key: VerifyingKey::Ed25519(key(60).public()),
        not_before: NOW.minus(HOUR),
        not_after: NOW.plus(HOUR),
    };
    change(&mut certificate);
    let mut envelope = signed(&request(read(1), terms()), &[60]);
    envelope.signatures[0].cert = Some(octets(&authority.sign(&certificate).expect("a certificate")).into());
    (trust, envelope)
}

#[test]
fn an_authority_vouches_for_people_of_its_own_account() {
    let (mut trust, envelope) = certified(|_| {}, &key(50));
    let opened = trust.open(&octets(&envelope), Channel::Carried, NOW).expect("a request");
    assert_eq!(opened.signers[&person("tom")].account, TENANT);
    trust.revoke(key(50).public().id());
    assert!(matches!(trust.open(&octets(&envelope), Channel::Carried, NOW), Err(Refusal::RevokedKey(_))));
}

/// Attack: certificate of another authority, expired, not yet valid, for another key, revoked, vouching for a secret.
#[test]
fn a_certificate_that_does_not_hold_is_refused() {
    let refused = |(trust, envelope): (Trust, Envelope)| {
        trust.open(&octets(&envelope), Channel::Carried, NOW).expect_err("refused").code()
    };
    use lucarne_model::ErrorCode::{SealKeyRevoked, SealKeyUntrusted};
    assert_eq!(refused(certified(|_| {}, &key(51))), SealKeyUntrusted);
    assert_eq!(refused(certified(|it| it.not_after = NOW.minus(HOUR), &key(50))), SealKeyUntrusted);
    assert_eq!(refused(certified(|it| it.not_before = NOW.plus(HOUR), &key(50))), SealKeyUntrusted);
    let other = VerifyingKey::Ed25519(key(61).public());
    assert_eq!(refused(certified(|it| it.key = other, &key(50))), SealKeyUntrusted);
    let (mut trust, envelope) = certified(|_| {}, &key(50));
    let certificate = envelope.signatures[0].cert.clone().expect("one");
    let certificate: Envelope = canonical::read(&certificate).expect("an envelope");
    trust.revoke(RequestId::of(&certificate).digest().clone());
    assert_eq!(refused((trust, envelope)), SealKeyRevoked);
    let (trust, mut envelope) = certified(|_| {}, &key(50));
    let mut signed_by_another = certificate;
    signed_by_another.signatures[0].sig = key(51).sign_octets(&signed_by_another.signed_octets());
    envelope.signatures[0].cert = Some(octets(&signed_by_another).into());
    assert_eq!(refused((trust, envelope)), SealKeyUntrusted);
}

#[test]
fn one_name_is_not_a_person_of_two_accounts() {
    let (mut trust, envelope) = certified(|it| it.person = person("alice"), &key(50));
    trust.enrol(Enrolled {
        person: person("alice"),
        account: AccountId::OPERATOR,
        key: VerifyingKey::Ed25519(key(1).public()),
        until: None,
    });
    let both = key(1).sign_too(envelope);
    assert!(matches!(trust.open(&octets(&both), Channel::Carried, NOW), Err(Refusal::Certificate { .. })));
}

/// Whoever can check a shared secret can sign with it, so what was carried is never believed by it.
#[test]
fn a_shared_secret_counts_on_the_host_itself_only() {
    let secret = SharedSecret::new(vec![5; 32]).expect("a secret");
    let shared = VerifyingKey::Hmac(secret.clone());
    assert!(!format!("{shared:?}").contains(&STANDARD.encode([5; 32])), "a secret is not printed");
    assert_eq!(shared.to_string().parse(), Ok(shared.clone()));
    let mut trust = Trust::default();
    let automation =
        Enrolled { person: person("automation"), account: AccountId::OPERATOR, key: shared.clone(), until: None };
    trust.enrol(automation);
    let mut envelope = signed(&request(operation(OperationName::GuestPause), terms()), &[1]);
    let sig = secret.code(&envelope.signed_octets()).into();
    envelope.signatures = vec![EnvelopeSignature { keyid: shared.id(), sig, cert: None }];
    assert!(trust.open(&octets(&envelope), Channel::Local, NOW).is_ok());
    assert_eq!(trust.open(&octets(&envelope), Channel::Carried, NOW), Err(Refusal::NotLocal(shared.id())));
    assert!(SharedSecret::new(vec![5; 31]).is_err());
}

proptest! {
    #[test]
    fn no_octets_make_the_reader_fall_over(octets: Vec<u8>) {
        prop_assert!(open(&octets).is_err());
    }
}
