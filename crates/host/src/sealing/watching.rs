//! How this host and its guests do, measured each second for those who signed that they want it watched.
//!
//! Owns the reading of the kernel's counters and how they rise. What is usual, and what is not, is [`lucarne_seal::health`]'s; what comes
//! of it, the office's.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use lucarne_model::{InstanceId, desired::Desired};
use lucarne_seal::health::{Baselines, Class, Figure, Measure};
use tokio::{sync::watch, task::spawn_blocking, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{machines::Machines, office::Present, owner::Counter};
use crate::{
    agent,
    durable::{self, Outlives},
};

const EVERY: Duration = Duration::from_secs(1);
const KEEP: Duration = Duration::from_secs(60);
/// Octets of a sector, whatever the disk's own are.
const SECTOR: u64 = 512;

/// What was measured of one target; none: of the host.
pub(crate) type Figures = BTreeMap<Option<InstanceId>, Vec<Figure>>;

/// Counters since the start of what they are of, and levels.
type Counts = BTreeMap<Measure, Count>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    /// How high it is.
    Level(u64),
    /// How often it was.
    Total(u64),
    /// For how many of so many ticks it was.
    Share { of: u64, total: u64 },
}

impl Count {
    /// What it says of the time since `before`, in which so many milliseconds passed.
    fn value(self, before: Self, passed: u64) -> Option<u64> {
        match (self, before) {
            (Self::Level(value), _) => Some(value),
            (Self::Total(now), Self::Total(then)) => Some(now.saturating_sub(then)),
            (Self::Share { of, total }, Self::Share { of: of_before, total: before }) => {
                let of = if of == 0 { passed } else { of.saturating_sub(of_before) };
                (total.saturating_sub(before) * 1000).checked_div(of)
            }
            _ => None,
        }
    }
}

/// Measures until `shutdown`.
pub(crate) async fn follow(
    machines: Machines,
    counter: Counter,
    (present, desired): (watch::Receiver<Arc<Vec<Present>>>, watch::Receiver<Arc<Desired>>),
    shutdown: CancellationToken,
) {
    let follow = async {
        let file = machines.layout.seals().join("baselines");
        let opened = spawn_blocking(move || Watcher::open(file)).await;
        let Ok(mut watcher) = opened else { return };
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            every.tick().await;
            let here = present.borrow().clone();
            let kinds = kinds(&desired.borrow().clone());
            let mut processes = BTreeMap::new();
            for Present { instance, .. } in here.iter() {
                let process = machines.driver.ways_in(*instance).await.map(|ways| ways.process);
                processes.extend(process.zip(kinds.get(instance)).map(|of| (*instance, (of.0, of.1.clone()))));
            }
            let measured = spawn_blocking(move || {
                let figures = watcher.look(&processes);
                watcher.keep();
                (watcher, figures)
            });
            let Ok((back, figures)) = measured.await else { return };
            watcher = back;
            counter.figures(figures);
        }
    };
    shutdown.run_until_cancelled(follow).await;
}

/// Guests of one image and one size do alike.
fn kinds(desired: &Desired) -> BTreeMap<InstanceId, Class> {
    let kind = |it: &lucarne_model::desired::DesiredInstance| {
        Class::Kind(format!("{} {} {}", it.image, it.vcpus.0, it.memory.0))
    };
    desired.instances.iter().map(|instance| (instance.id, kind(instance))).collect()
}

#[derive(Debug, Default)]
struct Watcher {
    baselines: Baselines,
    /// Where the baselines outlive the agent, and when they were written there.
    file: PathBuf,
    kept: Option<Instant>,
    before: Option<(Instant, BTreeMap<Option<InstanceId>, Counts>)>,
}

