//! Whether this host's clock can be believed, and what stands in for it where it cannot.
//!
//! Owns the beacons that were said last, and the watch over the clock: time that people can set is held against time that
//! nobody can. Drawing a beacon's octets and reading the clocks is the caller's.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{collections::VecDeque, time::Duration};

use lucarne_model::Moment;
use lucarne_seal::request::Nonce;

/// How often a new beacon is said.
pub(crate) const EVERY: Duration = Duration::from_secs(300);
/// How many count: for so many times five minutes people can sign a request that names one.
const COUNT: usize = 12;
/// By how much a clock that is kept right moves within [`EVERY`].
const SET_RIGHT: Duration = Duration::from_secs(10);

/// Both clocks at one instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    pub(crate) now: Moment,
    /// Since the machine was booted: nobody sets it.
    pub(crate) since_boot: Duration,
}

impl Clocks {
    /// When the machine was booted, if the clock is right.
    fn booted(self) -> Moment {
        self.now.minus(self.since_boot)
    }
}

#[derive(Debug)]
pub(crate) struct Beacons {
    /// Newest first.
    said: VecDeque<(Nonce, Clocks)>,
    /// When the machine was booted by the clock as it was believed last.
    booted: Moment,
    moved: bool,
}

impl Beacons {
    pub(crate) fn new(first: Nonce, clocks: Clocks) -> Self {
        Self { said: VecDeque::from([(first, clocks)]), booted: clocks.booted(), moved: false }
    }

    /// Whether a new one is due.
    pub(crate) fn is_due(&self, clocks: Clocks) -> bool {
        self.said.front().is_none_or(|(_, at)| clocks.since_boot.saturating_sub(at.since_boot) >= EVERY)
    }

    /// Says another. A clock that was kept right since the last one is believed to be where it is now.
    pub(crate) fn say(&mut self, nonce: Nonce, clocks: Clocks) {
        self.look(clocks);
        if !self.moved {
            self.booted = clocks.booted();
        }
        self.said.push_front((nonce, clocks));
        self.said.truncate(COUNT);
    }

    /// Notices when the clock was moved; from then on it is not believed before it is where it was.
    pub(crate) fn look(&mut self, clocks: Clocks) {
        let (one, other) = (clocks.booted(), self.booted);
        self.moved = one.since(other).max(other.since(one)) > SET_RIGHT;
    }

    pub(crate) const fn is_doubtful(&self) -> bool {
        self.moved
    }
    pub(crate) fn newest(&self) -> Option<(Nonce, Moment)> {
        self.said.front().map(|(nonce, at)| (*nonce, at.now))
    }
    pub(crate) fn all(&self) -> Vec<Nonce> {
        self.said.iter().map(|(nonce, _)| *nonce).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(now: u64, since_boot: u64) -> Clocks {
        Clocks { now: Moment::from_secs(now), since_boot: Duration::from_secs(since_boot) }
    }
    fn nonce(number: u8) -> Nonce {
        Nonce::new([number; 16])
    }

    /// Attack: a clock that is pushed forward, so that a request whose time has not come is taken, or back.
    #[test]
    fn a_clock_that_is_moved_is_not_believed_before_it_is_back() {
        let mut beacons = Beacons::new(nonce(0), clocks(100_000, 1_000));
        for (now, since_boot, doubtful) in [
            (100_060, 1_060, false),
            (100_069, 1_060, false),
            (100_071, 1_060, true),
            (200_000, 1_070, true),
            (99_000, 1_080, true),
            (100_090, 1_090, false),
        ] {
            beacons.look(clocks(now, since_boot));
            assert_eq!(beacons.is_doubtful(), doubtful, "{now} at {since_boot}");
        }
    }

    #[test]
    fn a_clock_that_is_set_right_slowly_is_followed() {
        let mut beacons = Beacons::new(nonce(0), clocks(100_000, 0));
        for number in 1..=20 {
            // Two seconds in five minutes, always forward.
            beacons.say(nonce(1), clocks(100_000 + number * 302, number * 300));
            assert!(!beacons.is_doubtful());
        }
    }

    #[test]
    fn a_beacon_counts_for_an_hour_whatever_the_clock_says() {
        let mut beacons = Beacons::new(nonce(0), clocks(100_000, 0));
        assert!(!beacons.is_due(clocks(100_299, 299)) && beacons.is_due(clocks(100_300, 300)));
        assert!(beacons.is_due(clocks(50_300, 300)), "the clock was set back, five minutes are over");
        (1..12).for_each(|number| beacons.say(nonce(number), clocks(100_000, 0)));
        assert!(beacons.all().contains(&nonce(0)));
        beacons.say(nonce(12), clocks(100_000, 0));
        assert_eq!((beacons.all().len(), beacons.newest().map(|(one, _)| one)), (12, Some(nonce(12))));
        assert!(!beacons.all().contains(&nonce(0)));
    }
}
