//! Placement: which host a new instance goes to.
//!
//! Owns the choice, as a function of what the hosts have left and of what the instance needs and wishes. Pure: the numbers
//! come from the store, in the transaction that also takes the room, so that two launches cannot be promised the same.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::cmp::Reverse;

use lucarne_model::{
    Bytes, ErrorCode, HostId, Vcpus,
    actual::{Capacity, HostState},
    instance::PlacementStrategy,
};

/// What an instance takes of a host, or must find there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) vcpus: Vcpus,
    pub(crate) memory: Bytes,
    pub(crate) disk: Bytes,
}

impl Demand {
    pub(crate) fn in_words(self) -> Amounts {
        Amounts(self)
    }
}

/// A host as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) host: HostId,
    pub(crate) state: HostState,
    pub(crate) capacity: Capacity,
    pub(crate) used: Capacity,
    /// What the instance must find there to start. It differs between hosts, for they do not all promise memory twice.
    pub(crate) demand: Demand,
    /// Whether it has proved its TPM.
    pub(crate) proved: bool,
    /// Instances there that are to be spread from, or packed with, the new one.
    pub(crate) companions: u32,
}

/// Which host is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// This host or none: asked for by the user, or where the instance's volumes lie.
    pub(crate) host: Option<HostId>,
    pub(crate) strategy: PlacementStrategy,
    /// Whether only hosts will do that have proved their TPM.
    pub(crate) proved: bool,
}

/// Why there is no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no host is up, of {enrolled} that are enrolled; `lucarne host list` shows them")]
    NoHostUp { enrolled: usize },
    #[error("the wished host is not known")]
    UnknownHost,
    #[error("the wished host is {}", state_in_words(*.0))]
    HostNotUp(HostState),
    #[error("the wished host has not proved its TPM")]
    WishedNotProved,
    #[error("none of {up} hosts that are up has proved its TPM; `lucarne host list` shows why")]
    NoneProved { up: usize },
    #[error("the wished host has {free} left, which is less than {needed}")]
    HostFull { needed: Amounts, free: Amounts },
    #[error("none of {up} hosts that are up has {needed} left; the emptiest has {most}")]
    NoRoom { up: usize, needed: Amounts, most: Amounts },
}

impl Refusal {
    pub(crate) const fn code(&self) -> ErrorCode {
        match self {
            Self::WishedNotProved | Self::NoneProved { .. } => ErrorCode::HostNotProved,
            _ => ErrorCode::InsufficientInstanceCapacity,
        }
    }
}

/// A demand in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Amounts(Demand);

impl std::fmt::Display for Amounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Demand { vcpus, memory, disk } = self.0;
        write!(f, "{vcpus} vCPUs, {} MiB of memory and {} MiB of disk", memory.as_mib(), disk.as_mib())
    }
}

fn state_in_words(state: HostState) -> &'static str {
    match state {
        HostState::Up => "up",
        HostState::Draining => "draining and takes no new instances",
        HostState::Down => "down",
    }
}

