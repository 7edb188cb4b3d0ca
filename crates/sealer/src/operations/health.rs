//! `host.health`: how the host does.
//!
//! Owns what is looked at, all of it in /proc and /sys: load, memory, pressure, processors, disks, network, errors. What is
//! unusual of it is said by whoever knows the host's past.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use crate::{confinement::Needs, order::Failure};

pub(super) fn needs() -> Needs {
    Needs { reads: vec!["/proc".into(), "/sys".into()], ..Needs::default() }
}

/// One look. Counts are since the host's start.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Health {
    /// In microseconds since 1970.
    time: u128,
    uptime_seconds: f64,
    kernel: String,
    /// Over 1, 5 and 15 minutes.
    load: Vec<f64>,
    /// KiB, by the names of /proc/meminfo.
    memory: BTreeMap<String, u64>,
    /// Percent of the time in which some or all stood still for want of it (PSI), by resource; none of a kernel without it.
    pressure: BTreeMap<&'static str, BTreeMap<String, BTreeMap<String, f64>>>,
    /// Ticks of all processors, by what they were used for.
    processors: BTreeMap<&'static str, u64>,
    disks: Vec<Disk>,
    network: Vec<Link>,
    errors: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Disk {
    name: String,
    reads: u64,
    sectors_read: u64,
    read_milliseconds: u64,
    writes: u64,
    sectors_written: u64,
    write_milliseconds: u64,
    under_way: u64,
    busy_milliseconds: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Link {
    name: String,
    received_octets: u64,
    received_packets: u64,
    receive_errors: u64,
    receive_drops: u64,
    sent_octets: u64,
    sent_packets: u64,
    send_errors: u64,
    send_drops: u64,
}

impl Health {
    pub(super) fn now() -> Result<Self, Failure> {
        Self::look().map_err(Failure::broken("look at the host"))
    }

    fn look() -> io::Result<Self> {
        let statistics = fs::read_to_string("/proc/stat")?;
        let load = fs::read_to_string("/proc/loadavg")?;
        let mut errors = counters(&fs::read_to_string("/proc/vmstat")?, &["oom_kill", "allocstall_normal"]);
        errors.extend(memory_errors(Path::new("/sys/devices/system/edac/mc")));
        Ok(Self {
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros()),
            uptime_seconds: number(fs::read_to_string("/proc/uptime")?.split(' ').next()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load: load.split(' ').take(3).map(|average| number(Some(average))).collect(),
            memory: memory(&fs::read_to_string("/proc/meminfo")?),
            pressure: ["cpu", "memory", "io"].into_iter().filter_map(|name| Some((name, pressure(name)?))).collect(),
            processors: processors(&statistics),
            disks: fs::read_to_string("/proc/diskstats")?.lines().filter_map(disk).collect(),
            network: fs::read_to_string("/proc/net/dev")?.lines().filter_map(link).collect(),
            errors,
        })
    }
}

fn number(text: Option<&str>) -> f64 {
    text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

fn memory(text: &str) -> BTreeMap<String, u64> {
    let entry = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.split_whitespace().next()?.parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}

fn pressure(name: &str) -> Option<BTreeMap<String, BTreeMap<String, f64>>> {
    Some(pressure_of(&fs::read_to_string(format!("/proc/pressure/{name}")).ok()?))
}

/// Lines such as `some avg10=0.00 avg60=0.12 avg300=0.05 total=1234`.
fn pressure_of(text: &str) -> BTreeMap<String, BTreeMap<String, f64>> {
    let entry = |line: &str| {
        let (who, averages) = line.split_once(' ')?;
        let averages = averages.split(' ').filter_map(|average| average.split_once('='));
        Some((who.to_owned(), averages.map(|(name, value)| (name.to_owned(), number(Some(value)))).collect()))
    };
    text.lines().filter_map(entry).collect()
}

fn processors(text: &str) -> BTreeMap<&'static str, u64> {
    const USES: [&str; 8] = ["user", "nice", "system", "idle", "io_wait", "interrupts", "soft_interrupts", "stolen"];
    let all = text.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    USES.into_iter().zip(all.split_whitespace().filter_map(|ticks| ticks.parse().ok())).collect()
}

/// Those of these counters that the text has, one a line.
fn counters(text: &str, wanted: &[&str]) -> BTreeMap<String, u64> {
    let entry = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        wanted.contains(&name).then(|| Some((name.to_owned(), value.trim().parse().ok()?)))?
    };
    text.lines().filter_map(entry).collect()
}

