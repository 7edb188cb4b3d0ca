//! Who should live on another host: what only the controller can put right.
//!
//! Owns the choice of whom to ask it for. Finding the host and moving is the controller's.

use lucarne_model::{InstanceId, Moment, Pages};

use super::{Governor, HostView, VmView, share::Goals, soaker::has_lasted};

/// What this host's governor asks the controller for: this VM should go to a host that has `needs` for it. It is said again at
/// every step for as long as it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub instance: InstanceId,
    pub needs: Pages,
    pub why: Why,
}

/// Why a VM should leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Even with every generic VM at its share, the host lacks this much.
    HostShort { lacks: Pages },
    /// It is pinned, and the host cannot hold all of it.
    PinnedBeyondRoom,
    /// It is a soaker that sleeps, and nothing has been unused for long.
    NothingUnused,
}

impl Governor {
    pub(super) fn verdicts(&mut self, now: Moment, view: &HostView, generic: &Goals) -> Vec<Verdict> {
        let sleepers = view.vms.iter().filter(|vm| self.sleeps_long(now, vm)).map(|vm| Verdict {
            instance: vm.instance,
            needs: vm.keeping.minimum_starting,
            why: Why::NothingUnused,
        });
        let mut verdicts: Vec<_> = sleepers.collect();
        if generic.shortage == Pages::ZERO {
            self.short_since = None;
            return verdicts;
        }
        let since = *self.short_since.get_or_insert(now);
        if has_lasted(now, since, self.rules.move_after) {
            verdicts.extend(self.who_leaves(view, generic.shortage));
        }
        verdicts
    }

    fn sleeps_long(&self, now: Moment, vm: &VmView) -> bool {
        let denied_since = self.vms.get(&vm.instance).and_then(|kept| kept.sleep.denied_since);
        vm.keeping.is_soaker() && denied_since.is_some_and(|since| has_lasted(now, since, self.rules.move_after))
    }

    /// A pinned VM that does not have all of its memory yet; else the smallest VM with which the shortage goes; else the
    /// largest. By what is the same at every step, so that it is the same VM until it has left.
    fn who_leaves(&self, view: &HostView, lacks: Pages) -> Option<Verdict> {
        let generic = || view.vms.iter().filter(|vm| !vm.keeping.is_soaker());
        let unmet = generic().filter(|vm| vm.keeping.pinned && vm.pages.resident < vm.keeping.memory);
        if let Some(vm) = unmet.min_by_key(|vm| (vm.keeping.memory, vm.instance)) {
            let (instance, needs, why) = (vm.instance, vm.keeping.memory, Why::PinnedBeyondRoom);
            return Some(Verdict { instance, needs, why });
        }
        let share = |vm: &&VmView| self.rules.oversubscription.share(&vm.keeping);
        let suffices = generic().filter(|vm| share(vm) >= lacks).min_by_key(|vm| (share(vm), vm.instance));
        let leaves = suffices.or_else(|| generic().max_by_key(|vm| (share(vm), vm.instance)))?;
        let (needs, why) = (share(&leaves), Why::HostShort { lacks });
        Some(Verdict { instance: leaves.instance, needs, why })
    }
}
