//! Bech32 (BIP 173) without its bound on length: the text of age's keys.

const DIGITS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
const CHECKSUM: usize = 6;

fn checksum(digits: impl Iterator<Item = u8>) -> u32 {
    digits.fold(1, |sum, digit| {
        let top = sum >> 25;
        let shifted = (sum & 0x1ff_ffff) << 5 ^ u32::from(digit);
        let chosen = GENERATOR.iter().enumerate().filter(|(bit, _)| top >> bit & 1 == 1);
        chosen.fold(shifted, |sum, (_, part)| sum ^ part)
    })
}

fn expanded(prefix: &str) -> impl Iterator<Item = u8> {
    prefix.bytes().map(|c| c >> 5).chain([0]).chain(prefix.bytes().map(|c| c & 31))
}

/// Bits in groups of `from` as groups of `to`. What is left over is padding, and must be zeros where it is read.
fn regroup(values: &[u8], from: u32, to: u32, pad: bool) -> Option<Vec<u8>> {
    let (mut kept, mut bits, mut groups) = (0u32, 0, Vec::new());
    for value in values {
        kept = (kept << from | u32::from(*value)) & 0xfff;
        bits += from;
        while bits >= to {
            bits -= to;
            groups.push((kept >> bits & ((1 << to) - 1)) as u8);
        }
    }
    let rest = kept & ((1 << bits) - 1);
    if pad && bits > 0 {
        groups.push((rest << (to - bits)) as u8);
    }
    (pad || (bits < from && rest == 0)).then_some(groups)
}

/// The lower-case text of `octets` behind `prefix`, itself in lower case.
pub(super) fn write(prefix: &str, octets: &[u8]) -> String {
    let digits = regroup(octets, 8, 5, true).unwrap_or_default();
    let sum = checksum(expanded(prefix).chain(digits.iter().copied()).chain([0; CHECKSUM])) ^ 1;
    let tail = (0..CHECKSUM).map(|at| (sum >> (5 * (CHECKSUM - 1 - at)) & 31) as u8);
    let text = digits.iter().copied().chain(tail).map(|digit| char::from(DIGITS[usize::from(digit)]));
    format!("{prefix}1{}", text.collect::<String>())
}

/// The octets of a lower-case text with that prefix.
pub(super) fn read(prefix: &str, text: &str) -> Option<Vec<u8>> {
    let rest = text.strip_prefix(prefix)?.strip_prefix('1')?;
    let digit = |c: u8| DIGITS.iter().position(|digit| *digit == c).map(|at| at as u8);
    let digits: Vec<u8> = rest.bytes().map(digit).collect::<Option<_>>()?;
    let (data, _) = digits.split_at_checked(digits.len().checked_sub(CHECKSUM)?)?;
    let sound = checksum(expanded(prefix).chain(digits.iter().copied())) == 1;
    if sound { regroup(data, 5, 8, false) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// From BIP 173's own list.
    #[test]
    fn the_texts_of_bip_173_are_read() {
        assert_eq!(read("a", "a12uel5l"), Some(Vec::new()));
        assert_eq!(
            read("split", "split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w").map(|o| o.len()),
            Some(30)
        );
        for wrong in ["a12uel5", "a12uel5m", "b12uel5l", "a2uel5l", "split1cheo2y9e2w"] {
            assert_eq!(read("a", wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn octets_read_back_and_no_single_wrong_digit_passes(octets: Vec<u8>, at in any::<prop::sample::Index>(), other in 0..31usize) {
            let text = write("age", &octets);
            prop_assert_eq!(read("age", &text), Some(octets));
            let mut wrong = text.clone().into_bytes();
            let place = 4 + at.index(wrong.len() - 4);
            let digit = DIGITS.iter().position(|digit| *digit == wrong[place]).expect("a digit");
            wrong[place] = DIGITS[(digit + 1 + other) % 32];
            prop_assert_eq!(read("age", std::str::from_utf8(&wrong).expect("text")), None);
        }
    }
}
