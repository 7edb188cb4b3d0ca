//! Made-up hosts whose pagers do as they are told: what holds at every instant, and what comes about in time.

use std::collections::BTreeMap;

use lucarne_model::{
    Bytes,
    memory::{MemoryMode, MemorySettings, Priority},
};
use proptest::prelude::*;

use super::*;
use crate::dice::Dice;

const INTERVAL: Duration = Duration::from_millis(500);
/// Pages that a pager moves in an interval: 1.5 GiB a second.
const PAGER_SPEED: u64 = 384 * 512;

/// A VM and its pager.
#[derive(Clone, Debug)]
pub(super) struct Vm {
    settings: MemorySettings,
    memory: Pages,
    /// What the guest touches.
    pub(super) desire: Pages,
    resident: Pages,
    away: Pages,
    limit: Pages,
    life: Life,
    /// Times that it woke.
    wakings: u32,
}

/// A host and what happens on it.
#[derive(Debug)]
pub(super) struct Bed {
    total: Pages,
    now: Moment,
    governor: Governor,
    pub(super) vms: BTreeMap<InstanceId, Vm>,
    plan: Option<Plan>,
}

fn id(number: u64) -> InstanceId {
    InstanceId::from_bits(number.into())
}

impl Bed {
    pub(super) fn of(mib: u64) -> Self {
        let oversubscription =
            Oversubscription { factor: 2000, unallocated: Bytes::mib(mib / 20), pool: Bytes::mib(mib / 10) };
        Self::with(mib, Rules { oversubscription, ..Rules::default() })
    }

    fn with(mib: u64, rules: Rules) -> Self {
        let now = Moment::from_secs(1000);
        Self { total: Pages::mib(mib), now, governor: Governor::new(rules), vms: BTreeMap::new(), plan: None }
    }

    fn add(&mut self, number: u64, mib: u64, settings: MemorySettings) {
        let (memory, none) = (Pages::mib(mib), Pages::ZERO);
        let life = Life::Running;
        let vm = Vm { settings, memory, desire: memory, resident: none, away: none, limit: none, life, wakings: 0 };
        self.vms.insert(id(number), vm);
    }

    pub(super) fn generic(&mut self, number: u64, mib: u64) {
        self.add(number, mib, MemorySettings::default());
    }

    pub(super) fn soaker(&mut self, number: u64, mib: u64, priority: u8) {
        let (mode, priority) = (MemoryMode::Soaker, Priority(priority));
        self.add(number, mib, MemorySettings { mode, priority, ..MemorySettings::default() });
    }

    fn vm(&mut self, number: u64) -> &mut Vm {
        self.vms.get_mut(&id(number)).unwrap()
    }

    pub(super) fn view(&self) -> HostView {
        let vms = self.vms.iter().map(|(instance, vm)| VmView {
            instance: *instance,
            keeping: Keeping::new(&vm.settings, vm.memory.bytes()).unwrap(),
            life: vm.life,
            pages: PagesByPlace { resident: vm.resident, ssd: vm.away, ..PagesByPlace::default() },
            idle: vm.resident - vm.desire,
            pool: Pages::ZERO,
            vcpus: Vcpus(2),
        });
        let (total, shared) = (self.total, Pages::mib(1));
        HostView {
            total,
            overhead: Pages::mib(self.total.0 >> 13),
            shared,
            lent: Pages::ZERO,
            cpu: CpuView::default(),
            vms: vms.collect(),
        }
    }

    /// One interval: the governor decides, pagers and guests do, and the laws that hold always are asserted.
    fn step(&mut self) {
        self.now = self.now.plus(INTERVAL);
        let view = self.view();
        let plan = self.governor.step(self.now, &view);
        self.assert_laws(&view, &plan);
        for order in &plan.orders {
            let vm = self.vms.get_mut(&order.instance).unwrap();
            vm.wakings += u32::from(vm.life != Life::Running && order.life == Life::Running);
            vm.life = order.life;
            vm.limit = order.limit;
            vm.follow();
        }
        self.plan = Some(plan);
        assert!(self.view().balance().is_some(), "more was used than there is");
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 2 {
            self.step();
        }
    }

