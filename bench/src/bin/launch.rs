//! How long a launch takes to the guest's first line of user space, plain and attested, beside QEMU alone booting the same image.
//!
//! Owns the scene: rounds of each by turns, so that what else the machine does meets all. An attested launch matches a configuration
//! that was put down before, so that nobody is waited for. A launch is timed
//! from the start of the command `lucarne instance launch` to the moment at which `lucarne instance log` shows the line;
//! QEMU from the start of its process to the line on its serial port, with the same processor, memory and kernel.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lucarne_bench::{
    cloud::{Caller, Cloud},
    figures::{median, table},
};
use serde_json::Value;

const ROUNDS: usize = 7;
const LINE: &str = "lucarne: user space at";
const MEMORY_MIB: u32 = 256;
const BOOTED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How much longer a launch may take than QEMU alone, and an attested one than a plain one, in seconds.
const MARK: f64 = 1.5;
const ATTESTED_MARK: f64 = 0.15;
const CONFIGURATION: &str = "bench";

fn main() -> Result<()> {
    let cloud = Cloud::start(1, &[])?;
    let scene = Scene::new(&cloud)?;
    // The first of each warms caches that later ones find warm.
    scene.launch(&[])?;
    scene.qemu()?;
    scene.put_down()?;
    let attest = ["--attest", &format!("config={CONFIGURATION}")];
    let (mut launches, mut attested, mut boots) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        launches.push(scene.launch(&[])?);
        attested.push(scene.launch(&attest)?);
        boots.push(scene.qemu()?);
        eprintln!("round {round} of {ROUNDS}");
    }
    let middle = |times: &[f64]| median(times).context("no rounds");
    let (launch, proved, boot) = (middle(&launches)?, middle(&attested)?, middle(&boots)?);
    let row = |name: &str, times: &[f64], middle: f64| {
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        let most = times.iter().copied().fold(0.0, f64::max);
        vec![name.into(), format!("{middle:.2}"), format!("{least:.2}"), format!("{most:.2}")]
    };
    let rows = [
        row("lucarne instance launch", &launches, launch),
        row("lucarne instance launch --attest", &attested, proved),
        row("QEMU alone (peer)", &boots, boot),
    ];
    println!("{}", table(&["to the guest's first line, s", "median", "least", "most"], &rows));
    println!("above QEMU alone: {:.2} s (mark: at most {MARK} s), {ROUNDS} rounds by turns", launch - boot);
    println!("attested above plain: {:.2} s (mark: at most {ATTESTED_MARK} s)", proved - launch);
    Ok(())
}

struct Scene<'a> {
    cloud: &'a Cloud,
    subnet: String,
    /// Kernel and initramfs as the image was built from them.
    image: PathBuf,
    command_line: String,
    /// Whether the host runs its VMs on KVM, as it found by trying: then the peer does too.
    kvm: bool,
}

impl<'a> Scene<'a> {
    fn new(cloud: &'a Cloud) -> Result<Self> {
        let vpc = cloud.text(Caller::Tenant, &["vpc", "create", "--cidr", "10.0.0.0/16"])?;
        let subnet = ["subnet", "create", "--vpc", vpc.trim(), "--cidr", "10.0.1.0/24"];
        let subnet = cloud.text(Caller::Tenant, &subnet)?.trim().to_owned();
        let shown = cloud.json(Caller::Operator, &["image", "show", "tiny"])?;
        let command_line = shown["boot"]["command_line"].as_str().context("tiny has no command line")?.to_owned();
        let hosts = cloud.json(Caller::Operator, &["host", "list"])?;
        let kvm = hosts[0]["hypervisor"].as_str().is_some_and(|name| name.contains("KVM"));
        Ok(Self { cloud, subnet, image: cache()?.join("lucarne/images/ready"), command_line, kvm })
    }

    /// Approves one attested launch, and makes what was measured the configuration.
    fn put_down(&self) -> Result<()> {
        let (_, id) = self.begin(&["--attest", "prompt", "--wait"])?;
        self.cloud.text(Caller::Tenant, &["attestation", "approve", &id])?;
        self.cloud.text(Caller::Tenant, &["measurements", "add", "--from", &id, "--config", CONFIGURATION])?;
        self.cloud.text(Caller::Tenant, &["instance", "terminate", &id, "--wait"]).map(drop)
    }

    /// Seconds from the command to the line in the log.
    fn launch(&self, arguments: &[&str]) -> Result<f64> {
        let (started, id) = self.begin(arguments)?;
        let seconds = self.until_booted(&id, started);
        self.cloud.text(Caller::Tenant, &["instance", "terminate", &id, "--wait"])?;
        seconds
    }

    fn begin(&self, arguments: &[&str]) -> Result<(Instant, String)> {
        let memory = format!("{MEMORY_MIB}M");
        let started = Instant::now();
        let launch = ["instance", "launch", "--image", "tiny", "--subnet", &self.subnet, "--memory", &memory];
        let launched: Value = self.cloud.json(Caller::Tenant, &[&launch, arguments].concat())?;
        let id = launched["instances"][0]["id"].as_str().context("nothing was launched")?.to_owned();
        Ok((started, id))
    }

    fn until_booted(&self, id: &str, started: Instant) -> Result<f64> {
        loop {
            // Until it runs there is no log to show.
            let log = self.cloud.text(Caller::Tenant, &["instance", "log", id]);
            if log.as_ref().is_ok_and(|log| log.contains(LINE)) {
                return Ok(started.elapsed().as_secs_f64());
            }
            ensure!(started.elapsed() < BOOTED_WITHIN, "{id} did not boot: {log:?}");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Seconds from the start of QEMU to the line on its serial port.
    fn qemu(&self) -> Result<f64> {
        let accelerate = ["-accel", if self.kvm { "kvm" } else { "tcg,thread=multi" }];
        let started = Instant::now();
        let child = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-cpu", "max"])
            .args(accelerate)
            .args(["-m", &format!("{MEMORY_MIB}M"), "-smp", "1", "-serial", "stdio", "-device", "virtio-rng-pci"])
            .args(["-append", &self.command_line, "-kernel"])
            .arg(self.image.join("kernel"))
            .arg("-initrd")
            .arg(self.image.join("initramfs"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("qemu-system-x86_64 cannot be run")?;
        let mut qemu = Ended(child);
        let output = qemu.0.stdout.take().context("QEMU has no output")?;
        for line in BufReader::new(output).split(b'\n') {
            if String::from_utf8_lossy(&line?).contains(LINE) {
                return Ok(started.elapsed().as_secs_f64());
            }
        }
        anyhow::bail!("QEMU alone did not boot the image in {}", self.image.display())
    }
}

/// Where the binary keeps built images.
fn cache() -> Result<PathBuf> {
    let variable = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    variable.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")
}

/// A process that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}
