//! Credentials that only one TPM opens: what `TPM2_MakeCredential` computes, without a TPM (TPM 2.0 Library, Part 1,
//! sections "Credential Protection" and "Secret Sharing").
//!
//! A secret is encrypted so that only the TPM that holds the endorsement key gives it out, and only if the attestation
//! key of the given name lives in it too. Whoever asks draws the secret and the randomness; sending it is the hands'. The
//! host does not give the secret away, or others could have their questions answered by it as if they were that host: it
//! answers with a digest over the secret and its own key ([`answer`]).
//! Endorsement keys are those of the TCG's usual templates: names by SHA-256, AES-128 in CFB below them.

use aes::{
    Aes128,
    cipher::{BlockEncrypt as _, KeyInit as _},
};
use lucarne_model::{ErrorCode, evidence::CredentialProof, storage::Digest};
use lucarne_statement::sha256;
use num_bigint::BigUint;
use p256::{
    EncodedPoint, FieldBytes, NonZeroScalar, ProjectivePoint, PublicKey,
    elliptic_curve::sec1::{FromEncodedPoint as _, ToEncodedPoint as _},
};
use ring::hmac;

use crate::{
    qualifying::encode,
    spki::{exponent, padded},
    wire::{Key, Writer},
};

/// Random octets that one credential takes.
pub const RANDOMNESS: usize = 64;
/// The longest secret: a digest of the key's name algorithm.
pub const LONGEST_SECRET: usize = 32;
/// SHA-256, in octets and in bits.
const DIGEST: usize = 32;
const DIGEST_BITS: u32 = 256;
const SYMMETRIC_BITS: u32 = 128;
const DOMAIN: &[u8] = b"lucarne credential v1";
/// What the seed is for, with the zero that ends it.
const IDENTITY: &[u8] = b"IDENTITY\0";

/// Why a credential cannot be made or proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    #[error("the endorsement key is no key on P-256 and no RSA key")]
    Key,
    #[error("a secret has 1 to {LONGEST_SECRET} octets")]
    Secret,
    #[error("the random octets are not usable: others must be drawn")]
    Randomness,
    #[error("the credential was not made for this attestation key and this endorsement key")]
    OtherQuestion,
    #[error("the host did not answer with this secret, or another host did")]
    OtherAnswer,
}

impl CredentialError {
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Key => ErrorCode::EndorsementUntrusted,
            _ => ErrorCode::CredentialMismatch,
        }
    }
}

/// What the TPM is asked to open with `TPM2_ActivateCredential`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// TPM2B_ID_OBJECT.
    pub credential_blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET.
    pub encrypted_secret: Vec<u8>,
}

/// A question that was asked of a host's TPM, and what only its asker knows of it.
#[derive(Clone)]
pub struct Question {
    secret: [u8; LONGEST_SECRET],
    randomness: [u8; RANDOMNESS],
    credential: Credential,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").field("credential", &self.credential).finish_non_exhaustive()
    }
}

impl Question {
    /// Makes the question of what the caller has drawn, and draws anew for each.
    pub fn new(
        ek: &Key,
        ak_name: &[u8],
        secret: [u8; LONGEST_SECRET],
        randomness: [u8; RANDOMNESS],
    ) -> Result<Self, CredentialError> {
        let credential = make(ek, ak_name, &secret, &randomness)?;
        Ok(Self { secret, randomness, credential })
    }

    /// What the TPM is sent.
    pub const fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The proof for others to see, if the host with this key has given the right answer.
    pub fn judge(&self, given: &[u8], host_key: &Digest) -> Result<CredentialProof, CredentialError> {
        if given != answer(&self.secret, host_key) {
            return Err(CredentialError::OtherAnswer);
        }
        Ok(CredentialProof {
            secret: self.secret[..].into(),
            randomness: self.randomness[..].into(),
            credential_blob: self.credential.credential_blob.clone().into(),
            encrypted_secret: self.credential.encrypted_secret.clone().into(),
            answer: given.into(),
        })
    }
}

