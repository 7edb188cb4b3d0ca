//! When each flow is looked at next: a wheel of timers, one for each flow, that costs a packet nothing.
//!
//! Owns the order in time. A packet does not move its flow's timer; when the timer comes up, the table looks at what has
//! become of the flow and sets the next one. What is due is decided by [`FlowTable`](super::FlowTable).
//!
//! The timers of one tick are a list that runs through the flows themselves, so a timer has no memory of its own and none
//! that does not count any more stays behind.

use std::time::Duration;

use lucarne_model::Moment;

const TICK: Duration = Duration::from_millis(100);
/// A turn takes 102 seconds; what is due later comes up early and is set again.
const SLOTS: u64 = 1024;
const NONE: u32 = u32::MAX;
const UNARMED: u16 = u16::MAX;

/// A flow's place in the list of its tick. Packed, because a million of them are kept.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(2))]
pub(super) struct Link {
    before: u32,
    after: u32,
    bucket: u16,
}

impl Default for Link {
    fn default() -> Self {
        Self { before: NONE, after: NONE, bucket: UNARMED }
    }
}

/// What has a [`Link`] in it.
pub(super) trait Linked {
    fn link(&mut self) -> &mut Link;
}

#[derive(Debug)]
pub(super) struct Wheel {
    /// The first flow of each tick.
    heads: Vec<u32>,
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
        Self { heads: vec![NONE; SLOTS as usize], current: 0, armed: 0 }
    }

    /// Sets the flow's timer at `due`, not before it, in place of the one that it may have.
    pub(super) fn arm(&mut self, slot: u32, due: Moment, now: Moment, flows: &mut [impl Linked]) {
        self.disarm(slot, flows);
        if self.armed == 0 {
            self.current = tick_before(now);
        }
        let tick = tick_after(due).clamp(self.current + 1, self.current + SLOTS - 1);
        let head = &mut self.heads[bucket(tick)];
        let after = std::mem::replace(head, slot);
        *flows[slot as usize].link() = Link { before: NONE, after, bucket: bucket(tick) as u16 };
        if after != NONE {
            flows[after as usize].link().before = slot;
        }
        self.armed += 1;
    }

    /// Takes the flow's timer away, if it has one.
    pub(super) fn disarm(&mut self, slot: u32, flows: &mut [impl Linked]) {
        let Link { before, after, bucket } = std::mem::take(flows[slot as usize].link());
        if bucket == UNARMED {
            return;
        }
        match before {
            NONE => self.heads[usize::from(bucket)] = after,
            _ => flows[before as usize].link().after = after,
        }
        if after != NONE {
            flows[after as usize].link().before = before;
        }
        self.armed -= 1;
    }

    /// The next flow whose timer is due at `now`; it has none then.
    pub(super) fn pop(&mut self, now: Moment, flows: &mut [impl Linked]) -> Option<u32> {
        let target = tick_before(now);
        while self.armed > 0 {
            let slot = self.heads[bucket(self.current)];
            if slot != NONE {
                self.disarm(slot, flows);
                return Some(slot);
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
        let mut ticks = self.current..self.current + SLOTS;
        let tick = ticks.find(|tick| self.armed > 0 && self.heads[bucket(*tick)] != NONE)?;
        Some(Moment(tick * TICK.as_micros() as u64))
    }

    /// Bytes of its own.
    pub(super) fn footprint(&self) -> usize {
        size_of_val(self.heads.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Linked for Link {
        fn link(&mut self) -> &mut Link {
            self
        }
    }

    proptest! {
        /// Some timers are moved or taken away before they come up.
        #[test]
        fn every_timer_comes_up_once_and_none_that_is_in_reach_too_early(
            start in 0u64..1 << 40,
            delays in prop::collection::vec((0u64..90_000_000, prop::option::of(0u64..90_000_000), any::<bool>()), 1..40),
            step in 50_000u64..300_000_000,
        ) {
            let (mut wheel, mut flows) = (Wheel::new(), vec![Link::default(); delays.len()]);
            let begin = Moment(start);
            for (slot, (delay, ..)) in delays.iter().enumerate() {
                wheel.arm(slot as u32, Moment(start + delay), begin, &mut flows);
            }
            let mut due: Vec<Option<u64>> = delays.iter().map(|(delay, ..)| Some(*delay)).collect();
            for (slot, (_, moved, gone)) in delays.iter().enumerate() {
                if let Some(delay) = moved {
                    wheel.arm(slot as u32, Moment(start + delay), begin, &mut flows);
                    due[slot] = *moved;
                }
                if *gone {
                    wheel.disarm(slot as u32, &mut flows);
                    due[slot] = None;
                }
            }
            let mut now = begin;
            while let Some(next) = wheel.next() {
                now = now.max(next).plus(Duration::from_micros(step));
                while let Some(slot) = wheel.pop(now, &mut flows) {
                    let delay = due[slot as usize].take();
                    prop_assert!(delay.is_some_and(|delay| start + delay <= now.0));
                }
            }
            prop_assert!(due.iter().all(Option::is_none), "{:?}", due);
        }
    }

    #[test]
    fn an_empty_wheel_has_no_next() {
        let (mut wheel, mut flows) = (Wheel::new(), vec![Link::default(); 2]);
        assert_eq!(wheel.next(), None);
        wheel.arm(1, Moment::from_secs(2), Moment::from_secs(1), &mut flows);
        assert_eq!(wheel.next(), Some(Moment::from_secs(2)));
        assert_eq!(wheel.pop(Moment::from_millis(1999), &mut flows), None);
        assert_eq!(wheel.pop(Moment::from_secs(2), &mut flows), Some(1));
        assert_eq!(wheel.next(), None);
    }
}
