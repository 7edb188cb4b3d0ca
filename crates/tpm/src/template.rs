//! The keys that we have a TPM make, all on the curve P-256 and named by SHA-256.
//!
//! Owns the four templates. That of the endorsement key must be the TCG's to the octet: the key is derived from it, and
//! the maker's certificate is for that key and no other.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_attest::wire::{AsymmetricScheme, Attributes, HashAlgorithm, Key, Public};

const FIXED: Attributes = Attributes::FIXED_TPM.with(Attributes::FIXED_PARENT).with(Attributes::SENSITIVE_DATA_ORIGIN);
const PARENT: Attributes = FIXED.with(Attributes::RESTRICTED).with(Attributes::DECRYPT);

/// What the policy of [`endorsement_key`] is satisfied by: the right to use the endorsement hierarchy (PolicyA of the TCG EK
/// Credential Profile).
const ENDORSEMENT_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// What our agreement keys are derived from, beside the owner's seed and their epoch.
const AGREEMENT: &[u8; 19] = b"lucarne agreement 1";

/// The endorsement key: template L-2 of the TCG EK Credential Profile.
pub(crate) fn endorsement_key() -> Public {
    storage(PARENT.with(Attributes::ADMIN_WITH_POLICY), ENDORSEMENT_POLICY.to_vec())
}

/// The parent of our attestation key: the storage root of the TCG's provisioning guidance.
pub(crate) fn storage_root() -> Public {
    storage(PARENT.with(Attributes::USER_WITH_AUTH).with(Attributes::NO_DA), Vec::new())
}

/// The attestation key signs what the TPM itself says, and nothing else (restricted), by ECDSA.
pub(crate) fn attestation_key() -> Public {
    let rights = Attributes::USER_WITH_AUTH.with(Attributes::NO_DA);
    Public {
        name_algorithm: HashAlgorithm::Sha256,
        attributes: FIXED.with(rights).with(Attributes::RESTRICTED).with(Attributes::SIGN),
        policy: Vec::new(),
        symmetric_bits: None,
        scheme: AsymmetricScheme::Ecdsa(HashAlgorithm::Sha256),
        key: Key::P256 { x: Vec::new(), y: Vec::new() },
    }
}

/// A key that agrees on secrets with whoever has its public half. Another epoch has another, since what stands in for the
/// point is a part of what a key is derived from.
pub(crate) fn agreement_key(epoch: u32) -> Public {
    let mut x = [0; 32];
    x[..AGREEMENT.len()].copy_from_slice(AGREEMENT);
    x[28..].copy_from_slice(&epoch.to_be_bytes());
    Public {
        name_algorithm: HashAlgorithm::Sha256,
        attributes: FIXED.with(Attributes::USER_WITH_AUTH).with(Attributes::NO_DA).with(Attributes::DECRYPT),
        policy: Vec::new(),
        symmetric_bits: None,
        scheme: AsymmetricScheme::Any,
        key: Key::P256 { x: x.to_vec(), y: vec![0; 32] },
    }
}

fn storage(attributes: Attributes, policy: Vec<u8>) -> Public {
    Public {
        name_algorithm: HashAlgorithm::Sha256,
        attributes,
        policy,
        symmetric_bits: Some(128),
        scheme: AsymmetricScheme::Any,
        key: Key::P256 { x: vec![0; 32], y: vec![0; 32] },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the attributes that the TCG's profile and guidance print.
    #[test]
    fn the_templates_have_the_attributes_that_the_tcg_prints() {
        assert_eq!(endorsement_key().attributes, Attributes(0x0003_00b2));
        assert_eq!(storage_root().attributes, Attributes(0x0003_0472));
        assert_eq!(attestation_key().attributes, Attributes(0x0005_0472));
        assert_eq!(agreement_key(1).attributes, Attributes(0x0002_0472));
        assert!(attestation_key().is_attestation_key());
    }
}
