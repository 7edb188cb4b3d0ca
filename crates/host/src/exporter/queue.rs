//! Records that the collector has not acknowledged, numbered in the order in which they came.
//!
//! Owns the numbers and the bound. A full queue takes no more, rather than give up its oldest: what waits has been sent or
//! will be, without a gap that the collector would have to be told of on a live connection. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;

use lucarne_model::FlowRecord;

/// A collector that knows this process acknowledges only what was sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it wants record {next}, of those from {first} to {end}")]
pub(crate) struct BadAcknowledgement {
    next: u64,
    first: u64,
    end: u64,
}

#[derive(Debug)]
pub(crate) struct Queue {
    records: VecDeque<FlowRecord>,
    capacity: usize,
    /// The number of the first record.
    first: u64,
    /// Records, from the front, that are sent on this connection.
    sent: usize,
}

impl Queue {
    pub(crate) const fn new(capacity: usize) -> Self {
        Self { records: VecDeque::new(), capacity, first: 0, sent: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
    /// The number of the oldest record, or that of the next one when there is none.
    pub(crate) const fn first(&self) -> u64 {
        self.first
    }

    /// Takes a record; false when there is no room for it.
    pub(crate) fn push(&mut self, record: FlowRecord) -> bool {
        let has_room = self.records.len() < self.capacity;
        if has_room {
            self.records.push_back(record);
        }
        has_room
    }

    /// Drops what is below `next`; returns how many that were.
    pub(crate) fn acknowledge(&mut self, next: u64) -> Result<u64, BadAcknowledgement> {
        let end = self.first + self.records.len() as u64;
        if next < self.first || next > end {
            return Err(BadAcknowledgement { next, first: self.first, end });
        }
        let count = next - self.first;
        self.records.drain(..count as usize);
        self.first = next;
        self.sent = self.sent.saturating_sub(count as usize);
        if self.records.is_empty() {
            // What a long absence of the collector needed is given back.
            self.records.shrink_to(1024);
        }
        Ok(count)
    }

    /// A new connection: all that is here is to be sent.
    pub(crate) const fn send_again(&mut self) {
        self.sent = 0;
    }

    /// At most `most` records that follow those sent; they count as sent from now on.
    pub(crate) fn next_to_send(&mut self, most: usize) -> &[FlowRecord] {
        let (front, back) = self.records.as_slices();
        let rest = if self.sent < front.len() { &front[self.sent..] } else { &back[self.sent - front.len()..] };
        let batch = &rest[..rest.len().min(most)];
        self.sent += batch.len();
        batch
    }
}
