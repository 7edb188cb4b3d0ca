//! When each flow is looked at next: a wheel of timers, one for each flow, that costs a packet nothing.
//!
//! Owns the order in time. A packet does not move its flow's timer; when the timer comes up, the table looks at what has
//! become of the flow and sets the next one. What is due is decided by [`FlowTable`](super::FlowTable).

use std::time::Duration;

use lucarne_model::Moment;

const TICK: Duration = Duration::from_millis(100);
/// A turn takes 102 seconds; what is due later comes up early and is set again.
const SLOTS: u64 = 1024;

/// A flow whose timer has come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) slot: u32,
    /// What [`Wheel::arm`] gave. When the flow has been given another stamp since, this timer is void.
    pub(super) stamp: u32,
}

#[derive(Debug)]
pub(super) struct Wheel {
    buckets: Vec<Vec<Due>>,
    /// The tick that is being emptied.
    current: u64,
    armed: usize,
}

const fn tick_before(moment: Moment) -> u64 {
    moment.as_micros() / TICK.as_micros() as u64
}
const fn tick_after(moment: Moment) -> u64 {
    moment.as_micros().div_ceil(TICK.as_micros() as u64)
}
const fn bucket(tick: u64) -> usize {
    (tick % SLOTS) as usize
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self { buckets: vec![Vec::new(); SLOTS as usize], current: 0, armed: 0 }
    }

    /// Sets a timer at `due`, not before it, and returns its stamp.
    pub(super) fn arm(&mut self, slot: u32, due: Moment, now: Moment) -> u32 {
        if self.armed == 0 {
            self.current = tick_before(now);
        }
        let tick = tick_after(due).clamp(self.current + 1, self.current + SLOTS - 1);
        let stamp = tick as u32;
        self.buckets[bucket(tick)].push(Due { slot, stamp });
        self.armed += 1;
        stamp
    }

    /// The next timer that is due at `now`.
    pub(super) fn pop(&mut self, now: Moment) -> Option<Due> {
        let target = tick_before(now);
        while self.armed > 0 {
            if let Some(due) = self.buckets[bucket(self.current)].pop() {
                self.armed -= 1;
                return Some(due);
            }
            if self.current >= target {
                return None;
            }
            // After a long pause one turn of the wheel meets every timer; ticks before it need no visit.
            self.current = (self.current + 1).max(target.saturating_sub(SLOTS));
        }
        None
    }

    /// When [`pop`](Self::pop) has something next.
    pub(super) fn next(&self) -> Option<Moment> {
        let ticks = self.current..self.current + SLOTS;
        let tick = ticks.into_iter().find(|tick| self.armed > 0 && !self.buckets[bucket(*tick)].is_empty())?;
        Some(Moment(tick * TICK.as_micros() as u64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_timer_comes_up_once_and_none_that_is_in_reach_too_early(
            start in 0u64..1 << 40, delays in prop::collection::vec(0u64..90_000_000, 1..40), step in 50_000u64..300_000_000,
        ) {
            let mut wheel = Wheel::new();
            let begin = Moment(start);
            for (slot, delay) in delays.iter().enumerate() {
                wheel.arm(slot as u32, Moment(start + delay), begin);
            }
            let mut seen = vec![0; delays.len()];
            let mut now = begin;
            while let Some(next) = wheel.next() {
                now = now.max(next).plus(Duration::from_micros(step));
                while let Some(due) = wheel.pop(now) {
                    seen[due.slot as usize] += 1;
                    prop_assert!(start + delays[due.slot as usize] <= now.0);
                }
            }
            prop_assert!(seen.iter().all(|n| *n == 1), "{:?}", seen);
        }
    }

    #[test]
    fn an_empty_wheel_has_no_next() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.next(), None);
        wheel.arm(1, Moment::from_secs(2), Moment::from_secs(1));
        assert_eq!(wheel.next(), Some(Moment::from_secs(2)));
        assert_eq!(wheel.pop(Moment::from_millis(1999)), None);
        assert!(wheel.pop(Moment::from_secs(2)).is_some());
        assert_eq!(wheel.next(), None);
    }
}
