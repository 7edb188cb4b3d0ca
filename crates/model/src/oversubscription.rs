//! How much more memory a host may promise than it has.
//!
//! Owns the factor and its text. The arithmetic of promises is that of the room `memory`.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Memory that may be promised for each byte that there is, in thousandths; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct OversubscriptionFactor(u32);

impl OversubscriptionFactor {
    /// What is there is promised once.
    pub const NONE: Self = Self(1000);
    pub const MOST: Self = Self(16_000);

    pub const fn thousandths(self) -> u32 {
        self.0
    }
}

impl Default for OversubscriptionFactor {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Display for OversubscriptionFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1000, self.0 % 1000);
        let text = format!("{whole}.{part:03}");
        f.pad(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no factor of oversubscription: write 1 to 16 with at most three decimals, such as 1.5")]
pub struct ParseOversubscriptionError(String);

impl FromStr for OversubscriptionFactor {
    type Err = ParseOversubscriptionError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseOversubscriptionError(text.chars().take(32).collect());
        let is_digits = |text: &str| text.bytes().all(|octet| octet.is_ascii_digit());
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        if !is_digits(whole) || !is_digits(part) || part.is_empty() || part.len() > 3 {
            return Err(refuse());
        }
        let whole: u32 = whole.parse().map_err(|_| refuse())?;
        let part: u32 = format!("{part:0<3}").parse().map_err(|_| refuse())?;
        let factor = whole.checked_mul(1000).and_then(|whole| whole.checked_add(part)).map(Self).ok_or_else(refuse)?;
        if (Self::NONE..=Self::MOST).contains(&factor) { Ok(factor) } else { Err(refuse()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_factor_reads_back_as_it_was_written(thousandths in 1000..=16_000u32) {
            prop_assert_eq!(OversubscriptionFactor(thousandths).to_string().parse(), Ok(OversubscriptionFactor(thousandths)));
        }
        #[test]
        fn no_text_makes_the_parser_panic(text: String) { let _ = text.parse::<OversubscriptionFactor>(); }
    }

    #[test]
    fn a_factor_is_one_to_sixteen() {
        assert_eq!("1.5".parse::<OversubscriptionFactor>().unwrap().thousandths(), 1500);
        assert_eq!("1".parse(), Ok(OversubscriptionFactor::NONE));
        assert!(
            ["0.9", "16.001", "1.", "1.2345", "", "-1", "+1", "x", "1e1"]
                .iter()
                .all(|text| text.parse::<OversubscriptionFactor>().is_err())
        );
    }
}
