//! The governor of a host's memory: how much each VM may hold, which soakers run, who should live elsewhere.
//!
//! Owns the rule that all that is granted fits, and the order in which VMs are served: pinned, generic, soakers by
//! priority. Measuring the host, moving pages, pausing and hibernating are the host agent's; moving a VM to another host
//! is the controller's. It is called once in an interval (a second or less) and answers with the whole of what should be,
//! so that an answer that was lost or carried out twice does no harm.
//!
//! A step goes through four decisions, each in a file of its own: [`share`], what generic VMs should hold; [`soaker`], what
//! is left for whom; [`grant`], how far towards that one interval may go; [`elsewhere`], who does not fit.

pub mod cpu;
pub mod elsewhere;
pub mod grant;
pub mod share;
pub mod soaker;

use std::{collections::BTreeMap, time::Duration};

use lucarne_model::{InstanceId, Moment, Pages, Vcpus, memory::PagesByPlace};

use self::{
    cpu::{CpuShare, CpuView},
    elsewhere::Verdict,
    share::Memory,
    soaker::Sleep,
};
use crate::{bucket::Bucket, oversubscription::Oversubscription, settings::Keeping};

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub oversubscription: Oversubscription,
    /// Pages in a second that a generic VM gives back, or gets back, by its bucket.
    pub leak_rate: Pages,
    /// Pages in a second that a VM gives back when others need them, and that a soaker takes.
    pub squeeze_rate: Pages,
    /// Thousandths of its idle pages that a generic VM gives up, but for its room to grow, when somebody else would use them. ESX takes 750.
    pub idle_tax: u32,
    /// What a soaker that sleeps could have must have been there for so long before it comes back.
    pub settle: Duration,
    /// A soaker that was paused for so long is hibernated.
    pub hibernate_after: Duration,
    /// A host that was short for so long, or had nothing for a soaker, asks for another host.
    pub move_after: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            oversubscription: Oversubscription::default(),
            leak_rate: Pages::mib(16),
            squeeze_rate: Pages::mib(1024),
            idle_tax: 750,
            settle: Duration::from_secs(10),
            hibernate_after: Duration::from_secs(30),
            move_after: Duration::from_secs(60),
        }
    }
}

/// The host as its agent measured it.
#[derive(Clone, Debug)]
pub struct HostView {
    /// All that the governor may divide: the machine's memory, or what `lucarne host` was given of it.
    pub total: Pages,
    /// Kernel, agent, switch, and what QEMUs and pagers use beside guests' pages.
    pub overhead: Pages,
    /// Pages that several VMs have in common, counted once.
    pub shared: Pages,
    /// Copies of other hosts' pages, which go when anybody here needs their room: nothing is divided without them.
    pub lent: Pages,
    pub cpu: CpuView,
    pub vms: Vec<VmView>,
}

/// One VM as its pager and QEMU were found.
#[derive(Clone, Debug)]
pub struct VmView {
    pub instance: InstanceId,
    pub keeping: Keeping,
    pub life: Life,
    pub pages: PagesByPlace,
    /// Of the resident ones, those that were not touched for many scans.
    pub idle: Pages,
    /// The host's pages that its compressed pages take.
    pub pool: Pages,
    pub vcpus: Vcpus,
}

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Running,
    /// Its processors stand still; QEMU is there. So is one whose hibernation is under way.
    Paused,
    /// Device state and pages are in the store; there is no QEMU.
    Hibernated,
}

/// What one VM should be from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub instance: InstanceId,
    pub life: Life,
    /// Its resident pages may be no more than this; what is above leaves.
    pub limit: Pages,
    /// Its compressed pages may take no more of the host's.
    pub pool: Pages,
    pub cpu: CpuShare,
}

/// What the host should be from now on.
#[derive(Clone, Debug)]
pub struct Plan {
    pub orders: Vec<Order>,
    pub verdicts: Vec<Verdict>,
    /// Thousandths: 0 when all have what they want, 1000 when generic VMs are squeezed to their shares.
    pub pressure: u32,
}

