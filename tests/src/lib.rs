//! What the end-to-end tests stand on: real processes of the `lucarne` binary, real HTTP, and nothing left behind.
//!
//! Owns starting, killing and cleaning up ([`process`]), a cloud of such processes ([`cloud`]), a bare HTTP client
//! ([`api`]), guests that talk ([`download`], [`ring`]) or have programs of their own ([`guest_program`]), places to deliver to
//! ([`bucket`]), and disks that are soon full ([`small_disk`]). The client is not the generated one: what is tested should not test
//! itself.

pub mod api;
pub mod bucket;
pub mod cloud;
pub mod download;
pub mod guest_program;
pub mod image;
pub mod process;
pub mod ring;
pub mod small_disk;

use std::time::{Duration, Instant};

/// Asks `question` until it answers, or fails with what was waited for.
pub fn eventually<T>(what: &str, patience: Duration, mut question: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = question() {
            return Ok(answer);
        }
        anyhow::ensure!(Instant::now() < end, "waited {} s in vain: {what}", patience.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}
