//! The endorsement key's certificate: does a maker of TPMs that the verifier trusts vouch for this one?
//!
//! Owns the chain's verification against pinned roots at a given time; there is no list of makers built in. That the
//! attestation key lives in the same TPM is proved by [`credential`](crate::credential).

use std::time::Duration;

use lucarne_model::{ErrorCode, Moment, Octets};
use pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring as algorithms};

use crate::{spki, wire::Key};

/// tcg-kp-EKCertificate, 2.23.133.8.1.
const EK_CERTIFICATE: [u8; 5] = [0x67, 0x81, 0x05, 0x08, 0x01];
/// More certificates than any maker has between root and key.
const LONGEST_CHAIN: usize = 8;
const SIGNED_BY: [&dyn SignatureVerificationAlgorithm; 6] = [
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
];

/// Why a TPM is not believed to be its maker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndorsementError {
    #[error("there is no certificate of the endorsement key")]
    None,
    #[error("a chain of {0} certificates is longer than any maker's")]
    TooLong(usize),
    #[error("root {at} is not a certificate")]
    Root { at: usize },
    #[error("the endorsement key's certificate cannot be read: {0}")]
    Unreadable(webpki::Error),
    #[error("no trusted maker vouches for the endorsement key: {0}")]
    Untrusted(webpki::Error),
    #[error("the certificate is of a key that is no key on P-256 and no RSA key of 2048 or 3072 bits")]
    Key,
}

impl EndorsementError {
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::EndorsementUntrusted
    }
}

/// Verifies the chain, the key's own certificate first, against `roots` in DER at `now`, and returns the endorsement key.
pub fn verify(chain: &[Octets], roots: &[Octets], now: Moment) -> Result<Key, EndorsementError> {
    let (own, between) = chain.split_first().ok_or(EndorsementError::None)?;
    if chain.len() > LONGEST_CHAIN {
        return Err(EndorsementError::TooLong(chain.len()));
    }
    let roots: Vec<_> = roots.iter().map(|root| CertificateDer::from(&root[..])).collect();
    let anchors = anchors(&roots)?;
    let between: Vec<_> = between.iter().map(|certificate| CertificateDer::from(&certificate[..])).collect();
    let own = CertificateDer::from(&own[..]);
    let certificate = EndEntityCert::try_from(&own).map_err(EndorsementError::Unreadable)?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()));
    let usage = KeyUsage::required_if_present(&EK_CERTIFICATE);
    certificate
        .verify_for_usage(&SIGNED_BY, &anchors, &between, time, usage, None, None)
        .map_err(EndorsementError::Untrusted)?;
    spki::read(&certificate.subject_public_key_info()).ok_or(EndorsementError::Key)
}

/// The key that the first certificate is of, whoever signed it; none where there is no certificate.
pub fn certified_key(chain: &[Octets]) -> Result<Option<Key>, EndorsementError> {
    let Some(own) = chain.first() else { return Ok(None) };
    let own = CertificateDer::from(&own[..]);
    let certificate = EndEntityCert::try_from(&own).map_err(EndorsementError::Unreadable)?;
    spki::read(&certificate.subject_public_key_info()).map(Some).ok_or(EndorsementError::Key)
}

/// Whether these octets can be the root of a chain.
pub fn check_root(root: &Octets) -> Result<(), EndorsementError> {
    anchors(&[CertificateDer::from(&root[..])]).map(drop)
}

fn anchors<'a>(roots: &'a [CertificateDer<'a>]) -> Result<Vec<TrustAnchor<'a>>, EndorsementError> {
    let read = roots
        .iter()
        .enumerate()
        .map(|(at, root)| anchor_from_trusted_cert(root).map_err(|_| EndorsementError::Root { at }));
    read.collect()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::example::{Maker, NOW};

    const EK: [u64; 5] = [2, 23, 133, 8, 1];

    #[test]
    fn a_trusted_maker_vouches_for_a_key_of_its_own_at_a_time() {
        let (maker, other) = (Maker::new(), Maker::new());
        let (certificate, key) = maker.endorse(&EK);
        let roots = [other.root.clone(), maker.root.clone()];
        let chain = [certificate];
        assert_eq!(verify(&chain, &roots, NOW), Ok(key));
        let refused = |result: Result<Key, EndorsementError>| result.expect_err("refused");
        let unknown = refused(verify(&chain, &roots[..1], NOW));
        assert!(matches!(unknown, EndorsementError::Untrusted(_)), "{unknown}");
        assert_eq!(unknown.code(), ErrorCode::EndorsementUntrusted);
        for wrong in [Moment::from_secs(999), Moment::from_secs(2001)] {
            assert!(matches!(refused(verify(&chain, &roots, wrong)), EndorsementError::Untrusted(_)));
        }
        assert_eq!(verify(&[], &roots, NOW), Err(EndorsementError::None));
    }

    #[test]
    fn a_certificate_that_is_for_something_else_is_refused() {
        let maker = Maker::new();
        let (certificate, _) = maker.endorse(&[1, 3, 6, 1, 5, 5, 7, 3, 1]);
        let refused = verify(&[certificate], &[maker.root], NOW);
        assert!(matches!(refused, Err(EndorsementError::Untrusted(_))));
    }

    #[test]
    fn a_makers_own_certificate_is_no_endorsement() {
        let maker = Maker::new();
        let refused = verify(from_ref(&maker.root), from_ref(&maker.root), NOW);
        assert!(refused.is_err());
    }

    #[test]
    fn octets_that_are_no_certificates_are_refused() {
        let maker = Maker::new();
        let (certificate, _) = maker.endorse(&EK);
        let junk = Octets(vec![0x30, 3, 1, 2, 3]);
        assert!(matches!(verify(from_ref(&junk), &[maker.root], NOW), Err(EndorsementError::Unreadable(_))));
        assert_eq!(verify(from_ref(&certificate), &[junk], NOW), Err(EndorsementError::Root { at: 0 }));
        assert_eq!(verify(&vec![certificate; 9], &[], NOW), Err(EndorsementError::TooLong(9)));
    }
}
