//! Price books: what memory costs, for whom, and since when.
//!
//! Owns the words. What usage comes to is reckoned in the room `memory`; the books are kept by the controller.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, Moment, PriceBookId, memory::Priority};

/// What memory costs. All amounts are whole millionths of the currency's unit ("micros").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// As in ISO 4217, or any word.
    pub currency: String,
    pub pinned: PlacePrices,
    pub generic: PlacePrices,
    pub soaker: PlacePrices,
    /// For each change of mode, in micros.
    pub conversion: u64,
    /// For each GiB that moved with a VM to another host, in micros.
    pub moved_gib: u64,
    /// The highest priority that a soaker can have.
    pub priority: Priority,
    /// Above how much of its memory an instance leaks that has no thresholds of its own. None: as the host's pressure says.
    pub thresholds: Option<ThresholdShares>,
}

/// Micros for a GiB-hour, by where the pages are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlacePrices {
    pub resident: u64,
    pub compressed: u64,
    pub ssd: u64,
    pub remote: u64,
    pub snapshot: u64,
}

impl Default for Prices {
    /// Memory that can leave costs half of what cannot, and idle memory a tenth of that; storage is nearly free.
    fn default() -> Self {
        let prices =
            |resident| PlacePrices { resident, compressed: resident / 2, ssd: 100, remote: resident / 2, snapshot: 50 };
        Self {
            currency: "EUR".into(),
            pinned: prices(10_000),
            generic: prices(5_000),
            soaker: prices(500),
            conversion: 1_000,
            moved_gib: 1_000,
            priority: Priority(u8::MAX),
            thresholds: None,
        }
    }
}

/// Thresholds as thousandths of each instance's memory: what a tenant agreed to, or an operator wants, for all instances
/// that have none of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Thousandths", into = "Thousandths")]
#[schemars(with = "Thousandths")]
pub struct ThresholdShares(Thousandths);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ThresholdShares")]
struct Thousandths {
    /// Below 1000.
    fill_above: u32,
    /// At least 1, at most `fill_above`.
    drain_below: u32,
}

impl ThresholdShares {
    /// The bucket fills above the first and drains below the second.
    pub const fn new(fill_above: u32, drain_below: u32) -> Result<Self, SharesError> {
        if drain_below > fill_above || drain_below == 0 || fill_above >= 1000 {
            return Err(SharesError { fill_above, drain_below });
        }
        Ok(Self(Thousandths { fill_above, drain_below }))
    }
    /// Thousandths of its memory above which an instance's bucket fills.
    pub const fn fill_above(self) -> u32 {
        self.0.fill_above
    }
    /// Thousandths of its memory below which an instance's bucket drains.
    pub const fn drain_below(self) -> u32 {
        self.0.drain_below
    }
}

/// Shares that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a bucket cannot fill above {fill_above} and drain below {drain_below} thousandths of an instance's memory; the second is \
     at least 1 and at most the first, and the first below 1000"
)]
pub struct SharesError {
    pub fill_above: u32,
    pub drain_below: u32,
}

impl TryFrom<Thousandths> for ThresholdShares {
    type Error = SharesError;
    fn try_from(Thousandths { fill_above, drain_below }: Thousandths) -> Result<Self, SharesError> {
        Self::new(fill_above, drain_below)
    }
}
impl From<ThresholdShares> for Thousandths {
    fn from(shares: ThresholdShares) -> Self {
        shares.0
    }
}

/// Prices that hold for an account, or for all that have no book of their own, for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PriceBook {
    pub id: PriceBookId,
    /// For whom; none where it is for all that have no book of their own.
    pub account: Option<AccountId>,
    pub prices: Prices,
    /// What was used from then on,
    pub since: Moment,
    /// up to then; none where it still holds.
    pub until: Option<Moment>,
}

impl PriceBook {
    /// Whether it holds for what is used at that time.
    pub fn holds_at(&self, at: Moment) -> bool {
        self.since <= at && self.until.is_none_or(|until| at < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_may_leave_out_what_is_as_usual_and_says_what_it_does_not_know() {
        let prices: Prices = serde_json::from_str(r#"{"generic": {"resident": 7000}, "conversion": 5}"#).unwrap();
        assert_eq!((prices.generic.resident, prices.generic.ssd, prices.conversion), (7000, 0, 5));
        assert_eq!(prices.pinned, Prices::default().pinned);
        assert!(serde_json::from_str::<Prices>(r#"{"pined": {}}"#).is_err());
    }

    #[test]
    fn shares_that_cannot_be_are_not_read() {
        let read = |text: &str| serde_json::from_str::<ThresholdShares>(text);
        assert_eq!(
            read(r#"{"fill_above": 500, "drain_below": 250}"#).unwrap(),
            ThresholdShares::new(500, 250).unwrap()
        );
        for text in [r#"{"fill_above": 250, "drain_below": 500}"#, r#"{"fill_above": 1000, "drain_below": 1}"#] {
            assert!(read(text).is_err_and(|error| error.to_string().contains("cannot fill above")), "{text}");
        }
    }

    #[test]
    fn a_book_holds_from_its_first_instant_to_before_its_last() {
        let book = PriceBook {
            id: PriceBookId::from_bits(1),
            account: None,
            prices: Prices::default(),
            since: Moment::from_secs(10),
            until: Some(Moment::from_secs(20)),
        };
        let holds = [9, 10, 19, 20].map(|at| book.holds_at(Moment::from_secs(at)));
        assert_eq!(holds, [false, true, true, false]);
        assert!(PriceBook { until: None, ..book }.holds_at(Moment::from_secs(20)));
    }
}
