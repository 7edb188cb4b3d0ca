//! Numbers that only look like chance: the same seed draws the same ones, so that a run can be had again.
//!
//! Owns the generator. Seeds come from the caller.

/// Draws numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// One of `0..limit`; 0 when there is no choice.
    pub const fn below(&mut self, limit: u64) -> u64 {
        match limit {
            0 => 0,
            limit => self.roll() % limit,
        }
    }
}
