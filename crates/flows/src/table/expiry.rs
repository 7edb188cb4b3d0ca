//! What time does to flows: ends, intervals, and judging again what a new plan may forbid.
//!
//! Owns the visit to a flow whose timer has come up. Setting timers in order is the wheel's work.

use std::time::Duration;

use lucarne_model::{EndReason, Moment};

use super::{Emit, FlowTable, Judgement, Question, Slot, last_packet};
use crate::{grounds::Denial, phase::Phase};

/// How many timers one call looks at: about half a millisecond of work.
pub(super) const BUDGET: usize = 4096;

impl FlowTable {
    /// Ends what is over and reports what goes on; looks at a bounded number of flows, so that packets do not wait.
    /// `judge` is asked about connections that were last judged in another epoch than this.
    pub fn poll(&mut self, now: Moment, epoch: u32, judge: &mut dyn FnMut(&Question) -> Judgement, emit: Emit<'_>) {
        for _ in 0..BUDGET {
            let Some(slot) = self.wheel.pop(now, &mut self.cold).map(Slot) else { return };
            match self.phase(slot) {
                Phase::Free => {}
                Phase::Tally => self.visit_tally(slot, now, emit),
                phase => match phase.end_reason() {
                    // Its timer was set to the end of the linger time.
                    Some(reason) => self.finish(slot, reason, emit),
                    None => self.visit(slot, now, epoch, judge, emit),
                },
            }
        }
    }

    /// When [`poll`](Self::poll) has something to do next.
    pub fn next_poll(&self) -> Option<Moment> {
        self.wheel.next()
    }

    fn visit(
        &mut self,
        slot: Slot,
        now: Moment,
        epoch: u32,
        judge: &mut dyn FnMut(&Question) -> Judgement,
        emit: Emit<'_>,
    ) {
        if let Err(denial) = self.judge_again(slot, epoch, judge) {
            return self.cut(slot, &denial, emit);
        }
        let phase = self.phase(slot);
        let over = self.over_at(slot);
        if now >= over {
            return self.finish(slot, phase.reason_of_silence(), emit);
        }
        let interval = self.interval(slot);
        let mut slice = self.cold[slot.as_usize()].interval_began.plus(interval);
        if now >= slice && !phase.is_handshake() {
            self.report(slot, EndReason::ActiveSlice, emit);
            self.cold[slot.as_usize()].interval_began = now;
            slice = now.plus(interval);
        }
        self.arm(slot, if phase.is_handshake() { over } else { over.min(slice) }, now);
    }

    /// What is only counted says at each report why, and is forgotten when no packet came for an interval.
    fn visit_tally(&mut self, slot: Slot, now: Moment, emit: Emit<'_>) {
        let lines = &self.lines[slot.as_usize()];
        let reason = lines[0].key.reason().unwrap_or(EndReason::Invalid);
        let interval = self.interval(slot);
        if now >= last_packet(lines).plus(interval) {
            return self.finish(slot, reason, emit);
        }
        self.report(slot, reason, emit);
        self.cold[slot.as_usize()].interval_began = now;
        self.arm(slot, now.plus(interval), now);
    }

    fn judge_again(
        &mut self,
        slot: Slot,
        epoch: u32,
        judge: &mut dyn FnMut(&Question) -> Judgement,
    ) -> Result<(), Denial> {
        let stale = self.cold[slot.as_usize()].judged != epoch;
        if !stale || self.phase(slot) == Phase::OneWay {
            return Ok(());
        }
        let allowed = judge(&self.question(slot))?;
        self.cold[slot.as_usize()].allow(allowed, epoch);
        Ok(())
    }

    /// When the connection ends, if no packet comes.
    fn over_at(&self, slot: Slot) -> Moment {
        let (lines, cold) = (&self.lines[slot.as_usize()], &self.cold[slot.as_usize()]);
        let phase = lines[0].phase;
        if phase.is_handshake() {
            return cold.interval_began.plus(self.settings.half_open);
        }
        last_packet(lines).plus(phase.patience(lines[0].key.protocol(), &self.settings))
    }

    /// How long after its first packet a flow is first looked at.
    pub(super) fn first_look(&self, slot: Slot) -> Duration {
        let line = &self.lines[slot.as_usize()][0];
        let patience = line.phase.patience(line.key.protocol(), &self.settings);
        let first = match line.phase {
            Phase::Tally => self.settings.first_reject,
            phase if phase.is_handshake() => self.settings.half_open,
            _ => patience,
        };
        first.min(self.interval(slot))
    }
}
