//! Which of a VM's pages are in the host's memory, how hot they are, and which leave next.
//!
//! Owns one octet for each page of the guest (0.025 % of its memory) and the order of leaving. Scanning, moving and
//! fetching is the pager's; how hot a page is, is a [`Policy`]'s; how many must leave is the governor's.
//!
//! The pager tells of all that happens: [`scanned`](Residency::scanned), [`arrived`](Residency::arrived),
//! [`left`](Residency::left), [`discarded`](Residency::discarded). What [`victims`](Residency::victims) returns has left,
//! unless [`kept`](Residency::kept) says otherwise.

use lucarne_model::{Pages, memory::EvictionPolicy};

use crate::{
    policy::{self, Arrival, HOTTEST, Heat, Occasion, Policy},
    refaults::{NEVER, Refaults, Stamp},
    run::{Run, Scan, add_page},
};

/// Set in the octet of a page that is here; the other bits are its heat. In that of a page that is away, they are the
/// stamp of its leaving.
const HERE: u8 = 0x80;

/// A VM's pages and the policy that chooses among them.
#[derive(Debug)]
pub struct Residency {
    resident: ResidentPages,
    policy: Box<dyn Policy>,
}

impl Residency {
    /// A VM of `memory`, none of it here yet. `seed` is for a policy that draws.
    pub fn new(memory: Pages, policy: EvictionPolicy, seed: u64) -> Self {
        Self::with(memory, policy::named(policy, seed))
    }

    pub fn with(memory: Pages, policy: Box<dyn Policy>) -> Self {
        Self { resident: ResidentPages::new(memory), policy }
    }

    /// Goes on by another policy. Heat is kept, and means what the new one takes it for until scans have told it more.
    pub fn change_policy(&mut self, policy: EvictionPolicy, seed: u64) {
        self.policy = policy::named(policy, seed);
    }

    /// Whether scans at refaults help the policy.
    pub fn scans_at_refaults(&self) -> bool {
        self.policy.scans_at_refaults()
    }

    pub const fn resident(&self) -> Pages {
        Pages(self.resident.here)
    }

    /// Pages here that have not been touched for many scans.
    pub fn idle(&self) -> Pages {
        let idle = usize::from(self.policy.idle_at().min(HOTTEST));
        Pages(self.resident.by_heat[..=idle].iter().sum())
    }

    pub const fn refaults(&self) -> &Refaults {
        &self.resident.refaults
    }

    pub fn is_resident(&self, page: u64) -> bool {
        self.resident.contains(page)
    }

    /// Whether a page has been here and has left.
    pub fn has_left(&self, page: u64) -> bool {
        self.resident.stamp(page).is_some_and(|stamp| stamp != NEVER)
    }

    /// Whether two pages have left at about the same time.
    pub fn left_together(&self, page: u64, other: u64) -> bool {
        self.has_left(page) && self.resident.stamp(page) == self.resident.stamp(other)
    }

    /// Takes the access bits of a scan. Pages that are away stay so, whatever their bits say.
    pub fn scanned(&mut self, scan: Scan<'_>, occasion: Occasion) {
        // The policy is asked once for each heat and not once for each page.
        let heat = |heat, accessed| self.policy.after_scan(heat as Heat, accessed, occasion).min(HOTTEST);
        let after = |accessed| std::array::from_fn(|before| heat(before, accessed));
        let (idle, touched): ([Heat; 128], [Heat; 128]) = (after(false), after(true));
        for page in self.resident.numbers(scan.run) {
            if let Some(heat) = self.resident.heat(page) {
                let table = if scan.was_accessed(page) { &touched } else { &idle };
                self.resident.set_heat(page, table[usize::from(heat)]);
            }
        }
    }

    /// Pages that are here now. Those that were here already stay as they are.
    pub fn arrived(&mut self, run: Run, why: Arrival) {
        let heat = self.policy.on_arrival(why).min(HOTTEST);
        for page in self.resident.numbers(run) {
            self.resident.put(page, heat, why == Arrival::Wanted);
        }
    }

    /// Victims that could not leave after all, for instance because the guest wrote to them meanwhile.
    pub fn kept(&mut self, run: Run) {
        self.arrived(run, Arrival::Found);
    }

    /// Pages that left otherwise than as victims: with a hibernation, a migration, or before this pager began.
    pub fn left(&mut self, run: Run) {
        for page in self.resident.numbers(run) {
            self.resident.take(page);
        }
    }

    /// Pages that the guest gave up: not here any more, and not missed.
    pub fn discarded(&mut self, run: Run) {
        for page in self.resident.numbers(run) {
            self.resident.forget(page);
        }
    }

