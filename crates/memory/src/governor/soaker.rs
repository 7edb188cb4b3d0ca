//! Soakers: who of them runs, and on how much, with what generic VMs leave.
//!
//! Owns their order and their sleep. Higher priorities are served first, each up to its whole memory; equals share by size.
//! One that would have less than its minimum operating amount sleeps: it is paused at once, and hibernated when that
//! lasts. It wakes when it can have its minimum starting amount, which is larger, and could have had it for a while: that
//! is all that keeps it from waking and sleeping by turns. While it could have it, nobody below it gets it.

use std::time::Duration;

use lucarne_model::{Moment, Pages};

use super::{HostView, Life, Rules, VmView};

/// What is remembered of a soaker that sleeps, or is about to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sleep {
    /// Since when there is not enough for it.
    pub(super) denied_since: Option<Moment>,
    /// Since when there is, while it sleeps.
    enough_since: Option<Moment>,
}

impl Sleep {
    /// What a soaker should be, given what it is to hold and what it could hold at this instant. Who was told to wake and has
    /// not yet done so has its starting amount within reach, since it was granted.
    pub(super) fn turn(
        &mut self,
        now: Moment,
        vm: &VmView,
        allotted: Option<Pages>,
        within_reach: Pages,
        rules: &Rules,
    ) -> Life {
        let Some(_) = allotted else {
            self.enough_since = None;
            let since = *self.denied_since.get_or_insert(now);
            let is_late = has_lasted(now, since, rules.hibernate_after);
            return if vm.life == Life::Hibernated || is_late { Life::Hibernated } else { Life::Paused };
        };
        self.denied_since = None;
        if vm.life == Life::Running {
            self.enough_since = None;
            return Life::Running;
        }
        let since = *self.enough_since.get_or_insert(now);
        let fits = vm.keeping.minimum_starting <= within_reach;
        if fits && has_lasted(now, since, rules.settle) { Life::Running } else { vm.life }
    }
}

pub(super) fn has_lasted(now: Moment, since: Moment, span: Duration) -> bool {
    now >= since.plus(span)
}

/// The least with which a soaker makes sense: to go on, or to wake.
fn need(vm: &VmView) -> Pages {
    match vm.life {
        Life::Running => vm.keeping.minimum_operating,
        Life::Paused | Life::Hibernated => vm.keeping.minimum_starting,
    }
}

/// Divides `left` among the soakers. By VM, as in the view: None for those that get nothing, and for generic VMs.
pub(super) fn allot(left: Pages, view: &HostView) -> Vec<Option<Pages>> {
    let mut allotted = vec![None; view.vms.len()];
    let mut left = left;
    for rank in ranks(view) {
        let members = admit(left, &rank, view);
        share_by_size(left, &members, view, &mut allotted);
        left -= members.iter().filter_map(|at| allotted[*at]).sum();
    }
    allotted
}

/// Whether a soaker could use more than it was allotted.
pub(super) fn is_hungry(view: &HostView, allotted: &[Option<Pages>]) -> bool {
    let mut soakers = view.vms.iter().zip(allotted).filter(|(vm, _)| vm.keeping.is_soaker());
    soakers.any(|(vm, allotted)| allotted.is_none_or(|allotted| allotted < vm.keeping.memory))
}

/// Soakers by their places in the view: those of the highest priority first, of equals those that run, then the oldest.
pub(super) fn in_order(view: &HostView) -> Vec<usize> {
    let mut order: Vec<usize> = (0..view.vms.len()).filter(|at| view.vms[*at].keeping.is_soaker()).collect();
    order.sort_by_key(|at| {
        let vm = &view.vms[*at];
        (std::cmp::Reverse(vm.keeping.priority), vm.life != Life::Running, vm.instance)
    });
    order
}

fn ranks(view: &HostView) -> Vec<Vec<usize>> {
    let order = in_order(view);
    order
        .chunk_by(|a, b| view.vms[*a].keeping.priority == view.vms[*b].keeping.priority)
        .map(<[usize]>::to_vec)
        .collect()
}

/// Those of a rank whose needs `left` covers.
fn admit(left: Pages, rank: &[usize], view: &HostView) -> Vec<usize> {
    let mut left = left;
    let mut admitted = rank.to_vec();
    admitted.retain(|at| {
        let need = need(&view.vms[*at]);
        let fits = need <= left;
        if fits {
            left -= need;
        }
        fits
    });
    admitted
}

/// Each has its need; what is left beyond goes by size to those that are not whole yet, until all are or nothing is left.
fn share_by_size(left: Pages, members: &[usize], view: &HostView, allotted: &mut [Option<Pages>]) {
    let mut left = left;
    for at in members {
        allotted[*at] = Some(need(&view.vms[*at]));
        left -= need(&view.vms[*at]);
    }
    loop {
        let missing = |at: usize| view.vms[at].keeping.memory - allotted[at].unwrap_or_default();
        let open: Vec<(usize, Pages)> =
            members.iter().map(|at| (*at, missing(*at))).filter(|(_, missing)| *missing > Pages::ZERO).collect();
        let sum: u128 = open.iter().map(|(at, _)| u128::from(view.vms[*at].keeping.memory.0)).sum();
        if sum == 0 || left == Pages::ZERO {
            return;
        }
        let round = left;
        for (at, missing) in open {
            let part = u128::from(round.0) * u128::from(view.vms[at].keeping.memory.0) / sum;
            let part = Pages((part as u64).max(1)).min(missing).min(left);
            allotted[at] = allotted[at].map(|has| has + part);
            left -= part;
        }
    }
}
