//! A quote that is all right but for one thing is refused for that thing.

use lucarne_model::{InstanceId, storage::Digest};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};

use super::*;
use crate::wire::{AsymmetricScheme, Attributes, PcrSelection, PcrSelections};

/// An attestation key that lives in the test's memory.
struct Ak {
    pair: EcdsaKeyPair,
    public: Public,
}

impl Ak {
    fn new() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("a key");
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let attributes =
            [Attributes::FIXED_PARENT, Attributes::SENSITIVE_DATA_ORIGIN, Attributes::RESTRICTED, Attributes::SIGN];
        let public = Public {
            name_algorithm: HashAlgorithm::Sha256,
            attributes: attributes.into_iter().fold(Attributes::FIXED_TPM, Attributes::with),
            policy: Vec::new(),
            symmetric_bits: None,
            scheme: AsymmetricScheme::Ecdsa(HashAlgorithm::Sha256),
            key: Key::P256 { x: x.to_vec(), y: y.to_vec() },
        };
        Self { pair, public }
    }

    fn sign(&self, attest: &Attest) -> Signed {
        let message = attest.to_octets();
        let made = self.pair.sign(&SystemRandom::new(), &message).expect("a signature");
        let (r, s) = made.as_ref().split_at(32);
        Signed { message, signature: Signature::Ecdsa { hash: HashAlgorithm::Sha256, r: r.to_vec(), s: s.to_vec() } }
    }
}

struct Signed {
    message: Vec<u8>,
    signature: Signature,
}

impl Signed {
    fn judge(&self, ak: &Public, purpose: &Purpose<'_>, values: &Values) -> Result<Attest, QuoteError> {
        let signature = self.signature.to_octets();
        Quote { message: &self.message, signature: &signature }.verify(ak, purpose, values, &[0, 11])
    }
}

fn values() -> Values {
    let mut values = Values::default();
    values.set(0, [1; 32]);
    values.set(11, [2; 32]);
    values
}

fn attest(purpose: &Purpose<'_>) -> Attest {
    let selections = PcrSelections(vec![PcrSelection::new(HashAlgorithm::Sha256, [0, 11])]);
    Attest {
        magic: MAGIC,
        signer: vec![0; 34],
        qualifying: purpose.qualifying_data().to_vec(),
        clock: Clock { milliseconds: 5, resets: 1, restarts: 0, safe: true },
        firmware: 1,
        pcr_digest: pcr::digest_of(&selections, &values(), HashAlgorithm::Sha256).expect("a digest"),
        selections,
    }
}

#[test]
fn each_wrong_thing_has_its_own_refusal() {
    let (ak, host_key) = (Ak::new(), Digest::from_bytes([3; 32]));
    let purpose = Purpose { nonce: b"nonce", host_key: &host_key, instance: InstanceId::from_bits(1), generation: 1 };
    let good = attest(&purpose);
    assert_eq!(ak.sign(&good).judge(&ak.public, &purpose, &values()), Ok(good.clone()));
    let code = |signed: &Signed, ak: &Public, purpose: &Purpose<'_>, values: &Values| {
        signed.judge(ak, purpose, values).expect_err("refused").code()
    };
    let of = |attest: Attest| code(&ak.sign(&attest), &ak.public, &purpose, &values());

    let mut forged = ak.sign(&good);
    forged.message[60] ^= 1;
    assert_eq!(code(&forged, &ak.public, &purpose, &values()), ErrorCode::QuoteSignatureInvalid);
    let other = Ak::new().public;
    assert_eq!(code(&ak.sign(&good), &other, &purpose, &values()), ErrorCode::QuoteSignatureInvalid);
    let free = Public { attributes: Attributes::SIGN, ..ak.public.clone() };
    assert_eq!(code(&ak.sign(&good), &free, &purpose, &values()), ErrorCode::AttestationKeyUntrusted);

    assert_eq!(of(Attest { magic: 1, ..good.clone() }), ErrorCode::QuoteNotGenerated);
    assert_eq!(of(Attest { pcr_digest: vec![0; 32], ..good.clone() }), ErrorCode::PcrDigestMismatch);
    let fewer = PcrSelections(vec![PcrSelection::new(HashAlgorithm::Sha256, [0])]);
    assert_eq!(of(Attest { selections: fewer, ..good.clone() }), ErrorCode::QuoteIncomplete);
    let weak = PcrSelections(vec![PcrSelection::new(HashAlgorithm::Sha1, [0, 11])]);
    assert_eq!(of(Attest { selections: weak, ..good.clone() }), ErrorCode::EvidenceSha1Only);

    let stale = Purpose { nonce: b"older", ..purpose };
    assert_eq!(code(&ak.sign(&good), &ak.public, &stale, &values()), ErrorCode::QuoteStale);
    let there = Digest::from_bytes([4; 32]);
    let relayed = Purpose { host_key: &there, ..purpose };
    assert_eq!(code(&ak.sign(&good), &ak.public, &relayed, &values()), ErrorCode::QuoteStale);

    let mut changed = values();
    changed.set(11, [9; 32]);
    assert_eq!(code(&ak.sign(&good), &ak.public, &purpose, &changed), ErrorCode::PcrDigestMismatch);
    let mut more = values();
    more.set(12, [9; 32]);
    assert_eq!(code(&ak.sign(&good), &ak.public, &purpose, &more), ErrorCode::PcrDigestMismatch);
}

#[test]
fn a_signature_over_sha1_is_refused_before_it_is_looked_at() {
    let (ak, host_key) = (Ak::new(), Digest::from_bytes([3; 32]));
    let purpose = Purpose { nonce: b"nonce", host_key: &host_key, instance: InstanceId::from_bits(1), generation: 1 };
    let mut signed = ak.sign(&attest(&purpose));
    if let Signature::Ecdsa { hash, .. } = &mut signed.signature {
        *hash = HashAlgorithm::Sha1;
    }
    assert_eq!(signed.judge(&ak.public, &purpose, &values()), Err(QuoteError::Sha1));
}

#[test]
fn counters_go_on() {
    let clock = |resets, restarts, milliseconds| Clock { milliseconds, resets, restarts, safe: true };
    let before = clock(3, 1, 500);
    for later in [before, clock(3, 1, 501), clock(3, 2, 0), clock(4, 0, 0)] {
        assert_eq!(check_clock(before, later), Ok(()));
    }
    for earlier in [clock(3, 1, 499), clock(3, 0, 900), clock(2, 9, 900)] {
        assert_eq!(check_clock(before, earlier).expect_err("refused").code(), ErrorCode::QuoteClockBack);
    }
}
