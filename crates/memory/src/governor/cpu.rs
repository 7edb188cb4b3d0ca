//! Processors by the same rules as memory: soakers have what generic VMs leave idle, and are the first to lose it.
//!
//! Owns weights and quotas. Weights act at once, when a generic VM wakes within an interval; quotas keep soakers from
//! crowding caches and queues between two steps. Writing them into cgroups (v1: `cpu.shares`, `cpu.cfs_quota_us`; v2:
//! `cpu.weight`, `cpu.max`) is the host agent's.

use super::{HostView, Life, VmView, soaker};

/// What the host's processors do, in thousandths of a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuView {
    pub total: u64,
    /// By all but soakers, in the last interval.
    pub used: u64,
}

/// A VM's part of the processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuShare {
    /// As in cgroup v2: 1 to 10,000.
    pub weight: u32,
    /// Thousandths of a processor; None: no quota.
    pub quota: Option<u64>,
}

/// The weight of each virtual processor of a generic VM, cgroup v2's default.
const GENERIC_WEIGHT: u32 = 100;
/// All soakers together weigh next to nothing beside one generic VM.
const SOAKER_WEIGHT: u32 = 1;
/// Thousandths of a processor that a running soaker always has, so that it still answers.
const LEAST_QUOTA: u64 = 10;

impl CpuShare {
    /// The weight as cgroup v1's `cpu.shares`, whose default is 1024 where v2's is 100.
    pub const fn shares_v1(self) -> u64 {
        let shares = self.weight as u64 * 1024 / 100;
        if shares < 2 { 2 } else { shares }
    }
}

/// By VM, as in the view.
pub(super) fn divide(view: &HostView) -> Vec<CpuShare> {
    let mut shares: Vec<CpuShare> = view.vms.iter().map(generic_share).collect();
    let mut idle = view.cpu.total.saturating_sub(view.cpu.used);
    for at in soaker::in_order(view) {
        let vm = &view.vms[at];
        let can_use = if vm.life == Life::Running { u64::from(vm.vcpus.0) * 1000 } else { 0 };
        let part = can_use.min(idle);
        idle -= part;
        shares[at] = CpuShare { weight: SOAKER_WEIGHT, quota: Some(part.max(LEAST_QUOTA)) };
    }
    shares
}

fn generic_share(vm: &VmView) -> CpuShare {
    CpuShare { weight: vm.vcpus.0.saturating_mul(GENERIC_WEIGHT).clamp(1, 10_000), quota: None }
}

#[cfg(test)]
mod tests {
    use lucarne_model::Pages;

    use super::{super::tests::Bed, *};

    #[test]
    fn idle_processors_go_to_soakers_by_priority_and_generic_vms_have_no_quota() {
        let mut bed = Bed::of(1024);
        bed.generic(1, 64);
        bed.soaker(2, 64, 10);
        bed.soaker(3, 64, 90);
        let mut view = bed.view();
        view.vms.iter_mut().for_each(|vm| vm.pages.resident = Pages::ZERO);
        view.cpu = CpuView { total: 4000, used: 2500 };
        let shares = divide(&view);
        assert_eq!(shares[0], CpuShare { weight: 200, quota: None });
        assert_eq!(shares.iter().skip(1).map(|share| share.quota).collect::<Vec<_>>(), [Some(10), Some(1500)]);
        view.cpu.used = 4000;
        assert!(divide(&view).iter().skip(1).all(|share| share.quota == Some(10)));
    }

    #[test]
    fn a_weight_is_never_below_what_version_1_takes() {
        assert_eq!(CpuShare { weight: 1, quota: None }.shares_v1(), 10);
        assert_eq!(CpuShare { weight: 100, quota: None }.shares_v1(), 1024);
    }
}
