//! How much a result is lengthened, so that its size does not say what is in it.
//!
//! Owns the classes and their lengths. Which octet it is lengthened with is the result's
//! [`Format`](crate::operation::Format)'s.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Padding {
    /// The size is told as it is.
    None,
    /// By at most an eighth: of the length, only so many bits are told as its own length has bits (Padmé).
    Padme,
    /// To the next power of two.
    PowerOfTwo,
}

impl Padding {
    pub const ALL: [Self; 3] = [Self::None, Self::Padme, Self::PowerOfTwo];
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Padme => "padme",
            Self::PowerOfTwo => "power-of-two",
        }
    }

    /// How long content of `length` octets becomes.
    pub fn padded(self, length: u64) -> u64 {
        match self {
            Self::None => length,
            Self::Padme => padme(length),
            Self::PowerOfTwo => length.checked_next_power_of_two().unwrap_or(length),
        }
    }
}

/// Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", 2019, algorithm 1.
fn padme(length: u64) -> u64 {
    if length < 2 {
        return length;
    }
    let exponent = length.ilog2();
    let kept_bits = exponent.ilog2() + 1;
    let mask = (1 << exponent.saturating_sub(kept_bits)) - 1;
    length.checked_add(mask).map_or(length, |sum| sum & !mask)
}

impl std::str::FromStr for Padding {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|padding| padding.name() == text);
        found.ok_or_else(|| "a padding is none, padme or power-of-two".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lengths_are_those_of_the_paper() {
        for (length, padded) in [(0, 0), (1, 1), (2, 2), (9, 10), (100, 104), (1000, 1024), (1_000_000, 1_015_808)] {
            assert_eq!(Padding::Padme.padded(length), padded, "{length}");
        }
        assert_eq!(Padding::PowerOfTwo.padded(1025), 2048);
        assert_eq!(Padding::None.padded(1025), 1025);
    }

    proptest! {
        /// Longer content is never shorter when padded, padding twice is padding once, and Padmé costs at most 12 %.
        #[test]
        fn padding_hides_and_costs_what_it_says(length in 0..(1u64 << 50), more in 0..1000u64) {
            for padding in Padding::ALL {
                let padded = padding.padded(length);
                prop_assert!(padded >= length && padding.padded(padded) == padded);
                prop_assert!(padding.padded(length + more) >= padded);
            }
            prop_assert!(Padding::Padme.padded(length) - length <= length * 12 / 100);
        }
    }
}
