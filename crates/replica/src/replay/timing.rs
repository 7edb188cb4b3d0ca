//! When what was recorded is due in a replay.
//!
//! Owns the arithmetic of speed. Nobody reads a clock here: the player is told what time it is.

use std::time::Duration;

use lucarne_model::{Moment, replay::ReplaySpeed};

/// The recording's time, laid onto that of the replay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) speed: ReplaySpeed,
    /// An instant of the recording, and the same in the replay.
    pub(super) recorded: Moment,
    pub(super) played: Moment,
}

impl Timing {
    /// When it is due; at the maximum everything is at once, once what it waits for has come.
    pub(super) fn due(&self, recorded: Moment) -> Moment {
        match self.speed {
            ReplaySpeed::Max => self.played,
            ReplaySpeed::Permille(permille) => {
                let micros = u128::from(recorded.as_micros().saturating_sub(self.recorded.as_micros()));
                let scaled = micros * 1000 / u128::from(permille.max(1));
                self.played.plus(Duration::from_micros(u64::try_from(scaled).unwrap_or(u64::MAX)))
            }
        }
    }
}
