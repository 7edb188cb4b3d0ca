//! What the kernel says of a process's memory.

use std::fs;

use anyhow::{Context, Result};

/// In KiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub rss: u64,
    /// Pages shared with others count by their share.
    pub pss: u64,
    /// Of that, pages of memfds and tmpfs: of such a file only what is mapped just now.
    pub pss_shmem: u64,
    pub private: u64,
}

impl Memory {
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let field = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.and_then(|word| word.parse().ok()).with_context(|| format!("{path} has no {name}"))
        };
        Ok(Self {
            rss: field("Rss")?,
            pss: field("Pss")?,
            pss_shmem: field("Pss_Shmem")?,
            private: field("Private_Clean")? + field("Private_Dirty")?,
        })
    }
}

/// KiB as MiB.
pub fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}
