//! What the machine says of its processors and of the processes of VMs.
//!
//! Owns the reading of `/proc`. A file that cannot be read, because its process has just ended, counts as nothing.

use std::fs;

use lucarne_memory::governor::cpu::CpuView;
use lucarne_model::{Bytes, Pages};

/// What a VM's process takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessMemory {
    /// Of the guest's memory, which is shared.
    pub(crate) mapped: Pages,
    /// Its own.
    pub(crate) own: Bytes,
}

pub(crate) fn process_memory(pid: u32) -> ProcessMemory {
    fs::read_to_string(format!("/proc/{pid}/status")).map(|text| parse_status(&text)).unwrap_or_default()
}

/// As proc_pid_status(5) has it; its unit is KiB.
fn parse_status(text: &str) -> ProcessMemory {
    let kib = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or_default()
    };
    let bytes = |kib: u64| Bytes(kib.saturating_mul(1024));
    ProcessMemory { mapped: Pages::covering(bytes(kib("RssShmem:"))), own: bytes(kib("RssAnon:")) }
}

/// How busy processors are, from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Processors {
    /// Of all processors: ticks in all, and those that nobody used.
    before: Option<(u64, u64)>,
    soakers_before: u64,
}

impl Processors {
    /// Looks, with the processes of soakers, whose use does not count.
    pub(crate) fn look(&mut self, soakers: impl Iterator<Item = u32>) -> CpuView {
        let Ok(text) = fs::read_to_string("/proc/stat") else { return CpuView::default() };
        let soakers = soakers.map(|pid| process_ticks(pid).unwrap_or_default()).sum();
        self.take(parse_ticks(&text), soakers)
    }

    fn take(&mut self, now: Option<(u64, u64)>, soakers: u64) -> CpuView {
        let count = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        let (before, soakers_before) = (self.before, std::mem::replace(&mut self.soakers_before, soakers));
        self.before = now;
        let total = count * 1000;
        let (Some((all, idle)), Some((all_before, idle_before))) = (now, before) else {
            return CpuView { total, used: total };
        };
        let passed = all.saturating_sub(all_before).max(1);
        let theirs = soakers.saturating_sub(soakers_before);
        let used = passed.saturating_sub(idle.saturating_sub(idle_before)).saturating_sub(theirs);
        CpuView { total, used: total * used / passed }
    }
}

/// The first line of proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal, and two that are in the first.
fn parse_ticks(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((ticks.iter().sum(), idle))
}

/// The processor time that a process has taken, in the kernel's ticks.
pub(crate) fn process_ticks(pid: u32) -> Option<u64> {
    parse_process_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The 14th and 15th field of proc_pid_stat(5); the second one, a name, may hold anything.
fn parse_process_ticks(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_memory_is_told_from_its_processs_own() {
        let text = "Name:\tqemu\nVmRSS:\t 300 kB\nRssAnon:\t   100 kB\nRssFile:\t  40 kB\nRssShmem:\t  160 kB\n";
        assert_eq!(parse_status(text), ProcessMemory { mapped: Pages(40), own: Bytes(102_400) });
        assert_eq!(parse_status(""), ProcessMemory::default());
        assert!(process_memory(std::process::id()).own > Bytes::ZERO);
    }

    #[test]
    fn what_soakers_use_counts_as_idle() {
        let mut processors = Processors::default();
        let first = processors.take(parse_ticks("cpu  100 0 0 100 0 0 0 0 0 0\n"), 10);
        assert_eq!(first.used, first.total, "nothing is known to be idle yet");
        let second = processors.take(parse_ticks("cpu  160 0 0 140 0 0 0 0 0 0\n"), 30);
        assert_eq!(second.used, second.total * 40 / 100);
        assert!(Processors::default().look(std::iter::empty()).total >= 1000);
    }

    #[test]
    fn a_processs_name_does_not_mislead() {
        let text = "7 (a ) b) S 1 7 7 0 -1 0 1 2 3 4 50 25 0 0 20 0 1 0 1 1 1";
        assert_eq!(parse_process_ticks(text), Some(75));
        assert_eq!(parse_process_ticks("7 (x"), None);
    }
}