/// Encrypts `secret` so that only the TPM with the endorsement key `ek` opens it, and only beside the key of `ak_name`.
pub fn make(
    ek: &Key,
    ak_name: &[u8],
    secret: &[u8],
    randomness: &[u8; RANDOMNESS],
) -> Result<Credential, CredentialError> {
    if !(1..=LONGEST_SECRET).contains(&secret.len()) {
        return Err(CredentialError::Secret);
    }
    let (seed, encrypted_seed) = match ek {
        Key::P256 { x, y } => agree(x, y, randomness)?,
        Key::Rsa { exponent: written, modulus, .. } => transport(exponent(*written), modulus, randomness)?,
    };
    let mut identity = Writer::default();
    identity.sized(secret);
    let mut identity = identity.into_octets();
    encrypt(&derive(&seed, b"STORAGE", ak_name, SYMMETRIC_BITS), &mut identity);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &derive(&seed, b"INTEGRITY", &[], DIGEST_BITS));
    let integrity = hmac::sign(&key, &[identity.as_slice(), ak_name].concat());
    let mut object = Writer::default();
    object.sized(integrity.as_ref()).octets(&identity);
    Ok(Credential { credential_blob: sized(&object.into_octets()), encrypted_secret: sized(&encrypted_seed) })
}

/// What the host with this key answers once its TPM has opened the secret: SHA-256 over the domain and each part, each behind
/// its length.
pub fn answer(secret: &[u8], host_key: &Digest) -> [u8; 32] {
    sha256(&[&encode(&[DOMAIN, secret, &host_key.to_bytes()])])
}

/// Whether the recorded question was made for these two keys, and answered by the host with this key: the same question is
/// made again.
pub fn verify(proof: &CredentialProof, ek: &Key, ak_name: &[u8], host_key: &Digest) -> Result<(), CredentialError> {
    let randomness = proof.randomness.as_ref().try_into().map_err(|_| CredentialError::Randomness)?;
    let asked = make(ek, ak_name, &proof.secret, randomness)?;
    if asked.credential_blob != *proof.credential_blob || asked.encrypted_secret != *proof.encrypted_secret {
        return Err(CredentialError::OtherQuestion);
    }
    if *proof.answer == answer(&proof.secret, host_key) { Ok(()) } else { Err(CredentialError::OtherAnswer) }
}

fn sized(octets: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.sized(octets);
    writer.into_octets()
}

/// One pass of Diffie-Hellman with a key that is used once; KDFe makes the seed of it.
fn agree(x: &[u8], y: &[u8], randomness: &[u8; RANDOMNESS]) -> Result<([u8; DIGEST], Vec<u8>), CredentialError> {
    let [x, y]: [[u8; 32]; 2] = [padded(x).ok_or(CredentialError::Key)?, padded(y).ok_or(CredentialError::Key)?];
    let point = EncodedPoint::from_affine_coordinates(&x.into(), &y.into(), false);
    let ek = Option::<PublicKey>::from(PublicKey::from_encoded_point(&point)).ok_or(CredentialError::Key)?;
    let once: [u8; 32] = std::array::from_fn(|at| randomness[at]);
    let once = Option::<NonZeroScalar>::from(NonZeroScalar::from_repr(FieldBytes::from(once)));
    let once = once.ok_or(CredentialError::Randomness)?;
    let ours = (ProjectivePoint::GENERATOR * *once).to_affine().to_encoded_point(false);
    let shared = (ek.to_projective() * *once).to_affine().to_encoded_point(false);
    let (Some(z), Some(our_x), Some(our_y)) = (shared.x(), ours.x(), ours.y()) else {
        return Err(CredentialError::Randomness);
    };
    let seed = sha256(&[&1u32.to_be_bytes(), z, IDENTITY, our_x, &x]);
    let mut encrypted = Writer::default();
    encrypted.sized(our_x).sized(our_y);
    Ok((seed, encrypted.into_octets()))
}

