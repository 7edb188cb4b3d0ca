//! The laws of moving, for made-up hosts under loads that come and go; and its stories.

use proptest::prelude::*;

use super::*;
use crate::dice::Dice;

fn host(number: u64) -> HostId {
    HostId::from_bits(u128::from(number) + 1)
}

fn id(number: u64) -> InstanceId {
    InstanceId::from_bits(u128::from(number) + 1)
}

fn standing(number: u64, free: u64, wishes: Vec<MoveWish>) -> Standing {
    Standing { host: host(number), free: Pages::mib(free), wishes, busy: false }
}

fn asleep(number: u64, needs: u64) -> MoveWish {
    MoveWish { instance: id(number), needs: Pages::mib(needs), cause: MoveCause::NothingUnused, lacks: Pages::ZERO }
}

fn short(number: u64, lacks: u64) -> MoveWish {
    let lacks = Pages::mib(lacks);
    MoveWish { instance: id(number), needs: lacks, cause: MoveCause::HostShort, lacks }
}

/// On host 0, with ways to hosts 1 to 3.
fn lodger(number: u64, claim: u64, cost: u64) -> Lodger {
    let (claim, cost) = (Pages::mib(claim), Pages::mib(cost));
    let ways = (1..4).map(host).collect();
    Lodger { instance: id(number), host: host(0), claim, pinned: false, cost, tried: None, ways }
}

const NOW: Moment = Moment::from_secs(10_000);

fn first(hosts: &[Standing], lodgers: &[Lodger]) -> Option<(InstanceId, HostId)> {
    let moves = Moves::default().step(NOW, hosts, lodgers);
    assert!(moves.len() <= 1);
    moves.first().map(|one| (one.instance, one.to))
}

#[test]
fn a_soaker_that_sleeps_goes_where_its_starting_amount_is_free_and_some_more() {
    let soaker = [lodger(1, 0, 50)];
    let with = |free| first(&[standing(0, 5, vec![asleep(1, 80)]), standing(1, free, Vec::new())], &soaker);
    assert_eq!((with(89), with(90)), (None, Some((id(1), host(1)))));
    let wishing = [standing(0, 5, vec![asleep(1, 80)]), standing(1, 900, vec![asleep(7, 1000)])];
    assert_eq!(first(&wishing, &soaker), None, "that host has nothing for its own");
    let unknown = [standing(0, 5, vec![asleep(1, 80)]), standing(4, 900, Vec::new())];
    assert_eq!(first(&unknown, &soaker), None, "placement would not let it go there");
}

#[test]
fn of_the_moves_that_suffice_the_one_with_the_fewest_pages_is_made() {
    let hosts = [standing(0, 0, vec![short(1, 100)]), standing(1, 500, Vec::new()), standing(2, 600, Vec::new())];
    let pinned = Lodger { pinned: true, ..lodger(9, 200, 1) };
    let all = [lodger(1, 100, 100), lodger(2, 300, 60), lodger(3, 90, 5), lodger(4, 0, 5), pinned];
    assert_eq!(first(&hosts, &all), Some((id(2), host(2))));
    assert_eq!(first(&hosts, &all[2..]), Some((id(3), host(2))), "none suffices, and the soaker frees nothing");
    assert_eq!(first(&hosts, &all[3..]), None, "what is pinned stays");
}

#[test]
fn a_pinned_instance_that_is_not_whole_comes_before_soakers() {
    let beyond = MoveWish { cause: MoveCause::PinnedBeyondRoom, ..asleep(1, 128) };
    let hosts = [standing(0, 0, vec![asleep(2, 10), beyond]), standing(1, 500, Vec::new())];
    let lodgers = [Lodger { pinned: true, ..lodger(1, 128, 128) }, lodger(2, 0, 1)];
    assert_eq!(first(&hosts, &lodgers), Some((id(1), host(1))));
}

#[test]
fn hosts_rest_after_a_move_and_instances_cool() {
    let hosts = |busy| {
        let home = Standing { busy, ..standing(0, 5, vec![asleep(1, 80), asleep(2, 80)]) };
        [home, standing(1, 500, Vec::new())]
    };
    let lodgers = |tried| [Lodger { tried, ..lodger(1, 0, 50) }, lodger(2, 0, 60)];
    let mut moves = Moves::default();
    assert_eq!(moves.step(NOW, &hosts(false), &lodgers(None)).len(), 1);
    let later = NOW.plus(REST);
    assert_eq!(moves.step(later.minus(Duration::from_secs(1)), &hosts(false), &lodgers(Some(NOW))), []);
    assert_eq!(moves.step(later, &hosts(true), &lodgers(Some(NOW))), [], "it is still under way");
    let done = later.plus(REST);
    let next = moves.step(done, &hosts(false), &lodgers(Some(NOW)));
    assert_eq!(next.first().map(|one| one.instance), Some(id(2)), "the first has not cooled");
}

