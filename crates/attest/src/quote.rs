//! A quote judged: did this TPM say these values, in answer to this question?
//!
//! Owns the checks of signature, key, origin, purpose, registers and counters, each with its own refusal. What the values
//! mean is [`event_log`](crate::event_log)'s and [`measure`](crate::measure)'s.

use lucarne_model::ErrorCode;
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};

use crate::{
    pcr::{self, Values},
    qualifying::Purpose,
    spki::{exponent, padded},
    wire::{Attest, Clock, HashAlgorithm, Key, MAGIC, Public, Signature, Wire as _, WireError},
};

/// Why a quote proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    #[error("the {part} cannot be read: {cause}")]
    Malformed { part: &'static str, cause: WireError },
    #[error("the quote is signed over SHA-1, which proves nothing")]
    Sha1,
    #[error("the quote is signed over {0:?}, and not over SHA-256")]
    Hash(HashAlgorithm),
    #[error("the key signs other things too than what its TPM made, or was made elsewhere")]
    NotAttestationKey,
    #[error("the attestation key did not sign this quote")]
    Signature,
    #[error("the quote was not made by a TPM: it begins with {0:#010x}")]
    NotGenerated(u32),
    #[error("the quote answers another nonce, or is of another launch or another host")]
    OtherPurpose,
    #[error("the quote leaves out register {0}")]
    Incomplete(u8),
    #[error("the quote is over a bank that is not SHA-256")]
    Bank,
    #[error("the quote is not over these values")]
    OtherValues,
    #[error("the TPM's counters went back: {now:?} after {before:?}")]
    ClockBack { before: Clock, now: Clock },
}

impl QuoteError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed { .. } => ErrorCode::EvidenceMalformed,
            Self::Sha1 | Self::Bank => ErrorCode::EvidenceSha1Only,
            Self::NotAttestationKey => ErrorCode::AttestationKeyUntrusted,
            Self::Hash(_) | Self::Signature => ErrorCode::QuoteSignatureInvalid,
            Self::NotGenerated(_) => ErrorCode::QuoteNotGenerated,
            Self::OtherPurpose => ErrorCode::QuoteStale,
            Self::Incomplete(_) => ErrorCode::QuoteIncomplete,
            Self::OtherValues => ErrorCode::PcrDigestMismatch,
            Self::ClockBack { .. } => ErrorCode::QuoteClockBack,
        }
    }
}

/// A quote as the TPM gave it.
#[derive(Clone, Copy, Debug)]
pub struct Quote<'a> {
    /// TPMS_ATTEST.
    pub message: &'a [u8],
    /// TPMT_SIGNATURE over `message`.
    pub signature: &'a [u8],
}

impl Quote<'_> {
    /// All that can be said of one quote: signed by `ak`, which is an attestation key; made by a TPM; for `purpose`; and
    /// over `values`, all of `registers` among them. Returns what it says.
    pub fn verify(
        &self,
        ak: &Public,
        purpose: &Purpose<'_>,
        values: &Values,
        registers: &[u8],
    ) -> Result<Attest, QuoteError> {
        self.verify_for(ak, &purpose.qualifying_data(), values, registers)
    }

    /// The same of a quote that is for something else than a launch.
    pub fn verify_for(
        &self,
        ak: &Public,
        qualifying_data: &[u8; 32],
        values: &Values,
        registers: &[u8],
    ) -> Result<Attest, QuoteError> {
        let attest = self.verify_signature(ak)?;
        check_generated(&attest)?;
        check_qualifying(&attest, qualifying_data)?;
        check_values(&attest, values, registers)?;
        Ok(attest)
    }

    /// Whether `ak` is an attestation key and signed the message, and what that says.
    pub fn verify_signature(&self, ak: &Public) -> Result<Attest, QuoteError> {
        let malformed = |part| move |cause| QuoteError::Malformed { part, cause };
        let signature = Signature::from_octets(self.signature).map_err(malformed("signature"))?;
        match signature.hash() {
            HashAlgorithm::Sha256 => {}
            HashAlgorithm::Sha1 => return Err(QuoteError::Sha1),
            other => return Err(QuoteError::Hash(other)),
        }
        if !ak.is_attestation_key() {
            return Err(QuoteError::NotAttestationKey);
        }
        if !signed(self.message, &signature, &ak.key) {
            return Err(QuoteError::Signature);
        }
        Attest::from_octets(self.message).map_err(malformed("quote"))
    }
}

/// Reads a TPMT_PUBLIC of an attestation key.
pub fn read_public(octets: &[u8]) -> Result<Public, QuoteError> {
    Public::from_octets(octets).map_err(|cause| QuoteError::Malformed { part: "attestation key", cause })
}

/// Whether the TPM itself made the statement: a restricted key signs nothing with this beginning that came from outside.
pub fn check_generated(attest: &Attest) -> Result<(), QuoteError> {
    if attest.magic == MAGIC { Ok(()) } else { Err(QuoteError::NotGenerated(attest.magic)) }
}

/// Whether it answers this question.
pub fn check_purpose(attest: &Attest, purpose: &Purpose<'_>) -> Result<(), QuoteError> {
    check_qualifying(attest, &purpose.qualifying_data())
}

fn check_qualifying(attest: &Attest, qualifying_data: &[u8; 32]) -> Result<(), QuoteError> {
    if attest.qualifying == qualifying_data { Ok(()) } else { Err(QuoteError::OtherPurpose) }
}

/// Whether it is over these values in the SHA-256 bank, and over all of `registers`.
pub fn check_values(attest: &Attest, values: &Values, registers: &[u8]) -> Result<(), QuoteError> {
    let selections = &attest.selections.0;
    if selections.iter().any(|selection| selection.bank != HashAlgorithm::Sha256) {
        return Err(QuoteError::Bank);
    }
    let selected: Vec<u8> = selections.iter().flat_map(|selection| selection.indexes()).collect();
    if let Some(missing) = registers.iter().find(|register| !selected.contains(register)) {
        return Err(QuoteError::Incomplete(*missing));
    }
    let digest = pcr::digest_of(&attest.selections, values, HashAlgorithm::Sha256);
    let exactly = values.iter().all(|(index, _)| selected.contains(&index));
    if exactly && digest.as_ref() == Some(&attest.pcr_digest) { Ok(()) } else { Err(QuoteError::OtherValues) }
}

/// Whether `now` can come after `before` in the life of one TPM.
pub fn check_clock(before: Clock, now: Clock) -> Result<(), QuoteError> {
    let order = |clock: Clock| (clock.resets, clock.restarts, clock.milliseconds);
    if order(now) >= order(before) { Ok(()) } else { Err(QuoteError::ClockBack { before, now }) }
}

fn signed(message: &[u8], signature: &Signature, key: &Key) -> bool {
    match (signature, key) {
        (Signature::Ecdsa { r, s, .. }, Key::P256 { x, y }) => {
            let [Some(x), Some(y), Some(r), Some(s)] = [x, y, r, s].map(|number| padded::<32>(number)) else {
                return false;
            };
            let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, [&[4][..], &x, &y].concat());
            key.verify(message, &[r, s].concat()).is_ok()
        }
        (Signature::Rsassa { signature, .. }, Key::Rsa { exponent: written, modulus, .. }) => {
            let exponent = exponent(*written).to_be_bytes();
            let first = exponent.iter().position(|octet| *octet != 0).unwrap_or_default();
            let key = RsaPublicKeyComponents { n: modulus.as_slice(), e: &exponent[first..] };
            key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
