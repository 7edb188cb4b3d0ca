//! Draws the numbers of made-up scenes from a seed, the same in every run.
//!
//! Owns the generator and the shapes that sizes and choices have in life.

/// Draws numbers (splitmix64).
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit.max(1)
    }
    pub(crate) fn fraction(&mut self) -> f64 {
        self.roll() as f64 / u64::MAX as f64
    }
    /// Around `middle`, now and then ten times as much or as little.
    pub(crate) fn spread(&mut self, middle: f64) -> u64 {
        let bell = (0..6).map(|_| self.fraction()).sum::<f64>() - 3.0;
        (middle * (1.2 * bell).exp()).max(1.0) as u64
    }
    /// One of `count`, the first ones far more often (Zipf).
    pub(crate) fn favourite(&mut self, count: u64) -> u64 {
        ((count as f64).powf(self.fraction()) as u64).saturating_sub(1)
    }
}
