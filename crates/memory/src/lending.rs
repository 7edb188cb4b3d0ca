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

/// All leases of the cloud. A host borrows from one other at a time, and lends to any number.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    given: BTreeMap<HostId, Lease>,
    epoch: u64,
}

impl Leases {
    /// Those in which `host` lends or borrows.
    pub fn of(&self, host: HostId) -> impl Iterator<Item = &Lease> {
        self.given.values().filter(move |lease| lease.lender == host || lease.borrower == host)
    }

    /// Takes what all hosts told; returns those whose leases are others now.
    pub fn step(&mut self, now: Moment, hosts: &[Standing]) -> BTreeSet<HostId> {
        let before = self.given.clone();
        let offers: BTreeMap<HostId, Bytes> = hosts.iter().map(|host| (host.host, host.offers())).collect();
        let wants: BTreeMap<HostId, Bytes> = hosts.iter().map(|host| (host.host, host.wanted)).collect();
        self.take_back(&offers, &wants);
        for (borrower, wanted) in by_want(&wants) {
            self.give(now, borrower, wanted, &offers);
        }
        let changed = before.iter().filter(|(borrower, lease)| self.given.get(borrower) != Some(lease));
        let given = self.given.iter().filter(|(borrower, lease)| before.get(borrower) != Some(lease));
        changed.chain(given).flat_map(|(_, lease)| [lease.lender, lease.borrower]).collect()
    }

    /// What is not offered or not wanted any more. A want must fall to half of what is lent before any is taken back for it:
    /// pages come and go.
    fn take_back(&mut self, offers: &BTreeMap<HostId, Bytes>, wants: &BTreeMap<HostId, Bytes>) {
        let lent: BTreeMap<HostId, Bytes> =
            self.given.values().map(|lease| (lease.lender, self.lent_by(lease.lender))).collect();
        for (borrower, lease) in &mut self.given {
            let (offered, lent) = (at(offers, lease.lender), at(&lent, lease.lender));
            let wanted = at(wants, *borrower);
            if lent > offered {
                lease.bytes = whole(part(offered, lease.bytes, lent));
            }
            if wanted.0 < lease.bytes.0 / 2 {
                lease.bytes = whole(wanted);
            }
        }
        self.given.retain(|_, lease| lease.bytes >= GRAIN);
    }

    /// Gives a host what it wants, as far as its lender has it; one that has no lender gets the one with the most to spare.
    fn give(&mut self, now: Moment, borrower: HostId, wanted: Bytes, offers: &BTreeMap<HostId, Bytes>) {
        let spare = |lender: HostId| at(offers, lender) - self.lent_by(lender);
        let goal = Bytes(wanted.0.saturating_add(GRAIN.0 - 1));
        if let Some(lease) = self.given.get(&borrower) {
            let more = whole(goal - lease.bytes).min(spare(lease.lender));
            self.given.entry(borrower).and_modify(|lease| lease.bytes = lease.bytes + more);
            return;
        }
        // By the id where they are alike, so that the same hosts get the same leases.
        let lenders = offers.keys().filter(|lender| **lender != borrower);
        let Some(lender) = lenders.copied().max_by_key(|lender| (spare(*lender), *lender)) else { return };
        let bytes = whole(goal).min(spare(lender));
        if bytes >= GRAIN {
            self.epoch = self.epoch.saturating_add(1).max(now.0);
            self.given.insert(borrower, Lease { lender, borrower, bytes, epoch: self.epoch });
        }
    }

    fn lent_by(&self, lender: HostId) -> Bytes {
        self.given.values().filter(|lease| lease.lender == lender).map(|lease| lease.bytes).sum()
    }
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

/// What each VM may have in the memory that its host borrows: by what it has on disk, or there already.
pub fn rooms(lease: Bytes, away: &[Pages]) -> Vec<Pages> {
    let sizes: Vec<u64> = away.iter().map(|pages| pages.0).collect();
    divide(lease.0 / Pages::SIZE, &sizes).into_iter().map(Pages).collect()
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
