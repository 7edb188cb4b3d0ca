//! Which parts of a day to merge, and when: as many small files become few large ones, each record is written anew only
//! a handful of times.
//!
//! Owns the decision; merging is the [`crate::sealer`]'s work. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::ops::Range;

/// Parts that a day may gather before the newest are merged.
const MANY: usize = 8;
/// Parts that are merged at once: each has pages of all its columns in memory while it is read, some 5 MB.
const AT_ONCE: usize = 16;
/// Parts of this size are left as they are.
const LARGE: u64 = 64 << 20;
/// Parts below this size cost about the same, whatever their size.
const SMALL: u64 = 256 << 10;

/// Which of a day's parts, given by their sizes in the order of their segments, to merge now; at least two.
///
/// While the day lasts, the newest parts are merged when there are [`MANY`] of which none is larger than all newer ones
/// together: so a record is merged about log2(parts) times, as each merge at least doubles the part that it is in. When
/// the day is over all that is not large is merged. Of more than [`AT_ONCE`] the smallest neighbours come first,
/// of equal ones the newest: what is left over is then behind a larger part, and does not keep it from being merged.
pub(crate) fn choose(sizes: &[u64], day_is_over: bool) -> Option<Range<usize>> {
    let run = run(sizes, day_is_over)?;
    let windows = run.start..=run.end.saturating_sub(AT_ONCE).max(run.start);
    let window = |start: usize| start..run.end.min(start + AT_ONCE);
    windows
        .rev()
        .map(window)
        .min_by_key(|window| sizes[window.clone()].iter().map(|size| u128::from(*size)).sum::<u128>())
}

/// All parts that are to be merged with their neighbours.
fn run(sizes: &[u64], day_is_over: bool) -> Option<Range<usize>> {
    if day_is_over {
        let runs = sizes.split(|size| *size >= LARGE).scan(0, |start, run| {
            let range = *start..*start + run.len();
            *start = range.end + 1;
            Some(range)
        });
        return runs.into_iter().find(|run| run.len() >= 2);
    }
    let mut start = sizes.len();
    let mut total = 0;
    for (index, size) in sizes.iter().enumerate().rev() {
        let size = (*size).max(SMALL);
        if size >= LARGE || (total > 0 && size > total) {
            break;
        }
        start = index;
        total += size;
    }
    (sizes.len() - start >= MANY).then_some(start..sizes.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_day_of_small_parts_stays_few_and_is_rewritten_few_times(count in 1usize..250) {
            let mut sizes: Vec<u64> = Vec::new();
            let mut written = 0;
            for _ in 0..count {
                sizes.extend([SMALL]);
                if let Some(range) = choose(&sizes, false) {
                    let merged = sizes[range.clone()].iter().sum();
                    written += merged / SMALL;
                    sizes.splice(range, [merged]);
                }
            }
            prop_assert_eq!(sizes.iter().sum::<u64>(), count as u64 * SMALL);
            prop_assert!(sizes.len() < 2 * MANY, "{} parts of {count}", sizes.len());
            prop_assert!(written <= 6 * count as u64, "{written} written for {count}");
        }

        /// However many parts came since the last look, few are merged at once, and each record is rewritten few times.
        #[test]
        fn many_parts_are_merged_a_few_at_a_time(count in 2usize..600, over: bool) {
            let mut sizes = vec![SMALL; count];
            let mut written = 0;
            while let Some(range) = choose(&sizes, over) {
                prop_assert!(range.len() <= AT_ONCE);
                let merged = sizes[range.clone()].iter().sum();
                written += merged / SMALL;
                sizes.splice(range, [merged]);
            }
            let left = sizes.iter().filter(|size| **size < LARGE).count();
            prop_assert!(left < 2 * AT_ONCE, "{left} parts of {count}");
            prop_assert!(written <= 4 * count as u64, "{written} written for {count}");
        }

        #[test]
        fn what_is_chosen_is_a_run_of_two_or_more_that_are_not_large(
            sizes in prop::collection::vec(prop_oneof![0u64..100, Just(LARGE)], 0..40), over: bool
        ) {
            if let Some(range) = choose(&sizes, over) {
                prop_assert!(range.len() >= 2 && range.end <= sizes.len());
                prop_assert!(sizes[range].iter().all(|size| *size < LARGE));
            } else if over {
                prop_assert!(sizes.windows(2).all(|pair| pair.contains(&LARGE)));
            }
        }
    }
}
