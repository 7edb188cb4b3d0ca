//! What accounts used: page-time by mode and place, and what happened once.
//!
//! Owns the entries and their sums, exact to the page and the millisecond. Where entries are kept is
//! [`ledger`](crate::ledger)'s matter, what they cost [`price`](crate::price)'s.

use std::collections::BTreeMap;

use lucarne_model::{
    AccountId, HostId, InstanceId, Moment, Pages,
    memory::{MemoryMode, PagesByPlace, Place},
};
use serde::{Deserialize, Serialize};

use crate::settings::Keeping;

/// How a VM's memory is kept, as far as it is priced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Generic, and none of it leaves.
    Pinned,
    Generic,
    Soaker,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Pinned, Self::Generic, Self::Soaker];

    pub const fn of(keeping: &Keeping) -> Self {
        match keeping.mode {
            MemoryMode::Soaker => Self::Soaker,
            MemoryMode::Generic if keeping.pinned => Self::Pinned,
            MemoryMode::Generic => Self::Generic,
        }
    }
}

/// Something that an account is charged for, as a host tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub host: HostId,
    /// Each host numbers what it tells, upwards: an entry that comes a second time is known by it.
    pub number: u64,
    pub at: Moment,
    pub account: AccountId,
    pub instance: InstanceId,
    pub charge: Charge,
}

/// What it is charged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Charge {
    /// The VM's pages were in these places for so many milliseconds.
    Held { mode: Mode, millis: u64, pages: PagesByPlace },
    /// Its owner changed its mode.
    Converted { from: Mode, to: Mode },
    /// It went to another host, and so many of its pages with it.
    Moved { pages: Pages },
}

/// The sums of an account, or of one of its instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    page_millis: BTreeMap<(Mode, Place), u128>,
    pub conversions: u64,
    pub moves: u64,
    pub pages_moved: u128,
}

impl Usage {
    pub fn add(&mut self, charge: &Charge) {
        match charge {
            Charge::Held { mode, millis, pages } => {
                for place in Place::ALL.into_iter().filter(|place| pages.at(*place) > Pages::ZERO) {
                    let sum = self.page_millis.entry((*mode, place)).or_default();
                    *sum = sum.saturating_add(u128::from(pages.at(place).0) * u128::from(*millis));
                }
            }
            Charge::Converted { .. } => self.conversions += 1,
            Charge::Moved { pages } => {
                self.moves += 1;
                self.pages_moved = self.pages_moved.saturating_add(u128::from(pages.0));
            }
        }
    }

    /// Adds the sums of another.
    pub fn merge(&mut self, other: &Self) {
        for (mode, place, quantity) in other.iter() {
            let sum = self.page_millis.entry((mode, place)).or_default();
            *sum = sum.saturating_add(quantity);
        }
        self.conversions += other.conversions;
        self.moves += other.moves;
        self.pages_moved = self.pages_moved.saturating_add(other.pages_moved);
    }

    /// Page-milliseconds in this mode and place.
    pub fn held(&self, mode: Mode, place: Place) -> u128 {
        self.page_millis.get(&(mode, place)).copied().unwrap_or_default()
    }

    /// All that is not zero, by mode and place.
    pub fn iter(&self) -> impl Iterator<Item = (Mode, Place, u128)> {
        self.page_millis.iter().map(|((mode, place), sum)| (*mode, *place, *sum))
    }

    /// The same page-time in another mode. What is pinned would have been resident, wherever it was.
    pub fn as_if(&self, mode: Mode) -> Self {
        let mut page_millis = BTreeMap::new();
        for (_, place, sum) in self.iter() {
            let place = if mode == Mode::Pinned { Place::Resident } else { place };
            let all: &mut u128 = page_millis.entry((mode, place)).or_default();
            *all = all.saturating_add(sum);
        }
        Self { page_millis, conversions: 0, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_vm_would_have_been_resident_all_the_time() {
        let mut usage = Usage::default();
        let pages = PagesByPlace { resident: Pages(10), ssd: Pages(30), ..PagesByPlace::default() };
        usage.add(&Charge::Held { mode: Mode::Soaker, millis: 500, pages });
        usage.add(&Charge::Converted { from: Mode::Generic, to: Mode::Soaker });
        assert_eq!(usage.held(Mode::Soaker, Place::Ssd), 15_000);
        let pinned = usage.as_if(Mode::Pinned);
        assert_eq!(pinned.iter().collect::<Vec<_>>(), [(Mode::Pinned, Place::Resident, 20_000)]);
        assert_eq!((usage.conversions, pinned.conversions), (1, 0));
        assert_eq!(usage.as_if(Mode::Generic).held(Mode::Generic, Place::Ssd), 15_000);
    }
}
