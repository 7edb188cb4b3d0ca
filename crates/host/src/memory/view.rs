//! From what was measured to what the governor is asked, and to what the controller is told.
//!
//! Owns both readings of a [`Sample`]. Pure: measuring is the loop's, deciding the room `memory`'s.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_memory::{
    governor::{
        HostView, Life, VmView,
        cpu::CpuView,
        elsewhere::{Verdict, Why},
    },
    settings::Keeping,
};
use lucarne_model::{
    Bytes, ErrorCode, InstanceId, Lending, Moment, Pages, Vcpus,
    instance::StateReason,
    memory::{PagesByPlace, Place},
    memory_move::{MoveCause, MoveWish},
    memory_report::{Ability, FaultsFrom, HostMemory, InstanceMemory, MemoryReport, MemoryState},
};
use lucarne_pager::{
    control::{Statistics, Trouble},
    latency::Latencies,
};

use super::{Budget, loans::Lent};

/// One VM as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) instance: InstanceId,
    pub(crate) keeping: Keeping,
    pub(crate) vcpus: Vcpus,
    pub(crate) life: Life,
    /// What its pager told last; none from one that has no pager, or has not told yet.
    pub(crate) told: Option<Statistics>,
    /// Guest's pages in the memory of its process.
    pub(crate) mapped: Pages,
    /// What its process takes beside them.
    pub(crate) overhead: Bytes,
    pub(crate) pager_restarts: u32,
    /// Why it could not be put to sleep or woken.
    pub(crate) failure: Option<String>,
}

/// The machine as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) cpu: CpuView,
    pub(crate) cpu_weights: Ability,
    pub(crate) lent: Lent,
}

impl Sample {
    /// What nobody has told of was not touched, as far as is known.
    pub(crate) fn pages(&self) -> PagesByPlace {
        match &self.told {
            Some(told) => told.pages,
            None => {
                let resident = self.mapped.min(self.keeping.memory);
                PagesByPlace { resident, untouched: self.keeping.memory - resident, ..PagesByPlace::default() }
            }
        }
    }

    /// Whether another host has copies of its pages, or is asked for them.
    pub(crate) fn borrows(&self) -> bool {
        self.told.as_ref().is_some_and(|told| !told.remote.lenders.is_empty() || told.pages.remote > Pages::ZERO)
    }

    /// Its pages that would come back from the disk. One that sleeps waits for none.
    pub(crate) fn stored(&self) -> Pages {
        let pages = self.pages();
        if self.life == Life::Hibernated { Pages::ZERO } else { pages.ssd + pages.remote }
    }

    fn pool(&self) -> Bytes {
        self.told.as_ref().map_or(Bytes::ZERO, |told| told.pool)
    }

    /// Of its process and its pager. One that sleeps has neither.
    fn overhead(&self) -> Bytes {
        match self.life {
            Life::Hibernated => Bytes::ZERO,
            Life::Running | Life::Paused => {
                self.overhead + self.told.as_ref().map_or(Bytes::ZERO, |told| told.overhead)
            }
        }
    }

    /// One look that saw no touch says little: on a busy machine a guest may take longer to come round to a page.
    fn idle(&self) -> Pages {
        self.told.as_ref().map_or(Pages::ZERO, |told| told.idle.min(told.pages.resident))
    }

    fn vm(&self) -> VmView {
        VmView {
            instance: self.instance,
            keeping: self.keeping,
            life: self.life,
            pages: self.pages(),
            idle: self.idle(),
            pool: Pages::covering(self.pool()),
            vcpus: self.vcpus,
        }
    }

    fn trouble(&self) -> Option<StateReason> {
        if let Some(message) = self.failure.clone() {
            return Some(StateReason { code: ErrorCode::HypervisorFailed, message });
        }
        let reason = |code, message: String| StateReason { code, message };
        Some(match self.told.as_ref()?.trouble.as_ref()? {
            Trouble::StoreFull => {
                reason(ErrorCode::DiskFull, "the disk for its pages is full: none leave, and others have less".into())
            }
            Trouble::StoreSlow => reason(
                ErrorCode::DiskSlow,
                "the disk for its pages is slow: few leave, so that others can come back".into(),
            ),
            Trouble::StoreFailed { reason: why } => {
                reason(ErrorCode::DiskFull, format!("its pages cannot be stored, so none leave: {why}"))
            }
        })
    }

    fn report(&self, target: Option<Pages>, bucket: u32, now: Moment) -> InstanceMemory {
        let told = self.told.as_ref();
        InstanceMemory {
            instance: self.instance,
            at: now,
            mode: self.keeping.mode,
            state: state(self.life),
            pages: self.pages(),
            target,
            bucket,
            faults: told.map(faults).unwrap_or_default(),
            evictions: told.map_or(0, |told| told.evicted.0),
            refaults: told.map_or(0, |told| told.refaults),
            pager_restarts: self.pager_restarts,
            trouble: self.trouble(),
        }
    }
}

