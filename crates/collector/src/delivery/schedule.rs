//! When a delivery is tried: pure.
//!
//! Owns how long records are gathered before they are sent, and the waits after failures.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use lucarne_model::flow_log::{Destination, FlowLog};

/// How often a stream is looked after.
const STREAM_EVERY: Duration = Duration::from_secs(1);
/// A file holds so many intervals...
const INTERVALS_OF_A_FILE: u32 = 6;
/// ...but comes at least as often as AWS's.
const FILE_EVERY: Duration = Duration::from_secs(300);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// How long records are gathered before they are sent.
pub(super) fn gather(log: &FlowLog) -> Duration {
    match log.to {
        Destination::Store | Destination::Ipfix { .. } => STREAM_EVERY,
        Destination::File { .. } | Destination::S3(_) => {
            (Duration::from_millis(log.interval_millis) * INTERVALS_OF_A_FILE).min(FILE_EVERY)
        }
    }
}

/// How long to wait after so many failures in a row.
pub(super) fn retry(failures: u32) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(LONGEST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes() {
        let waits: Vec<u64> = [1, 2, 3, 9, 10, 40, u32::MAX].map(|failures| retry(failures).as_secs()).into();
        assert_eq!(waits, [1, 2, 4, 256, 300, 300, 300]);
    }
}
