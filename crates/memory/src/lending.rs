//! Whose idle memory keeps copies of whose pages: leases between hosts.
//!
//! Owns both decisions. [`Leases`] is the controller's: who lends to whom, and how much. [`Lender`] is each host's own: what
//! of that may be there right now, because a lease is a promise that the lender's guests come before. Bringing pages and
//! dropping them is the pagers'. What is lent holds copies of pages that are on their own host's disk too, so whatever is
//! decided here costs time and never a page.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lucarne_model::{Bytes, HostId, Lease, Moment, Pages};

/// Leases are multiples of it: a lease that follows every page would have hosts told all the time.
pub const GRAIN: Bytes = Bytes::mib(16);

/// A host as it told last. One that is down, or is being emptied, is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub host: HostId,
    /// What it would lend in all.
    pub lendable: Bytes,
    /// What it would borrow in all.
    pub wanted: Bytes,
}

impl Standing {
    /// Who would borrow does not lend: its own VMs have more use for what it has.
    fn offers(&self) -> Bytes {
        if self.wanted < GRAIN { whole(self.lendable) } else { Bytes::ZERO }
    }
}

/// Hosts from which one may borrow at a time.
const LENDERS: usize = 4;

/// All leases of the cloud, by who borrows. A host borrows from few others, from one if one has enough, and lends to any number.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    given: BTreeMap<HostId, Vec<Lease>>,
    epoch: u64,
}

impl Leases {
    fn all(&self) -> impl Iterator<Item = &Lease> {
        self.given.values().flatten()
    }

    /// Those in which `host` lends or borrows.
    pub fn of(&self, host: HostId) -> impl Iterator<Item = &Lease> {
        self.all().filter(move |lease| lease.lender == host || lease.borrower == host)
    }

    /// Takes what all hosts told; returns those whose leases are others now.
    pub fn step(&mut self, now: Moment, hosts: &[Standing]) -> BTreeSet<HostId> {
        let before = self.by_pair();
        let mut spare: BTreeMap<HostId, Bytes> = hosts.iter().map(|host| (host.host, host.offers())).collect();
        let wants: BTreeMap<HostId, Bytes> = hosts.iter().map(|host| (host.host, host.wanted)).collect();
        self.take_back(&spare, &wants);
        for lease in self.all() {
            spare.entry(lease.lender).and_modify(|spare| *spare = *spare - lease.bytes);
        }
        let wants = by_want(&wants);
        loop {
            for (borrower, wanted) in &wants {
                self.give(now, *borrower, *wanted, &mut spare);
            }
            // What one host has left behind may be what another still wants.
            if !wants.iter().any(|(borrower, _)| self.consolidate(*borrower, &mut spare)) {
                break;
            }
        }
        let after = self.by_pair();
        let other = |pair: &&(HostId, HostId)| before.get(*pair) != after.get(*pair);
        before.keys().chain(after.keys()).filter(other).flat_map(|(borrower, lender)| [*borrower, *lender]).collect()
    }

    fn by_pair(&self) -> BTreeMap<(HostId, HostId), Lease> {
        self.all().map(|lease| ((lease.borrower, lease.lender), *lease)).collect()
    }

    /// What is not offered or not wanted any more. A want must fall to half of what is lent before any is taken back for it:
    /// pages come and go.
    fn take_back(&mut self, offers: &BTreeMap<HostId, Bytes>, wants: &BTreeMap<HostId, Bytes>) {
        let mut lent: BTreeMap<HostId, Bytes> = BTreeMap::new();
        for lease in self.all() {
            let lent = lent.entry(lease.lender).or_default();
            *lent = *lent + lease.bytes;
        }
        for (borrower, leases) in &mut self.given {
            for lease in leases.iter_mut() {
                let (offered, lent) = (at(offers, lease.lender), at(&lent, lease.lender));
                if lent > offered {
                    lease.bytes = whole(part(offered, lease.bytes, lent));
                }
            }
            let (wanted, borrowed) = (at(wants, *borrower), sum(leases));
            let mut excess = if wanted.0 < borrowed.0 / 2 { borrowed - whole(wanted) } else { Bytes::ZERO };
            sort(leases);
            for lease in leases.iter_mut().rev() {
                let taken = lease.bytes.min(excess);
                (lease.bytes, excess) = (lease.bytes - taken, excess - taken);
            }
            leases.retain(|lease| lease.bytes >= GRAIN);
        }
        self.given.retain(|_, leases| !leases.is_empty());
    }