/// A random seed under RSA with OAEP (RFC 8017, section 7.1.1), with SHA-256 throughout.
fn transport(
    exponent: u32,
    modulus: &[u8],
    randomness: &[u8; RANDOMNESS],
) -> Result<([u8; DIGEST], Vec<u8>), CredentialError> {
    let size = modulus.len();
    let usable = size >= 256 && exponent >= 3 && modulus.first().is_some_and(|octet| octet & 0x80 != 0);
    if !usable {
        return Err(CredentialError::Key);
    }
    let seed: [u8; DIGEST] = std::array::from_fn(|at| randomness[at]);
    let padding: [u8; DIGEST] = std::array::from_fn(|at| randomness[DIGEST + at]);
    let zeros = vec![0; size - 3 * DIGEST - 2];
    let mut data = [&sha256(&[IDENTITY])[..], &zeros, &[1], &seed].concat();
    mask(&padding, &mut data);
    let mut hidden = padding;
    mask(&data, &mut hidden);
    let message = BigUint::from_bytes_be(&[&hidden[..], &data].concat());
    let power = message.modpow(&BigUint::from(exponent), &BigUint::from_bytes_be(modulus)).to_bytes_be();
    let leading = vec![0; size.saturating_sub(power.len())];
    Ok((seed, [leading, power].concat()))
}

/// MGF1 with SHA-256, added to `octets`.
fn mask(seed: &[u8], octets: &mut [u8]) {
    for (counter, block) in octets.chunks_mut(DIGEST).enumerate() {
        let stream = sha256(&[seed, &(counter as u32).to_be_bytes()]);
        block.iter_mut().zip(stream).for_each(|(octet, mask)| *octet ^= mask);
    }
}

/// KDFa with SHA-256, for at most one digest of bits.
fn derive(seed: &[u8], label: &[u8], context: &[u8], bits: u32) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed);
    let input = [&1u32.to_be_bytes()[..], label, &[0], context, &bits.to_be_bytes()].concat();
    hmac::sign(&key, &input).as_ref()[..bits as usize / 8].to_vec()
}