/// What is remembered of a VM from step to step.
#[derive(Clone, Copy, Debug)]
struct Kept {
    bucket: Bucket,
    limit: Pages,
    sleep: Sleep,
}

/// The governor of one host.
#[derive(Debug)]
pub struct Governor {
    rules: Rules,
    vms: BTreeMap<InstanceId, Kept>,
    stepped_at: Option<Moment>,
    /// Whether somebody had less than it could use, after the last step.
    hungry: bool,
    short_since: Option<Moment>,
}

impl Governor {
    pub const fn new(rules: Rules) -> Self {
        Self { rules, vms: BTreeMap::new(), stepped_at: None, hungry: false, short_since: None }
    }

    /// Goes on by other rules, from the next step on.
    pub const fn change_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// One interval: takes what was measured at `now`, and says what should be.
    pub fn step(&mut self, now: Moment, view: &HostView) -> Plan {
        let span = self.stepped_at.map_or(Duration::ZERO, |before| now.since(before));
        self.stepped_at = Some(now);
        self.know(now, view);
        let pools = self.pools(view);
        let memory = Memory::of(view, &pools, &self.rules);
        let generic = self.generic_goals(now, view, &memory);
        let allotted = soaker::allot(generic.unused, view);
        let limits = self.grant(now, span, view, &memory, &generic, &allotted);
        self.hungry = generic.pressure > 0 || soaker::is_hungry(view, &allotted);
        let cpu = cpu::divide(view);
        let orders = view.vms.iter().zip(limits).zip(pools).zip(cpu).map(|(((vm, (limit, life)), pool), cpu)| {
            let instance = vm.instance;
            Order { instance, life, limit, pool, cpu }
        });
        let orders: Vec<Order> = orders.collect();
        let verdicts = self.verdicts(now, view, &generic);
        Plan { orders, verdicts, pressure: generic.pressure }
    }

    /// How full the bucket of a VM of this size is, in thousandths; none of one that is not known.
    pub fn fullness(&self, instance: InstanceId, memory: Pages) -> Option<u32> {
        let level = u128::from(self.vms.get(&instance)?.bucket.level()) * 1000;
        u32::try_from(level / u128::from(share::depth(memory).max(1))).ok()
    }

    /// Meets new VMs and forgets those that are gone. One that is met counts with what it holds.
    fn know(&mut self, now: Moment, view: &HostView) {
        self.vms.retain(|instance, _| view.vms.iter().any(|vm| vm.instance == *instance));
        for vm in &view.vms {
            self.vms.entry(vm.instance).or_insert_with(|| Kept {
                bucket: Bucket::new(vm.keeping.memory, now),
                limit: vm.pages.resident,
                sleep: Sleep::default(),
            });
        }
    }

    /// Each VM's part of the compressed pool, by the size of its memory. The sum of the parts is the pool, to the page.
    fn pools(&self, view: &HostView) -> Vec<Pages> {
        let pool = u128::from(self.rules.oversubscription.pool.0 / Pages::SIZE);
        let sizes = || view.vms.iter().map(|vm| u128::from(vm.keeping.memory.0));
        let (all, mut before) = (sizes().sum::<u128>().max(1), 0);
        let part = |size| {
            let (from, to) = (pool * before / all, pool * (before + size) / all);
            before += size;
            Pages((to - from) as u64)
        };
        sizes().map(part).collect()
    }
}

/// Where a host's memory is: the sum of the parts is the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    pub resident: Pages,
    pub pool: Pages,
    pub shared: Pages,
    pub overhead: Pages,
    pub lent: Pages,
    pub free: Pages,
}

impl HostView {
    /// None when more is used than there is: the host swaps, or was measured wrongly.
    pub fn balance(&self) -> Option<Balance> {
        let resident: Pages = self.vms.iter().map(|vm| vm.pages.resident).sum();
        let pool: Pages = self.vms.iter().map(|vm| vm.pool).sum();
        let used = resident + pool + self.shared + self.overhead + self.lent;
        let free = Pages(self.total.0.checked_sub(used.0)?);
        Some(Balance { resident, pool, shared: self.shared, overhead: self.overhead, lent: self.lent, free })
    }
}

#[cfg(test)]
mod tests;