/// What memory controllers count, where there are any.
fn memory_errors(controllers: &Path) -> BTreeMap<String, u64> {
    let mut errors = BTreeMap::new();
    for controller in fs::read_dir(controllers).into_iter().flatten().flatten() {
        for (file, name) in [("ce_count", "corrected"), ("ue_count", "uncorrected")] {
            let count = fs::read_to_string(controller.path().join(file)).ok();
            if let Some(count) = count.and_then(|text| text.trim().parse::<u64>().ok()) {
                *errors.entry(format!("memory_{name}")).or_default() += count;
            }
        }
    }
    errors
}

/// A line of /proc/diskstats (Documentation/admin-guide/iostats.rst), of a disk that was used.
fn disk(line: &str) -> Option<Disk> {
    let (name, counts) = line.split_whitespace().nth(2).and_then(|name| Some((name, line.split_once(name)?.1)))?;
    let count = counted(counts, 10)?;
    let disk = Disk {
        name: name.to_owned(),
        reads: count(0),
        sectors_read: count(2),
        read_milliseconds: count(3),
        writes: count(4),
        sectors_written: count(6),
        write_milliseconds: count(7),
        under_way: count(8),
        busy_milliseconds: count(9),
    };
    (disk.reads + disk.writes > 0).then_some(disk)
}

/// The numbers of a line, by their places, if there are so many.
fn counted(counts: &str, least: usize) -> Option<impl Fn(usize) -> u64> {
    let counts: Vec<u64> = counts.split_whitespace().map(|word| word.parse().unwrap_or_default()).collect();
    (counts.len() >= least).then_some(move |at: usize| counts.get(at).copied().unwrap_or_default())
}

/// A line of /proc/net/dev.
fn link(line: &str) -> Option<Link> {
    let (name, counts) = line.split_once(':')?;
    let count = counted(counts, 12)?;
    Some(Link {
        name: name.trim().to_owned(),
        received_octets: count(0),
        received_packets: count(1),
        receive_errors: count(2),
        receive_drops: count(3),
        sent_octets: count(8),
        sent_packets: count(9),
        send_errors: count(10),
        send_drops: count(11),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_understood() {
        let disk = disk(" 254       0 vda 100 2 3000 40 500 6 7000 80 9 100 110 0 0 0 0 0 0").unwrap();
        assert_eq!((disk.name.as_str(), disk.reads, disk.sectors_read), ("vda", 100, 3000));
        assert_eq!((disk.writes, disk.under_way, disk.busy_milliseconds), (500, 9, 100));
        let link = link("  eth0: 1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0").unwrap();
        assert_eq!((link.name.as_str(), link.receive_drops, link.send_errors, link.sent_packets), ("eth0", 2, 3, 20));
        let pressure = pressure_of("some avg10=1.50 avg60=0.12 total=7\nfull avg10=0.00 total=0\n");
        assert_eq!((pressure["some"]["avg10"], pressure["full"]["total"]), (1.5, 0.0));
        assert_eq!(processors("cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 1 2\n")["stolen"], 8);
        assert_eq!(memory("MemTotal:        8000 kB\n")["MemTotal"], 8000);
    }

    #[test]
    fn this_host_can_be_looked_at() {
        let health = Health::now().unwrap();
        assert!(health.uptime_seconds > 0.0 && health.memory["MemTotal"] > 0 && health.processors["user"] > 0);
    }
}