/// AES-128 in CFB, from zeros.
fn encrypt(key: &[u8], octets: &mut [u8]) {
    let cipher = Aes128::new(aes::cipher::Key::<Aes128>::from_slice(key));
    let mut before = aes::Block::default();
    for chunk in octets.chunks_mut(before.len()) {
        cipher.encrypt_block(&mut before);
        chunk.iter_mut().zip(before.iter_mut()).for_each(|(octet, stream)| {
            *octet ^= *stream;
            *stream = *octet;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_key() -> Digest {
        Digest::from_bytes([3; 32])
    }

    /// The point of P-256 that everyone knows: the key whose private half is 1.
    fn generator() -> Key {
        let point = ProjectivePoint::GENERATOR.to_affine().to_encoded_point(false);
        let coordinate = |octets: Option<&FieldBytes>| octets.expect("a coordinate").to_vec();
        Key::P256 { x: coordinate(point.x()), y: coordinate(point.y()) }
    }
    fn rsa() -> Key {
        Key::Rsa { bits: 2048, exponent: 0, modulus: vec![0xcb; 256] }
    }
    fn proof(ek: &Key, name: &[u8]) -> CredentialProof {
        let asked = make(ek, name, b"secret", &[7; RANDOMNESS]).expect("a credential");
        CredentialProof {
            secret: b"secret".to_vec().into(),
            randomness: vec![7; RANDOMNESS].into(),
            credential_blob: asked.credential_blob.into(),
            encrypted_secret: asked.encrypted_secret.into(),
            answer: answer(b"secret", &host_key()).to_vec().into(),
        }
    }

    /// Opens what was made for the key whose private half is 1: the shared point is the sender's own.
    fn open_with_one(credential: &Credential, name: &[u8]) -> Option<Vec<u8>> {
        let x = &credential.encrypted_secret[4..36];
        let Key::P256 { x: ek, .. } = generator() else { return None };
        let seed = sha256(&[&1u32.to_be_bytes(), x, IDENTITY, x, &ek]);
        let (integrity, identity) = credential.credential_blob[4..].split_at(DIGEST);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &derive(&seed, b"INTEGRITY", &[], DIGEST_BITS));
        hmac::verify(&key, &[identity, name].concat(), integrity).ok()?;
        let key = derive(&seed, b"STORAGE", name, SYMMETRIC_BITS);
        let cipher = Aes128::new(aes::cipher::Key::<Aes128>::from_slice(&key));
        let mut opened = Vec::new();
        let mut before = aes::Block::default();
        for chunk in identity.chunks(16) {
            cipher.encrypt_block(&mut before);
            opened.extend(chunk.iter().zip(before).map(|(octet, stream)| octet ^ stream));
            before[..chunk.len()].copy_from_slice(chunk);
        }
        opened.get(2..).map(<[u8]>::to_vec)
    }

    #[test]
    fn only_the_named_key_opens_it() {
        let made = make(&generator(), b"name", &[9; 32], &[7; RANDOMNESS]).expect("a credential");
        assert_eq!(open_with_one(&made, b"name"), Some(vec![9; 32]));
        assert_eq!(open_with_one(&made, b"other"), None);
    }

    #[test]
    fn a_recorded_proof_is_of_these_two_keys_and_of_this_hosts_answer() {
        let other_host = Digest::from_bytes([4; 32]);
        for ek in [generator(), rsa()] {
            let good = proof(&ek, b"name");
            assert_eq!(verify(&good, &ek, b"name", &host_key()), Ok(()));
            assert_eq!(verify(&good, &ek, b"other", &host_key()), Err(CredentialError::OtherQuestion));
            assert_eq!(verify(&good, &ek, b"name", &other_host), Err(CredentialError::OtherAnswer), "relayed");
            for wrong in [answer(b"guess", &host_key()).to_vec(), b"secret".to_vec()] {
                let answer = CredentialProof { answer: wrong.into(), ..good.clone() };
                assert_eq!(verify(&answer, &ek, b"name", &host_key()), Err(CredentialError::OtherAnswer));
            }
            let drawn = CredentialProof { randomness: vec![8; RANDOMNESS].into(), ..good };
            assert_eq!(verify(&drawn, &ek, b"name", &host_key()), Err(CredentialError::OtherQuestion));
        }
        let of_other = verify(&proof(&rsa(), b"name"), &generator(), b"name", &host_key());
        assert_eq!(of_other, Err(CredentialError::OtherQuestion));
    }

    #[test]
    fn a_question_that_was_answered_is_a_proof_for_others() {
        let question = Question::new(&generator(), b"name", [5; 32], [7; RANDOMNESS]).expect("a question");
        let right = answer(&[5; 32], &host_key());
        let proof = question.judge(&right, &host_key()).expect("a proof");
        assert_eq!(verify(&proof, &generator(), b"name", &host_key()), Ok(()));
        for wrong in [answer(&[6; 32], &host_key()), [5; 32]] {
            assert_eq!(question.judge(&wrong, &host_key()), Err(CredentialError::OtherAnswer));
        }
        assert!(!format!("{question:?}").contains("5, 5"), "the secret is shown to nobody");
    }

    #[test]
    fn keys_and_secrets_that_cannot_be_are_refused() {
        let off = Key::P256 { x: vec![1; 32], y: vec![1; 32] };
        let small = Key::Rsa { bits: 2048, exponent: 0, modulus: vec![0xcb; 16] };
        for key in [off, small] {
            assert_eq!(make(&key, b"name", b"s", &[7; RANDOMNESS]), Err(CredentialError::Key));
        }
        for secret in [&[][..], &[1; 33]] {
            assert_eq!(make(&generator(), b"name", secret, &[7; RANDOMNESS]), Err(CredentialError::Secret));
        }
        let zero = make(&generator(), b"name", b"s", &[0; RANDOMNESS]);
        assert_eq!(zero, Err(CredentialError::Randomness));
    }

    /// RFC 3610's neighbours have no vectors for CFB; this one is NIST SP 800-38A, F.3.13, from its second block, where
    /// the first block's ciphertext is what is encrypted next.
    #[test]
    fn cfb_chains_over_the_ciphertext() {
        let key = [0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c];
        let mut octets = [0; 40];
        encrypt(&key, &mut octets);
        let cipher = Aes128::new(aes::cipher::Key::<Aes128>::from_slice(&key));
        let mut block = aes::Block::default();
        for chunk in octets.chunks(16) {
            cipher.encrypt_block(&mut block);
            assert_eq!(chunk, &block[..chunk.len()]);
        }
    }
}