    /// Who leaves next, about `wanted` pages in runs, in the order in which they should go. Ask for many at once: a call
    /// goes over the octets of the whole guest, if it must.
    pub fn victims(&mut self, wanted: Pages) -> Vec<Run> {
        self.policy.choose(&mut self.resident, wanted.0)
    }
}

/// An octet for each page, counts of them, and the clock's hand.
#[derive(Debug)]
pub struct ResidentPages {
    octets: Vec<u8>,
    here: u64,
    by_heat: [u64; 128],
    hand: u64,
    refaults: Refaults,
}

impl ResidentPages {
    fn new(memory: Pages) -> Self {
        let octets = vec![NEVER; usize::try_from(memory.0).unwrap_or(usize::MAX)];
        Self { octets, here: 0, by_heat: [0; 128], hand: 0, refaults: Refaults::new(memory) }
    }

    /// Pages of the guest, here or away.
    pub const fn len(&self) -> u64 {
        self.octets.len() as u64
    }
    pub const fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }
    pub fn contains(&self, page: u64) -> bool {
        self.heat(page).is_some()
    }

    /// The first page that is here, from `page` on and round.
    pub fn next_from(&self, page: u64) -> Option<u64> {
        let (before, after) = self.octets.split_at_checked(page as usize)?;
        let is_here = |octet: &u8| octet & HERE != 0;
        let found = after.iter().position(is_here).map(|at| page + at as u64);
        found.or_else(|| before.iter().position(is_here).map(|at| at as u64))
    }

    /// Takes a page away: it has left.
    pub fn take(&mut self, page: u64) {
        let Some(heat) = self.heat(page) else { return };
        let (stamp, sweep) = self.refaults.leave();
        self.here -= 1;
        self.by_heat[usize::from(heat)] -= 1;
        self.octets[page as usize] = stamp;
        if sweep {
            let refaults = &self.refaults;
            let away = self.octets.iter_mut().filter(|octet| **octet & HERE == 0);
            away.for_each(|octet| *octet = refaults.age(*octet));
        }
    }

    /// Takes pages that are as cold as any, as the hand comes to them.
    pub fn take_coldest(&mut self, wanted: u64) -> Vec<Run> {
        let wanted = wanted.min(self.here);
        let limit = HERE | self.limit_for(wanted);
        let mut runs = Vec::new();
        let mut left = wanted;
        // The second round is for what lay before the hand; pages of the limit suffice for `wanted`, so two are enough.
        for _ in 0..2 * self.octets.len() {
            if left == 0 {
                break;
            }
            let page = self.hand;
            self.hand = if page + 1 < self.len() { page + 1 } else { 0 };
            if (HERE..=limit).contains(&self.octets[page as usize]) {
                self.take(page);
                add_page(&mut runs, page);
                left -= 1;
            }
        }
        runs
    }

    /// The smallest heat such that `wanted` pages are that cold or colder.
    fn limit_for(&self, wanted: u64) -> Heat {
        let mut sum = 0;
        let enough = self.by_heat.iter().position(|count| {
            sum += count;
            sum >= wanted
        });
        enough.map_or(HOTTEST, |heat| heat as Heat)
    }

    fn numbers(&self, run: Run) -> std::ops::Range<u64> {
        run.first.min(self.len())..run.end().min(self.len())
    }

    fn heat(&self, page: u64) -> Option<Heat> {
        let octet = *self.octets.get(page as usize)?;
        (octet & HERE != 0).then_some(octet & !HERE)
    }

    fn stamp(&self, page: u64) -> Option<Stamp> {
        self.octets.get(page as usize).copied().filter(|octet| octet & HERE == 0)
    }

    fn set_heat(&mut self, page: u64, heat: Heat) {
        let octet = &mut self.octets[page as usize];
        self.by_heat[usize::from(*octet & !HERE)] -= 1;
        self.by_heat[usize::from(heat)] += 1;
        *octet = HERE | heat;
    }

    fn put(&mut self, page: u64, heat: Heat, wanted: bool) {
        let octet = &mut self.octets[page as usize];
        if *octet & HERE != 0 {
            return;
        }
        if wanted {
            self.refaults.come_back(*octet);
        }
        *octet = HERE | heat;
        self.here += 1;
        self.by_heat[usize::from(heat)] += 1;
    }

    fn forget(&mut self, page: u64) {
        if let Some(heat) = self.heat(page) {
            self.here -= 1;
            self.by_heat[usize::from(heat)] -= 1;
        }
        self.octets[page as usize] = NEVER;
    }
}
