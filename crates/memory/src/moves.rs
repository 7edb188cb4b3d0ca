//! Who moves to which host for want of memory: what helps at the least cost, one move at a time for each host, and nobody
//! twice in a while.
//!
//! Owns the choice. What a host would rather have elsewhere is said by its [`governor`](crate::governor); where placement
//! would let an instance go, and the move itself, are the controller's.
//!
//! Three things keep instances from going to and fro. A governor wishes only what has lasted; an instance that was moved, or
//! could not be, stays for [`COOLING`]; and nobody goes to a host that wishes anything itself, nor to one that has had a part
//! in a move until [`REST`] is over, because what it tells may be of before.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lucarne_model::{
    HostId, InstanceId, Moment, Pages,
    memory_move::{MoveCause, MoveWish},
};

/// For so long after a move, done or not, an instance is left where it is.
pub const COOLING: Duration = Duration::from_secs(600);
/// For so long after a move a host is left alone.
pub const REST: Duration = Duration::from_secs(30);
/// A host that is gone to must have what is needed, and this part of it more.
const SPARE: u64 = 8;

/// A host that is up, as it told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub host: HostId,
    /// What nobody has there, beyond what its operator keeps unallocated.
    pub free: Pages,
    pub wishes: Vec<MoveWish>,
    /// An instance is on its way to it or from it.
    pub busy: bool,
}

/// An instance of a host that wishes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lodger {
    pub instance: InstanceId,
    pub host: HostId,
    /// What its host has promised it for good; nothing of a soaker.
    pub claim: Pages,
    pub pinned: bool,
    /// Pages that would have to go.
    pub cost: Pages,
    /// When it was moved last, or was to be.
    pub tried: Option<Moment>,
    /// Hosts that placement would let it go to. None of one that cannot move.
    pub ways: BTreeSet<HostId>,
}

/// Something to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub instance: InstanceId,
    pub from: HostId,
    pub to: HostId,
    pub cause: MoveCause,
}

/// What is remembered from step to step. It may be lost: then hosts rest no longer.
#[derive(Clone, Debug, Default)]
pub struct Moves {
    /// When hosts were last seen to have a part in a move.
    busy: BTreeMap<HostId, Moment>,
}

/// One way to help a host: this instance would go, to somewhere with so much.
#[derive(Clone, Copy)]
struct Help<'a> {
    lodger: &'a Lodger,
    needs: Pages,
    cause: MoveCause,
}

impl Moves {
    /// What should be begun now, given all hosts that are up and the instances of those that wish anything. A move that is
    /// not begun is proposed again.
    pub fn step(&mut self, now: Moment, hosts: &[Standing], lodgers: &[Lodger]) -> Vec<Move> {
        self.busy.retain(|_, seen| now < seen.plus(REST));
        self.busy.extend(hosts.iter().filter(|host| host.busy).map(|host| (host.host, now)));
        let mut at_rest: BTreeMap<HostId, &Standing> =
            hosts.iter().filter(|host| !self.busy.contains_key(&host.host)).map(|host| (host.host, host)).collect();
        let mut moves = Vec::new();
        let homes: Vec<HostId> = at_rest.keys().copied().collect();
        for home in homes {
            let Some(standing) = at_rest.get(&home) else { continue };
            let found =
                helps(now, standing, lodgers).into_iter().find_map(|help| Some((help, where_to(help, &at_rest)?)));
            let Some((Help { lodger, cause, .. }, to)) = found else { continue };
            moves.push(Move { instance: lodger.instance, from: home, to, cause });
            for host in [home, to] {
                at_rest.remove(&host);
                self.busy.insert(host, now);
            }
        }
        moves
    }
}

/// What would help the host, the best first: a pinned instance gets what it was promised before others have more room, and
/// that before a soaker wakes; then what costs the least.
fn helps<'a>(now: Moment, home: &Standing, lodgers: &'a [Lodger]) -> Vec<Help<'a>> {
    let is_cool = |lodger: &&Lodger| lodger.tried.is_none_or(|tried| now >= tried.plus(COOLING));
    let here = || lodgers.iter().filter(|lodger| lodger.host == home.host).filter(is_cool);
    let mut helps: Vec<(u8, bool, Help<'a>)> = Vec::new();
    for MoveWish { instance, needs, cause, lacks } in &home.wishes {
        let (needs, cause) = (*needs, *cause);
        if *lacks == Pages::ZERO {
            let named = here().filter(|lodger| lodger.instance == *instance);
            helps.extend(named.map(|lodger| (urgency(cause), false, Help { lodger, needs, cause })));
        } else {
            let others = here().filter(|lodger| lodger.claim > Pages::ZERO && !lodger.pinned);
            helps
                .extend(others.map(|lodger| {
                    (urgency(cause), lodger.claim < *lacks, Help { lodger, needs: lodger.claim, cause })
                }));
        }
    }
    // Of those that do not suffice alone, the one that helps most.
    helps.sort_by_key(|(urgency, falls_short, help)| {
        let least = if *falls_short { Reverse(help.lodger.claim) } else { Reverse(Pages::ZERO) };
        (*urgency, *falls_short, least, help.lodger.cost, help.lodger.instance)
    });
    helps.into_iter().map(|(_, _, help)| help).collect()
}

const fn urgency(cause: MoveCause) -> u8 {
    match cause {
        MoveCause::PinnedBeyondRoom => 0,
        MoveCause::HostShort => 1,
        MoveCause::NothingUnused | MoveCause::Asked | MoveCause::NewSettings => 2,
    }
}

/// The emptiest host that has room for it and wishes nothing itself.
fn where_to(help: Help<'_>, hosts: &BTreeMap<HostId, &Standing>) -> Option<HostId> {
    let needs = Pages(help.needs.0.saturating_add(help.needs.0 / SPARE));
    let there = help.lodger.ways.iter().filter(|host| **host != help.lodger.host).filter_map(|host| hosts.get(host));
    let room = there.filter(|host| host.wishes.is_empty() && host.free >= needs);
    room.max_by_key(|host| (host.free, Reverse(host.host))).map(|host| host.host)
}

#[cfg(test)]
mod tests;
