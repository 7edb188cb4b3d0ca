//! What usage costs: a price book and the bill.
//!
//! Owns prices and rounding. Amounts are whole millionths of the currency's unit; each line of a bill is rounded once, from
//! the exact sum, so that it does not matter how often usage was told or a bill was asked for.

use std::collections::BTreeMap;

use lucarne_model::{
    AccountId, Pages,
    memory::{Place, Priority},
};
use serde::{Deserialize, Serialize};

use crate::{
    settings::ThresholdShares,
    usage::{Mode, Usage},
};

/// Millionths of the currency's unit.
pub type Micros = u128;

/// Page-milliseconds in a GiB-hour.
const GIB_HOUR: u128 = Pages::mib(1024).0 as u128 * 3_600_000;

/// What memory costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceBook {
    /// As in ISO 4217, or any word.
    pub currency: String,
    pub pinned: PlacePrices,
    pub generic: PlacePrices,
    pub soaker: PlacePrices,
    /// For each change of mode, in micros.
    pub conversion: u64,
    /// For each GiB that moved with a VM to another host, in micros.
    pub moved_gib: u64,
    /// The priority of soakers whose owner asked for none; the highest that an owner may ask for.
    pub priority: Priority,
    /// Above how much of its memory an instance leaks that has no thresholds of its own. None: as the host's pressure says.
    pub thresholds: Option<ThresholdShares>,
}

/// Micros for a GiB-hour, by where the pages are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacePrices {
    pub resident: u64,
    pub compressed: u64,
    pub ssd: u64,
    pub remote: u64,
    pub snapshot: u64,
}

impl PlacePrices {
    /// What was never touched, or is one repeated value, takes nothing and costs nothing.
    const fn at(&self, place: Place) -> u64 {
        match place {
            Place::Untouched | Place::SameFilled => 0,
            Place::Resident => self.resident,
            Place::Compressed => self.compressed,
            Place::Ssd => self.ssd,
            Place::Remote => self.remote,
            Place::Snapshot => self.snapshot,
        }
    }
}

impl Default for PriceBook {
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
            priority: Priority::default(),
            thresholds: None,
        }
    }
}

/// The books of a cloud: one for all, and others for some accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceBooks {
    pub usual: PriceBook,
    pub agreed: BTreeMap<AccountId, PriceBook>,
}

impl PriceBooks {
    pub fn of(&self, account: AccountId) -> &PriceBook {
        self.agreed.get(&account).unwrap_or(&self.usual)
    }
}

/// One line of a bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub item: Item,
    /// Page-milliseconds, changes of mode, or pages.
    pub quantity: u128,
    pub amount: Micros,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    Held(Mode, Place),
    Conversions,
    PagesMoved,
}

/// What an account, or an instance, owes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    pub lines: Vec<Line>,
    pub total: Micros,
    /// What the same page-time would have cost in each mode, with the same moves.
    pub otherwise: Vec<(Mode, Micros)>,
}

impl PriceBook {
    pub fn bill(&self, usage: &Usage) -> Bill {
        let lines = self.lines(usage);
        let otherwise = Mode::ALL.into_iter().map(|mode| (mode, total(&self.lines(&usage.as_if(mode))))).collect();
        Bill { total: total(&lines), lines, otherwise }
    }

    fn lines(&self, usage: &Usage) -> Vec<Line> {
        let held = usage.iter().map(|(mode, place, quantity)| {
            let amount = per(quantity, self.places(mode).at(place), GIB_HOUR);
            Line { item: Item::Held(mode, place), quantity, amount }
        });
        let conversions = u128::from(usage.conversions);
        let once = [
            Line { item: Item::Conversions, quantity: conversions, amount: per(conversions, self.conversion, 1) },
            Line {
                item: Item::PagesMoved,
                quantity: usage.pages_moved,
                amount: per(usage.pages_moved, self.moved_gib, u128::from(Pages::mib(1024).0)),
            },
        ];
        held.chain(once.into_iter().filter(|line| line.quantity > 0)).collect()
    }