const fn state(life: Life) -> MemoryState {
    match life {
        Life::Running => MemoryState::Active,
        Life::Paused => MemoryState::Paused,
        Life::Hibernated => MemoryState::Hibernated,
    }
}

fn faults(told: &Statistics) -> Vec<FaultsFrom> {
    let micros = |latencies: &Latencies, share| {
        let took = latencies.quantile(share).unwrap_or_default();
        u32::try_from(took.as_micros()).unwrap_or(u32::MAX)
    };
    let from = |(place, latencies): (&Place, &Latencies)| FaultsFrom {
        place: *place,
        count: latencies.count,
        p50_micros: micros(latencies, 0.5),
        p99_micros: micros(latencies, 0.99),
    };
    told.faults.iter().map(from).collect()
}

/// What the governor is asked.
pub(crate) fn host_view(budget: &Budget, found: &Found, samples: &[Sample]) -> HostView {
    let overhead = overhead(samples) + found.lent.overhead;
    HostView {
        total: Pages::covering(budget.memory + overhead),
        overhead: Pages::covering(overhead),
        shared: Pages::ZERO,
        lent: Pages::covering(found.lent.held),
        cpu: found.cpu,
        vms: samples.iter().map(Sample::vm).collect(),
    }
}

fn overhead(samples: &[Sample]) -> Bytes {
    samples.iter().map(Sample::overhead).sum()
}

/// What the controller is told. `limit` and `bucket` are the governor's last word on an instance, `wishes` its verdicts.
pub(crate) fn report(
    (budget, found): (&Budget, &Found),
    (samples, wishes): (&[Sample], Vec<MoveWish>),
    limit: impl Fn(InstanceId) -> Option<Pages>,
    bucket: impl Fn(InstanceId) -> u32,
    now: Moment,
) -> MemoryReport {
    let instances = samples.iter().map(|sample| sample.report(limit(sample.instance), bucket(sample.instance), now));
    MemoryReport {
        host: host_memory(budget, found, samples),
        instances: instances.collect(),
        wishes,
        moving: Vec::new(),
    }
}

/// A verdict in the controller's words.
pub(crate) fn wish(Verdict { instance, needs, why }: Verdict) -> MoveWish {
    let (cause, lacks) = match why {
        Why::HostShort { lacks } => (MoveCause::HostShort, lacks),
        Why::PinnedBeyondRoom => (MoveCause::PinnedBeyondRoom, Pages::ZERO),
        Why::NothingUnused => (MoveCause::NothingUnused, Pages::ZERO),
    };
    MoveWish { instance, needs, cause, lacks }
}

/// The parts, whose sum is the total. Guests that took more at once than they may keep make that larger for as long.
fn host_memory(budget: &Budget, found: &Found, samples: &[Sample]) -> HostMemory {
    let resident: Bytes = samples.iter().map(|sample| sample.pages().resident.bytes()).sum();
    let compressed: Bytes = samples.iter().map(Sample::pool).sum();
    let (shared, overhead) = (Bytes::ZERO, overhead(samples) + found.lent.overhead);
    let lent = found.lent.held;
    let left = budget.memory - resident - compressed - shared - lent;
    let pool = budget.unallocated.min(left);
    let memory = HostMemory {
        total: Bytes::ZERO,
        resident,
        compressed,
        shared,
        overhead,
        lent,
        pool,
        free: left - pool,
        lending: lending(found, samples, left - pool),
        paging: budget.paging.clone(),
        cpu_weights: found.cpu_weights.clone(),
    };
    HostMemory { total: memory.parts(), ..memory }
}

/// What is told of lending by a host that has this much free.
fn lending(found: &Found, samples: &[Sample], free: Bytes) -> Lending {
    let stored: Bytes = samples.iter().map(|sample| sample.stored().bytes()).sum();
    let borrowed: Bytes = samples.iter().map(|sample| sample.pages().remote.bytes()).sum();
    let lendable = found.lent.lender.map_or(Bytes::ZERO, |lender| lender.lendable(free + found.lent.held));
    Lending { lendable, wanted: stored - free, borrowed, port: found.lent.port }
}

#[cfg(test)]
mod tests {
    use lucarne_memory::lending::Lender;
    use lucarne_model::memory::MemorySettings;

    use super::*;

    fn budget(mib: u64) -> Budget {
        Budget {
            memory: Bytes::mib(mib),
            unallocated: Bytes::mib(10),
            compressed: Bytes::ZERO,
            factor: 1500,
            paging: Ability::Available,
        }
    }

    fn found() -> Found {
        Found { cpu: CpuView::default(), cpu_weights: Ability::Available, lent: Lent::default() }
    }

