//! Waiting between tries: doubled each time, to a limit, and never quite the same for two hosts.
//!
//! Owns the rule. A thousand hosts that lost one controller must not all come back in the same instant.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

/// How long to wait next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

impl Backoff {
    /// Between half of the doubled time and all of it.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let mut random = [u8::MAX];
        // Without random numbers the whole time is waited.
        let _ = SystemRandom::new().fill(&mut random);
        self.delay_with(random[0])
    }

    fn delay_with(&mut self, random: u8) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.tries.min(10)).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        whole / 2 + (whole / 2).mul_f64(f64::from(random) / f64::from(u8::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_limit_and_chance_takes_at_most_half() {
        let (mut long, mut short) = (Backoff::default(), Backoff::default());
        let longest: Vec<_> = (0..8).map(|_| long.delay_with(u8::MAX).as_millis()).collect();
        let shortest: Vec<_> = (0..8).map(|_| short.delay_with(0).as_millis()).collect();
        assert_eq!(longest, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(shortest, [100, 200, 400, 800, 1600, 2500, 2500, 2500]);
    }
}
