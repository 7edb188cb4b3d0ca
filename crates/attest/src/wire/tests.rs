//! Whatever is written reads back as it was, whatever is read writes the same octets, and malformed octets are refused.

use proptest::{collection::vec, prelude::*};

use super::*;

fn hash() -> impl Strategy<Value = HashAlgorithm> {
    proptest::sample::select(HashAlgorithm::ALL.to_vec())
}

fn selections() -> impl Strategy<Value = PcrSelections> {
    let one = (hash(), vec(0..24u8, 0..24)).prop_map(|(bank, indexes)| PcrSelection::new(bank, indexes));
    vec(one, 0..=4).prop_map(PcrSelections)
}

fn attest() -> impl Strategy<Value = Attest> {
    let clock = (any::<u64>(), any::<u32>(), any::<u32>(), any::<bool>())
        .prop_map(|(milliseconds, resets, restarts, safe)| Clock { milliseconds, resets, restarts, safe });
    let octets = || vec(any::<u8>(), 0..=66);
    (any::<u32>(), octets(), octets(), clock, any::<u64>(), selections(), octets()).prop_map(
        |(magic, signer, qualifying, clock, firmware, selections, pcr_digest)| Attest {
            magic,
            signer,
            qualifying,
            clock,
            firmware,
            selections,
            pcr_digest,
        },
    )
}

fn signature() -> impl Strategy<Value = Signature> {
    let number = || vec(any::<u8>(), 0..=32);
    prop_oneof![
        (hash(), number(), number()).prop_map(|(hash, r, s)| Signature::Ecdsa { hash, r, s }),
        (hash(), vec(any::<u8>(), 0..=384)).prop_map(|(hash, signature)| Signature::Rsassa { hash, signature }),
    ]
}

fn key() -> impl Strategy<Value = (AsymmetricScheme, Key)> {
    let number = || vec(any::<u8>(), 0..=32);
    let p256 = (proptest::option::of(hash()), number(), number())
        .prop_map(|(hash, x, y)| (hash.map_or(AsymmetricScheme::Any, AsymmetricScheme::Ecdsa), Key::P256 { x, y }));
    let modulus = vec(any::<u8>(), 0..=256);
    let sizes = proptest::sample::select(vec![2048, 3072]);
    let rsa =
        (proptest::option::of(hash()), sizes, any::<u32>(), modulus).prop_map(|(hash, bits, exponent, modulus)| {
            (hash.map_or(AsymmetricScheme::Any, AsymmetricScheme::Rsassa), Key::Rsa { bits, exponent, modulus })
        });
    prop_oneof![p256, rsa]
}

fn public() -> impl Strategy<Value = Public> {
    let symmetric = proptest::option::of(proptest::sample::select(vec![128, 256]));
    (hash(), any::<u32>(), vec(any::<u8>(), 0..=64), symmetric, key()).prop_map(
        |(name_algorithm, attributes, policy, symmetric_bits, (scheme, key))| Public {
            name_algorithm,
            attributes: Attributes(attributes),
            policy,
            symmetric_bits,
            scheme,
            key,
        },
    )
}

/// The three laws of a strict form: it reads back, a cut one is refused, and so is one with more.
fn keeps_the_laws<T: Wire + PartialEq + std::fmt::Debug>(value: &T) -> Result<(), TestCaseError> {
    let octets = value.to_octets();
    prop_assert_eq!(&T::from_octets(&octets).expect("what was written is read"), value);
    for cut in 0..octets.len() {
        prop_assert!(T::from_octets(&octets[..cut]).is_err(), "cut at {}", cut);
    }
    let longer = [octets.as_slice(), &[0]].concat();
    prop_assert_eq!(T::from_octets(&longer), Err(WireError::Trailing { count: 1 }));
    Ok(())
}

proptest! {
    #[test]
    fn a_quote_reads_back_as_it_was_written(value in attest()) {
        keeps_the_laws(&value)?;
    }
    #[test]
    fn a_signature_reads_back_as_it_was_written(value in signature()) {
        keeps_the_laws(&value)?;
    }
    #[test]
    fn a_public_key_reads_back_as_it_was_written(value in public()) {
        keeps_the_laws(&value)?;
    }
    /// Any octets at all: refused, or the same octets again.
    #[test]
    fn what_is_read_writes_the_same_octets(octets in vec(any::<u8>(), 0..200), magic in any::<bool>()) {
        let mut octets = octets;
        if magic {
            octets.splice(..0, [0xff, 0x54, 0x43, 0x47, 0x80, 0x18]);
        }
        if let Ok(read) = Attest::from_octets(&octets) { prop_assert_eq!(read.to_octets(), octets.as_slice()); }
        if let Ok(read) = Public::from_octets(&octets) { prop_assert_eq!(read.to_octets(), octets.as_slice()); }
        if let Ok(read) = Signature::from_octets(&octets) { prop_assert_eq!(read.to_octets(), octets.as_slice()); }
    }
}

#[test]
fn another_kind_of_attestation_is_not_a_quote() {
    let certify = [0xff, 0x54, 0x43, 0x47, 0x80, 0x17];
    let refused = WireError::Unknown { what: "kind of attestation", found: 0x8017 };
    assert_eq!(Attest::from_octets(&certify), Err(refused));
}

#[test]
fn lengths_that_no_such_thing_has_are_refused_before_anything_is_taken() {
    let huge = [0, 0x18, 0, 0x0b, 0xff, 0xff];
    let refused = WireError::TooLong { what: "r of a signature", found: 0xffff, most: 32 };
    assert_eq!(Signature::from_octets(&huge), Err(refused));
    let banks = [0xff, 0xff, 0xff, 0xff];
    assert!(matches!(PcrSelections::from_octets(&banks), Err(WireError::TooLong { .. })));
}

#[test]
fn an_attestation_key_signs_only_what_its_tpm_made_and_never_was_elsewhere() {
    let all = Attributes::FIXED_TPM
        .with(Attributes::FIXED_PARENT)
        .with(Attributes::SENSITIVE_DATA_ORIGIN)
        .with(Attributes::RESTRICTED)
        .with(Attributes::SIGN);
    let key = |attributes| Public {
        name_algorithm: HashAlgorithm::Sha256,
        attributes,
        policy: Vec::new(),
        symmetric_bits: None,
        scheme: AsymmetricScheme::Ecdsa(HashAlgorithm::Sha256),
        key: Key::P256 { x: vec![1; 32], y: vec![2; 32] },
    };
    assert!(key(all).is_attestation_key());
    for bit in (0..32).map(|bit| 1 << bit).filter(|bit| all.0 & bit != 0) {
        assert!(!key(Attributes(all.0 & !bit)).is_attestation_key(), "without {bit:#x}");
    }
    assert!(!key(all.with(Attributes::DECRYPT)).is_attestation_key());
    assert_eq!(key(all).name().len(), 34);
    assert_eq!(key(all).name()[..2], [0, 0x0b]);
}
