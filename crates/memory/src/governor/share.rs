//! What generic VMs should hold: what they use and room to grow, if that fits; else less for all, down to their shares.
//!
//! Owns the host's pressure, which is the smallest number of thousandths by which everyone's threshold must sink from the
//! VM's memory towards its share until all fits. The [`Bucket`](crate::bucket::Bucket) turns thresholds into allowances over time; when
//! the host cannot wait for that, half of what is kept free being gone, the thresholds hold at once.

use lucarne_model::{Moment, Pages, memory::MemoryMode};

use super::{Governor, HostView, Life, Rules, VmView};
use crate::{
    bucket::Shape,
    settings::{FLOOR, Thresholds},
};

/// A VM is to have this part of its memory to grow into. What is free beyond that it may have too, for as long as it is.
const HEADROOM: u64 = 16;
/// The bucket holds an eighth of the memory above the threshold for this long.
const DEPTH_MILLIS: u64 = 10_000;

/// The host's memory that guests' pages may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// All of it.
    pub(super) spendable: Pages,
    /// Without what is kept free for generic VMs that grow at once.
    pub(super) lendable: Pages,
}

impl Memory {
    pub(super) fn of(view: &HostView, pools: &[Pages], rules: &Rules) -> Self {
        let pool = view.vms.iter().zip(pools).map(|(vm, pool)| vm.pool.max(*pool)).sum();
        let spendable = view.total - view.overhead - view.shared - pool;
        Self { spendable, lendable: spendable - Pages::covering(rules.oversubscription.unallocated) }
    }

    /// Half of what is kept free may be used while buckets fill.
    fn tolerable(self) -> Pages {
        Pages(self.lendable.0 + (self.spendable - self.lendable).0 / 2)
    }
}

/// What generic VMs should hold.
#[derive(Clone, Debug)]
pub(super) struct Goals {
    /// By VM, as in the view; zero for a soaker.
    pub(super) goals: Vec<Pages>,
    /// What each may hold at most, while there is something free: its allowance.
    pub(super) ceilings: Vec<Pages>,
    /// What is left for soakers. Nothing while generic VMs are squeezed, though they hold less than there is.
    pub(super) unused: Pages,
    pub(super) pressure: u32,
    /// The buckets were not waited for.
    pub(super) urgent: bool,
    /// What lacks even when all are squeezed to their shares.
    pub(super) shortage: Pages,
}

fn sum(amounts: &[Pages]) -> Pages {
    amounts.iter().copied().sum()
}

fn bounded(amounts: &[Pages], bounds: &[Pages]) -> Vec<Pages> {
    amounts.iter().zip(bounds).map(|(amount, bound)| *amount.min(bound)).collect()
}

/// How far thresholds must sink.
struct Squeeze {
    pressure: u32,
    /// What VMs want, as far as it lies below their thresholds.
    caps: Vec<Pages>,
    shortage: Pages,
}

impl Governor {
    pub(super) fn generic_goals(&mut self, now: Moment, view: &HostView, memory: &Memory) -> Goals {
        let wanted: Vec<Pages> = view.vms.iter().map(|vm| self.wanted(vm)).collect();
        let Squeeze { pressure, caps, shortage } = self.squeeze(view, &wanted, memory.lendable);
        let allowances: Vec<Pages> = view.vms.iter().map(|vm| self.allowance(now, vm, pressure)).collect();
        let mut unused = memory.lendable - sum(&bounded(&wanted, &agreed(view, &allowances)));
        let mut ceilings = patient(view, &allowances, &caps, pressure);
        let mut goals = bounded(&wanted, &ceilings);
        let urgent = sum(&goals) > memory.tolerable();
        if urgent {
            self.tip_those_above(view, &goals, &caps, pressure);
            ceilings = bounded(&ceilings, &caps);
            goals = bounded(&wanted, &ceilings);
        }
        keep_room_for_remote(view, &mut goals, &mut unused);
        Goals { goals, ceilings, unused, pressure, urgent, shortage }
    }

    fn squeeze(&self, view: &HostView, wanted: &[Pages], lendable: Pages) -> Squeeze {
        let caps = |pressure| -> Vec<Pages> {
            let cap = |(vm, wanted): (&VmView, &Pages)| self.threshold(vm, pressure).min(*wanted);
            view.vms.iter().zip(wanted).map(cap).collect()
        };
        let pressure = least(1000, |pressure| sum(&caps(pressure)) <= lendable);
        let caps = caps(pressure);
        Squeeze { pressure, shortage: sum(&caps) - lendable, caps }
    }

