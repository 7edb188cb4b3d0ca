//! A UTC day, by which parts are filed.

use std::{fmt, str::FromStr};

use jiff::civil::Date;
use lucarne_model::Moment;

/// Days since 1970-01-01. Written as `2026-01-31`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Day(u32);

const MICROS: u64 = 86_400 * 1_000_000;
const EPOCH: Date = jiff::civil::date(1970, 1, 1);

impl Day {
    /// The last day that has a four-digit year.
    const LAST: u32 = 2_932_896;

    pub(crate) fn of(moment: Moment) -> Self {
        Self(u32::try_from(moment.as_micros() / MICROS).unwrap_or(Self::LAST).min(Self::LAST))
    }
    pub(crate) fn start(self) -> Moment {
        Moment(u64::from(self.0) * MICROS)
    }
    /// The first moment of the day after.
    pub(crate) fn end(self) -> Moment {
        Moment((u64::from(self.0) + 1) * MICROS)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = jiff::Span::new().days(i64::from(self.0));
        write!(f, "{}", EPOCH.saturating_add(span))
    }
}

impl FromStr for Day {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        let days = text.parse::<Date>()?.since(EPOCH)?.get_days();
        Ok(Self(u32::try_from(days).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_day_reads_back_as_written_and_holds_its_moments(micros in 0u64..4_233_462_143_000_000) {
            let day = Day::of(Moment(micros));
            prop_assert_eq!(day.to_string().parse::<Day>().unwrap(), day);
            prop_assert!(day.start() <= Moment(micros) && Moment(micros) < day.end());
        }
    }

    #[test]
    fn a_leap_day_has_its_name() {
        assert_eq!(Day::of(Moment::from_secs(1_709_164_800)).to_string(), "2024-02-29");
    }
}
