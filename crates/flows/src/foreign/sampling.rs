//! Sampling: of how many packets an exporter has counted one.
//!
//! Owns the ways in which that is told, in a flow's own record or in options for all flows of a domain or of one selector,
//! and what is remembered of the latter, within a bound. Rates that hold for one interface alone are passed over.

use std::collections::HashMap;

/// Something that a record says of sampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// One of so many.
    Interval,
    /// So many in a row are counted...
    Counted,
    /// ...and so many then not.
    PassedOver,
    /// So many...
    Size,
    /// ...of so many.
    Population,
    /// Which selector it is about.
    Selector,
}

impl Part {
    /// As v9 and IPFIX number them alike.
    pub(super) const fn of(element: u16) -> Option<Self> {
        Some(match element {
            34 | 50 => Self::Interval,
            305 => Self::Counted,
            306 => Self::PassedOver,
            309 => Self::Size,
            310 => Self::Population,
            48 | 302 => Self::Selector,
            _ => return None,
        })
    }
}

/// What one record says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    interval: Option<u64>,
    counted: Option<u64>,
    passed_over: Option<u64>,
    size: Option<u64>,
    population: Option<u64>,
    selector: Option<u64>,
}

impl Said {
    pub(super) const fn put(&mut self, part: Part, value: u64) {
        let field = match part {
            Part::Interval => &mut self.interval,
            Part::Counted => &mut self.counted,
            Part::PassedOver => &mut self.passed_over,
            Part::Size => &mut self.size,
            Part::Population => &mut self.population,
            Part::Selector => &mut self.selector,
        };
        *field = Some(value);
    }

    /// Packets that one stands for, if the record says enough to know it; rounded.
    fn rate(&self) -> Option<u32> {
        let of = |all: u64, counted: u64| all.checked_add(counted / 2)?.checked_div(counted);
        let in_a_row = || of(self.counted?.checked_add(self.passed_over?)?, self.counted?);
        let by_share = || of(self.population?, self.size?);
        let rate = self.interval.or_else(in_a_row).or_else(by_share)?;
        // 0 is how many say that they do not sample.
        u32::try_from(rate).ok().map(|rate| rate.max(1))
    }
}

/// What an exporter's options have said.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// By domain and selector; without one it holds for all flows of the domain.
    rates: HashMap<(u32, Option<u64>), u32>,
}

impl Rates {
    /// Rates of one exporter that are remembered; further ones are not.
    pub(super) const MOST: usize = 1024;

    /// Takes what options say.
    pub(super) fn learn(&mut self, domain: u32, said: &Said) {
        let key = (domain, said.selector);
        if let Some(rate) = said.rate()
            && (self.rates.len() < Self::MOST || self.rates.contains_key(&key))
        {
            self.rates.insert(key, rate);
        }
    }

    /// Packets that one of a flow's stands for: as the flow says itself, or its selector, or its domain; else 1.
    pub(super) fn of_flow(&self, domain: u32, said: &Said) -> u32 {
        let by_selector = || said.selector.and_then(|_| self.rates.get(&(domain, said.selector)).copied());
        let by_domain = || self.rates.get(&(domain, None)).copied();
        said.rate().or_else(by_selector).or_else(by_domain).unwrap_or(1)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.rates.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(parts: &[(Part, u64)]) -> Said {
        let mut said = Said::default();
        parts.iter().for_each(|(part, value)| said.put(*part, *value));
        said
    }

    #[test]
    fn a_rate_is_told_in_three_ways_and_nonsense_is_none() {
        use Part::{Counted, Interval, PassedOver, Population, Size};
        assert_eq!(said(&[(Interval, 100)]).rate(), Some(100));
        assert_eq!(said(&[(Interval, 0)]).rate(), Some(1));
        assert_eq!(said(&[(Counted, 1), (PassedOver, 999)]).rate(), Some(1000));
        assert_eq!(said(&[(Counted, 2), (PassedOver, 7)]).rate(), Some(5), "nine in two is rounded");
        assert_eq!(said(&[(Size, 1), (Population, 512)]).rate(), Some(512));
        for nonsense in [&[][..], &[(Counted, 0), (PassedOver, 9)], &[(Size, 0), (Population, 1)], &[(Counted, 1)]] {
            assert_eq!(said(nonsense).rate(), None);
        }
        assert_eq!(said(&[(Counted, u64::MAX), (PassedOver, u64::MAX)]).rate(), None);
        assert_eq!(said(&[(Interval, u64::MAX)]).rate(), None);
    }

    #[test]
    fn a_flow_says_it_itself_before_its_selector_and_that_before_its_domain() {
        use Part::{Interval, Selector};
        let mut rates = Rates::default();
        rates.learn(1, &said(&[(Interval, 10)]));
        rates.learn(1, &said(&[(Interval, 20), (Selector, 7)]));
        assert_eq!(rates.of_flow(1, &said(&[])), 10);
        assert_eq!(rates.of_flow(1, &said(&[(Selector, 7)])), 20);
        assert_eq!(rates.of_flow(1, &said(&[(Selector, 8)])), 10);
        assert_eq!(rates.of_flow(1, &said(&[(Selector, 7), (Interval, 30)])), 30);
        assert_eq!(rates.of_flow(2, &said(&[(Selector, 7)])), 1);
    }

    #[test]
    fn a_flood_of_selectors_is_remembered_up_to_a_bound() {
        let mut rates = Rates::default();
        for selector in 0..3 * Rates::MOST as u64 {
            rates.learn(1, &said(&[(Part::Interval, 5), (Part::Selector, selector)]));
        }
        assert_eq!(rates.count(), Rates::MOST);
        rates.learn(1, &said(&[(Part::Interval, 6), (Part::Selector, 0)]));
        assert_eq!(rates.of_flow(1, &said(&[(Part::Selector, 0)])), 6, "those that are known may change");
    }
}