impl Watcher {
    /// Goes on from what an earlier agent learnt, if that is there, whole and not old.
    fn open(file: PathBuf) -> Self {
        let read = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(error.to_string())),
            Ok(text) => Some(Baselines::from_text(&text, agent::now()).map_err(|error| error.to_string())),
        };
        let baselines = read.and_then(|read| {
            let why = |why: &String| tracing::warn!(file = %file.display(), why, "what is usual here is learnt anew");
            read.inspect_err(why).ok()
        });
        Self { baselines: baselines.unwrap_or_default(), file, ..Self::default() }
    }

    /// Writes the baselines down, each minute: more than that is not lost by a kill.
    fn keep(&mut self) {
        if self.kept.is_some_and(|kept| kept.elapsed() < KEEP) {
            return;
        }
        self.kept = Some(Instant::now());
        let text = self.baselines.to_text(agent::now()).map_err(io::Error::other);
        // One that a power cut tore is found out by its checksum.
        let kept = text.and_then(|text| durable::replace(&self.file, text.as_bytes(), Outlives::Process));
        if let Err(error) = kept {
            tracing::warn!(file = %self.file.display(), %error, "what is usual here could not be written down");
        }
    }

    fn look(&mut self, guests: &BTreeMap<InstanceId, (u32, Class)>) -> Figures {
        let now = Instant::now();
        let mut counts = BTreeMap::from([(None, host())]);
        counts.extend(guests.iter().map(|(instance, (process, _))| (Some(*instance), guest(*process))));
        let mut figures = Figures::new();
        if let Some((then, before)) = &self.before {
            let passed = u64::try_from(now.duration_since(*then).as_millis()).unwrap_or(u64::MAX);
            for (target, counts) in &counts {
                let Some(before) = before.get(target) else { continue };
                let class = target.and_then(|instance| guests.get(&instance)).map(|(_, class)| class);
                let class = class.unwrap_or(&Class::Host);
                let values = counts.iter().filter_map(|(measure, count)| {
                    Some((*measure, per_second(*measure, count.value(*before.get(measure)?, passed)?, passed)))
                });
                let figure = |(measure, value)| self.baselines.take(class, measure, value);
                figures.insert(*target, values.map(figure).collect());
            }
        }
        self.before = Some((now, counts));
        self.baselines.bound(|class| *class == Class::Host || guests.values().any(|(_, of)| of == class));
        figures
    }
}

/// Of what flows, what flowed in a second.
fn per_second(measure: Measure, value: u64, passed: u64) -> u64 {
    match measure {
        Measure::Disks | Measure::Network => (value.saturating_mul(1000)).checked_div(passed).unwrap_or(0),
        Measure::Processors | Measure::Memory | Measure::Errors => value,
    }
}

/// What cannot be read is not measured.
fn host() -> Counts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let network = network(&read("/proc/net/dev"));
    let all = [
        (Measure::Processors, processors(&read("/proc/stat"))),
        (Measure::Memory, memory(&read("/proc/meminfo"))),
        (Measure::Disks, Some(Count::Total(disks(&read("/proc/diskstats"))))),
        (Measure::Network, Some(Count::Total(network.0))),
        (Measure::Errors, Some(Count::Total(network.1 + ended_for_memory(&read("/proc/vmstat"))))),
    ];
    all.into_iter().filter_map(|(measure, count)| Some((measure, count?))).collect()
}

fn guest(process: u32) -> Counts {
    let read = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}")).unwrap_or_default();
    let used = used(&read("stat")).map(|ticks| Count::Share { of: 0, total: ticks * 10 });
    let moved = moved(&read("io")).map(Count::Total);
    [(Measure::Processors, used), (Measure::Disks, moved)]
        .into_iter()
        .filter_map(|(measure, count)| Some((measure, count?)))
        .collect()
}

/// `cpu user nice system idle iowait ...`, in ticks of all processors.
fn processors(text: &str) -> Option<Count> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|ticks| ticks.parse().ok()).collect();
    let of: u64 = ticks.iter().sum();
    Some(Count::Share { of, total: of - ticks.get(3)? - ticks.get(4)? })
}

fn memory(text: &str) -> Option<Count> {
    let of = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    let (all, available) = (of("MemTotal:")?, of("MemAvailable:")?);
    Some(Count::Level((all.saturating_sub(available) * 1000).checked_div(all)?))
}

/// Octets read and written, of whole disks: of what is made of others they would count twice.
fn disks(text: &str) -> u64 {
    let sectors = |line: &str| -> Option<u64> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.get(2)?;
        let is_made_of_others = ["loop", "dm-", "md", "zram"].iter().any(|kind| name.starts_with(kind));
        let is_whole = !is_made_of_others && fs::exists(format!("/sys/block/{name}")).unwrap_or(false);
        is_whole.then_some(words.get(5)?.parse::<u64>().ok()? + words.get(9)?.parse::<u64>().ok()?)
    };
    text.lines().filter_map(sectors).sum::<u64>() * SECTOR
}

