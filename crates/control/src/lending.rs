//! Memory that hosts lend each other, as the controller gives it out.
//!
//! Owns the round in which all that hosts told is looked at, and where lenders are reached. Who lends to whom is decided in
//! the room `memory`. Leases are in memory only: a controller that starts anew gives them anew, and what was brought under
//! the old ones is dropped. That costs hosts some reads of their disks, and no page: what is lent keeps copies.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lucarne_api::Problem;
use lucarne_memory::lending::{Leases, Standing};
use lucarne_model::{DesiredLease, HostId, Lending, Moment, actual::HostState};

use crate::{Controller, records::HostRecord, store::Scope};

#[derive(Debug, Default)]
pub(crate) struct Lendings(Mutex<Given>);

#[derive(Debug, Default)]
struct Given {
    leases: Leases,
    addresses: BTreeMap<HostId, SocketAddr>,
}

/// A host that is up, and what it told.
struct Told {
    host: HostId,
    lending: Lending,
    /// Where it takes pages; none: it lends nothing.
    address: Option<SocketAddr>,
}

impl Lendings {
    fn lock(&self) -> MutexGuard<'_, Given> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those in which the host lends or borrows.
    pub(crate) fn of(&self, host: HostId) -> Vec<DesiredLease> {
        let given = self.lock();
        let desired = |lease: &lucarne_model::Lease| {
            Some(DesiredLease { lease: *lease, address: *given.addresses.get(&lease.lender)? })
        };
        given.leases.of(host).filter_map(desired).collect()
    }

    /// Takes what hosts told; returns those that are to hear of a change.
    fn step(&self, now: Moment, told: &[Told]) -> BTreeSet<HostId> {
        let given = &mut *self.lock();
        let standing = |told: &Told| {
            let lendable = told.address.map_or_else(Default::default, |_| told.lending.lendable);
            Standing { host: told.host, lendable, wanted: told.lending.wanted }
        };
        let mut changed = given.leases.step(now, &told.iter().map(standing).collect::<Vec<_>>());
        let addresses: BTreeMap<HostId, SocketAddr> =
            told.iter().filter_map(|told| Some((told.host, told.address?))).collect();
        let before = std::mem::replace(&mut given.addresses, addresses);
        let moved = given.addresses.iter().filter(|(host, address)| before.get(host) != Some(address));
        for (lender, _) in moved {
            changed.extend(given.leases.of(*lender).flat_map(|lease| [lease.lender, lease.borrower]));
        }
        changed
    }
}

/// One round: hosts whose leases are others now are told so.
pub(crate) async fn settle(controller: &Controller) -> Result<(), Problem> {
    let hosts = controller.store.read(|tx| tx.list::<HostRecord>(Scope::Everything)).await?;
    let now = crate::clock::now();
    let is_up = |record: &&HostRecord| controller.fleet.state(record.host.id, record.draining, now) == HostState::Up;
    let told: Vec<Told> = hosts.iter().filter(is_up).filter_map(|record| told(controller, record)).collect();
    for host in controller.lending.step(now, &told) {
        tracing::info!(%host, leases = ?controller.lending.of(host), "memory is lent anew");
        controller.store.changes().touch(&host.to_string());
    }
    Ok(())
}

/// None of a host that has not told of its memory yet.
fn told(controller: &Controller, record: &HostRecord) -> Option<Told> {
    let host = &record.host;
    let lending = controller.fleet.host_memory(host.id)?.lending;
    let address = lending.port.map(|port| SocketAddr::new(host.description.address, port));
    Some(Told { host: host.id, lending, address })
}

#[cfg(test)]
mod tests {
    use lucarne_model::Bytes;

    use super::*;

    fn told(host: u128, lendable: u64, wanted: u64, port: Option<u16>) -> Told {
        let lending = Lending { lendable: Bytes::mib(lendable), wanted: Bytes::mib(wanted), ..Lending::default() };
        let address = port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Told { host: HostId::from_bits(host), lending, address }
    }

    #[test]
    fn both_hosts_of_a_lease_hear_of_it_and_of_a_lender_that_moved() {
        let (lendings, both) = (Lendings::default(), BTreeSet::from([HostId::from_bits(1), HostId::from_bits(2)]));
        let hosts = |port| [told(1, 0, 64, None), told(2, 512, 0, port), told(3, 9000, 0, None)];
        assert_eq!(lendings.step(Moment(1), &hosts(Some(7))), both);
        assert_eq!(lendings.of(HostId::from_bits(1)), lendings.of(HostId::from_bits(2)));
        assert_eq!(lendings.of(HostId::from_bits(1))[0].address.port(), 7);
        assert!(lendings.of(HostId::from_bits(3)).is_empty(), "it takes no pages");
        assert_eq!(lendings.step(Moment(2), &hosts(Some(7))), BTreeSet::new());
        assert_eq!(lendings.step(Moment(3), &hosts(Some(8))), both);
        assert_eq!(lendings.of(HostId::from_bits(1))[0].address.port(), 8);
        assert_eq!(lendings.step(Moment(4), &hosts(None)), both);
        assert!(lendings.of(HostId::from_bits(1)).is_empty());
    }
}
