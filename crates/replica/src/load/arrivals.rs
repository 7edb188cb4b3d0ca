//! When requests are due, and whose they are.
//!
//! Owns both ways to ask. With a rate each request has its time from the beginning, whatever becomes of those before it: a slow
//! answer delays nobody, and is not left out by being waited for. Without one each client asks again when it is answered.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use lucarne_model::{Moment, load::LoadTerms};

/// How long a client without a rate waits after what has failed, so that a refusal does not become a flood.
const PAUSE: Duration = Duration::from_millis(100);
const SECOND: u64 = 1_000_000;

/// A request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub due: Moment,
    /// From 0.
    pub client: u32,
}

#[derive(Debug)]
pub struct Arrivals {
    began: Moment,
    end: Moment,
    clients: u32,
    /// How many have arrived.
    arrived: u64,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// So many in a second.
    Rate(u32),
    /// Clients that wait for nothing, and since when.
    Answered { idle: BinaryHeap<Reverse<(Moment, u32)>>, not_before: Moment },
}

impl Arrivals {
    pub fn new(terms: &LoadTerms, began: Moment) -> Self {
        let clients = terms.clients.max(1);
        let way = match terms.rate {
            Some(rate) => Way::Rate(rate.max(1)),
            None => {
                let idle = (0..clients).map(|client| Reverse((began, client))).collect();
                Way::Answered { idle, not_before: began }
            }
        };
        let end = began.plus(Duration::from_secs(terms.seconds.into()));
        Self { began, end, clients, arrived: 0, way }
    }

    /// When the next request is due; none while nobody has one to ask, and when the time is over.
    pub fn next(&self) -> Option<Moment> {
        let due = match &self.way {
            Way::Rate(rate) => {
                let micros = u128::from(self.arrived) * u128::from(SECOND) / u128::from(*rate);
                self.began.plus(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
            }
            Way::Answered { idle, not_before } => idle.peek()?.0.0.max(*not_before),
        };
        (due < self.end).then_some(due)
    }

    /// The next request, if it is due at `now`.
    pub fn take(&mut self, now: Moment) -> Option<Arrival> {
        let due = self.next().filter(|due| *due <= now)?;
        let client = match &mut self.way {
            Way::Rate(_) => (self.arrived % u64::from(self.clients)) as u32,
            Way::Answered { idle, not_before } => {
                *not_before = now.plus(Duration::from_micros(SECOND / u64::from(LoadTerms::MOST_RATE)));
                idle.pop()?.0.1
            }
        };
        self.arrived += 1;
        // Who asks when answered is never late by itself: nobody had said when.
        let due = if matches!(self.way, Way::Rate(_)) { due } else { now };
        Some(Arrival { due, client })
    }

    /// What a client asked is over.
    pub fn free(&mut self, client: u32, now: Moment, answered: bool) {
        if let Way::Answered { idle, .. } = &mut self.way {
            idle.push(Reverse((if answered { now } else { now.plus(PAUSE) }, client)));
        }
    }

    /// Nothing will be due after this.
    pub const fn end(&self) -> Moment {
        self.end
    }

    /// Gives up what is still due when the time is over, and tells how many that were.
    pub fn give_up(&mut self) -> u64 {
        match self.way {
            Way::Rate(rate) => {
                let seconds = self.end.since(self.began).as_secs();
                let all = seconds * u64::from(rate);
                all - std::mem::replace(&mut self.arrived, all).min(all)
            }
            Way::Answered { .. } => 0,
        }
    }
}
