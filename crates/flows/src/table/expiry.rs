//! What time does to flows: ends, intervals, and judging again what a new plan may forbid.
//!
//! Owns the visit to a flow whose timer has come up. Setting timers in order is the wheel's work.

use std::{sync::Arc, time::Duration};

use lucarne_model::{EndReason, Moment};

use super::{Emit, FlowTable, Judgement, Question, Slot, last_packet};
use crate::phase::Phase;

/// How many timers one call looks at: about half a millisecond of work.
const BUDGET: usize = 4096;

impl FlowTable {
    /// Ends what is over and reports what goes on; looks at a bounded number of flows, so that packets do not wait.
    /// `judge` is asked about connections that were last judged in another epoch than this.
    pub fn poll(&mut self, now: Moment, epoch: u32, judge: &mut dyn FnMut(&Question) -> Judgement, emit: Emit<'_>) {
        for _ in 0..BUDGET {
            let Some(due) = self.wheel.pop(now) else { return };
            let slot = Slot(due.slot);
            let holds = self.cold[due.slot as usize].stamp == due.stamp;
            match self.phase(slot) {
                Phase::Rejected if holds => self.visit_rejected(slot, now, emit),
                Phase::Free => {}
                _ if holds => self.visit(slot, now, epoch, judge, emit),
                _ => {}
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
        if let Err(reason) = self.judge_again(slot, epoch, judge) {
            return self.finish(slot, reason, emit);
        }
        let phase = self.phase(slot);
        let over = self.over_at(slot);
        if now >= over {
            return self.finish(slot, phase.reason_of_silence(), emit);
        }
        let mut slice = self.cold[slot.0 as usize].interval_began.plus(self.settings.interval);
        if now >= slice && !phase.is_handshake() {
            self.report(slot, EndReason::ActiveSlice, emit);
            self.cold[slot.0 as usize].interval_began = now;
            slice = now.plus(self.settings.interval);
        }
        self.arm(slot, if phase.is_handshake() { over } else { over.min(slice) }, now);
    }

    /// A dropped flow says at each report why it is dropped, and is forgotten when no packet came for an interval.
    fn visit_rejected(&mut self, slot: Slot, now: Moment, emit: Emit<'_>) {
        let lines = &self.lines[slot.0 as usize];
        let reason = lines[0].key.reason().unwrap_or(EndReason::Invalid);
        if now >= last_packet(lines).plus(self.settings.interval) {
            return self.finish(slot, reason, emit);
        }
        self.report(slot, reason, emit);
        self.arm(slot, now.plus(self.settings.interval), now);
    }

    fn judge_again(
        &mut self,
        slot: Slot,
        epoch: u32,
        judge: &mut dyn FnMut(&Question) -> Judgement,
    ) -> Result<(), EndReason> {
        let stale = self.cold[slot.0 as usize].judged != epoch;
        if !stale || self.phase(slot) == Phase::OneWay || self.phase(slot).end_reason().is_some() {
            return Ok(());
        }
        let (owner, rule) = judge(&self.question(slot)).map_err(|_| EndReason::RuleChange)?;
        let cold = &mut self.cold[slot.0 as usize];
        (cold.owner, cold.rule, cold.judged) = (Arc::clone(&owner), rule, epoch);
        Ok(())
    }

    /// When the connection ends, if no packet comes.
    fn over_at(&self, slot: Slot) -> Moment {
        let (lines, cold) = (&self.lines[slot.0 as usize], &self.cold[slot.0 as usize]);
        let phase = lines[0].phase;
        if phase.end_reason().is_some() {
            return cold.ended.plus(self.settings.linger);
        }
        if phase.is_handshake() {
            return cold.interval_began.plus(self.settings.half_open);
        }
        last_packet(lines).plus(phase.patience(lines[0].key.protocol(), &self.settings))
    }

    /// How long after its first packet a connection is first looked at.
    pub(super) fn first_deadline(&self, slot: Slot) -> Duration {
        let line = &self.lines[slot.0 as usize][0];
        let patience = line.phase.patience(line.key.protocol(), &self.settings);
        if line.phase.is_handshake() { self.settings.half_open } else { patience }.min(self.settings.interval)
    }
}