    fn sample(number: u128, told: Option<Statistics>) -> Sample {
        Sample {
            instance: InstanceId::from_bits(number),
            keeping: Keeping::new(&MemorySettings::default(), Bytes::mib(64)).unwrap(),
            vcpus: Vcpus(1),
            life: Life::Running,
            told,
            mapped: Pages::mib(20),
            overhead: Bytes::mib(30),
            pager_restarts: 0,
            failure: None,
        }
    }

    fn told(resident: u64) -> Statistics {
        let resident = Pages::mib(resident);
        let pages = PagesByPlace { resident, ssd: Pages::mib(64) - resident, ..PagesByPlace::default() };
        Statistics { pages, pool: Bytes::mib(3), overhead: Bytes::mib(1), ..Statistics::default() }
    }

    #[test]
    fn the_parts_of_a_host_are_its_total_however_much_guests_hold() {
        for (mib, total) in [(200, 200 + 61), (40, 83 + 61)] {
            let samples = [sample(1, Some(told(60))), sample(2, None)];
            let report = report((&budget(mib), &found()), (&samples, Vec::new()), |_| None, |_| 0, Moment::EPOCH);
            let host = report.host;
            assert_eq!(host.total, host.parts());
            assert_eq!(host.total, Bytes::mib(total), "overhead comes beside what was given to pages");
            assert_eq!((host.resident, host.compressed), (Bytes::mib(80), Bytes::mib(3)));
            assert!(report.instances.iter().all(|one| one.pages.total() == Pages::mib(64)));
        }
    }

    #[test]
    fn what_is_lent_is_a_part_of_the_host_and_what_would_be_borrowed_is_what_has_no_room() {
        let lender = Lender::new(Bytes::gib(1), Bytes::mib(400));
        let lent = Lent { held: Bytes::mib(50), overhead: Bytes::mib(2), port: Some(7), lender: Some(lender) };
        let host = host_memory(&budget(400), &Found { lent, ..found() }, &[sample(1, Some(told(60)))]);
        assert_eq!((host.total, host.total), (host.parts(), Bytes::mib(400 + 31 + 2)));
        assert_eq!((host.lent, host.free), (Bytes::mib(50), Bytes::mib(400 - 60 - 3 - 50 - 10)));
        let idle = host.free + host.lent;
        assert_eq!(host.lending.lendable, idle - Bytes::mib(50), "an eighth stays free");
        assert_eq!((host.lending.wanted, host.lending.port), (Bytes::ZERO, Some(7)), "there is room for all of it");
        let full = host_memory(&budget(20), &found(), &[sample(1, Some(told(10)))]);
        assert_eq!((full.free, full.lending.wanted, full.lending.lendable), (Bytes::ZERO, Bytes::mib(54), Bytes::ZERO));
    }

    #[test]
    fn what_the_governor_may_divide_does_not_shrink_with_overhead() {
        let samples = [sample(1, Some(told(60))), sample(2, None)];
        let view = host_view(&budget(200), &found(), &samples);
        assert_eq!(view.total - view.overhead, Pages::mib(200));
        assert_eq!(view.balance().unwrap().free, Pages::mib(200 - 83));
    }

    #[test]
    fn no_more_is_idle_than_is_here() {
        let idle = |pages| sample(1, Some(Statistics { idle: Pages::mib(pages), ..told(60) })).vm().idle;
        assert_eq!((idle(40), idle(70)), (Pages::mib(40), Pages::mib(60)));
        assert_eq!(sample(2, None).vm().idle, Pages::ZERO);
    }

    #[test]
    fn verdicts_are_wishes() {
        let (instance, needs) = (InstanceId::from_bits(1), Pages::mib(5));
        let lacks = Pages::mib(3);
        let wished = |why| wish(Verdict { instance, needs, why });
        let short = MoveWish { instance, needs, cause: MoveCause::HostShort, lacks };
        assert_eq!(wished(Why::HostShort { lacks }), short);
        let asleep = MoveWish { cause: MoveCause::NothingUnused, lacks: Pages::ZERO, ..short };
        assert_eq!(wished(Why::NothingUnused), asleep);
    }

    #[test]
    fn a_vm_that_sleeps_takes_nothing_but_its_store() {
        let asleep = Sample { life: Life::Hibernated, ..sample(1, Some(told(0))) };
        let memory = host_memory(&budget(200), &found(), &[asleep]);
        assert_eq!((memory.resident, memory.overhead), (Bytes::ZERO, Bytes::ZERO));
    }

    #[test]
    fn a_full_disk_is_told_from_a_slow_one() {
        for (trouble, code) in [(Trouble::StoreFull, ErrorCode::DiskFull), (Trouble::StoreSlow, ErrorCode::DiskSlow)] {
            let statistics = Statistics { trouble: Some(trouble), ..told(60) };
            let told = sample(1, Some(statistics)).report(None, 0, Moment::EPOCH);
            assert_eq!(told.trouble.map(|trouble| trouble.code), Some(code));
        }
    }
}
