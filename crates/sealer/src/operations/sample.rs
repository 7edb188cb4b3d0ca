//! `host.sample`: what runs on the host, looked at many times a second for a while.
//!
//! Owns what one look is: every thread that runs, or waits without being interruptible, with where it is in the kernel. Stacks
//! outside the kernel are not taken. On a host with thousands of threads a look takes long, and there are fewer of them than
//! were asked for: the result says how many there were.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs, thread,
    time::{Duration, Instant},
};

use lucarne_seal::operation::HostSample;
use serde::Serialize;

use crate::{confinement::Needs, order::Failure};

/// Places that are told apart; what is beyond them is counted together.
const MOST_PLACES: usize = 20_000;
/// Of one stack, the innermost.
const MOST_FRAMES: usize = 64;

/// Landlock would hide other processes' stacks.
pub(super) fn needs() -> Needs {
    Needs { inspects: true, ..Needs::default() }
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Samples {
    /// Looks that were taken.
    looks: u64,
    milliseconds: u64,
    places: Vec<Counted>,
    /// Threads that were seen in more places than are told apart.
    elsewhere: u64,
    /// What the host's counters rose by meanwhile.
    counters: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Place {
    command: String,
    process: u32,
    /// `R`: it runs or could; `D`: it waits and cannot be interrupted.
    state: char,
    /// In the kernel, innermost first; empty: outside of it, or this host does not tell.
    stack: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Counted {
    #[serde(flatten)]
    place: Place,
    seen: u64,
}

pub(super) fn take(sample: &HostSample) -> Result<Samples, Failure> {
    let interval = Duration::from_secs(1) / u32::try_from(sample.hertz.get()).unwrap_or(1);
    let (begun, whole) = (Instant::now(), Duration::from_secs(sample.seconds.get()));
    let before = counters();
    let (mut places, mut elsewhere, mut looks) = (BTreeMap::new(), 0, 0);
    while begun.elapsed() < whole {
        look(&mut places, &mut elsewhere).map_err(Failure::broken("look at what runs on the host"))?;
        looks += 1;
        // The next in step with the clock; those that were missed are left out.
        let next = interval * u32::try_from(begun.elapsed().as_nanos() / interval.as_nanos() + 1).unwrap_or(u32::MAX);
        thread::sleep(next.min(whole).saturating_sub(begun.elapsed()));
    }
    let after = counters();
    let rose = |(name, count): (String, u64)| {
        let before = before.get(&name).copied().unwrap_or(count);
        (name, count.saturating_sub(before))
    };
    let mut places: Vec<Counted> = places.into_iter().map(|(place, seen)| Counted { place, seen }).collect();
    places.sort_by_key(|counted| std::cmp::Reverse(counted.seen));
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Samples { looks, milliseconds, places, elsewhere, counters: after.into_iter().map(rose).collect() })
}

fn look(places: &mut BTreeMap<Place, u64>, elsewhere: &mut u64) -> std::io::Result<()> {
    let own = std::process::id();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // What ends while it is looked at is left out.
        for thread in fs::read_dir(entry.path().join("task")).into_iter().flatten().flatten() {
            let statistics = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            let Some((command, state @ ('R' | 'D'))) = command_and_state(&statistics) else { continue };
            if process == own {
                continue;
            }
            let stack = stack(&fs::read_to_string(thread.path().join("stack")).unwrap_or_default());
            let full = places.len() >= MOST_PLACES;
            match places.entry(Place { command: command.to_owned(), process, state, stack }) {
                Entry::Occupied(mut seen) => *seen.get_mut() += 1,
                Entry::Vacant(new) if !full => drop(new.insert(1)),
                Entry::Vacant(_) => *elsewhere += 1,
            }
        }
    }
    Ok(())
}

/// Of a line such as `42 (a name) with) R 1 ...`.
fn command_and_state(statistics: &str) -> Option<(&str, char)> {
    let (before, behind) = statistics.rsplit_once(") ")?;
    Some((before.split_once('(')?.1, behind.chars().next()?))
}

/// Of lines such as `[<0>] schedule+0x5f/0xd0`.
fn stack(text: &str) -> Vec<String> {
    let frame = |line: &str| Some(line.split_once("] ")?.1.split('+').next()?.trim().to_owned());
    text.lines().filter_map(frame).take(MOST_FRAMES).collect()
}

fn counters() -> BTreeMap<String, u64> {
    const WANTED: [&str; 4] = ["ctxt", "intr", "processes", "softirq"];
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let entry = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().filter(|name| WANTED.contains(name))?;
        Some((name.to_owned(), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_understood() {
        assert_eq!(command_and_state("42 (a (odd) name) R 1 42"), Some(("a (odd) name", 'R')));
        assert_eq!(command_and_state("nonsense"), None);
        assert_eq!(stack("[<0>] schedule+0x5f/0xd0\n[<0>] do_wait\n"), ["schedule", "do_wait"]);
    }

    #[test]
    fn what_runs_is_seen() {
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let arguments = serde_json::from_value(serde_json::json!({"seconds": 1, "hertz": 50})).unwrap();
        let samples = take(&arguments).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!((1..=51).contains(&samples.looks), "{}", samples.looks);
        assert!(samples.places.iter().any(|counted| counted.place.process == child.id()), "{samples:?}");
        assert!(samples.counters["ctxt"] > 0);
    }
}
