//! A TPM on paper: two keys, a maker's certificate, and the opening of credentials as the TPM 2.0 Library has it.
//!
//! Owns what a real one does with its endorsement key; written from the specification, and not from the code that asks.

use aes::{
    Aes128,
    cipher::{BlockEncrypt as _, KeyInit as _},
};
use lucarne_attest::{
    credential,
    wire::{AsymmetricScheme, Attributes, HashAlgorithm, Key, Public, Wire as _},
};
use lucarne_model::{
    ErrorCode, Octets,
    instance::StateReason,
    storage::Digest,
    tpm::{ChallengeAnswer, DesiredChallenge, PresentedTpm, TpmIdentity, TpmModel},
};
use p256::{
    EncodedPoint, NonZeroScalar, ProjectivePoint, PublicKey, Scalar,
    elliptic_curve::sec1::{FromEncodedPoint as _, ToEncodedPoint as _},
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SignatureAlgorithm,
};
use ring::{
    digest::{SHA256, digest},
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};

/// tcg-kp-EKCertificate.
const EK_CERTIFICATE: [u64; 5] = [2, 23, 133, 8, 1];

/// Who makes such TPMs.
pub(crate) struct Maker {
    pub(crate) root: Octets,
    issuer: Issuer<'static, KeyPair>,
}

impl Maker {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().to_vec().into();
        Self { root, issuer: Issuer::new(params, key) }
    }

    fn certify(&self, point: Point) -> Octets {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(EK_CERTIFICATE.to_vec())];
        params.signed_by(&point, &self.issuer).unwrap().der().to_vec().into()
    }
}

/// Uncompressed.
struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

pub(crate) fn new_key() -> EcdsaKeyPair {
    let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap()
}

pub(crate) fn public_of(pair: &EcdsaKeyPair) -> Key {
    key_of(pair.public_key().as_ref())
}

fn key_of(point: &[u8]) -> Key {
    let (x, y) = point[1..].split_at(32);
    Key::P256 { x: x.to_vec(), y: y.to_vec() }
}

/// Attributes of a key that never leaves its TPM.
fn kept(attributes: &[Attributes]) -> Attributes {
    let all = [Attributes::FIXED_PARENT, Attributes::SENSITIVE_DATA_ORIGIN, Attributes::RESTRICTED];
    all.iter().chain(attributes).fold(Attributes::FIXED_TPM, |all, one| all.with(*one))
}

pub(crate) struct Chip {
    endorsement: NonZeroScalar,
    certificate: Option<Octets>,
    pub(crate) attestation: EcdsaKeyPair,
}

impl Chip {
    /// The same number is the same endorsement key; the attestation key is always a new one.
    pub(crate) fn new(number: u64, maker: Option<&Maker>) -> Self {
        let endorsement = Option::<NonZeroScalar>::from(NonZeroScalar::new(Scalar::from(number))).unwrap();
        let point = (ProjectivePoint::GENERATOR * *endorsement).to_affine().to_encoded_point(false);
        let certificate = maker.map(|maker| maker.certify(Point(point.as_bytes().to_vec())));
        Self { endorsement, certificate, attestation: new_key() }
    }

    fn endorsement_key(&self) -> Key {
        key_of((ProjectivePoint::GENERATOR * *self.endorsement).to_affine().to_encoded_point(false).as_bytes())
    }

    pub(crate) fn attestation_public(&self) -> Public {
        Public {
            name_algorithm: HashAlgorithm::Sha256,
            attributes: kept(&[Attributes::SIGN]),
            policy: Vec::new(),
            symmetric_bits: None,
            scheme: AsymmetricScheme::Ecdsa(HashAlgorithm::Sha256),
            key: public_of(&self.attestation),
        }
    }

    pub(crate) fn presented(&self) -> PresentedTpm {
        let endorsement_public = Public {
            name_algorithm: HashAlgorithm::Sha256,
            attributes: kept(&[Attributes::DECRYPT]),
            policy: vec![1; 32],
            symmetric_bits: Some(128),
            scheme: AsymmetricScheme::Any,
            key: self.endorsement_key(),
        };
        PresentedTpm::Hardware(TpmIdentity {
            model: TpmModel { manufacturer: "PAPR".into(), ..TpmModel::default() },
            endorsement_public: endorsement_public.to_octets().into(),
            endorsement_certificates: self.certificate.iter().cloned().collect(),
            attestation_public: self.attestation_public().to_octets().into(),
        })
    }

    /// What a host with this key answers to a challenge.
    pub(crate) fn answer(&self, challenge: &DesiredChallenge, host_key: &Digest) -> ChallengeAnswer {
        match self.activate(challenge) {
            Some(secret) => ChallengeAnswer::Opened { answer: credential::answer(&secret, host_key)[..].into() },
            None => {
                let message = "the TPM refused ActivateCredential: the integrity check failed".into();
                ChallengeAnswer::Failed { reason: StateReason { code: ErrorCode::CredentialMismatch, message } }
            }
        }
    }

    fn activate(&self, challenge: &DesiredChallenge) -> Option<Vec<u8>> {
        let (x, y) = (challenge.encrypted_secret.get(4..36)?, challenge.encrypted_secret.get(38..70)?);
        let point = EncodedPoint::from_affine_coordinates(x.into(), y.into(), false);
        let theirs = Option::<PublicKey>::from(PublicKey::from_encoded_point(&point))?;
        let shared = (theirs.to_projective() * *self.endorsement).to_affine().to_encoded_point(false);
        let Key::P256 { x: own, .. } = self.endorsement_key() else { return None };
        let seed = [&1u32.to_be_bytes()[..], shared.x()?, b"IDENTITY\0", x, &own].concat();
        let seed = digest(&SHA256, &seed);
        let name = self.attestation_public().name();
        let (integrity, identity) = challenge.credential_blob.get(4..)?.split_at_checked(32)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &derived(seed.as_ref(), b"INTEGRITY", &[], 256));
        hmac::verify(&key, &[identity, &name].concat(), integrity).ok()?;
        let cipher = Aes128::new_from_slice(&derived(seed.as_ref(), b"STORAGE", &name, 128)).ok()?;
        let (mut opened, mut before) = (Vec::new(), aes::Block::default());
        for chunk in identity.chunks(16) {
            cipher.encrypt_block(&mut before);
            opened.extend(chunk.iter().zip(before).map(|(octet, stream)| octet ^ stream));
            before[..chunk.len()].copy_from_slice(chunk);
        }
        opened.get(2..).map(<[u8]>::to_vec)
    }
}

/// KDFa.
fn derived(seed: &[u8], label: &[u8], context: &[u8], bits: u32) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed);
    let input = [&1u32.to_be_bytes()[..], label, &[0], context, &bits.to_be_bytes()].concat();
    hmac::sign(&key, &input).as_ref()[..bits as usize / 8].to_vec()
}
