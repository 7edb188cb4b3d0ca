//! How long it takes until the duplicates of 16 running VMs on two hosts run, beside the same by QEMU alone; how long their sources
//! stand still, and what is copied.
//!
//! Owns the scene: VMs of one image with a data volume each, of which a part is written, and rounds of duplicates that are deleted again.
//! Ours is timed from the start of `lucarne replica create --wait` to its end, when all duplicates go on. The peer is [`peer`]'s.

mod peer;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lucarne_bench::{
    cloud::{Caller, Cloud},
    figures::{median, table},
    length,
};
use serde_json::Value;

/// What a VM has.
const MEMORY_MIB: u64 = 96;
const DISK_MIB: u64 = 256;
/// What of its volume is written.
const WRITTEN_MIB: u64 = 16;
const VMS: usize = 16;
/// The one whose pause has a mark of its own.
const LARGE_MIB: u64 = 256;
const BOOTED_WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Marks: until all duplicates run, how many times as fast as QEMU alone, a source's pause, and what is copied.
const ALL_RUN_SECONDS: f64 = 3.0;
const FASTER: f64 = 10.0;
const PAUSE_MILLIS: f64 = 25.0;
const COPIED_PERCENT: f64 = 2.0;

/// A duplicate of a network, as it was when its instances went on.
struct Round {
    seconds: f64,
    pauses_millis: Vec<f64>,
    /// Of memory, of devices, and of disks.
    copied: [u64; 3],
}

fn main() -> Result<()> {
    let (rounds, vms) = length::or_short((5, VMS), (1, 2));
    let cloud = Cloud::start(2, &[])?;
    let many = Network::new(&cloud, "many", vms, MEMORY_MIB)?;
    let ours = many.rounds(rounds)?;
    many.end()?;
    let one = Network::new(&cloud, "one", 1, LARGE_MIB)?;
    let large = one.rounds(rounds)?;
    one.end()?;
    let scene = peer::Scene { memory_mib: MEMORY_MIB, disk_mib: DISK_MIB, written_mib: WRITTEN_MIB };
    let alone = peer::duplicate(&cloud, scene, vms)?;
    print_times(vms, &ours, &large, &alone)?;
    print_copied(vms, &ours, &alone)
}

fn print_times(vms: usize, ours: &[Round], large: &[Round], alone: &peer::Duplicated) -> Result<()> {
    let row = |name: String, seconds: &[f64], pauses: &[f64]| -> Result<Vec<String>> {
        let most = pauses.iter().copied().fold(0.0, f64::max);
        let (seconds, pause) = (median(seconds).context("no rounds")?, median(pauses).context("no pauses")?);
        Ok(vec![name, format!("{seconds:.2}"), format!("{pause:.1}"), format!("{most:.1}")])
    };
    let all = |rounds: &[Round]| -> (Vec<f64>, Vec<f64>) {
        let pauses = rounds.iter().flat_map(|round| round.pauses_millis.clone());
        (rounds.iter().map(|round| round.seconds).collect(), pauses.collect())
    };
    let ((many, its_pauses), (one, its_pause)) = (all(ours), all(large));
    let rows = [
        row(format!("`lucarne replica create`, {vms} VMs of {MEMORY_MIB} MiB"), &many, &its_pauses)?,
        row(format!("the same, one VM of {LARGE_MIB} MiB"), &one, &its_pause)?,
        row(format!("QEMU alone (peer), {vms} VMs of {MEMORY_MIB} MiB"), &[alone.seconds], &alone.pauses_millis)?,
    ];
    println!("{}", table(&["", "all run, s", "a source's pause, ms: median", "most"], &rows));
    let middle = median(&many).context("no rounds")?;
    println!(
        "{:.1} times as fast as QEMU alone (mark: {FASTER}), in {middle:.2} s (mark: {ALL_RUN_SECONDS} s); mark for the pause of the \
         one of {LARGE_MIB} MiB: {PAUSE_MILLIS} ms; {} rounds",
        alone.seconds / middle,
        ours.len()
    );
    Ok(())
}

fn print_copied(vms: usize, ours: &[Round], alone: &peer::Duplicated) -> Result<()> {
    let whole = (vms as u64 * (MEMORY_MIB + WRITTEN_MIB)) << 20;
    let mib = |octets: u64| format!("{:.1}", octets as f64 / f64::from(1 << 20));
    let share = |octets: u64| format!("{:.2}", octets as f64 * 100.0 / whole as f64);
    let of = |at: usize| {
        let all: Vec<f64> = ours.iter().map(|round| round.copied[at] as f64).collect();
        median(&all).map(|octets| octets as u64).context("no rounds")
    };
    let parts = [of(0)?, of(1)?, of(2)?];
    let sum: u64 = parts.iter().sum();
    let row = |name: &str, octets: u64| vec![name.to_owned(), mib(octets), share(octets)];
    let rows = [
        row("pages of memory, when all run", parts[0]),
        row("states of devices", parts[1]),
        row("of disks", parts[2]),
        row("together", sum),
        row("QEMU alone (peer)", alone.copied),
    ];
    println!("{}", table(&["copied", "MiB", "% of memory and what is written on disks"], &rows));
    println!("mark: less than {COPIED_PERCENT} % of {} MiB", mib(whole));
    Ok(())
}

