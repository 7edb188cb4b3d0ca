//! The copies that a lender keeps: in a file in memory, within each borrower's quota, until it takes the memory back.
//!
//! Owns which copy lies where, and which go first: the oldest of a borrower that has more than it may. Every page that is
//! freed is punched out at once, so that what is lent is what the file takes. Who a borrower is was proved before.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs::File,
    io,
    os::unix::fs::FileExt,
};

use lucarne_model::{HostId, InstanceId, Pages};
use rustix::fs::{FallocateFlags, fallocate};

use super::Quota;
use crate::{
    page::{PAGE, Page},
    wire::{Brought, GivenUp, NAMES, Refusal},
};

/// Whose copies: a VM of a host.
pub(super) type Owner = (HostId, InstanceId);

#[derive(Debug)]
pub(super) struct Shelf {
    file: File,
    borrowers: BTreeMap<HostId, Borrower>,
    /// Places in the file that are free, below `next`.
    free: Vec<u32>,
    next: u32,
}

#[derive(Debug, Default)]
struct Borrower {
    epoch: u64,
    quota: u64,
    held: u64,
    machines: HashMap<InstanceId, Machine>,
    /// Copies in the order in which they came; some are gone by now.
    oldest: VecDeque<(InstanceId, u64)>,
}

#[derive(Debug, Default)]
struct Machine {
    session: u64,
    copies: HashMap<u64, Kept>,
    given_up: Vec<GivenUp>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    page: u32,
    at: u32,
}

impl Shelf {
    pub(super) const fn new(file: File) -> Self {
        Self { file, borrowers: BTreeMap::new(), free: Vec::new(), next: 0 }
    }

    /// These are the leases from now on. Copies of others, and of older epochs, are dropped; of a borrower that has more
    /// than its quota the oldest.
    pub(super) fn set_quotas(&mut self, quotas: &[Quota]) {
        let goes_on = |host: &HostId, one: &Borrower| {
            quotas.iter().any(|quota| quota.borrower == *host && quota.epoch == one.epoch)
        };
        let over: Vec<HostId> =
            self.borrowers.iter().filter(|(host, one)| !goes_on(host, one)).map(|(host, _)| *host).collect();
        for host in over {
            let Some(gone) = self.borrowers.remove(&host) else { continue };
            gone.machines.values().flat_map(|machine| machine.copies.values()).for_each(|kept| self.release(kept.at));
        }
        for quota in quotas {
            let borrower = self.borrowers.entry(quota.borrower).or_default();
            (borrower.epoch, borrower.quota) = (quota.epoch, quota.pages.0);
            self.drop_oldest(quota.borrower);
        }
    }

    fn drop_oldest(&mut self, host: HostId) {
        loop {
            let Some(borrower) = self.borrowers.get_mut(&host) else { return };
            if borrower.held <= borrower.quota {
                return;
            }
            let Some((instance, generation)) = borrower.oldest.pop_front() else { return };
            let Some(machine) = borrower.machines.get_mut(&instance) else { continue };
            let Some(kept) = machine.copies.remove(&generation) else { continue };
            machine.given_up.push(GivenUp { page: kept.page, generation });
            borrower.held -= 1;
            self.release(kept.at);
        }
    }

    /// Whether this host has a lease of this epoch.
    pub(super) fn has_lease(&self, host: HostId, epoch: u64) -> bool {
        self.borrowers.get(&host).is_some_and(|borrower| borrower.epoch == epoch)
    }

    /// Begins a session of a VM: what an earlier one brought is dropped.
    pub(super) fn begin(&mut self, (host, instance): Owner, epoch: u64, session: u64) -> Result<(), Refusal> {
        if !self.has_lease(host, epoch) {
            return Err(Refusal::NoLease);
        }
        self.forget((host, instance));
        let machine = Machine { session, ..Machine::default() };
        let borrower = self.borrowers.entry(host).or_default();
        borrower.machines.insert(instance, machine);
        Ok(())
    }

    /// The VM's copies, if they are of this session.
    fn machine(&mut self, (host, instance): Owner, session: u64) -> Result<&mut Machine, Refusal> {
        let borrower = self.borrowers.get_mut(&host).ok_or(Refusal::NoLease)?;
        let machine = borrower.machines.get_mut(&instance).filter(|machine| machine.session == session);
        machine.ok_or(Refusal::NoSession)
    }

    pub(super) fn check(&mut self, owner: Owner, session: u64) -> Result<(), Refusal> {
        self.machine(owner, session).map(drop)
    }

