//! How far each sender's records have been taken, so that what is sent again is kept once.
//!
//! Owns the numbers. That they are written to the log together with the records is the [`crate::keeper`]'s work. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::HashMap;

use lucarne_flows::ipfix::Mark;

/// Records that were to follow were left out by a sender that is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("records {wanted} to {given} of session {session:016x} were left out")]
pub(crate) struct Gap {
    session: u64,
    wanted: u64,
    given: u64,
}

/// The sessions that have been seen, up to [`Sessions::MOST`]; those not heard of for longest are forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    known: HashMap<u64, Known>,
    uses: u64,
}

#[derive(Debug)]
struct Known {
    next: u64,
    last_use: u64,
}

impl Sessions {
    /// One is made by each start of a host agent; this is years of them, in 260 kB of log.
    pub(crate) const MOST: usize = 16_384;

    /// The number of the record that is wanted first from a sender that has none below `first` any more.
    pub(crate) fn greet(&mut self, session: u64, first: u64) -> u64 {
        let known = self.touch(session, first);
        known.next = known.next.max(first);
        known.next
    }

    /// Takes `count` records from number `first` on; returns how many of them, from the front, were taken before.
    pub(crate) fn take(&mut self, session: u64, first: u64, count: usize) -> Result<usize, Gap> {
        let known = self.touch(session, first);
        let Some(repeated) = known.next.checked_sub(first) else {
            return Err(Gap { session, wanted: known.next, given: first });
        };
        known.next = known.next.max(first.saturating_add(count as u64));
        Ok(usize::try_from(repeated).unwrap_or(count).min(count))
    }

    /// Remembers what the log says.
    pub(crate) fn remember(&mut self, mark: Mark) {
        let known = self.touch(mark.session, mark.next);
        known.next = known.next.max(mark.next);
    }

    pub(crate) fn next(&self, session: u64) -> Option<u64> {
        self.known.get(&session).map(|known| known.next)
    }

    /// All marks, in the order in which [`Sessions::remember`] must be told them to forget in the same order.
    pub(crate) fn marks(&self) -> Vec<Mark> {
        let mut known: Vec<_> = self.known.iter().collect();
        known.sort_unstable_by_key(|(_, known)| known.last_use);
        known.into_iter().map(|(session, known)| Mark { session: *session, next: known.next }).collect()
    }

    fn touch(&mut self, session: u64, next: u64) -> &mut Known {
        if self.known.len() >= Self::MOST && !self.known.contains_key(&session) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.last_use).map(|(session, _)| *session);
            oldest.and_then(|session| self.known.remove(&session));
        }
        self.uses += 1;
        let known = self.known.entry(session).or_insert(Known { next, last_use: 0 });
        known.last_use = self.uses;
        known
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A sender that connects again and again, each time from some record not yet acknowledged.
        #[test]
        fn every_record_is_taken_once_and_in_order(
            connections in prop::collection::vec((0u64..20, prop::collection::vec(1usize..10, 0..5)), 1..20)
        ) {
            let mut sessions = Sessions::default();
            let mut taken = Vec::new();
            for (back, batches) in connections {
                let wanted = sessions.next(7).unwrap_or(0);
                let mut number = wanted.saturating_sub(back);
                prop_assert_eq!(sessions.greet(7, number), wanted);
                for count in batches {
                    let repeated = sessions.take(7, number, count).unwrap();
                    taken.extend((number..number + count as u64).skip(repeated));
                    number += count as u64;
                }
            }
            prop_assert_eq!(&taken, &(0..taken.len() as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_a_sender_gave_up_is_not_waited_for_but_a_gap_is_refused() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.greet(1, 0), 0);
        assert_eq!(sessions.greet(1, 50), 50);
        assert_eq!(sessions.take(1, 51, 1), Err(Gap { session: 1, wanted: 50, given: 51 }));
        assert_eq!(sessions.take(1, 40, 20), Ok(10));
        assert_eq!(sessions.greet(1, 0), 60);
    }

    #[test]
    fn the_session_not_heard_of_for_longest_is_forgotten_first() {
        let mut sessions = Sessions::default();
        for session in 0..Sessions::MOST as u64 {
            sessions.greet(session, 9);
        }
        sessions.greet(0, 0);
        sessions.greet(u64::MAX, 0);
        assert_eq!((sessions.next(0), sessions.next(1)), (Some(9), None));
        let mut again = Sessions::default();
        sessions.marks().into_iter().for_each(|mark| again.remember(mark));
        assert_eq!(again.marks(), sessions.marks());
    }
}
