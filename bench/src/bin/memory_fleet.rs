//! How far a host's memory may be promised: a fleet of eight VMs that do different things, on hosts that have all, two thirds,
//! half and less of what the VMs see.
//!
//! Owns the fleet and what is counted. Each VM does a piece of work, tells how long that took by its own clock, and rests. The
//! cloud is the same each time but for its memory and the factor by which that is promised; what a piece takes is held
//! against what it took where everybody had all. The work is little enough that the processors are not what is scarce.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lucarne_bench::{
    cloud::{Caller, Cloud},
    figures::table,
    length::or_short,
};
use serde_json::Value;

const FACTORS: &[f64] = &[1.0, 1.5, 2.0, 3.0];
/// What each VM sees, in MiB.
const MEMORY: u64 = 128;
/// Until every VM has prepared itself.
const PREPARED_WITHIN: Duration = Duration::from_secs(300);
const DONE: &str = "done in ";

/// Name, how many of them, seconds of rest, preparation, work.
const KINDS: [(&str, usize, u32, &str, &str); 4] = [
    (
        "nearly idle",
        4,
        5,
        "dd if=/dev/urandom of=held bs=1M count=40 2>/dev/null; dd if=/dev/urandom of=f bs=1M count=2 2>/dev/null",
        "md5sum f",
    ),
    (
        "files, a few often",
        2,
        1,
        "for i in $(seq 0 23); do dd if=/dev/urandom of=$i bs=1M count=1 2>/dev/null; done; x=1",
        "for i in 1 2 3 4 5; do x=$(( (x*16807) % 2147483647 )); md5sum $(( x % 10 ? x % 4 : x % 24 )); done",
    ),
    ("sorts", 1, 5, "seq 1 40000 >s", "sort -r s"),
    (
        "reads all",
        1,
        10,
        "for i in $(seq 0 31); do dd if=/dev/urandom of=$i bs=1M count=1 2>/dev/null; done",
        "md5sum 0 1 2 3 4 5 6 7 8 9 ??",
    ),
];

fn main() -> Result<()> {
    let mut rows = Vec::new();
    let mut whole: Option<Vec<f64>> = None;
    for &factor in or_short(FACTORS, &[1.0, 2.0]) {
        let measured = measure(factor)?;
        let of_whole = whole.get_or_insert_with(|| measured.seconds.clone());
        let times: Vec<f64> = measured.seconds.iter().zip(of_whole).map(|(now, then)| now / *then).collect();
        let mut row = vec![format!("{factor:.1}")];
        row.extend(measured.seconds.iter().zip(&times).map(|(seconds, times)| format!("{seconds:.2} ({times:.2})")));
        row.push(format!("{:.2}", times.iter().sum::<f64>() / times.len() as f64));
        row.extend([measured.resident.to_string(), format!("{:.1}", measured.refaults)]);
        eprintln!("factor {factor}: {}", row.join(", "));
        rows.push(row);
    }
    let works = KINDS.map(|(name, count, ..)| format!("{name} ({count}), s"));
    let mut columns = vec!["promised for each byte"];
    columns.extend(works.iter().map(String::as_str));
    columns.extend(["times as long, mean", "resident MiB", "refaults a second"]);
    println!("{}", table(&columns, &rows));
    Ok(())
}

/// What a fleet did.
struct Measured {
    /// Of a piece of each kind's work, in the mean.
    seconds: Vec<f64>,
    resident: u64,
    /// Of all VMs in a second.
    refaults: f64,
}