    /// Gives a host what it wants: by those who lend to it already, as far as they have it, and then by whoever has the most to
    /// spare.
    fn give(&mut self, now: Moment, borrower: HostId, wanted: Bytes, spare: &mut BTreeMap<HostId, Bytes>) {
        let leases = self.given.entry(borrower).or_default();
        let mut missing = whole(Bytes(wanted.0.saturating_add(GRAIN.0 - 1))) - sum(leases);
        sort(leases);
        for lease in leases.iter_mut() {
            lease.bytes = lease.bytes + take(spare, lease.lender, &mut missing);
        }
        while missing >= GRAIN && leases.len() < LENDERS {
            let is_other = |lender: &HostId| *lender != borrower && leases.iter().all(|lease| lease.lender != *lender);
            // By the id where they are alike, so that the same hosts get the same leases.
            let others = spare.iter().filter(|(lender, _)| is_other(lender));
            let Some((lender, _)) = others.max_by_key(|(lender, spare)| (**spare, **lender)) else { break };
            let lender = *lender;
            let bytes = take(spare, lender, &mut missing);
            if bytes < GRAIN {
                break;
            }
            self.epoch = self.epoch.saturating_add(1).max(now.0);
            leases.push(Lease { lender, borrower, bytes, epoch: self.epoch });
        }
        self.given.retain(|_, leases| !leases.is_empty());
    }

    /// Has a borrower's smallest lease taken over by another host that lends to it, when one has twice that to spare: so much
    /// that the next change there does not drive it out again. Whether that was so.
    fn consolidate(&mut self, borrower: HostId, spare: &mut BTreeMap<HostId, Bytes>) -> bool {
        let Some(leases) = self.given.get_mut(&borrower) else { return false };
        sort(leases);
        let Some((smallest, others)) = leases.split_last_mut() else { return false };
        let has_room = |lease: &&mut Lease| at(spare, lease.lender).0 / 2 >= smallest.bytes.0;
        let Some(larger) = others.iter_mut().find(has_room) else { return false };
        larger.bytes = larger.bytes + smallest.bytes;
        spare.entry(larger.lender).and_modify(|spare| *spare = *spare - smallest.bytes);
        spare.entry(smallest.lender).and_modify(|spare| *spare = *spare + smallest.bytes);
        leases.pop();
        true
    }
}

/// What a host has to spare of what is missing, in whole grains; it is neither afterwards.
fn take(spare: &mut BTreeMap<HostId, Bytes>, lender: HostId, missing: &mut Bytes) -> Bytes {
    let Some(spare) = spare.get_mut(&lender) else { return Bytes::ZERO };
    let taken = whole((*missing).min(*spare));
    (*missing, *spare) = (*missing - taken, *spare - taken);
    taken
}

/// The largest first.
fn sort(leases: &mut [Lease]) {
    leases.sort_by_key(|lease| (std::cmp::Reverse(lease.bytes), lease.epoch));
}

fn sum(leases: &[Lease]) -> Bytes {
    leases.iter().map(|lease| lease.bytes).sum()
}

/// Those who want anything, the most first.
fn by_want(wants: &BTreeMap<HostId, Bytes>) -> Vec<(HostId, Bytes)> {
    let mut wants: Vec<_> =
        wants.iter().filter(|(_, want)| **want >= GRAIN).map(|(host, want)| (*host, *want)).collect();
    wants.sort_by_key(|(host, want)| (std::cmp::Reverse(*want), *host));
    wants
}