    /// What a VM would hold if nobody else wanted anything, or only others wanted what it leaves idle.
    fn wanted(&self, vm: &VmView) -> Pages {
        let (memory, resident) = (vm.keeping.memory, vm.pages.resident);
        if vm.keeping.mode == MemoryMode::Soaker {
            return Pages::ZERO;
        }
        if vm.keeping.pinned {
            return memory;
        }
        let taxed =
            if self.hungry { vm.idle.0.saturating_mul(u64::from(self.rules.idle_tax.min(1000))) / 1000 } else { 0 };
        // It can grow into what it leaves idle. So a tax that ends gives nobody back what it took, and none begins anew.
        let grows_to = resident - vm.idle + Pages(memory.0 / HEADROOM);
        let least = if vm.life == Life::Running { Pages::covering(FLOOR) } else { vm.keeping.minimum_starting };
        (resident - Pages(taxed)).max(grows_to).max(least).min(memory)
    }

    /// From a VM's memory, under no pressure, down to its share. Zero for a soaker.
    fn threshold(&self, vm: &VmView, pressure: u32) -> Pages {
        let memory = vm.keeping.memory;
        match vm.keeping.mode {
            MemoryMode::Soaker => Pages::ZERO,
            MemoryMode::Generic => {
                let sinks = memory - self.rules.oversubscription.share(&vm.keeping);
                memory - Pages((u128::from(sinks.0) * u128::from(pressure) / 1000) as u64)
            }
        }
    }

    /// Samples the VM's bucket. What is pinned does not leak, nor does what a soaker holds: it has no bucket's patience.
    fn allowance(&mut self, now: Moment, vm: &VmView, pressure: u32) -> Pages {
        let shape = self.shape(vm, pressure);
        match self.vms.get_mut(&vm.instance) {
            Some(kept) if vm.keeping.mode == MemoryMode::Generic && !vm.keeping.pinned => {
                kept.bucket.sample(vm.pages.resident, now, &shape)
            }
            Some(_) | None => vm.keeping.memory,
        }
    }

    fn shape(&self, vm: &VmView, pressure: u32) -> Shape {
        let memory = vm.keeping.memory;
        let moving = || {
            // All three are where the host wants them: what lay below would be unused, lent to others and taken back again.
            // Without pressure they lie above all that the VM can hold: the bucket drains.
            let all = if pressure == 0 { memory + Pages(1) } else { self.threshold(vm, pressure) };
            (all, all, all)
        };
        let fixed =
            |Thresholds { fill_above, drain_below }| (fill_above, drain_below, drain_below - Pages(drain_below.0 / 8));
        let (fill_above, drain_below, floor) = vm.keeping.thresholds.map_or_else(moving, fixed);
        let depth = depth(memory);
        Shape { fill_above, drain_below, floor, depth, rate: self.rules.leak_rate, memory }
    }

    fn tip_those_above(&mut self, view: &HostView, goals: &[Pages], caps: &[Pages], pressure: u32) {
        for ((vm, goal), cap) in view.vms.iter().zip(goals).zip(caps) {
            let shape = self.shape(vm, pressure);
            if let Some(kept) = self.vms.get_mut(&vm.instance).filter(|_| goal > cap) {
                kept.bucket.tip(&shape);
            }
        }
    }
}

/// Page-milliseconds that the bucket of a VM of this size holds.
pub(super) const fn depth(memory: Pages) -> u64 {
    (memory.0 / 8).saturating_mul(DEPTH_MILLIS)
}

/// The allowances of those whose thresholds are fixed: what these leave is unused, for it was agreed so. What others were
/// squeezed out of is not.
fn agreed(view: &HostView, allowances: &[Pages]) -> Vec<Pages> {
    let agreed = |(vm, allowance): (&VmView, &Pages)| match vm.keeping.thresholds {
        Some(_) => *allowance,
        None => vm.keeping.memory,
    };
    view.vms.iter().zip(allowances).map(agreed).collect()
}

/// Who is above its threshold has the bucket's patience; who is below does not rise above it meanwhile.
fn patient(view: &HostView, allowances: &[Pages], caps: &[Pages], pressure: u32) -> Vec<Pages> {
    let ceiling = |((vm, allowance), cap): ((&VmView, &Pages), &Pages)| match pressure {
        0 => *allowance,
        _ => (*cap).max(vm.pages.resident).min(*allowance),
    };
    view.vms.iter().zip(allowances).zip(caps).map(ceiling).collect()
}

/// Pages of generic VMs that are in other hosts' memory have room here before soakers have what is unused. They come when the
/// guest wants them: what is there are copies, which its lease gives back as its host lacks less.
fn keep_room_for_remote(view: &HostView, goals: &mut [Pages], unused: &mut Pages) {
    let generic = |(vm, _): &(&VmView, &mut Pages)| vm.keeping.mode == MemoryMode::Generic;
    for (vm, goal) in view.vms.iter().zip(goals).filter(generic) {
        let room = vm.pages.remote.min(vm.keeping.memory - *goal).min(*unused);
        *goal += room;
        *unused -= room;
    }
}

/// The smallest of `0..=most` that will do, where more always does if less does; `most` if none does.
fn least(most: u32, mut will_do: impl FnMut(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low.midpoint(high);
        if will_do(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}
