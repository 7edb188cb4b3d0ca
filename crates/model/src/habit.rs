//! What a figure is used to: its mean and its spread, learnt as time goes.
//!
//! Owns the arithmetic of exponentially weighted averages. Which figure it is, how often it is taken and when one stands out, is
//! for whoever watches it.

/// The habit of one figure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Habit {
    mean: f64,
    variance: f64,
    count: u32,
}

impl Habit {
    /// The one that was learnt before, if it could have been.
    pub fn of(mean: f64, variance: f64, count: u32) -> Option<Self> {
        let is_one = mean.is_finite() && variance.is_finite() && variance >= 0.0;
        is_one.then_some(Self { mean, variance, count })
    }

    /// Takes one more figure, which weighs so much beside all before it.
    pub fn learn(&mut self, figure: f64, weight: f64) {
        self.count = self.count.saturating_add(1);
        // At first the plain mean, so that the first figure is not taken for the habit of many.
        let weight = weight.max(1.0 / f64::from(self.count));
        let difference = figure - self.mean;
        self.mean += weight * difference;
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference);
    }

    pub const fn mean(&self) -> f64 {
        self.mean
    }
    pub const fn variance(&self) -> f64 {
        self.variance
    }
    /// The standard deviation.
    pub fn deviation(&self) -> f64 {
        self.variance.sqrt()
    }
    /// How many figures were taken.
    pub const fn count(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As long as no figure weighs more than the others, the two are those of the schoolbook.
        #[test]
        fn of_equal_weights_mean_and_deviation_are_the_plain_ones(figures in prop::collection::vec(0.0..1e6_f64, 1..40)) {
            let mut habit = Habit::default();
            figures.iter().for_each(|figure| habit.learn(*figure, 0.0));
            let count = figures.len() as f64;
            let mean = figures.iter().sum::<f64>() / count;
            let variance = figures.iter().map(|figure| (figure - mean).powi(2)).sum::<f64>() / count;
            prop_assert!((habit.mean() - mean).abs() < 1e-3, "{} and {mean}", habit.mean());
            prop_assert!((habit.deviation() - variance.sqrt()).abs() < 1e-2);
            prop_assert_eq!(habit.count() as usize, figures.len());
        }
    }

    #[test]
    fn what_goes_on_for_long_becomes_a_habit() {
        let mut habit = Habit::default();
        (0..1000).for_each(|_| habit.learn(10.0, 0.01));
        (0..1000).for_each(|_| habit.learn(50.0, 0.01));
        assert!((habit.mean() - 50.0).abs() < 0.1 && habit.deviation() < 1.0, "{habit:?}");
    }
}