    const fn places(&self, mode: Mode) -> &PlacePrices {
        match mode {
            Mode::Pinned => &self.pinned,
            Mode::Generic => &self.generic,
            Mode::Soaker => &self.soaker,
        }
    }
}

fn total(lines: &[Line]) -> Micros {
    lines.iter().map(|line| line.amount).fold(0, Micros::saturating_add)
}

/// `quantity` at `price` for each `unit`, to the nearest micro; a half goes up. In two parts, so that no product overflows.
fn per(quantity: u128, price: u64, unit: u128) -> Micros {
    let price = u128::from(price);
    let (whole, rest) = (quantity / unit, quantity % unit);
    whole.saturating_mul(price).saturating_add((rest * price + unit / 2) / unit)
}

#[cfg(test)]
mod tests {
    use lucarne_model::memory::PagesByPlace;
    use proptest::prelude::*;

    use super::*;
    use crate::usage::Charge;

    fn held(mode: Mode, millis: u64, resident: Pages, ssd: Pages) -> Charge {
        Charge::Held { mode, millis, pages: PagesByPlace { resident, ssd, ..PagesByPlace::default() } }
    }

    #[test]
    fn a_gib_for_an_hour_costs_what_the_book_says_and_the_bill_says_what_else_it_could_have_been() {
        let mut usage = Usage::default();
        usage.add(&held(Mode::Generic, 3_600_000, Pages::mib(1024), Pages::mib(1024)));
        usage.add(&Charge::Converted { from: Mode::Soaker, to: Mode::Generic });
        usage.add(&Charge::Moved { pages: Pages::mib(512) });
        let bill = PriceBook::default().bill(&usage);
        let amounts: Vec<(Item, Micros)> = bill.lines.iter().map(|line| (line.item, line.amount)).collect();
        let expected = [
            (Item::Held(Mode::Generic, Place::Resident), 5_000),
            (Item::Held(Mode::Generic, Place::Ssd), 100),
            (Item::Conversions, 1_000),
            (Item::PagesMoved, 500),
        ];
        assert_eq!(amounts, expected);
        assert_eq!(bill.total, 6_600);
        assert_eq!(bill.otherwise, [(Mode::Pinned, 20_500), (Mode::Generic, 5_600), (Mode::Soaker, 1_100)]);
    }

    #[test]
    fn an_account_has_its_own_book_or_the_usual_one() {
        let (ours, theirs) = (AccountId::from_bits(1), AccountId::from_bits(2));
        let agreed = PriceBook { priority: Priority(80), ..PriceBook::default() };
        let books = PriceBooks { usual: PriceBook::default(), agreed: [(ours, agreed)].into() };
        assert_eq!((books.of(ours).priority, books.of(theirs).priority), (Priority(80), Priority(50)));
    }

    proptest! {
        /// However finely usage is told, the bill is the same: time may be cut anywhere.
        #[test]
        fn how_often_usage_is_told_does_not_change_the_bill(
            cuts in proptest::collection::vec(1_u64..100_000, 1..40), pages in 1_u64..(1 << 24), price in any::<u64>(),
        ) {
            let book = PriceBook { generic: PlacePrices { resident: price, ..PlacePrices::default() }, ..PriceBook::default() };
            let (mut often, mut once) = (Usage::default(), Usage::default());
            cuts.iter().for_each(|millis| often.add(&held(Mode::Generic, *millis, Pages(pages), Pages::ZERO)));
            once.add(&held(Mode::Generic, cuts.iter().sum(), Pages(pages), Pages::ZERO));
            prop_assert_eq!(book.bill(&often), book.bill(&once));
        }

        #[test]
        fn rounding_is_to_the_nearest(quantity in 0_u128..(1 << 60), price in 0_u64..(1 << 30)) {
            let exact = quantity * u128::from(price);
            let amount = per(quantity, price, GIB_HOUR);
            prop_assert!(exact.abs_diff(amount * GIB_HOUR) <= GIB_HOUR / 2);
        }
    }
}
