//! How far one interval may go from what is towards what should be.
//!
//! Owns the law that all that was granted fits into the host at every instant: who must give back is told first, and who
//! gets more gets it out of what is free by then, not out of what others have been told to leave.

use std::time::Duration;

use lucarne_model::{Moment, Pages, memory::MemoryMode};

use super::{
    Governor, HostView, Life, VmView,
    share::{Goals, Memory},
    soaker::{self, Sleep},
};
use crate::bucket::LONGEST_INTERVAL_MILLIS;

/// A soaker's limit rises by this part of its memory, or not at all: it need not follow each breath of the others.
const SMALLEST_RISE: u64 = 64;

impl Governor {
    /// Each VM's limit and life from now on, as in the view.
    pub(super) fn grant(
        &mut self,
        now: Moment,
        span: Duration,
        view: &HostView,
        memory: &Memory,
        generic: &Goals,
        allotted: &[Option<Pages>],
    ) -> Vec<(Pages, Life)> {
        let squeeze = in_span(self.rules.squeeze_rate, span);
        let mut limits = self.lower(span, view, generic, allotted);
        let claimed: Pages = view.vms.iter().zip(&limits).map(|(vm, limit)| vm.pages.resident.max(*limit)).sum();
        let mut free = memory.spendable - claimed;
        for at in serving_order(view) {
            let vm = &view.vms[at];
            limits[at] = raised(vm, limits[at], generic.goals[at], &mut free);
        }
        // What is kept free is not for soakers.
        let mut free = free - (memory.spendable - memory.lendable);
        let mut lives = vec![Life::Running; view.vms.len()];
        for at in soaker::in_order(view) {
            lives[at] = self.serve_soaker(now, &view.vms[at], allotted[at], &mut limits[at], squeeze, &mut free);
        }
        lend(view, generic, memory.spendable, &mut limits);
        view.vms.iter().zip(limits).zip(lives).map(|((vm, limit), life)| self.keep(vm, limit, life)).collect()
    }

    /// Everyone's limit once those who must give back have been told.
    fn lower(&self, span: Duration, view: &HostView, generic: &Goals, allotted: &[Option<Pages>]) -> Vec<Pages> {
        let squeeze = in_span(self.rules.squeeze_rate, span);
        let generic_step = if generic.urgent { squeeze } else { in_span(self.rules.leak_rate, span) };
        let lower = |(at, vm): (usize, &VmView)| match vm.keeping.mode {
            MemoryMode::Soaker => self.lowered(vm, allotted[at].unwrap_or_default(), squeeze),
            MemoryMode::Generic => self.lowered(vm, generic.goals[at], generic_step),
        };
        view.vms.iter().enumerate().map(lower).collect()
    }

    /// The limit of a VM that holds, or may hold, more than its goal: allowance that it does not use goes at once, pages go
    /// by `step`.
    fn lowered(&self, vm: &VmView, goal: Pages, step: Pages) -> Pages {
        let limit = self.vms.get(&vm.instance).map_or(vm.pages.resident, |kept| kept.limit);
        // A pinned VM was made so after it had leaked, or has all: nothing is taken from it.
        let goal = if vm.keeping.pinned { goal.max(limit) } else { goal };
        goal.max(limit.min(vm.pages.resident) - step).min(limit)
    }

    fn serve_soaker(
        &mut self,
        now: Moment,
        vm: &VmView,
        allotted: Option<Pages>,
        limit: &mut Pages,
        step: Pages,
        free: &mut Pages,
    ) -> Life {
        let rules = self.rules;
        let Some(kept) = self.vms.get_mut(&vm.instance) else { return vm.life };
        let within_reach = vm.pages.resident.max(*limit) + *free;
        let life = kept.sleep.turn(now, vm, allotted, within_reach, &rules);
        let Some(goal) = allotted.filter(|_| life == Life::Running) else { return life };
        let wakes = vm.life != Life::Running;
        let aim = if wakes { vm.keeping.minimum_starting } else { goal.min(*limit + step) };
        let is_small = goal - *limit < Pages(vm.keeping.memory.0 / SMALLEST_RISE) && goal < vm.keeping.memory;
        if wakes || !is_small {
            *limit = raised(vm, *limit, aim, free);
        }
        life
    }

    /// A generic VM runs as soon as there is memory to run in.
    fn keep(&mut self, vm: &VmView, limit: Pages, life: Life) -> (Pages, Life) {
        let waits = vm.life != Life::Running && !vm.keeping.is_soaker() && limit < vm.keeping.minimum_starting;
        if let Some(kept) = self.vms.get_mut(&vm.instance) {
            kept.limit = limit;
            if !vm.keeping.is_soaker() {
                kept.sleep = Sleep::default();
            }
        }
        (limit, if waits { vm.life } else { life })
    }
}

/// Generic VMs in the order in which they get what is free: pinned ones first, then those with the least of what they want.
fn serving_order(view: &HostView) -> Vec<usize> {
    let mut order: Vec<usize> = (0..view.vms.len()).filter(|at| !view.vms[*at].keeping.is_soaker()).collect();
    order.sort_by_key(|at| {
        let vm = &view.vms[*at];
        let share_held = u128::from(vm.pages.resident.0) * 1000 / u128::from(vm.keeping.memory.0.max(1));
        (!vm.keeping.pinned, share_held, vm.instance)
    });
    order
}

/// What nobody was granted is lent to generic VMs, so that one that grows at once need not wait for a step. What they do
/// not use of it, they lose at the next.
fn lend(view: &HostView, generic: &Goals, spendable: Pages, limits: &mut [Pages]) {
    let claimed: Pages = view.vms.iter().zip(&*limits).map(|(vm, limit)| vm.pages.resident.max(*limit)).sum();
    let mut free = spendable - claimed;
    let mut borrowers = serving_order(view);
    borrowers.retain(|at| {
        let gives_back = generic.goals[*at] < view.vms[*at].pages.resident;
        view.vms[*at].life == Life::Running && !gives_back && limits[*at] < generic.ceilings[*at]
    });
    for (before, at) in borrowers.iter().enumerate() {
        let mut part = Pages(free.0 / (borrowers.len() - before) as u64);
        let offered = part;
        limits[*at] = raised(&view.vms[*at], limits[*at], generic.ceilings[*at], &mut part);
        free -= offered - part;
    }
}

/// Raises a limit towards `goal` by what is free beyond the pages that the VM holds already.
fn raised(vm: &VmView, limit: Pages, goal: Pages, free: &mut Pages) -> Pages {
    if goal <= limit {
        return limit;
    }
    let claimed = limit.max(vm.pages.resident);
    let more = (goal - claimed).min(*free);
    *free -= more;
    goal.min(claimed + more)
}

/// What a rate in a second comes to in `span`.
fn in_span(rate: Pages, span: Duration) -> Pages {
    let millis = span.as_millis().min(u128::from(LONGEST_INTERVAL_MILLIS)) as u64;
    Pages(rate.0.saturating_mul(millis) / 1000)
}
