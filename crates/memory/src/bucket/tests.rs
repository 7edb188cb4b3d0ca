//! The bucket beside a model that counts drops one by one, and what owners are promised.

use super::*;
use crate::dice::Dice;

/// The same rules, written for whoever doubts the arithmetic: every page of every millisecond is a drop, every thousandth
/// of a page that moves is counted by itself.
#[derive(Debug)]
struct Drops {
    drops: u64,
    allowance: u64,
    leaking: bool,
    thousandths: u64,
    micros_not_counted: u64,
}

impl Drops {
    fn new(memory: u64) -> Self {
        Self { drops: 0, allowance: memory, leaking: false, thousandths: 0, micros_not_counted: 0 }
    }

    fn sample(&mut self, used: u64, micros: u64, shape: &Shape) {
        self.micros_not_counted += micros;
        let mut millis = 0;
        while self.micros_not_counted >= 1000 {
            self.micros_not_counted -= 1000;
            millis += 1;
        }
        for _ in 0..millis {
            for page in 0..used {
                if page >= shape.fill_above.0 && self.drops < shape.depth {
                    self.drops += 1;
                }
            }
        }
        if self.drops > shape.depth {
            self.drops = shape.depth;
        }
        for _ in 0..millis {
            for page in 0..shape.drain_below.0 {
                if page >= used && self.drops > 0 {
                    self.drops -= 1;
                }
            }
        }
        if self.drops == 0 {
            self.leaking = false;
        } else if self.drops == shape.depth {
            self.leaking = true;
        }
        if self.allowance > shape.memory.0 {
            self.allowance = shape.memory.0;
        }
        if self.leaking && used < self.allowance && self.allowance > shape.floor.0 {
            self.allowance = if used > shape.floor.0 { used } else { shape.floor.0 };
        }
        if !self.leaking && self.drops > 0 {
            self.thousandths = 0;
            return;
        }
        for _ in 0..millis * shape.rate.0 {
            self.thousandths += 1;
            if self.thousandths == 1000 {
                self.thousandths = 0;
                if self.leaking && self.allowance > shape.floor.0 {
                    self.allowance -= 1;
                } else if !self.leaking && self.allowance < shape.memory.0 {
                    self.allowance += 1;
                }
            }
        }
    }
}

fn draw_shape(dice: &mut Dice) -> Shape {
    let memory = 1 + dice.below(40);
    let fill_above = dice.below(memory + 2);
    let drain_below = dice.below(fill_above + 1);
    let depth = [1, 7, 60, 400][dice.below(4) as usize];
    Shape {
        fill_above: Pages(fill_above),
        drain_below: Pages(drain_below),
        floor: Pages(dice.below(drain_below + 1)),
        depth,
        rate: Pages(dice.below(300)),
        memory: Pages(memory),
    }
}

/// A million steps of made-up lives: level and allowance are the same to the bit, whatever moves between the samples.
#[test]
fn the_bucket_is_bit_equal_to_counting_drops_over_a_million_steps() {
    let mut dice = Dice::new(0x9_176_764);
    let mut steps = 0_u64;
    let (mut out, mut back, mut still) = (0, 0, 0);
    while steps < 1_000_000 {
        let mut shape = draw_shape(&mut dice);
        let mut now = Moment(dice.below(1 << 40));
        let (mut bucket, mut drops) = (Bucket::new(shape.memory, now), Drops::new(shape.memory.0));
        let mut used = dice.below(shape.memory.0 + 1);
        for _ in 0..500 {
            match dice.below(20) {
                0 => shape = Shape { memory: shape.memory, ..draw_shape(&mut dice) },
                1..6 => used = dice.below(shape.memory.0 + 1),
                _ => used = used.min(bucket.allowance().0),
            }
            let micros = dice.below(9_000);
            now = Moment(now.0 + micros);
            bucket.sample(Pages(used), now, &shape);
            drops.sample(used, micros, &shape);
            assert_eq!(
                (bucket.level(), bucket.allowance().0),
                (drops.drops, drops.allowance),
                "step {steps}, {shape:?}"
            );
            match bucket.flow() {
                Flow::Out => out += 1,
                Flow::Back => back += 1,
                Flow::Still => still += 1,
            }
            steps += 1;
        }
    }
    assert!(out.min(back).min(still) > 50_000, "each way was gone often: {out} {back} {still}");
}

const SHAPE: Shape = Shape {
    fill_above: Pages(1000),
    drain_below: Pages(800),
    floor: Pages(700),
    depth: 2_000_000,
    rate: Pages(100),
    memory: Pages(2000),
};

/// Lives of a VM that takes what it may have, up to `wish`, in seconds.
fn live(bucket: &mut Bucket, from: u64, seconds: u64, wish: u64) -> Vec<u64> {
    let mut held = Vec::new();
    for second in from..from + seconds {
        let used = bucket.allowance().0.min(wish);
        held.push(bucket.sample(Pages(used), Moment::from_secs(second), &SHAPE).0.min(wish));
    }
    held
}

#[test]
fn a_short_burst_above_the_threshold_costs_nothing() {
    let mut bucket = Bucket::new(SHAPE.memory, Moment::EPOCH);
    assert!(live(&mut bucket, 1, 1, 2000).iter().all(|held| *held == 2000));
    assert!(live(&mut bucket, 2, 60, 500).iter().all(|held| *held == 500));
    assert_eq!((bucket.level(), bucket.allowance()), (0, Pages(2000)));
}

#[test]
fn who_holds_more_for_long_gives_back_at_the_rate_and_no_faster() {
    let mut bucket = Bucket::new(SHAPE.memory, Moment::EPOCH);
    let held = live(&mut bucket, 1, 30, 2000);
    assert!(held.windows(2).all(|pair| pair[0].saturating_sub(pair[1]) <= 100), "{held:?}");
    assert!(held.last().is_some_and(|last| *last <= 1000), "{held:?}");
}

/// One that always wants more ends up around its share: never below the floor, and on average not above the upper
/// threshold.
#[test]
fn who_always_wants_more_has_its_share_on_average() {
    let mut bucket = Bucket::new(SHAPE.memory, Moment::EPOCH);
    live(&mut bucket, 1, 1000, 2000);
    let held = live(&mut bucket, 1001, 10_000, 2000);
    let mean = held.iter().sum::<u64>() / held.len() as u64;
    assert!(held.iter().all(|held| (700..1300).contains(held)), "{held:?}");
    assert!((700..=1000).contains(&mean), "{mean}");
}

#[test]
fn nobody_is_charged_for_time_when_nobody_looked() {
    let mut bucket = Bucket::new(SHAPE.memory, Moment::EPOCH);
    bucket.sample(Pages(1001), Moment::from_secs(3600), &SHAPE);
    assert_eq!(bucket.level(), LONGEST_INTERVAL_MILLIS);
}

#[test]
fn a_clock_that_goes_back_moves_nothing() {
    let mut bucket = Bucket::new(SHAPE.memory, Moment::from_secs(10));
    bucket.sample(Pages(2000), Moment::from_secs(5), &SHAPE);
    assert_eq!((bucket.level(), bucket.allowance()), (0, Pages(2000)));
}
