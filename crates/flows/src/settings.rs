//! The times and sizes of the flow table, with defaults that work.

use std::time::Duration;

/// How many flows are kept, for how long, and how often they are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Flows kept at once, both directions. A full table gives up one for each new one. 265 bytes each when in use.
    pub capacity: usize,
    /// Flows of one port kept at once, so that a guest that opens too many pushes out its own and not those of others.
    pub port_capacity: usize,
    /// How often a flow that goes on is reported.
    pub interval: Duration,
    /// How long a TCP handshake may take, from its first SYN.
    pub half_open: Duration,
    /// How long an open TCP connection may be silent. Longer than two hours, when Linux sends its keep-alives.
    pub tcp_idle: Duration,
    /// How long a TCP connection that one side has closed may be silent.
    pub half_closed: Duration,
    pub udp_idle: Duration,
    pub icmp_idle: Duration,
    /// For all protocols without a time of their own.
    pub other_idle: Duration,
    /// How long an ended connection's late packets still count as its own, before its record is made: at most 100 s.
    pub linger: Duration,
    /// How soon a dropped flow is first reported; after that at each `interval` as long as packets come.
    pub first_reject: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            capacity: 1_000_000,
            port_capacity: 250_000,
            interval: Duration::from_secs(10),
            half_open: Duration::from_secs(20),
            tcp_idle: Duration::from_secs(3 * 3600),
            half_closed: Duration::from_secs(120),
            udp_idle: Duration::from_secs(30),
            icmp_idle: Duration::from_secs(10),
            other_idle: Duration::from_secs(60),
            linger: Duration::from_secs(1),
            first_reject: Duration::from_secs(1),
        }
    }
}