fn measure(factor: f64) -> Result<Measured> {
    let count: usize = KINDS.iter().map(|(_, count, ..)| count).sum();
    // Above 1 the host keeps a sixteenth for compressed pages, beside what is promised.
    let kept = if factor > 1.0 { 16.0 / 15.0 } else { 1.0 };
    let memory = format!("{}M", (count as f64 * MEMORY as f64 / factor * kept).ceil());
    let cloud = Cloud::start(
        1,
        &["--memory", &memory, "--memory-oversubscription", &factor.to_string(), "--vcpus", &count.to_string()],
    )?;
    let fleet = launch(&cloud)?;
    until_prepared(&cloud, &fleet)?;
    // What is idle leaves first.
    let [settle, counted] = or_short([45, 60], [5, 30]).map(Duration::from_secs);
    sleep(settle);
    let before = fleet.iter().map(|one| one.pieces(&cloud)).collect::<Result<Vec<_>>>()?;
    let (refaults, began) = (refaults(&cloud)?, Instant::now());
    sleep(counted);
    let came_back = self::refaults(&cloud)? - refaults;
    let mut seconds = Vec::new();
    for (kind, (name, ..)) in KINDS.iter().enumerate() {
        let mut pieces = Vec::new();
        for (one, before) in fleet.iter().zip(&before).filter(|(one, _)| one.kind == kind) {
            let now = one.pieces(&cloud)?;
            pieces.extend_from_slice(now.get(before.len()..).unwrap_or_default());
        }
        ensure!(!pieces.is_empty(), "`{name}` did nothing in {counted:?}");
        seconds.push(pieces.iter().sum::<f64>() / pieces.len() as f64);
    }
    let hosts = cloud.json(Caller::Operator, &["memory", "show"])?;
    let resident = hosts["hosts"][0]["resident"].as_u64().context("the host tells nothing of its memory")? >> 20;
    Ok(Measured { seconds, resident, refaults: came_back as f64 / began.elapsed().as_secs_f64() })
}

struct One {
    kind: usize,
    instance: String,
}

impl One {
    /// How long each piece took that it has told of.
    fn pieces(&self, cloud: &Cloud) -> Result<Vec<f64>> {
        let log = cloud.text(Caller::Tenant, &["instance", "log", &self.instance])?;
        let hundredths = log.lines().filter_map(|line| line.trim().strip_prefix(DONE)?.parse::<u32>().ok());
        Ok(hundredths.map(|hundredths| f64::from(hundredths) / 100.0).collect())
    }
}

fn launch(cloud: &Cloud) -> Result<Vec<One>> {
    let tenant = |arguments: &[&str]| Ok::<_, anyhow::Error>(cloud.text(Caller::Tenant, arguments)?.trim().to_owned());
    let vpc = tenant(&["vpc", "create", "--cidr", "10.0.0.0/16"])?;
    let subnet = tenant(&["subnet", "create", "--vpc", &vpc, "--cidr", "10.0.1.0/24"])?;
    let (file, memory) = (cloud.state().join("work.sh"), format!("{MEMORY}M"));
    let mut fleet = Vec::new();
    for (kind, (_, count, rest, prepare, work)) in KINDS.into_iter().enumerate() {
        fs::write(&file, script(rest, prepare, work))?;
        for _ in 0..count {
            let launch = ["instance", "launch", "--image", "tiny", "--subnet", &subnet, "--memory", &memory];
            let file = file.to_str().context("a path that is not UTF-8")?;
            fleet.push(One { kind, instance: tenant(&[&launch[..], &["--cold", "--user-data", file]].concat())? });
        }
    }
    Ok(fleet)
}

/// Times are the guest's, in hundredths of a second since its start.
fn script(rest: u32, prepare: &str, work: &str) -> String {
    format!(
        "#!/bin/sh\nmkdir /held; mount -t tmpfs -o size=72M none /held; cd /held\nnow() {{ read -r up _ < /proc/uptime; now=${{up%.*}}${{up#*.}}; }}\n\
         ({prepare}\nwhile :; do now; was=$now; {work} > /dev/null; now; echo \"{DONE}$((now - was))\"; sleep {rest}; done\n\
         ) > /dev/console 2>&1 &\n"
    )
}

fn until_prepared(cloud: &Cloud, fleet: &[One]) -> Result<()> {
    let end = Instant::now() + PREPARED_WITHIN;
    for one in fleet {
        while one.pieces(cloud)?.len() < 2 {
            ensure!(Instant::now() < end, "`{}` is not prepared: {}", KINDS[one.kind].0, one.instance);
            sleep(Duration::from_millis(500));
        }
    }
    Ok(())
}

fn refaults(cloud: &Cloud) -> Result<u64> {
    let shown = cloud.json(Caller::Tenant, &["memory", "show"])?;
    let instances = shown["instances"].as_array().context("no instance tells of its memory")?;
    Ok(instances.iter().filter_map(|one: &Value| one["actual"]["refaults"].as_u64()).sum())
}
