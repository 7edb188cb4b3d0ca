//! When the collector seals, merges and gives up waiting: the sizes and times, with defaults that work.

use std::time::Duration;

/// The sizes and times of a collector.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A log segment is sealed when it holds so many records; each takes about 300 octets of memory until then...
    pub seal_records: usize,
    /// ...or when its first record is so old.
    pub seal_after: Duration,
    /// Records that may wait for sealing; beyond it nothing is taken and so nothing acknowledged.
    pub most_unsealed: usize,
    /// How long to wait after a failure of the disk before the next try.
    pub retry: Duration,
    /// How often parts are looked through for what can be merged.
    pub compact_every: Duration,
    /// From when on something is a finding.
    pub findings: lucarne_flows::findings::Settings,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            seal_records: 50_000,
            seal_after: Duration::from_secs(60),
            most_unsealed: 200_000,
            retry: Duration::from_secs(1),
            compact_every: Duration::from_secs(60),
            findings: Default::default(),
        }
    }
}
