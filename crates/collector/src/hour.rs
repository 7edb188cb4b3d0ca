//! A UTC hour, by which parts are filed.

use jiff::{civil::DateTime, tz::TimeZone};
use lucarne_model::Moment;

/// Hours since the start of 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Hour(u32);

const MICROS: u64 = 3600 * 1_000_000;
const SECONDS: i64 = 3600;

impl Hour {
    /// The last hour that has a name: 9999-12-30, 22 h.
    const LAST: u32 = 2_932_895 * 24 + 22;

    pub(crate) fn of(moment: Moment) -> Self {
        Self(u32::try_from(moment.as_micros() / MICROS).unwrap_or(Self::LAST).min(Self::LAST))
    }
    pub(crate) fn start(self) -> Moment {
        Moment(u64::from(self.0) * MICROS)
    }
    /// The first moment of the hour after.
    pub(crate) fn end(self) -> Moment {
        Moment((u64::from(self.0) + 1) * MICROS)
    }

    /// `year=2026/month=01/day=31/hour=07`, as Hive and AWS name folders.
    pub(crate) fn folders(self) -> String {
        let start = jiff::Timestamp::from_second(i64::from(self.0) * SECONDS).unwrap_or(jiff::Timestamp::MAX);
        let start = start.to_zoned(TimeZone::UTC);
        let (year, month, day, hour) = (start.year(), start.month(), start.day(), start.hour());
        format!("year={year:04}/month={month:02}/day={day:02}/hour={hour:02}")
    }

    /// The hour of [`Hour::folders`]' four names.
    pub(crate) fn parse(folders: [&str; 4]) -> Option<Self> {
        let [year, month, day, hour] = folders;
        let time = DateTime::new(
            year.strip_prefix("year=")?.parse().ok()?,
            month.strip_prefix("month=")?.parse().ok()?,
            day.strip_prefix("day=")?.parse().ok()?,
            hour.strip_prefix("hour=")?.parse().ok()?,
            0,
            0,
            0,
        );
        let seconds = time.ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
        u32::try_from(seconds / SECONDS).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(folders: &str) -> Option<Hour> {
        let names: Vec<&str> = folders.split('/').collect();
        Hour::parse(names.try_into().ok()?)
    }

    proptest! {
        #[test]
        fn an_hour_reads_back_as_written_and_holds_its_moments(micros in 0u64..4_233_462_143_000_000) {
            let hour = Hour::of(Moment(micros));
            prop_assert_eq!(parse(&hour.folders()), Some(hour));
            prop_assert!(hour.start() <= Moment(micros) && Moment(micros) < hour.end());
        }

        #[test]
        fn no_names_make_the_parser_panic(names: [String; 4]) {
            let _ = Hour::parse([&names[0], &names[1], &names[2], &names[3]]);
        }
    }

    #[test]
    fn a_leap_day_has_its_name() {
        let hour = Hour::of(Moment::from_secs(1_709_164_800 + 7 * 3600));
        assert_eq!(hour.folders(), "year=2024/month=02/day=29/hour=07");
        assert_eq!(parse("year=2023/month=02/day=29/hour=07"), None);
    }

    #[test]
    fn the_end_of_time_has_a_folder() {
        assert_eq!(Hour::of(Moment(u64::MAX)).folders(), "year=9999/month=12/day=30/hour=22");
    }
}
