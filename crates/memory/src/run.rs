//! Neighbouring pages of a guest, and what a scan saw of them.
//!
//! Owns the two shapes in which a pager and a [`Residency`](crate::residency::Residency) speak of pages. A page's number
//! is its offset in the guest's memory in units of [`Pages::SIZE`].

use lucarne_model::Pages;

/// `count` pages from number `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    pub first: u64,
    pub count: u64,
}

impl Run {
    pub const fn new(first: u64, count: u64) -> Self {
        Self { first, count }
    }
    pub const fn one(page: u64) -> Self {
        Self::new(page, 1)
    }
    /// The number after the last.
    pub const fn end(self) -> u64 {
        self.first.saturating_add(self.count)
    }
    pub const fn contains(self, page: u64) -> bool {
        self.first <= page && page < self.end()
    }
    pub const fn pages(self) -> Pages {
        Pages(self.count)
    }
}

/// Adds a page to runs; one that follows the last run makes it longer.
pub fn add_page(runs: &mut Vec<Run>, page: u64) {
    match runs.last_mut() {
        Some(last) if last.end() == page => last.count += 1,
        _ => runs.push(Run::one(page)),
    }
}

/// What a look at the access bits of `run` saw. The bits were cleared by the look, so that the next one sees what was
/// touched in between.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    pub run: Run,
    /// Bit `i % 64` of word `i / 64` is set when page `run.first + i` was touched. Words that are missing are zero.
    pub accessed: &'a [u64],
}

impl Scan<'_> {
    pub fn was_accessed(&self, page: u64) -> bool {
        let bit = page.wrapping_sub(self.run.first);
        let word = usize::try_from(bit / 64).ok().and_then(|at| self.accessed.get(at));
        word.is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_and_others_begin_a_run() {
        let mut runs = Vec::new();
        for page in [4, 5, 6, 9, 8, 10] {
            add_page(&mut runs, page);
        }
        assert_eq!(runs, [Run::new(4, 3), Run::one(9), Run::one(8), Run::one(10)]);
    }

    #[test]
    fn a_scan_knows_only_its_own_pages() {
        let scan = Scan { run: Run::new(100, 70), accessed: &[1, 1 << 5] };
        let seen: Vec<u64> = (0..300).filter(|page| scan.was_accessed(*page)).collect();
        assert_eq!(seen, [100, 169]);
    }
}