/// A network of VMs, the half of them on each host.
struct Network<'a> {
    cloud: &'a Cloud,
    vpc: String,
    instances: Vec<String>,
    volumes: Vec<String>,
}

impl<'a> Network<'a> {
    /// All have booted and written what they write, and are idle.
    fn new(cloud: &'a Cloud, name: &str, vms: usize, memory_mib: u64) -> Result<Self> {
        let text = |arguments: &[&str]| cloud.text(Caller::Tenant, arguments).map(|text| text.trim().to_owned());
        let vpc = text(&["vpc", "create", "--cidr", "10.0.0.0/16", "--name", name])?;
        let subnet = text(&["subnet", "create", "--vpc", &vpc, "--cidr", "10.0.1.0/24"])?;
        let script = cloud.state().join("writes.sh");
        let writes = format!(
            "#!/bin/sh\ndd if=/dev/urandom of=/dev/vda bs=1M count={WRITTEN_MIB}\nsync\necho bench: written > /dev/console\n"
        );
        std::fs::write(&script, writes).context("cannot write user-data")?;
        let script = script.display().to_string();
        let hosts = cloud.json(Caller::Operator, &["host", "list"])?;
        let hosts: Vec<&str> = hosts.as_array().into_iter().flatten().filter_map(|host| host["id"].as_str()).collect();
        ensure!(!hosts.is_empty(), "there is no host");
        let (memory, size) = (format!("{memory_mib}M"), format!("{DISK_MIB}M"));
        let mut network = Self { cloud, vpc, instances: Vec::new(), volumes: Vec::new() };
        for at in 0..vms {
            let volume = text(&["volume", "create", "--size", &size])?;
            let shown = cloud.json(Caller::Operator, &["host", "show", hosts[at % hosts.len()]])?;
            let host = shown["id"].as_str().context("a host has an id")?.to_owned();
            let launch = ["instance", "launch", "--image", "tiny", "--subnet", &subnet, "--memory", &memory];
            let rest = ["--volume", &volume, "--user-data", &script, "--host", &host];
            let launched = cloud.json(Caller::Tenant, &[&launch[..], &rest[..]].concat())?;
            network.instances.push(launched["instances"][0]["id"].as_str().context("nothing was launched")?.to_owned());
            network.volumes.push(volume);
        }
        network.await_line("bench: written")?;
        Ok(network)
    }

    fn await_line(&self, line: &str) -> Result<()> {
        let limit = Instant::now() + BOOTED_WITHIN;
        for instance in &self.instances {
            while !self.cloud.text(Caller::Tenant, &["instance", "log", instance]).is_ok_and(|log| log.contains(line)) {
                ensure!(Instant::now() < limit, "{instance} never said `{line}`");
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    fn rounds(&self, rounds: usize) -> Result<Vec<Round>> {
        let round = |number| {
            let round = self.duplicate()?;
            eprintln!("round {number} of {rounds}: {:.2} s", round.seconds);
            Ok(round)
        };
        (1..=rounds).map(round).collect()
    }

    fn duplicate(&self) -> Result<Round> {
        let began = Instant::now();
        let id = self.cloud.text(Caller::Tenant, &["replica", "create", &self.vpc, "--wait"])?;
        let seconds = began.elapsed().as_secs_f64();
        let shown: Value = self.cloud.json(Caller::Tenant, &["replica", "show", id.trim()])?;
        let instances = shown["instances"].as_object().context("a replica has instances")?;
        ensure!(instances.len() == self.instances.len(), "not all were duplicated: {shown}");
        let of_all = |field: &str| instances.values().filter_map(|one| one[field].as_u64()).collect::<Vec<_>>();
        let pauses_millis = of_all("pause_micros").into_iter().map(|micros| micros as f64 / 1000.0).collect();
        let field = |name: &str| shown[name].as_u64().with_context(|| format!("no {name} in {shown}"));
        let copied = [field("copied")?, of_all("devices").into_iter().sum(), field("copied_of_disks")?];
        self.cloud.text(Caller::Tenant, &["replica", "delete", id.trim(), "--wait"])?;
        Ok(Round { seconds, pauses_millis, copied })
    }

    fn end(&self) -> Result<()> {
        let terminate: Vec<&str> =
            ["instance", "terminate", "--wait"].into_iter().chain(self.instances.iter().map(String::as_str)).collect();
        self.cloud.text(Caller::Tenant, &terminate).map(drop)
    }
}
