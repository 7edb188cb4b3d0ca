//! Public keys as the rest of the world writes them: SubjectPublicKeyInfo in DER, of P-256 and RSA.
//!
//! Owns the way between that and a TPM's form of the same key. Certificates are [`endorsement`](crate::endorsement)'s.

use lucarne_statement::signing::P256_INFO;

use crate::wire::Key;

/// The algorithm of RSA keys, with its null.
const RSA: [u8; 15] = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
/// What a TPM writes as 0.
pub const USUAL_EXPONENT: u32 = 65537;

/// The exponent that a key has: TPMs write the usual one as 0.
pub const fn exponent(written: u32) -> u32 {
    if written == 0 { USUAL_EXPONENT } else { written }
}

/// A number of at most `N` octets, in exactly `N`.
pub fn padded<const N: usize>(number: &[u8]) -> Option<[u8; N]> {
    let first = number.iter().position(|octet| *octet != 0).unwrap_or(number.len());
    let digits = number.get(first..)?;
    let begin = N.checked_sub(digits.len())?;
    let mut padded = [0; N];
    padded[begin..].copy_from_slice(digits);
    Some(padded)
}

/// The key in DER; none when its numbers are not a key's.
pub fn write(key: &Key) -> Option<Vec<u8>> {
    match key {
        Key::P256 { x, y } => Some([&P256_INFO[..], &padded::<32>(x)?, &padded::<32>(y)?].concat()),
        Key::Rsa { bits, exponent: written, modulus } => {
            let numbers = [integer(modulus), integer(&exponent(*written).to_be_bytes())].concat();
            let inner = tagged(BIT_STRING, &[&[0], tagged(SEQUENCE, &numbers).as_slice()].concat());
            let whole = modulus.len() == usize::from(bits / 8) && modulus[0] & 0x80 != 0;
            whole.then(|| tagged(SEQUENCE, &[&RSA[..], &inner].concat()))
        }
    }
}

/// Reads a key that [`write()`] can write: of these kinds and sizes, in DER and nothing else.
pub fn read(der: &[u8]) -> Option<Key> {
    let key = match der.strip_prefix(&P256_INFO) {
        Some(point) => {
            let (x, y) = point.split_at_checked(32)?;
            Key::P256 { x: x.to_vec(), y: y.to_vec() }
        }
        None => read_rsa(der)?,
    };
    (write(&key)? == der).then_some(key)
}

fn read_rsa(der: &[u8]) -> Option<Key> {
    let (whole, _) = untagged(SEQUENCE, der)?;
    let (bits, _) = untagged(BIT_STRING, whole.strip_prefix(&RSA)?)?;
    let (numbers, _) = untagged(SEQUENCE, bits.strip_prefix(&[0])?)?;
    let (modulus, rest) = untagged(INTEGER, numbers)?;
    let (exponent, _) = untagged(INTEGER, rest)?;
    let modulus = modulus.strip_prefix(&[0])?.to_vec();
    let bits = u16::try_from(modulus.len() * 8).ok().filter(|bits| [2048, 3072].contains(bits))?;
    Some(Key::Rsa { bits, exponent: u32::from_be_bytes(padded(exponent)?), modulus })
}

fn integer(number: &[u8]) -> Vec<u8> {
    let first = number.iter().position(|octet| *octet != 0).unwrap_or(number.len());
    let digits = &number[first..];
    let sign: &[u8] = if digits.first().is_none_or(|octet| octet & 0x80 != 0) { &[0] } else { &[] };
    tagged(INTEGER, &[sign, digits].concat())
}

/// Lengths up to 65,535, in DER's shortest way.
pub(crate) fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len() as u16;
    let [high, low] = length.to_be_bytes();
    let head = match length {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&head, content].concat()
}

fn untagged(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match der.strip_prefix(&[tag])? {
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [length @ 0..=0x7f, rest @ ..] => (usize::from(*length), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_from_der_as_they_were_written() {
        let mut modulus = vec![0xab; 256];
        modulus[255] = 1;
        let keys = [
            Key::P256 { x: vec![1; 32], y: vec![2; 32] },
            Key::Rsa { bits: 2048, exponent: USUAL_EXPONENT, modulus: modulus.clone() },
            Key::Rsa { bits: 3072, exponent: 3, modulus: [modulus, vec![1; 128]].concat() },
        ];
        for key in keys {
            let der = write(&key).expect("a key");
            assert_eq!(read(&der), Some(key));
            assert_eq!(read(&[der.as_slice(), &[0]].concat()), None);
            assert!((0..der.len()).all(|cut| read(&der[..cut]).is_none()));
        }
    }

    /// What the certificate tools of the world make is what is read.
    #[test]
    fn a_key_of_another_tool_is_read() {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let der = rcgen::PublicKeyData::subject_public_key_info(&pair);
        let key = read(&der).expect("a key on P-256");
        assert_eq!(write(&key), Some(der));
    }

    #[test]
    fn the_exponent_that_a_tpm_leaves_out_is_the_usual_one() {
        let key = |exponent| Key::Rsa { bits: 2048, exponent, modulus: vec![0xff; 256] };
        assert_eq!(write(&key(0)), write(&key(USUAL_EXPONENT)));
    }

    #[test]
    fn leading_zeros_that_a_tpm_left_out_are_put_back() {
        assert_eq!(padded::<4>(&[1, 2]), Some([0, 0, 1, 2]));
        assert_eq!(padded::<2>(&[0, 0, 1, 2]), Some([1, 2]));
        assert_eq!(padded::<1>(&[1, 2]), None);
    }
}