    /// Keeps copies until the quota is reached; how many, from the first one on.
    pub(super) fn keep(&mut self, owner: Owner, session: u64, brought: &[Brought]) -> Result<u32, Refusal> {
        self.check(owner, session)?;
        let mut taken = 0;
        for copy in brought {
            let has_room = self.borrowers.get(&owner.0).is_some_and(|borrower| borrower.held < borrower.quota);
            let Some(at) = Some(()).filter(|()| has_room).and_then(|()| self.take()) else { break };
            if let Err(error) = self.file.write_all_at(&copy.sealed.0, place(at)) {
                tracing::warn!(%error, "a copy could not be kept");
                self.release(at);
                break;
            }
            let kept = Kept { page: copy.page, at };
            let before = self.machine(owner, session)?.copies.insert(copy.generation, kept);
            let borrower = self.borrowers.entry(owner.0).or_default();
            borrower.oldest.push_back((owner.1, copy.generation));
            match before {
                // Named twice: the later one counts.
                Some(before) => self.release(before.at),
                None => borrower.held += 1,
            }
            taken += 1;
        }
        self.tidy(owner.0);
        Ok(taken)
    }

    /// Copies of the VM that were dropped since the last time; the rest is told the next time.
    pub(super) fn given_up(&mut self, owner: Owner, session: u64) -> Result<Vec<GivenUp>, Refusal> {
        let machine = self.machine(owner, session)?;
        let count = machine.given_up.len().min(NAMES);
        Ok(machine.given_up.drain(..count).collect())
    }

    pub(super) fn free(&mut self, owner: Owner, session: u64, generations: &[u64]) -> Result<(), Refusal> {
        for generation in generations {
            let Some(kept) = self.machine(owner, session)?.copies.remove(generation) else { continue };
            self.borrowers.entry(owner.0).or_default().held -= 1;
            self.release(kept.at);
        }
        self.tidy(owner.0);
        Ok(())
    }

    pub(super) fn fetch(
        &mut self,
        owner: Owner,
        session: u64,
        generations: &[u64],
    ) -> Result<Vec<Option<Page>>, Refusal> {
        let machine = self.machine(owner, session)?;
        let places: Vec<Option<u32>> =
            generations.iter().map(|generation| Some(machine.copies.get(generation)?.at)).collect();
        let read = |at: u32| -> io::Result<Page> {
            let mut page = Page::ZERO;
            self.file.read_exact_at(&mut page.0, place(at)).map(|()| page)
        };
        Ok(places.into_iter().map(|at| read(at?).ok()).collect())
    }

    /// The session is over: its copies go.
    pub(super) fn end(&mut self, owner: Owner, session: u64) {
        if self.check(owner, session).is_ok() {
            self.forget(owner);
        }
    }

    fn forget(&mut self, (host, instance): Owner) {
        let Some(borrower) = self.borrowers.get_mut(&host) else { return };
        let Some(gone) = borrower.machines.remove(&instance) else { return };
        borrower.held -= gone.copies.len() as u64;
        borrower.oldest.retain(|(of, _)| *of != instance);
        gone.copies.values().for_each(|kept| self.release(kept.at));
    }

    /// What is kept for each borrower.
    pub(super) fn held(&self) -> Vec<(HostId, Pages)> {
        self.borrowers.iter().map(|(host, borrower)| (*host, Pages(borrower.held))).collect()
    }

    fn take(&mut self) -> Option<u32> {
        if let Some(at) = self.free.pop() {
            return Some(at);
        }
        let at = self.next;
        self.next = at.checked_add(1)?;
        Some(at)
    }

    fn release(&mut self, at: u32) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = fallocate(&self.file, flags, place(at), PAGE as u64) {
            tracing::warn!(%error, "memory that was lent cannot be given back");
        }
        self.free.push(at);
    }

    /// Forgets the order of copies that are gone, when there are many of them.
    fn tidy(&mut self, host: HostId) {
        let Some(borrower) = self.borrowers.get_mut(&host) else { return };
        if borrower.oldest.len() as u64 > 2 * borrower.held + 4096 {
            let machines = &borrower.machines;
            borrower.oldest.retain(|(instance, generation)| {
                machines.get(instance).is_some_and(|machine| machine.copies.contains_key(generation))
            });
        }
    }
}

