//! Launches from a warm state beside launches that boot: how soon a VM speaks HTTP, and what many of them take of the host.
//!
//! Owns the scene: a VM that serves HTTP and prints who asked it; VMs that ask it as soon as their user-data runs. A launch
//! is timed from the start of the command `lucarne instance launch` to the moment at which the log of the first shows the
//! request. One at a time, by turns; then all at once, warm and cold. Memory is the Pss of QEMUs and pagers, whose shared
//! pages count by their shares, and the guests' pages, once all have asked.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lucarne_bench::{
    cloud::{Caller, Cloud},
    figures::{median, table},
    length::or_short,
    memory::{Memory, mib},
};
use serde_json::Value;

const MEMORY: &str = "128M";
const SERVER: &str = "10.0.1.10";
const SERVE: &str = "#!/bin/sh\nhttpd -f -vv -p 80 > /dev/console 2>&1 &\n";
const WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Looks at the log for one at the states.
const LOOKS_AT_STATES: u32 = 10;

fn main() -> Result<()> {
    let (rounds, many): (usize, usize) = or_short((7, 40), (1, 4));
    let cloud = Cloud::start(1, &["--vcpus", &(many + 1).to_string()])?;
    let scene = Scene::new(&cloud)?;
    let mut times = [Vec::new(), Vec::new()];
    for round in 1..=rounds {
        for (cold, times) in [false, true].into_iter().zip(&mut times) {
            let fleet = scene.launch(1, cold)?;
            times.push(fleet.seconds);
            scene.end(&fleet)?;
        }
        eprintln!("round {round} of {rounds}");
    }
    let mut rows = Vec::new();
    for (cold, times) in [false, true].into_iter().zip(&times) {
        let fleet = scene.launch(many, cold)?;
        let name = if cold { "cold" } else { "warm" };
        let one = median(times).context("no rounds")?;
        rows.push(vec![name.into(), format!("{one:.2}"), format!("{:.1}", fleet.seconds), mib(fleet.pss)]);
        scene.end(&fleet)?;
    }
    println!("{}", table(&["", "one, s", &format!("{many} at once, s"), &format!("{many}, MiB")], &rows));
    println!("The marks, of warm ones: 1 s; 20 s for 40; a quarter of the memory of as many cold ones.");
    Ok(())
}

struct Scene<'a> {
    cloud: &'a Cloud,
    subnet: String,
    server: String,
    ask: String,
}

/// VMs that have all asked.
struct Fleet {
    instances: Vec<String>,
    seconds: f64,
    pss: u64,
}

impl<'a> Scene<'a> {
    fn new(cloud: &'a Cloud) -> Result<Self> {
        let tenant =
            |arguments: &[&str]| Ok::<_, anyhow::Error>(cloud.text(Caller::Tenant, arguments)?.trim().to_owned());
        let vpc = tenant(&["vpc", "create", "--cidr", "10.0.0.0/16"])?;
        let subnet = tenant(&["subnet", "create", "--vpc", &vpc, "--cidr", "10.0.1.0/24"])?;
        let folder = cloud.state();
        let (serve, ask) = (folder.join("serve.sh"), folder.join("ask.sh"));
        fs::write(&serve, SERVE)?;
        fs::write(&ask, format!("#!/bin/sh\nwget -q -O - http://{SERVER}/$(metadata meta-data/instance-id)\n"))?;
        cloud.text(Caller::Operator, &["image", "warm", "tiny", "--memory", MEMORY, "--wait"])?;
        let launch = ["instance", "launch", "--image", "tiny", "--subnet", &subnet, "--memory", MEMORY, "--wait"];
        let server = tenant(&[&launch[..], &["--address", SERVER, "--user-data", text(&serve)?]].concat())?;
        Ok(Self { cloud, subnet, server, ask: text(&ask)?.to_owned() })
    }

    fn launch(&self, count: usize, cold: bool) -> Result<Fleet> {
        let count = count.to_string();
        let mut arguments = vec!["instance", "launch", "--image", "tiny", "--subnet", &self.subnet, "--memory", MEMORY];
        arguments.extend(["--user-data", &self.ask, "--count", &count]);
        arguments.extend(cold.then_some("--cold"));
        let began = Instant::now();
        let launched = self.cloud.json(Caller::Tenant, &arguments)?;
        let instances = launched["instances"].as_array().context("nothing was launched")?;
        let instances: Vec<_> = instances.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)).collect();
        // The looks are work too, and take less of the processors where there is more to wait for.
        let pause = LOOK_EVERY * instances.len().min(20) as u32;
        let mut looks = 0;
        loop {
            let log = self.cloud.text(Caller::Tenant, &["instance", "log", &self.server])?;
            if instances.iter().all(|instance| log.contains(instance)) {
                break;
            }
            ensure!(began.elapsed() < WITHIN, "not all have asked: {log}");
            looks += 1;
            if looks % LOOKS_AT_STATES == 0 {
                self.ensure_none_ended(&instances)?;
            }
            std::thread::sleep(pause);
        }
        let seconds = began.elapsed().as_secs_f64();
        let from = if cold { "cold" } else { "warm" };
        let shown = self.cloud.json(Caller::Tenant, &["instance", "show", &instances[0]])?;
        ensure!(shown["began"]["from"] == from, "it did not begin as it was to: {shown}");
        Ok(Fleet { pss: pss(self.cloud.state(), &instances)?, instances, seconds })
    }

    fn ensure_none_ended(&self, instances: &[String]) -> Result<()> {
        let all = self.cloud.json(Caller::Tenant, &["instance", "list"])?;
        let is_over = |one: &&Value| {
            matches!(one["state"].as_str(), Some("terminated" | "stopped"))
                && instances.iter().any(|instance| one["id"] == instance.as_str())
        };
        let over = all.as_array().into_iter().flatten().find(is_over);
        ensure!(over.is_none(), "one will never ask: {}", over.unwrap_or_default());
        Ok(())
    }

    fn end(&self, fleet: &Fleet) -> Result<()> {
        let instances = fleet.instances.iter().map(String::as_str);
        let arguments: Vec<&str> = ["instance", "terminate", "--wait"].into_iter().chain(instances).collect();
        self.cloud.text(Caller::Tenant, &arguments).map(drop)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// The guest's pages, in KiB: all that its memfd has, because a pager's look at the access bits unmaps what it leaves there.
/// A pager has none of its own.
fn guest(pid: u32) -> Result<u64> {
    let files = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten().map(|entry| entry.path());
    let is_memory = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:memory-backend-memfd"))
    };
    let line = fs::read(format!("/proc/{pid}/cmdline"))?;
    let is_pager = line.split(|octet| *octet == 0).nth(1) == Some(&b"pager"[..]);
    match files.filter(|_| !is_pager).find(is_memory) {
        Some(memory) => Ok(fs::metadata(memory)?.blocks() / 2),
        None => Ok(0),
    }
}

/// What QEMUs and pagers of the instances take, in KiB.
fn pss(state: &Path, instances: &[String]) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).unwrap_or_default()).into_owned();
        if line.contains(text(state)?) && instances.iter().any(|instance| line.contains(instance)) {
            let memory = Memory::of(pid)?;
            sum += memory.pss - memory.pss_shmem + guest(pid)?;
        }
    }
    Ok(sum)
}