    fn assert_laws(&self, view: &HostView, plan: &Plan) {
        assert_eq!(plan.orders.len(), view.vms.len());
        let orders = || view.vms.iter().zip(&plan.orders);
        let held: Pages = orders().map(|(vm, order)| vm.pages.resident.max(order.limit)).sum();
        let pool: Pages = plan.orders.iter().map(|order| order.pool).sum();
        assert!(held + pool + view.shared + view.overhead <= view.total, "granted more than there is: {plan:?}");
        for (vm, order) in orders() {
            let keeping = &vm.keeping;
            assert!(order.limit <= keeping.memory);
            if keeping.pinned {
                assert!(order.limit >= vm.pages.resident, "a pinned VM was told to give back: {order:?}");
            }
            if keeping.is_soaker() && order.life == Life::Running && vm.life != Life::Running {
                assert!(order.limit >= keeping.minimum_starting, "woken with too little: {order:?}");
            }
            if !keeping.is_soaker() && vm.life == Life::Running {
                assert_eq!(order.life, Life::Running, "a generic VM was stopped");
            }
        }
        let lendable = view.total - view.overhead - view.shared - pool;
        let allotted = soaker::allot(lendable, view);
        assert_no_inversion(view, &allotted);
    }

    fn limit(&self, number: u64) -> Pages {
        self.vms[&id(number)].limit
    }
}

impl Vm {
    /// What guest and pager do in an interval.
    fn follow(&mut self) {
        if self.resident > self.limit {
            let leaves = Pages((self.resident - self.limit).0.min(PAGER_SPEED));
            self.resident -= leaves;
            self.away += leaves;
        }
        if self.life == Life::Running && self.resident < self.desire.min(self.limit) {
            let comes = Pages((self.desire.min(self.limit) - self.resident).0.min(PAGER_SPEED));
            self.resident += comes;
            self.away -= comes;
        }
    }
}

/// Nobody has what somebody of a higher priority could use: who is denied could not run on all that those below it have
/// together, and who is not whole leaves nothing to those below.
fn assert_no_inversion(view: &HostView, allotted: &[Option<Pages>]) {
    let soakers = || view.vms.iter().zip(allotted).filter(|(vm, _)| vm.keeping.is_soaker());
    for (vm, has) in soakers() {
        let below = soakers().filter(|(other, _)| other.keeping.priority < vm.keeping.priority);
        let below: Pages = below.map(|(_, has)| has.unwrap_or_default()).sum();
        let least = if vm.life == Life::Running { vm.keeping.minimum_operating } else { vm.keeping.minimum_starting };
        match has {
            None => assert!(below < least, "{} sleeps below its lessers", vm.instance),
            Some(has) => {
                assert!(*has >= least && *has <= vm.keeping.memory);
                assert!(*has == vm.keeping.memory || below == Pages::ZERO, "{} is not whole", vm.instance);
            }
        }
    }
}

/// Some VMs of any kind; what they use changes as the dice say.
fn made_up(dice: &mut Dice) -> Bed {
    let mib = 500 + dice.below(8000);
    let mut bed = Bed::of(mib);
    for number in 0..1 + dice.below(9) {
        let memory = 16 + dice.below(mib / 2);
        match dice.below(5) {
            0 => bed.add(number, memory.min(mib / 16), MemorySettings { pinned: true, ..MemorySettings::default() }),
            1 | 2 => bed.soaker(number, memory, [10, 50, 50, 90][dice.below(4) as usize]),
            _ => bed.generic(number, memory),
        }
    }
    bed
}