impl Candidate {
    pub(crate) fn free(&self) -> Demand {
        Demand {
            vcpus: Vcpus(self.capacity.vcpus.0.saturating_sub(self.used.vcpus.0)),
            memory: self.capacity.memory - self.used.memory,
            disk: self.capacity.disk - self.used.disk,
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        let (free, demand) = (self.free(), self.demand);
        free.vcpus >= demand.vcpus && free.memory >= demand.memory && free.disk >= demand.disk
    }

    /// Used memory in thousandths of the capacity: hosts of different sizes fill evenly.
    fn fullness(&self) -> u64 {
        let capacity = u128::from(self.capacity.memory.0.max(1));
        (u128::from(self.used.memory.0) * 1000 / capacity) as u64
    }
}

/// Chooses a host that is up and has room.
///
/// *Spread* takes the host with the fewest companions, then the emptiest. *Pack* takes the one with the most companions, then
/// the fullest, so that whole hosts stay free for large instances. Equal hosts are taken in the order of their ids: the same
/// question has the same answer.
pub(crate) fn choose(candidates: &[Candidate], wish: Wish) -> Result<HostId, Refusal> {
    if let Some(wished) = wish.host {
        return wished_host(candidates, wished, wish.proved);
    }
    let up = || candidates.iter().filter(|candidate| candidate.state == HostState::Up);
    let will_do = || up().filter(|candidate| candidate.proved || !wish.proved);
    let fitting = will_do().filter(|candidate| candidate.has_room());
    let chosen = match wish.strategy {
        PlacementStrategy::Spread => fitting.min_by_key(|c| (c.companions, c.fullness(), c.host)),
        PlacementStrategy::Pack => fitting.min_by_key(|c| (Reverse(c.companions), Reverse(c.fullness()), c.host)),
    };
    chosen.map(|candidate| candidate.host).ok_or_else(|| {
        match (up().count(), will_do().max_by_key(|c| c.free().memory)) {
            (0, _) => Refusal::NoHostUp { enrolled: candidates.len() },
            (up, None) => Refusal::NoneProved { up },
            (_, Some(most)) => {
                let (needed, most) = (most.demand.in_words(), most.free().in_words());
                Refusal::NoRoom { up: will_do().count(), needed, most }
            }
        }
    })
}

fn wished_host(candidates: &[Candidate], wished: HostId, proved: bool) -> Result<HostId, Refusal> {
    let candidate = candidates.iter().find(|candidate| candidate.host == wished).ok_or(Refusal::UnknownHost)?;
    if candidate.state != HostState::Up {
        return Err(Refusal::HostNotUp(candidate.state));
    }
    if proved && !candidate.proved {
        return Err(Refusal::WishedNotProved);
    }
    if !candidate.has_room() {
        let (needed, free) = (candidate.demand.in_words(), candidate.free().in_words());
        return Err(Refusal::HostFull { needed, free });
    }
    Ok(wished)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate() -> impl Strategy<Value = Candidate> {
        let state = prop_oneof![4 => Just(HostState::Up), 1 => Just(HostState::Draining), 1 => Just(HostState::Down)];
        let amounts = || (0..16u32, 0..16u64, 0..16u64);
        let capacity = |(vcpus, memory, disk): (u32, u64, u64)| Capacity {
            vcpus: Vcpus(vcpus),
            memory: Bytes::mib(memory),
            disk: Bytes::mib(disk),
        };
        (0..40u128, state, amounts(), amounts(), demand(), 0..4u32, any::<bool>()).prop_map(
            move |(id, state, has, used, demand, companions, proved)| {
                let (capacity, used) = (capacity(has), capacity(used));
                Candidate { host: HostId::from_bits(id), state, capacity, used, demand, proved, companions }
            },
        )
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        prop::collection::vec(candidate(), 0..12).prop_map(|mut all| {
            all.sort_by_key(|c| c.host);
            all.dedup_by_key(|c| c.host);
            all
        })
    }

    fn demand() -> impl Strategy<Value = Demand> {
        (0..8u32, 0..8u64, 0..8u64).prop_map(|(vcpus, memory, disk)| Demand {
            vcpus: Vcpus(vcpus),
            memory: Bytes::mib(memory),
            disk: Bytes::mib(disk),
        })
    }

    const SPREAD: Wish = Wish { host: None, strategy: PlacementStrategy::Spread, proved: false };
    const PACK: Wish = Wish { strategy: PlacementStrategy::Pack, ..SPREAD };

    proptest! {
        #[test]
        fn whoever_is_chosen_is_up_and_has_room_and_proved_its_tpm_where_that_is_wanted(
            all in candidates(), pack: bool, proved: bool,
        ) {
            let wish = Wish { proved, ..if pack { PACK } else { SPREAD } };
            let fits = |c: &Candidate| c.state == HostState::Up && c.has_room() && (c.proved || !proved);
            match choose(&all, wish) {
                Ok(host) => prop_assert!(all.iter().any(|c| c.host == host && fits(c))),
                Err(refusal) => {
                    prop_assert!(!all.iter().any(fits));
                    let up = all.iter().any(|c| c.state == HostState::Up);
                    let only_proof_is_missing = up && !all.iter().any(|c| c.state == HostState::Up && (c.proved || !proved));
                    prop_assert_eq!(refusal.code() == ErrorCode::HostNotProved, only_proof_is_missing);
                }
            }
        }

        #[test]
        fn the_order_of_the_hosts_does_not_matter(all in candidates(), pack: bool) {
            let wish = if pack { PACK } else { SPREAD };
            let turned: Vec<_> = all.iter().rev().cloned().collect();
            prop_assert_eq!(choose(&all, wish).ok(), choose(&turned, wish).ok());
        }

        #[test]
        fn spreading_never_takes_a_host_with_more_companions_than_another_that_fits(
            all in candidates(),
        ) {
            if let Ok(host) = choose(&all, SPREAD) {
                let chosen = all.iter().find(|c| c.host == host).unwrap();
                let fewer = |c: &&Candidate| c.companions < chosen.companions;
                prop_assert!(!all.iter().filter(fewer).any(|c| c.state == HostState::Up && c.has_room()));
            }
        }

        #[test]
        fn packing_never_takes_a_host_with_fewer_companions_than_another_that_fits(
            all in candidates(),
        ) {
            if let Ok(host) = choose(&all, PACK) {
                let chosen = all.iter().find(|c| c.host == host).unwrap();
                let more = |c: &&Candidate| c.companions > chosen.companions;
                prop_assert!(!all.iter().filter(more).any(|c| c.state == HostState::Up && c.has_room()));
            }
        }

        #[test]
        fn a_wished_host_is_taken_or_nothing(all in candidates(), wished in 0..40u128) {
            let wished = HostId::from_bits(wished);
            let wish = Wish { host: Some(wished), ..SPREAD };
            match choose(&all, wish) {
                Ok(host) => prop_assert_eq!(host, wished),
                Err(Refusal::UnknownHost) => prop_assert!(all.iter().all(|c| c.host != wished)),
                Err(_) => prop_assert!(all.iter().any(|c| c.host == wished)),
            }
        }
    }

    #[test]
    fn instances_of_a_group_go_to_different_hosts_as_long_as_there_are_any() {
        let empty = |n| Candidate {
            host: HostId::from_bits(n),
            state: HostState::Up,
            capacity: Capacity { vcpus: Vcpus(8), memory: Bytes::gib(8), disk: Bytes::gib(8) },
            used: Capacity::default(),
            demand: Demand { vcpus: Vcpus(1), memory: Bytes::gib(1), disk: Bytes::ZERO },
            proved: true,
            companions: 0,
        };
        let mut hosts = vec![empty(1), empty(2), empty(3)];
        for _ in 0..6 {
            let chosen = choose(&hosts, SPREAD).unwrap();
            let host = hosts.iter_mut().find(|c| c.host == chosen).unwrap();
            host.companions += 1;
            host.used.memory = host.used.memory + host.demand.memory;
        }
        assert!(hosts.iter().all(|c| c.companions == 2));
    }
}