/// A made-up instance: what it holds, and where it is.
struct Vm {
    at: u64,
    soaker: bool,
    pinned: bool,
    /// Its claim, or its minimum starting amount.
    needs: u64,
    /// What it holds.
    load: u64,
    /// Where it goes to, and when it is there.
    going: Option<(u64, Moment)>,
    tried: Option<Moment>,
    begun: Vec<Moment>,
}

/// Made-up hosts: a generic holds its load, a soaker its starting amount or nothing.
struct World {
    dice: Dice,
    totals: Vec<u64>,
    vms: Vec<Vm>,
    now: Moment,
    moves: Moves,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let totals: Vec<u64> = (0..2 + dice.below(4)).map(|_| 500 + dice.below(1500)).collect();
        let count = totals.len() as u64;
        let vms = (0..4 + dice.below(12)).map(|_| {
            let needs = 20 + dice.below(400);
            let (soaker, pinned) = (dice.below(2) == 0, dice.below(5) == 0);
            let at = dice.below(count);
            Vm {
                at,
                soaker,
                pinned: pinned && !soaker,
                needs,
                load: needs,
                going: None,
                tried: None,
                begun: Vec::new(),
            }
        });
        let vms = vms.collect();
        Self { dice, totals, vms, now: Moment::from_secs(1000), moves: Moves::default() }
    }

    fn claimed(&self, host: u64) -> u64 {
        let here = |vm: &&Vm| vm.at == host || vm.going.is_some_and(|(to, _)| to == host);
        self.vms.iter().filter(here).filter(|vm| !vm.soaker).map(|vm| vm.needs).sum()
    }

    /// What generic instances hold or are promised, with those on their way counted at both ends.
    fn held(&self, host: u64) -> u64 {
        let here = |vm: &&Vm| vm.at == host || vm.going.is_some_and(|(to, _)| to == host);
        self.vms.iter().filter(here).filter(|vm| !vm.soaker).map(|vm| vm.load).sum()
    }

    /// Soakers run on what is left, in their order; who has nothing sleeps.
    fn awake(&self, host: u64) -> (Vec<usize>, u64) {
        let mut left = self.totals[host as usize].saturating_sub(self.held(host));
        let mut awake = Vec::new();
        for (at, vm) in self.vms.iter().enumerate().filter(|(_, vm)| vm.soaker && vm.at == host && vm.going.is_none()) {
            if vm.needs <= left {
                left -= vm.needs;
                awake.push(at);
            }
        }
        (awake, left)
    }

    fn standing(&self, number: u64) -> Standing {
        let (awake, free) = self.awake(number);
        let resting = |(at, vm): &(usize, &Vm)| vm.at == number && vm.going.is_none() && !awake.contains(at);
        let soakers = self.vms.iter().enumerate().filter(|(_, vm)| vm.soaker).filter(resting);
        let mut wishes: Vec<MoveWish> = soakers.map(|(at, vm)| asleep(at as u64, vm.needs)).collect();
        let lacks = self.claimed(number).saturating_sub(self.totals[number as usize]);
        if lacks > 0 {
            wishes.push(short(0, lacks));
        }
        let busy = self.vms.iter().any(|vm| vm.going.is_some_and(|(to, _)| to == number || vm.at == number));
        Standing { busy, ..standing(number, free, wishes) }
    }

    fn lodgers(&self) -> Vec<Lodger> {
        let hosts = self.totals.len() as u64;
        let ways = |vm: &Vm| {
            let claim = if vm.soaker { 0 } else { vm.needs };
            (0..hosts).filter(|to| self.claimed(*to) + claim <= self.totals[*to as usize]).map(host).collect()
        };
        let lodger = |(at, vm): (usize, &Vm)| Lodger {
            instance: id(at as u64),
            host: host(vm.at),
            claim: Pages::mib(if vm.soaker { 0 } else { vm.needs }),
            pinned: vm.pinned,
            cost: Pages::mib(vm.load),
            tried: vm.tried,
            ways: ways(vm),
        };
        self.vms.iter().enumerate().filter(|(_, vm)| vm.going.is_none()).map(lodger).collect()
    }

    /// A second: loads change, hosts shrink and grow, moves end well or not, and new ones are begun.
    fn step(&mut self) -> Result<(), TestCaseError> {
        self.now = self.now.plus(Duration::from_secs(1));
        let (now, hosts) = (self.now, self.totals.len() as u64);
        for vm in &mut self.vms {
            if !vm.soaker && self.dice.below(20) == 0 {
                vm.load = self.dice.below(vm.needs + 1);
            }
            if let Some((to, due)) = vm.going.filter(|(_, due)| *due <= now) {
                vm.at = if self.dice.below(6) == 0 { vm.at } else { to };
                (vm.going, vm.tried) = (None, Some(due));
            }
        }
        if self.dice.below(200) == 0 {
            let at = self.dice.below(hosts) as usize;
            self.totals[at] = 500 + self.dice.below(1500);
        }
        let standings: Vec<Standing> = (0..hosts).map(|number| self.standing(number)).collect();
        let lodgers = self.lodgers();
        let begun = self.moves.step(now, &standings, &lodgers);
        let parts: BTreeSet<HostId> = begun.iter().flat_map(|one| [one.from, one.to]).collect();
        prop_assert_eq!(parts.len(), begun.len() * 2, "a host has a part in two moves at once");
        for Move { instance, from, to, cause } in begun {
            let at = (instance.bits() - 1) as usize;
            let (from, to) = ((from.bits() - 1) as u64, (to.bits() - 1) as u64);
            prop_assert!(!standings[from as usize].busy && !standings[to as usize].busy);
            let vm = &self.vms[at];
            prop_assert!(vm.at == from && vm.going.is_none() && !vm.pinned);
            prop_assert_eq!(vm.soaker, cause == MoveCause::NothingUnused);
            // It makes nobody short there, nor sends a soaker to sleep.
            let claim = if vm.soaker { 0 } else { vm.needs };
            prop_assert!(self.claimed(to) + claim <= self.totals[to as usize]);
            let (awake, free) = self.awake(to);
            prop_assert!(free >= vm.needs, "{} there for {}", free, vm.needs);
            let due = now.plus(Duration::from_secs(1 + self.dice.below(60)));
            let vm = &mut self.vms[at];
            (vm.going, vm.load) = (Some((to, due)), if vm.soaker { vm.load } else { vm.load.min(vm.needs) });
            vm.begun.push(now);
            let (still, _) = self.awake(to);
            prop_assert_eq!(awake, still, "a soaker sleeps for it");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn nobody_moves_twice_in_a_while_nor_to_where_it_is_no_better(seed in any::<u64>()) {
        let mut world = World::new(seed);
        for _ in 0..3000 {
            world.step()?;
        }
        for vm in &world.vms {
            for pair in vm.begun.windows(2) {
                prop_assert!(pair[1].since(pair[0]) > COOLING, "it moved twice");
            }
        }
    }

    #[test]
    fn the_order_in_which_hosts_and_instances_are_told_does_not_matter(seed in any::<u64>()) {
        let world = World::new(seed);
        let mut hosts: Vec<Standing> = (0..world.totals.len() as u64).map(|number| world.standing(number)).collect();
        let mut lodgers = world.lodgers();
        let moves = Moves::default().step(NOW, &hosts, &lodgers);
        hosts.reverse();
        lodgers.reverse();
        hosts.iter_mut().for_each(|host| host.wishes.reverse());
        prop_assert_eq!(Moves::default().step(NOW, &hosts, &lodgers), moves);
    }
}

#[test]
fn when_loads_stand_still_so_do_all_instances_in_the_end() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let still = |world: &mut World| {
            // No dice: nothing changes but by moves, all of which end well.
            world.now = world.now.plus(REST);
            for vm in &mut world.vms {
                if let Some((to, _)) = vm.going.take() {
                    (vm.at, vm.tried) = (to, Some(world.now));
                }
            }
            let hosts: Vec<Standing> = (0..world.totals.len() as u64).map(|number| world.standing(number)).collect();
            let begun = world.moves.step(world.now, &hosts, &world.lodgers());
            for one in &begun {
                let at = (one.instance.bits() - 1) as usize;
                world.vms[at].going = Some(((one.to.bits() - 1) as u64, world.now));
            }
            begun.len()
        };
        let mut last = 0;
        for step in 0..1500 {
            if still(&mut world) > 0 {
                last = step;
            }
        }
        assert!(last < 750, "with seed {seed} something still moved after {last} steps");
    }
}
