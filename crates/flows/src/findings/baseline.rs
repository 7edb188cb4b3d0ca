//! What a machine is used to: its bytes a minute, with their spread, learnt as time goes.
//!
//! Owns a [`Habit`] for each machine, weighted so that an hour ago counts about a third, and when a minute stands out. A machine that
//! is new stands out in nothing.

use std::collections::HashMap;

use lucarne_model::{Habit, InstanceId, Moment};

const MINUTE: u64 = 60;
/// The weight of a new minute.
const WEIGHT: f64 = 1.0 / 60.0;
/// Minutes that are learnt from before any stands out.
const LEARN: u32 = 15;
/// Standard deviations above the mean.
const DEVIATIONS: f64 = 6.0;
/// Times the mean, for machines whose traffic hardly varies.
const TIMES: f64 = 5.0;

/// A minute that stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Surge {
    pub(crate) instance: InstanceId,
    /// Bytes in the minute.
    pub(crate) bytes: u64,
    /// What would just have been usual.
    pub(crate) usual: u64,
}

#[derive(Debug, Default)]
struct Machine {
    habit: Habit,
    /// In the minute that is not over.
    bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Baselines {
    machines: HashMap<InstanceId, Machine>,
    minute: u64,
}

impl Baselines {
    /// Bytes below which no minute stands out, whatever a machine is used to.
    pub(crate) const LEAST: u64 = 10 << 20;

    pub(crate) fn see(&mut self, instance: InstanceId, bytes: u64) {
        let machine = self.machines.entry(instance).or_default();
        machine.bytes = machine.bytes.saturating_add(bytes);
    }

    /// Whether it has been seen, and not been silent for so long that it is forgotten.
    pub(crate) fn knows(&self, instance: InstanceId) -> bool {
        self.machines.contains_key(&instance)
    }

    /// Whether [`Baselines::poll`] at `now` would end a minute.
    pub(crate) const fn ends_minute(&self, now: Moment) -> bool {
        now.as_secs() / MINUTE > self.minute
    }

    /// Ends the minutes before `now`; the machines for which the last one stood out.
    pub(crate) fn poll(&mut self, now: Moment) -> Vec<Surge> {
        if !self.ends_minute(now) {
            return Vec::new();
        }
        let minute = now.as_secs() / MINUTE;
        let passed = if self.minute == 0 { 1 } else { minute - self.minute };
        self.minute = minute;
        let surges = self.machines.iter_mut().filter_map(|(instance, machine)| machine.end_minute(*instance)).collect();
        // In the minutes for which nobody asked, nothing was seen.
        for _ in 1..passed.min(LEARN.into()) {
            self.machines.values_mut().for_each(|machine| machine.habit.learn(0.0, WEIGHT));
        }
        // Machines that are gone are forgotten when an hour has brought nothing.
        self.machines.retain(|_, machine| machine.habit.count() < LEARN || machine.habit.mean() >= 1.0);
        surges
    }
}

impl Machine {
    fn end_minute(&mut self, instance: InstanceId) -> Option<Surge> {
        let bytes = std::mem::take(&mut self.bytes);
        let (mean, deviation) = (self.habit.mean(), self.habit.deviation());
        let usual = (mean + DEVIATIONS * deviation).max(mean * TIMES) as u64;
        let usual = usual.max(Baselines::LEAST);
        let stands_out = self.habit.count() >= LEARN && bytes > usual;
        self.habit.learn(bytes as f64, WEIGHT);
        stands_out.then_some(Surge { instance, bytes, usual })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: InstanceId = InstanceId::from_bits(1);

    fn minutes(baselines: &mut Baselines, from: u64, bytes: impl IntoIterator<Item = u64>) -> Vec<(u64, Surge)> {
        let mut surges = Vec::new();
        for (minute, bytes) in (from..).zip(bytes) {
            baselines.see(VM, bytes);
            surges.extend(baselines.poll(Moment::from_secs((minute + 1) * MINUTE)).into_iter().map(|s| (minute, s)));
        }
        surges
    }

    #[test]
    fn a_steady_machine_stands_out_when_it_sends_ten_times_as_much() {
        let mut baselines = Baselines::default();
        let steady = (0..60).map(|n| (100 << 20) + (n % 7) * (1 << 20));
        assert_eq!(minutes(&mut baselines, 1, steady), []);
        let surges = minutes(&mut baselines, 61, [1 << 30]);
        assert_eq!(surges.len(), 1);
        assert!(surges[0].1.usual > 100 << 20 && surges[0].1.usual < 600 << 20, "{surges:?}");
    }

    #[test]
    fn a_new_machine_and_a_little_traffic_stand_out_in_nothing() {
        let mut baselines = Baselines::default();
        assert_eq!(minutes(&mut baselines, 1, [0, 0, 1 << 40]), [], "it is new");
        let mut baselines = Baselines::default();
        assert_eq!(minutes(&mut baselines, 1, [1000; 40]), []);
        assert_eq!(minutes(&mut baselines, 41, [100_000]), [], "a hundred times as much, and still nothing");
    }

    #[test]
    fn what_goes_on_for_long_becomes_a_habit() {
        let mut baselines = Baselines::default();
        minutes(&mut baselines, 1, vec![20 << 20; 60]);
        let surges = minutes(&mut baselines, 61, vec![400 << 20; 120]);
        assert!(!surges.is_empty());
        assert!(surges.iter().all(|(minute, _)| *minute < 100), "{:?}", surges.last());
    }
}