fn at(amounts: &BTreeMap<HostId, Bytes>, host: HostId) -> Bytes {
    amounts.get(&host).copied().unwrap_or_default()
}

/// Whole grains of it.
const fn whole(bytes: Bytes) -> Bytes {
    Bytes(bytes.0 - bytes.0 % GRAIN.0)
}

/// `whole * share / all`.
fn part(whole: Bytes, share: Bytes, all: Bytes) -> Bytes {
    Bytes((u128::from(whole.0) * u128::from(share.0) / u128::from(all.0.max(1))) as u64)
}

/// Cuts `whole` into parts that are to each other as `sizes` are. Their sum is `whole`, to the last one; nothing where all
/// sizes are zero.
pub fn divide(whole: u64, sizes: &[u64]) -> Vec<u64> {
    // More than any memory is: the products below fit, whatever sizes are said.
    let size = |size: &u64| u128::from((*size).min(1 << 56));
    let all: u128 = sizes.iter().map(size).sum();
    let mut before = 0_u128;
    let part = |given: &u64| {
        let at = |sizes: u128| u128::from(whole) * sizes / all.max(1);
        let from = at(before);
        before += size(given);
        (at(before) - from) as u64
    };
    sizes.iter().map(part).collect()
}

/// What each VM may have under each lease of its host, by what it has on disk or there already. Laid in a row, VMs beside
/// leases, so that few of them have their pages in more places than one, and those all have that do not fit into one.
pub fn rooms(leases: &[Bytes], away: &[Pages]) -> Vec<Vec<Pages>> {
    let leases: Vec<u64> = leases.iter().map(|lease| lease.0 / Pages::SIZE).collect();
    let sizes: Vec<u64> = away.iter().map(|pages| pages.0).collect();
    let mut left = leases.clone();
    let mut lay = |mut room: u64| {
        let take = |left: &mut u64| {
            let taken = room.min(*left);
            (room, *left) = (room - taken, *left - taken);
            Pages(taken)
        };
        left.iter_mut().map(take).collect()
    };
    divide(leases.iter().sum(), &sizes).into_iter().map(&mut lay).collect()
}

/// One host's own word on what it lends.
#[derive(Clone, Copy, Debug)]
pub struct Lender {
    /// The most that the operator lets it lend.
    limit: Bytes,
    /// What stays free beside.
    reserve: Bytes,
    /// What may be there now.
    allowed: Bytes,
}

/// What is lent is taken back at most so fast, in a second, while the reserve lasts.
const TAKEN_BACK: Bytes = Bytes::mib(256);

impl Lender {
    /// One that was given `memory` for guests, and keeps an eighth of it free whatever it lends.
    pub const fn new(limit: Bytes, memory: Bytes) -> Self {
        Self { limit, reserve: Bytes(memory.0 / 8), allowed: Bytes::ZERO }
    }

    /// What it would lend of `idle`: all that guests leave, what is lent already included.
    pub fn lendable(&self, idle: Bytes) -> Bytes {
        (idle - self.reserve).min(self.limit)
    }

    /// What may be there from now on. More at once; less bit by bit, but never more than is idle.
    pub fn step(&mut self, span: Duration, idle: Bytes) -> Bytes {
        let least = self.lendable(idle);
        let taken = u128::from(TAKEN_BACK.0) * span.as_millis() / 1000;
        let gradual = self.allowed - Bytes(u64::try_from(taken).unwrap_or(u64::MAX));
        self.allowed = least.max(gradual.min(idle).min(self.limit));
        self.allowed
    }
}

/// What each lease may have of what is allowed now.
pub fn quotas(leases: &[Lease], allowed: Bytes) -> Vec<Bytes> {
    let sizes: Vec<u64> = leases.iter().map(|lease| lease.bytes.0).collect();
    let promised: Bytes = leases.iter().map(|lease| lease.bytes).sum();
    divide(allowed.min(promised).0, &sizes).into_iter().map(Bytes).collect()
}

#[cfg(test)]
mod tests;