fn change_something(dice: &mut Dice, bed: &mut Bed) {
    for vm in bed.vms.values_mut() {
        match dice.below(40) {
            0 => vm.desire = Pages(dice.below(vm.memory.0 + 1)),
            1 => vm.settings.mode = MemoryMode::Generic,
            2 if !vm.settings.pinned => vm.settings.mode = MemoryMode::Soaker,
            3 => vm.settings.priority = Priority(dice.below(100) as u8),
            _ => {}
        }
    }
    if dice.below(100) == 0 {
        bed.vms.pop_first();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// On any host, with any history: never more granted than there is, nothing taken from what is pinned, no generic VM
    /// stopped, no priority turned round. The laws are asserted at every step.
    #[test]
    fn the_laws_hold_whatever_happens(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let mut bed = made_up(&mut dice);
        for _ in 0..300 {
            change_something(&mut dice, &mut bed);
            bed.step();
        }
    }

    /// When nothing changes any more, limits stop moving and nobody falls asleep or wakes.
    #[test]
    fn a_host_comes_to_rest(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let mut bed = made_up(&mut dice);
        for _ in 0..50 {
            change_something(&mut dice, &mut bed);
            bed.step();
        }
        bed.run(600);
        let asleep = |bed: &Bed| bed.vms.values().map(|vm| vm.life).collect::<Vec<_>>();
        let soakers = |bed: &Bed| -> Vec<(InstanceId, Pages)> {
            bed.vms.iter().filter(|(_, vm)| vm.settings.mode == MemoryMode::Soaker).map(|(id, vm)| (*id, vm.limit)).collect()
        };
        let (before, held) = (asleep(&bed), soakers(&bed));
        for sleeper in bed.vms.values().filter(|vm| vm.life != Life::Running) {
            let lower = |vm: &&Vm| vm.settings.mode == MemoryMode::Soaker && vm.settings.priority < sleeper.settings.priority;
            let below: Pages = bed.vms.values().filter(lower).map(|vm| vm.limit).sum();
            prop_assert!(below < Keeping::new(&sleeper.settings, sleeper.memory.bytes()).unwrap().minimum_starting);
        }
        bed.run(60);
        prop_assert_eq!(asleep(&bed), before);
        for ((_, before), (id, after)) in held.iter().zip(soakers(&bed)) {
            prop_assert!(before.0.abs_diff(after.0) * 20 <= bed.vms[&id].memory.0, "{} {:?} {:?}", id, before, after);
        }
    }

    /// A contention step, a pinned VM of any size appearing beside soakers that hold everything: it has all of its memory
    /// within a second for each GiB (and two intervals), and no soaker is squeezed by more than is needed.
    #[test]
    fn soakers_give_back_in_time_and_not_too_much(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let mib = 4096 + dice.below(12_000);
        let mut bed = Bed::of(mib);
        for number in 0..1 + dice.below(6) {
            bed.soaker(number, mib / 2, dice.below(100) as u8);
        }
        bed.run(120);
        let wanted = 256 + dice.below(mib / 2);
        bed.add(100, wanted, MemorySettings { pinned: true, ..MemorySettings::default() });
        let intervals = wanted.div_ceil(512) + 2;
        let mut lowest: BTreeMap<InstanceId, Pages> = BTreeMap::new();
        for _ in 0..intervals {
            bed.step();
            for (id, vm) in &bed.vms {
                let low = lowest.entry(*id).or_insert(vm.limit);
                *low = vm.limit.min(*low);
            }
        }
        prop_assert_eq!(bed.limit(100), Pages::mib(wanted));
        bed.run(5);
        let runs = |vm: &Vm| vm.life == Life::Running && vm.settings.mode == MemoryMode::Soaker;
        for (id, vm) in bed.vms.iter().filter(|(_, vm)| runs(vm)) {
            prop_assert!((vm.limit - lowest[id]).0 * 20 <= vm.memory.0, "{} fell to {:?}, needs {:?}", id, lowest[id], vm.limit);
        }
    }

    /// However wildly a generic VM breathes, a soaker does not wake more often than once in the settling time.
    #[test]
    fn nobody_flaps(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let mut bed = Bed::of(1024);
        bed.generic(1, 900);
        bed.soaker(2, 512, 50);
        bed.soaker(3, 512, 40);
        let seconds = 200;
        let mut since_wake = BTreeMap::new();
        for _ in 0..seconds * 2 {
            if dice.below(6) == 0 {
                bed.vm(1).desire = Pages::mib(dice.below(900));
            }
            let before: Vec<_> = bed.vms.iter().map(|(id, vm)| (*id, vm.wakings)).collect();
            bed.step();
            for (id, wakings) in before {
                if bed.vms[&id].wakings > wakings {
                    let last = since_wake.insert(id, bed.now);
                    prop_assert!(last.is_none_or(|last| bed.now.since(last) >= Rules::default().settle));
                }
            }
        }
    }
}

fn measured(dice: &mut Dice, number: u64) -> VmView {
    let mut amount = || [0, dice.roll(), dice.below(1 << 20), dice.below(1 << 12)][dice.below(4) as usize];
    let mode = if amount() % 2 == 0 { MemoryMode::Generic } else { MemoryMode::Soaker };
    let pinned = mode == MemoryMode::Generic && amount() % 5 == 0;
    let settings = MemorySettings { mode, pinned, priority: Priority(amount() as u8), ..MemorySettings::default() };
    let memory = Bytes(amount().max(1 << 23));
    let pages = PagesByPlace { resident: Pages(amount()), remote: Pages(amount()), ..PagesByPlace::default() };
    VmView {
        instance: id(number),
        keeping: Keeping::new(&settings, memory).unwrap(),
        life: [Life::Running, Life::Paused, Life::Hibernated][amount() as usize % 3],
        pages,
        idle: Pages(amount()),
        pool: Pages(amount()),
        vcpus: Vcpus(amount() as u32),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Whatever a broken agent measures, there is an order for each VM, and growth is granted only out of what is left.
    #[test]
    fn no_measurement_confuses_it(seed in any::<u64>(), steps in 1_u64..6) {
        let mut dice = Dice::new(seed);
        let oversubscription = Oversubscription {
            factor: dice.roll() as u32,
            unallocated: Bytes(dice.below(1 << 40)),
            pool: Bytes(dice.below(1 << 40)),
        };
        let mut governor = Governor::new(Rules { oversubscription, idle_tax: dice.roll() as u32, ..Rules::default() });
        let mut claimed = Pages::ZERO;
        for _ in 0..steps {
            let vms: Vec<VmView> = (0..dice.below(8)).map(|number| measured(&mut dice, number)).collect();
            let total = Pages([dice.roll(), dice.below(1 << 24)][dice.below(2) as usize]);
            let cpu = CpuView { total: dice.roll(), used: dice.roll() };
            let view = HostView { total, overhead: Pages(dice.below(1 << 22)), shared: Pages(dice.below(1 << 20)), lent: Pages::ZERO, cpu, vms };
            let plan = governor.step(Moment(dice.roll()), &view);
            prop_assert_eq!(plan.orders.len(), view.vms.len());
            let held: Pages = view.vms.iter().map(|vm| vm.pages.resident).sum();
            let now: Pages = view.vms.iter().zip(&plan.orders).map(|(vm, order)| vm.pages.resident.max(order.limit)).sum();
            let (overhead, shared) = (view.overhead, view.shared);
            prop_assert!(now <= (view.total - overhead - shared).max(held + claimed), "{:?}", plan);
            claimed = now;
        }
    }
}

/// A day in the life of a soaker: it grows into what is unused, is squeezed, sleeps, is hibernated, and comes back.
#[test]
fn a_soaker_grows_is_squeezed_sleeps_and_comes_back() {
    let mut bed = Bed::of(1000);
    bed.generic(1, 800);
    bed.soaker(2, 512, 50);
    bed.vm(1).desire = Pages::mib(100);
    bed.run(30);
    assert_eq!(bed.vm(2).resident, Pages::mib(512), "it takes all that it can use of what is unused");
    bed.vm(1).desire = Pages::mib(600);
    bed.run(10);
    let squeezed = bed.vm(2).resident;
    assert!(squeezed < Pages::mib(170) && squeezed >= Pages::mib(64), "{squeezed}");
    assert_eq!((bed.vm(1).resident, bed.vm(2).life), (Pages::mib(600), Life::Running));
    bed.vm(1).desire = Pages::mib(720);
    bed.run(10);
    assert_eq!((bed.vm(1).resident, bed.vm(2).life), (Pages::mib(720), Life::Paused));
    bed.run(30);
    assert_eq!((bed.vm(2).life, bed.vm(2).resident), (Life::Hibernated, Pages::ZERO));
    bed.run(60);
    let asks = Verdict { instance: id(2), needs: Pages::mib(128), why: elsewhere::Why::NothingUnused };
    assert_eq!(bed.plan.as_ref().unwrap().verdicts, [asks]);
    bed.vm(1).desire = Pages::mib(100);
    bed.run(120);
    assert_eq!((bed.vm(2).life, bed.vm(2).wakings, bed.vm(2).resident), (Life::Running, 1, Pages::mib(512)));
    assert_eq!(bed.plan.as_ref().unwrap().verdicts, []);
}

/// A relaunch takes its time; whoever was told to wake is told so until it has, with the memory that it was granted.
#[test]
fn waking_may_take_long() {
    let mut bed = Bed::of(1000);
    bed.generic(1, 800);
    bed.soaker(2, 512, 50);
    bed.vm(1).desire = Pages::mib(780);
    bed.run(60);
    assert_eq!(bed.vm(2).life, Life::Hibernated);
    // Room for its start, and for hardly more.
    bed.vm(1).desire = Pages::mib(630);
    let mut orders = Vec::new();
    for _ in 0..600 {
        bed.step();
        (bed.vm(2).life, bed.vm(2).resident) = (Life::Hibernated, Pages::ZERO);
        orders.push(bed.plan.as_ref().map(|plan| plan.orders[1].life).unwrap());
    }
    let told = orders.iter().position(|life| *life == Life::Running).expect("it is told to wake");
    assert!(orders[told..].iter().all(|life| *life == Life::Running), "and never told otherwise");
}

/// ESX's idle tax as a setting: what a generic VM leaves idle goes to a soaker, but for the quarter that is not taxed.
#[test]
fn idle_pages_are_taxed_when_somebody_is_hungry() {
    let holding = |tax| {
        let mut bed = Bed::with(1000, Rules { idle_tax: tax, ..Rules::default() });
        bed.generic(1, 800);
        bed.run(10);
        assert_eq!(bed.vm(1).resident, Pages::mib(800));
        bed.vm(1).desire = Pages::mib(80);
        bed.soaker(2, 900, 50);
        bed.run(600);
        (bed.vm(1).resident, bed.vm(2).resident)
    };
    assert_eq!(holding(0).0, Pages::mib(800));
    let (generic, soaker) = holding(750);
    assert!(generic < Pages::mib(160) && generic >= Pages::mib(80), "{generic}");
    assert!(soaker > Pages::mib(700), "{soaker}");
}

/// Generic VMs that together want twice what there is are squeezed alike, gradually at first, and none below its share.
#[test]
fn oversubscribed_vms_are_squeezed_alike() {
    let mut bed = Bed::of(2000);
    for number in 1..=4 {
        bed.generic(number, 800);
    }
    bed.run(120);
    let held: Vec<Pages> = (1..=4).map(|number| bed.limit(number)).collect();
    assert!(held.iter().all(|held| *held >= Pages::mib(300)), "{held:?}");
    let (least, most) = (held.iter().min().unwrap(), held.iter().max().unwrap());
    assert!((*most - *least).0 * 5 <= most.0, "{held:?}");
    assert!(bed.plan.as_ref().unwrap().pressure > 0);
    assert_eq!(bed.plan.as_ref().unwrap().verdicts, []);
}

/// What was promised beyond the factor does not fit: the controller is asked to move one VM, always the same.
#[test]
fn a_host_that_is_short_asks_for_another_and_keeps_asking_for_the_same() {
    let mut bed = Bed::of(1000);
    for (number, mib) in [(1, 900), (2, 600), (3, 500)] {
        bed.generic(number, mib);
    }
    bed.run(50);
    assert_eq!(bed.plan.as_ref().unwrap().verdicts, [], "not before it has lasted");
    bed.run(20);
    let leaving = |bed: &Bed| match bed.plan.as_ref().unwrap().verdicts[..] {
        [Verdict { instance, why: elsewhere::Why::HostShort { .. }, .. }] => instance,
        ref other => panic!("{other:?}"),
    };
    let first = leaving(&bed);
    for _ in 0..100 {
        bed.step();
        assert_eq!(leaving(&bed), first);
    }
    bed.vms.remove(&first);
    bed.run(5);
    assert_eq!(bed.plan.as_ref().unwrap().verdicts, []);
}

#[test]
fn new_settings_hold_at_the_next_step() {
    let mut bed = Bed::of(1000);
    bed.generic(1, 400);
    bed.soaker(2, 900, 50);
    bed.vm(1).desire = Pages::mib(40);
    bed.run(60);
    assert!(bed.limit(1) < Pages::mib(400));
    bed.vm(1).settings.pinned = true;
    bed.step();
    bed.step();
    bed.step();
    assert_eq!(bed.limit(1), Pages::mib(400), "all of it, from the first step and as fast as the soaker gives");
    bed.vm(2).settings.mode = MemoryMode::Generic;
    let plan = {
        bed.step();
        bed.plan.as_ref().unwrap()
    };
    assert_eq!(plan.orders[1].cpu.quota, None);
    bed.vm(2).settings.mode = MemoryMode::Soaker;
    bed.step();
    assert!(bed.plan.as_ref().unwrap().orders[1].cpu.quota.is_some());
}

#[test]
fn pages_in_other_hosts_memory_have_room_before_soakers_have_it() {
    let mut bed = Bed::of(1000);
    bed.generic(1, 400);
    bed.soaker(2, 900, 50);
    bed.vm(1).desire = Pages::mib(100);
    bed.run(60);
    let mut view = bed.view();
    view.vms[0].pages.remote = Pages::mib(200);
    for _ in 0..4 {
        bed.now = bed.now.plus(INTERVAL);
        let plan = bed.governor.step(bed.now, &view);
        view.vms[1].pages.resident = view.vms[1].pages.resident.min(plan.orders[1].limit);
        bed.plan = Some(plan);
    }
    let plan = bed.plan.unwrap();
    let [generic, soaker] = &plan.orders[..] else { panic!("two are governed") };
    assert!(generic.limit >= view.vms[0].pages.resident + Pages::mib(200), "{generic:?}");
    assert!(generic.limit + soaker.limit <= Pages::mib(1000), "{generic:?} {soaker:?}");
}

#[test]
fn a_host_measured_as_fuller_than_it_is_has_no_balance() {
    let mut bed = Bed::of(1000);
    bed.generic(1, 400);
    bed.run(5);
    let mut view = bed.view();
    let balance = view.balance().unwrap();
    assert_eq!(balance.resident + balance.pool + balance.shared + balance.overhead + balance.free, view.total);
    view.lent = Pages::mib(100);
    let lending = view.balance().unwrap();
    assert_eq!((lending.lent, lending.free), (Pages::mib(100), balance.free - Pages::mib(100)));
    view.overhead = view.total;
    assert_eq!(view.balance(), None);
}
