//! What the VMs of this host use of their processors, and how many connections they have: for whoever scales groups of them.
//!
//! Owns the rounds of measuring and the span that processor time is averaged over. What a figure means is
//! [`InstanceFigures`]' word; connections are counted by the switch, the machine's time is read by [`crate::memory`].

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use lucarne_model::{InstanceId, Vcpus, scaling::InstanceFigures};
use lucarne_vmm::driver::Driver;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    memory::{Governed, process_ticks},
    network::Network,
};

const EVERY: Duration = Duration::from_secs(1);
/// What processor time is averaged over.
const SPAN: Duration = Duration::from_secs(10);
/// A shorter time says little: it is told nothing of one whose VM has just begun.
const LEAST_SPAN: Duration = Duration::from_secs(2);
/// USER_HZ: the unit in which Linux tells processes' times, on x86-64 and on ARM.
const TICKS_A_SECOND: u64 = 100;

/// Measures until `shutdown`.
pub(crate) async fn follow(
    (driver, network): (Arc<dyn Driver>, Arc<dyn Network>),
    governed: watch::Receiver<Arc<Vec<Governed>>>,
    told: watch::Sender<Vec<InstanceFigures>>,
    shutdown: CancellationToken,
) {
    let mut rounds = tokio::time::interval(EVERY);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut meters: BTreeMap<InstanceId, Meter> = BTreeMap::new();
    let measure = async {
        loop {
            rounds.tick().await;
            let governed = governed.borrow().clone();
            let sightings = network.sightings().await;
            let mut figures = Vec::new();
            for Governed { instance, vcpus, .. } in governed.iter() {
                let process = driver.process_id(*instance).await;
                let read = process.and_then(|process| Some(Reading { process, ticks: process_ticks(process)? }));
                let cpu_thousandths = read.and_then(|reading| {
                    let meter = meters.entry(*instance).or_default();
                    meter.take(Instant::now(), reading, *vcpus)
                });
                let seen = sightings.get(instance);
                figures.push(InstanceFigures {
                    instance: *instance,
                    cpu_thousandths,
                    live_connections: seen.map(|seen| seen.live_connections),
                    traffic: seen.map(|seen| seen.traffic),
                });
            }
            meters.retain(|instance, _| governed.iter().any(|one| one.instance == *instance));
            told.send_replace(figures);
        }
    };
    shutdown.run_until_cancelled(measure).await;
}

/// The processor time that a VM's process has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    process: u32,
    ticks: u64,
}

/// The readings of one VM, as far back as is averaged over.
#[derive(Debug, Default)]
struct Meter {
    process: u32,
    readings: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// Takes a reading; what was used since the oldest one, in thousandths of what the processors could have been used. QEMU's own
    /// threads may take something beside them: more than all is all.
    fn take(&mut self, now: Instant, reading: Reading, vcpus: Vcpus) -> Option<u32> {
        if self.process != reading.process {
            *self = Self { process: reading.process, readings: VecDeque::new() };
        }
        self.readings.push_back((now, reading.ticks));
        // The oldest is the youngest of those that are old enough.
        while self.readings.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= SPAN) {
            self.readings.pop_front();
        }
        let (at, ticks) = self.readings.front()?;
        let passed = now.duration_since(*at);
        if passed < LEAST_SPAN {
            return None;
        }
        let used = u128::from(reading.ticks.saturating_sub(*ticks)) * 1_000_000 / u128::from(TICKS_A_SECOND);
        let could = passed.as_micros() * u128::from(vcpus.0.max(1));
        u32::try_from(used * 1000 / could).map_or(Some(1000), |thousandths| Some(thousandths.min(1000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One reading a second, of a process that takes so many ticks in each.
    fn run(meter: &mut Meter, begun: Instant, process: u32, ticks: &[u64], vcpus: u32) -> Vec<Option<u32>> {
        let mut total = 0;
        let readings = (0..).zip(ticks).map(|(second, more)| {
            total += more;
            let at = begun + Duration::from_secs(second);
            meter.take(at, Reading { process, ticks: total }, Vcpus(vcpus))
        });
        readings.collect()
    }

    #[test]
    fn processor_time_is_that_of_the_last_ten_seconds_and_of_all_processors() {
        let (mut meter, begun) = (Meter::default(), Instant::now());
        let told = run(&mut meter, begun, 7, &[0, 100, 100, 100], 2);
        assert_eq!(told, [None, None, Some(500), Some(500)]);
        let mut busy_then_idle = vec![100; 5];
        busy_then_idle.extend([0; 12]);
        let told = run(&mut meter, begun + Duration::from_secs(100), 8, &busy_then_idle, 1);
        assert_eq!((told[4], told[9], told[16]), (Some(1000), Some(444), Some(0)));
    }

    #[test]
    fn a_vm_that_was_started_anew_is_not_taken_for_the_one_before() {
        let (mut meter, begun) = (Meter::default(), Instant::now());
        run(&mut meter, begun, 7, &[5000, 0, 0], 1);
        assert_eq!(run(&mut meter, begun + Duration::from_secs(3), 8, &[0, 10, 10], 1), [None, None, Some(100)]);
    }

    #[test]
    fn more_than_all_processors_is_all_of_them() {
        let told = run(&mut Meter::default(), Instant::now(), 7, &[0, 0, 900], 1);
        assert_eq!(told[2], Some(1000));
    }
}