/// Octets both ways, and packets with errors, of all but the loop.
fn network(text: &str) -> (u64, u64) {
    let mut both = (0, 0);
    for (name, counts) in text.lines().filter_map(|line| line.split_once(':')) {
        let counts: Vec<u64> = counts.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        if let ([received, _, wrong, .., sent, _, unsent, _, _, _, _, _], false) = (&counts[..], name.trim() == "lo") {
            both = (both.0 + received + sent, both.1 + wrong + unsent);
        }
    }
    both
}

fn ended_for_memory(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// Ticks that a process has used, of a hundredth of a second each: the 14th and 15th word of /proc/PID/stat, of which the second is a
/// name and may have blanks.
fn used(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(words.get(11)?.parse::<u64>().ok()? + words.get(12)?.parse::<u64>().ok()?)
}

/// Octets that a process had brought from disks and brought to them.
fn moved(text: &str) -> Option<u64> {
    let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<u64>().ok();
    Some(of("read_bytes:")? + of("write_bytes:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_understood() {
        assert_eq!(processors("cpu  10 0 10 70 10 0 0 0 0 0\n"), Some(Count::Share { of: 100, total: 20 }));
        assert_eq!(memory("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n"), Some(Count::Level(750)));
        let text = "  lo: 9 9 9 0 0 0 0 0 9 9 9 0 0 0 0 0\neth0: 1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0\n";
        assert_eq!(network(text), (3000, 4));
        assert_eq!(ended_for_memory("pgfault 1\noom_kill 3\n"), 3);
        assert_eq!(used("7 (a ) b) S 1 1 1 0 -1 4 0 0 0 0 250 50 0 0 20 0 1\n"), Some(300));
        assert_eq!(moved("rchar: 1\nread_bytes: 4096\nwrite_bytes: 100\n"), Some(4196));
    }

    #[test]
    fn counters_say_what_they_rose_by() {
        let share = |of, total| Count::Share { of, total };
        assert_eq!(share(200, 70).value(share(100, 20), 999), Some(500));
        assert_eq!(share(0, 1500).value(share(0, 1000), 1000), Some(500), "of a guest, of the time that passed");
        assert_eq!(share(0, 1500).value(share(0, 1000), 0), None);
        assert_eq!(
            (Count::Total(7).value(Count::Total(4), 1), Count::Total(1).value(Count::Total(4), 1)),
            (Some(3), Some(0))
        );
        assert_eq!(per_second(Measure::Disks, 3000, 1500), 2000);
    }

    #[test]
    fn what_was_learnt_is_known_to_the_next_agent_and_what_is_damaged_is_learnt_anew() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("baselines");
        let mut watcher = Watcher::open(file.clone());
        watcher.look(&BTreeMap::new());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!watcher.look(&BTreeMap::new()).is_empty());
        watcher.keep();
        assert_eq!(Watcher::open(file.clone()).baselines, watcher.baselines);
        assert_ne!(watcher.baselines, Baselines::default());
        fs::write(&file, "{").unwrap();
        assert_eq!(Watcher::open(file).baselines, Baselines::default());
    }

    /// The load of a process that does nothing else is seen within the next look, and of that process alone.
    #[test]
    fn a_process_that_is_busy_is_seen_to_be() {
        let mut busy = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let guests = BTreeMap::from([
            (InstanceId::from_bits(1), (busy.id(), Class::Kind("busy".to_owned()))),
            (InstanceId::from_bits(2), (u32::MAX, Class::Kind("gone".to_owned()))),
        ]);
        let mut watcher = Watcher::default();
        assert!(watcher.look(&guests).is_empty(), "nothing is known of the time before");
        let mut most = 0;
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(500));
            let figures = watcher.look(&guests);
            assert!(figures[&None].iter().any(|figure| figure.measure == Measure::Memory && figure.value > 0));
            assert!(figures[&Some(InstanceId::from_bits(2))].is_empty());
            let of_it = &figures[&Some(InstanceId::from_bits(1))];
            most = most.max(of_it.iter().find(|it| it.measure == Measure::Processors).unwrap().value);
            if most > 100 {
                break;
            }
        }
        let _ = busy.kill();
        busy.wait().unwrap();
        assert!(most > 100, "{most}");
    }
}