const fn place(at: u32) -> u64 {
    at as u64 * PAGE as u64
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, os::unix::fs::MetadataExt};

    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn shelf() -> Shelf {
        Shelf::new(memfd_create("lent", MemfdFlags::CLOEXEC).unwrap().into())
    }

    fn owner(host: u128, instance: u128) -> Owner {
        (HostId::from_bits(host), InstanceId::from_bits(instance))
    }

    fn quota(host: u128, epoch: u64, pages: u64) -> Quota {
        Quota { borrower: HostId::from_bits(host), epoch, pages: Pages(pages) }
    }

    fn copy(generation: u64) -> Brought {
        let content = generation.wrapping_mul(6_364_136_223_846_793_005).to_le_bytes();
        let sealed = Page(std::array::from_fn(|at| content[at % 8]));
        Brought { page: generation as u32 ^ 5, generation, sealed }
    }

    fn held(shelf: &Shelf) -> u64 {
        shelf.held().iter().map(|(_, pages)| pages.0).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever borrowers do and however quotas change: nobody has more than its quota, what is there is as it was
        /// brought, what is not was freed or is told as given up, and the file takes what is kept and no more.
        #[test]
        fn no_copy_is_another_and_none_goes_untold(steps in prop::collection::vec((0_u8..4, 0_u64..40, 0_u64..30), 1..120)) {
            let (mut shelf, mut there) = (shelf(), [BTreeSet::new(), BTreeSet::new()]);
            let owners = [owner(1, 7), owner(2, 7)];
            let mut quotas = [20, 20];
            let set = |shelf: &mut Shelf, quotas: [u64; 2]| shelf.set_quotas(&[quota(1, 1, quotas[0]), quota(2, 1, quotas[1])]);
            set(&mut shelf, quotas);
            owners.iter().for_each(|owner| shelf.begin(*owner, 1, 9).unwrap());
            for (what, generation, number) in steps {
                let who = generation as usize % 2;
                match what {
                    0 => {
                        let taken = shelf.keep(owners[who], 9, &[copy(generation), copy(generation + 2)]).unwrap();
                        there[who].extend([generation, generation + 2].into_iter().take(taken as usize));
                    }
                    1 => {
                        shelf.free(owners[who], 9, &[generation]).unwrap();
                        there[who].remove(&generation);
                    }
                    2 => {
                        quotas[who] = number;
                        set(&mut shelf, quotas);
                        for gone in shelf.given_up(owners[who], 9).unwrap() {
                            prop_assert!(there[who].remove(&gone.generation) && gone.page == copy(gone.generation).page);
                        }
                    }
                    _ => {
                        let found = shelf.fetch(owners[who], 9, &[generation]).unwrap().remove(0);
                        prop_assert_eq!(found.is_some(), there[who].contains(&generation));
                        prop_assert!(found.is_none_or(|page| page.0 == copy(generation).sealed.0));
                    }
                }
                for (at, (_, pages)) in shelf.held().into_iter().enumerate() {
                    prop_assert_eq!(pages.0, there[at].len() as u64);
                    prop_assert!(pages.0 <= quotas[at]);
                }
                prop_assert_eq!(shelf.file.metadata().unwrap().blocks() * 512, held(&shelf) * PAGE as u64);
            }
        }
    }

    #[test]
    fn a_lease_that_ends_or_is_given_anew_takes_its_copies_with_it() {
        let mut shelf = shelf();
        shelf.set_quotas(&[quota(1, 5, 8), quota(2, 5, 8)]);
        let (ours, theirs) = (owner(1, 7), owner(2, 7));
        for owner in [ours, theirs] {
            shelf.begin(owner, 5, 3).unwrap();
            assert_eq!(shelf.keep(owner, 3, &[copy(1), copy(2)]), Ok(2));
        }
        shelf.set_quotas(&[quota(1, 6, 8), quota(2, 5, 8)]);
        assert_eq!(shelf.fetch(ours, 3, &[1]).unwrap_err(), Refusal::NoSession);
        assert_eq!(shelf.begin(ours, 5, 4), Err(Refusal::NoLease));
        assert!(shelf.fetch(theirs, 3, &[1]).unwrap()[0].is_some());
        shelf.set_quotas(&[]);
        assert_eq!(shelf.fetch(theirs, 3, &[1]).unwrap_err(), Refusal::NoLease);
        assert_eq!(shelf.file.metadata().unwrap().blocks(), 0);
    }

    #[test]
    fn a_session_sees_nothing_of_another() {
        let mut shelf = shelf();
        shelf.set_quotas(&[quota(1, 5, 8), quota(2, 5, 8)]);
        shelf.begin(owner(1, 7), 5, 3).unwrap();
        shelf.begin(owner(2, 7), 5, 3).unwrap();
        assert_eq!(shelf.keep(owner(1, 7), 3, &[copy(1)]), Ok(1));
        assert!(shelf.fetch(owner(2, 7), 3, &[1]).unwrap()[0].is_none(), "the same VM's name from another host");
        assert_eq!(shelf.fetch(owner(1, 8), 3, &[1]).unwrap_err(), Refusal::NoSession);
        assert_eq!(shelf.fetch(owner(1, 7), 4, &[1]).unwrap_err(), Refusal::NoSession);
        shelf.begin(owner(1, 7), 5, 4).unwrap();
        assert!(shelf.fetch(owner(1, 7), 4, &[1]).unwrap()[0].is_none(), "a new session begins with nothing");
        shelf.end(owner(1, 7), 3);
        assert_eq!(shelf.check(owner(1, 7), 4), Ok(()), "the end of an old one is not that of the new one");
    }
}
