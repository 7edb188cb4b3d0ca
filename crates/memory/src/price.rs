//! What usage costs: which price book holds when, and the bill.
//!
//! Owns that choice and the rounding; what a book says is the model's [`Prices`]. Amounts are whole millionths of the currency's unit; each line of a bill is rounded once, from
//! the exact sum, so that it does not matter how often usage was told or a bill was asked for.

use lucarne_model::{
    AccountId, Moment, Pages,
    memory::Place,
    price::{PlacePrices, PriceBook, Prices},
};

use crate::usage::{Mode, Usage};

/// Millionths of the currency's unit.
pub type Micros = u128;

/// Page-milliseconds in a GiB-hour.
const GIB_HOUR: u128 = Pages::mib(1024).0 as u128 * 3_600_000;

/// All books that there are and were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceBooks {
    /// In any order.
    books: Vec<PriceBook>,
    /// What holds where there is no book.
    built_in: Prices,
}

impl PriceBooks {
    pub fn new(books: Vec<PriceBook>) -> Self {
        Self { books, built_in: Prices::default() }
    }

    /// What holds for an account at a time: its own book, else the usual one.
    pub fn at(&self, account: AccountId, at: Moment) -> &Prices {
        let of = |whose: Option<AccountId>| {
            self.books.iter().find(|book| book.account == whose && book.holds_at(at)).map(|book| &book.prices)
        };
        of(Some(account)).or_else(|| of(None)).unwrap_or(&self.built_in)
    }

    /// The times at which an account's prices may have changed, oldest first.
    pub fn changes(&self, account: AccountId) -> Vec<Moment> {
        let concerns = |book: &&PriceBook| book.account.is_none_or(|of| of == account);
        let books = self.books.iter().filter(concerns);
        let mut changes: Vec<Moment> = books.flat_map(|book| [Some(book.since), book.until]).flatten().collect();
        changes.sort_unstable();
        changes.dedup();
        changes
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

impl Bill {
    /// Of one time after the other, each with the prices that held then. Lines of the same thing are put together.
    pub fn of<'a>(periods: impl IntoIterator<Item = (&'a Prices, &'a Usage)>) -> Self {
        let mut bill = Self { lines: Vec::new(), total: 0, otherwise: Mode::ALL.map(|mode| (mode, 0)).to_vec() };
        for (prices, usage) in periods {
            for line in lines(prices, usage) {
                bill.total = bill.total.saturating_add(line.amount);
                bill.add(line);
            }
            for (mode, sum) in &mut bill.otherwise {
                *sum = sum.saturating_add(total(&lines(prices, &usage.as_if(*mode))));
            }
        }
        bill
    }

    fn add(&mut self, line: Line) {
        match self.lines.iter_mut().find(|other| other.item == line.item) {
            Some(same) => {
                same.quantity = same.quantity.saturating_add(line.quantity);
                same.amount = same.amount.saturating_add(line.amount);
            }
            None => self.lines.push(line),
        }
    }
}

fn lines(prices: &Prices, usage: &Usage) -> Vec<Line> {
    let held = usage.iter().map(|(mode, place, quantity)| {
        let amount = per(quantity, price_at(places(prices, mode), place), GIB_HOUR);
        Line { item: Item::Held(mode, place), quantity, amount }
    });
    let conversions = u128::from(usage.conversions);
    let once = [
        Line { item: Item::Conversions, quantity: conversions, amount: per(conversions, prices.conversion, 1) },
        Line {
            item: Item::PagesMoved,
            quantity: usage.pages_moved,
            amount: per(usage.pages_moved, prices.moved_gib, u128::from(Pages::mib(1024).0)),
        },
    ];
    held.chain(once.into_iter().filter(|line| line.quantity > 0)).collect()
}

const fn places(prices: &Prices, mode: Mode) -> &PlacePrices {
    match mode {
        Mode::Pinned => &prices.pinned,
        Mode::Generic => &prices.generic,
        Mode::Soaker => &prices.soaker,
    }
}

/// What was never touched, or is one repeated value, takes nothing and costs nothing.
const fn price_at(prices: &PlacePrices, place: Place) -> u64 {
    match place {
        Place::Untouched | Place::SameFilled => 0,
        Place::Resident => prices.resident,
        Place::Compressed => prices.compressed,
        Place::Ssd => prices.ssd,
        Place::Remote => prices.remote,
        Place::Snapshot => prices.snapshot,
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
    use lucarne_model::{PriceBookId, memory::PagesByPlace};
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
        let bill = Bill::of([(&Prices::default(), &usage)]);
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

    fn book(account: Option<AccountId>, conversion: u64, since: u64, until: Option<u64>) -> PriceBook {
        let prices = Prices { conversion, ..Prices::default() };
        let until = until.map(Moment::from_secs);
        PriceBook { id: PriceBookId::from_bits(1), account, prices, since: Moment::from_secs(since), until }
    }

    #[test]
    fn an_account_has_its_own_book_or_the_usual_one_and_before_any_the_built_in_prices() {
        let (ours, theirs) = (AccountId::from_bits(1), AccountId::from_bits(2));
        let books = PriceBooks::new(vec![book(None, 7, 10, None), book(Some(ours), 8, 20, Some(30))]);
        let at = |account, secs| books.at(account, Moment::from_secs(secs)).conversion;
        assert_eq!([5, 15, 25, 30].map(|secs| at(ours, secs)), [1_000, 7, 8, 7]);
        assert_eq!([5, 15, 25, 30].map(|secs| at(theirs, secs)), [1_000, 7, 7, 7]);
        assert_eq!(books.changes(ours), [10, 20, 30].map(Moment::from_secs));
        assert_eq!(books.changes(theirs), [Moment::from_secs(10)]);
    }

    #[test]
    fn what_was_used_before_a_change_keeps_its_price() {
        let mut usage = Usage::default();
        usage.add(&Charge::Converted { from: Mode::Soaker, to: Mode::Generic });
        let (before, after) = (book(None, 7, 0, None).prices, book(None, 9, 0, None).prices);
        let bill = Bill::of([(&before, &usage), (&after, &usage)]);
        assert_eq!(bill.lines, [Line { item: Item::Conversions, quantity: 2, amount: 16 }]);
        assert_eq!(bill.total, 16);
    }

    proptest! {
        /// However finely usage is told, the bill is the same: time may be cut anywhere.
        #[test]
        fn how_often_usage_is_told_does_not_change_the_bill(
            cuts in proptest::collection::vec(1_u64..100_000, 1..40), pages in 1_u64..(1 << 24), price in any::<u64>(),
        ) {
            let prices = Prices { generic: PlacePrices { resident: price, ..PlacePrices::default() }, ..Prices::default() };
            let (mut often, mut once) = (Usage::default(), Usage::default());
            cuts.iter().for_each(|millis| often.add(&held(Mode::Generic, *millis, Pages(pages), Pages::ZERO)));
            once.add(&held(Mode::Generic, cuts.iter().sum(), Pages(pages), Pages::ZERO));
            prop_assert_eq!(Bill::of([(&prices, &often)]), Bill::of([(&prices, &once)]));
        }

        #[test]
        fn rounding_is_to_the_nearest(quantity in 0_u128..(1 << 60), price in 0_u64..(1 << 30)) {
            let exact = quantity * u128::from(price);
            let amount = per(quantity, price, GIB_HOUR);
            prop_assert!(exact.abs_diff(amount * GIB_HOUR) <= GIB_HOUR / 2);
        }
    }
}
