//! How long a bench runs: as long as its figures need, or once through all that it does.
//!
//! Owns the word for the latter: with `LUCARNE_BENCH_SHORT` set a bench shows in a minute or two that it runs to its end, and its
//! figures are worth nothing.

use std::env;

const SHORT: &str = "LUCARNE_BENCH_SHORT";

/// `whole`, or `short` where that is asked for.
pub fn or_short<T>(whole: T, short: T) -> T {
    if env::var_os(SHORT).is_some() { short } else { whole }
}
