//! The peer: running VMs duplicated with QEMU's own tools, all at the same time.
//!
//! Owns the VMs, which boot the image that ours do with a disk of the same content, and the order of the tools: each VM is stopped, its
//! state written to a file by a migration, its disk copied by `qemu-img`; then it goes on, and another QEMU with the copy takes the state
//! in and goes on too.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lucarne_bench::cloud::{Caller, Cloud};
use serde_json::{Value, json};

const READY: &str = "lucarne: ready";
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What each VM has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) memory_mib: u64,
    pub(crate) disk_mib: u64,
    pub(crate) written_mib: u64,
}

/// What it took.
#[derive(Debug)]
pub(crate) struct Duplicated {
    /// Until all copies run.
    pub(crate) seconds: f64,
    pub(crate) pauses_millis: Vec<f64>,
    /// What was written: states and disks.
    pub(crate) copied: u64,
}

/// Boots so many, duplicates them, and ends all.
pub(crate) fn duplicate(cloud: &Cloud, scene: Scene, vms: usize) -> Result<Duplicated> {
    let program = Program::new(cloud, scene)?;
    let folder = cloud.state().join("alone");
    fs::create_dir(&folder).context("cannot make a folder")?;
    let sources: Vec<Source> =
        (0..vms).map(|at| Source::boot(&program, folder.join(at.to_string()))).collect::<Result<_>>()?;
    sources.iter().try_for_each(Source::await_ready)?;
    let began = Instant::now();
    let copies: Result<Vec<Copy>> = thread::scope(|scope| {
        let all: Vec<_> = sources.iter().map(|source| scope.spawn(|| source.duplicate(&program))).collect();
        all.into_iter().map(|one| one.join().map_err(|_| anyhow::anyhow!("a thread failed"))?).collect()
    });
    let (copies, seconds) = (copies?, began.elapsed().as_secs_f64());
    let pauses_millis = copies.iter().map(|copy| copy.pause.as_secs_f64() * 1000.0).collect();
    Ok(Duplicated { seconds, pauses_millis, copied: copies.iter().map(|copy| copy.octets).sum() })
}

/// With what a QEMU is started.
struct Program {
    scene: Scene,
    image: PathBuf,
    command_line: String,
    accelerator: &'static str,
}

impl Program {
    fn new(cloud: &Cloud, scene: Scene) -> Result<Self> {
        let shown = cloud.json(Caller::Operator, &["image", "show", "tiny"])?;
        let command_line = shown["boot"]["command_line"].as_str().context("tiny has no command line")?.to_owned();
        let hosts = cloud.json(Caller::Operator, &["host", "list"])?;
        let kvm = hosts[0]["hypervisor"].as_str().is_some_and(|name| name.contains("KVM"));
        let accelerator = if kvm { "kvm" } else { "tcg,thread=multi" };
        let variable = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let cache = variable.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?;
        Ok(Self { scene, image: cache.join("lucarne/images/ready"), command_line, accelerator })
    }

    /// One with this disk, that goes on from the state if there is one.
    fn start(&self, folder: &Path, disk: &Path, state: Option<&Path>) -> Result<Machine> {
        let (socket, serial) = (folder.join("qmp.sock"), folder.join("serial"));
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "q35",
            "-cpu",
            "max",
            "-smp",
            "1",
        ]);
        command.args([
            "-accel",
            self.accelerator,
            "-m",
            &format!("{}M", self.scene.memory_mib),
            "-device",
            "virtio-rng-pci",
        ]);
        command.args(["-append", &self.command_line]).arg("-kernel").arg(self.image.join("kernel"));
        command.arg("-initrd").arg(self.image.join("initramfs"));
        command.args(["-serial", &format!("file:{}", serial.display())]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        command.args(["-drive", &format!("file={},format=qcow2,if=virtio", disk.display())]);
        if let Some(state) = state {
            command.args(["-incoming", &format!("exec:cat {}", state.display())]);
        }
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("qemu-system-x86_64 cannot be run")?;
        Ok(Machine { child, socket, serial })
    }
}

/// A QEMU that ends with this value.
struct Machine {
    child: Child,
    socket: PathBuf,
    serial: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

struct Source {
    folder: PathBuf,
    disk: PathBuf,
    machine: Machine,
}

/// A copy that runs.
struct Copy {
    _machine: Machine,
    pause: Duration,
    octets: u64,
}

impl Source {
    fn boot(program: &Program, folder: PathBuf) -> Result<Self> {
        fs::create_dir(&folder).context("cannot make a folder")?;
        let (content, disk) = (folder.join("content"), folder.join("disk.qcow2"));
        let mut random = File::open("/dev/urandom")?.take(program.scene.written_mib << 20);
        std::io::copy(&mut random, &mut File::create(&content)?).context("cannot write a disk")?;
        qemu_img(&["convert", "-f", "raw", "-O", "qcow2"], &[&content, &disk])?;
        qemu_img(&["resize", "-q", &disk.display().to_string(), &format!("{}M", program.scene.disk_mib)], &[])?;
        let machine = program.start(&folder, &disk, None)?;
        Ok(Self { folder, disk, machine })
    }

    fn await_ready(&self) -> Result<()> {
        let is_ready =
            || Ok(fs::read(&self.machine.serial).is_ok_and(|log| String::from_utf8_lossy(&log).contains(READY)));
        until("a guest boots", is_ready)
    }

    fn duplicate(&self, program: &Program) -> Result<Copy> {
        let folder = self.folder.join("copy");
        fs::create_dir(&folder).context("cannot make a folder")?;
        let (state, disk) = (folder.join("state"), folder.join("disk.qcow2"));
        let mut monitor = Monitor::connect(&self.machine.socket)?;
        monitor.ask("migrate-set-parameters", json!({"max-bandwidth": 1_u64 << 40}))?;
        let stood = Instant::now();
        monitor.ask("stop", json!({}))?;
        monitor.ask("migrate", json!({"uri": format!("exec:cat > {}", state.display())}))?;
        until("the state is written", || {
            let status = monitor.ask("query-migrate", json!({}))?["status"].clone();
            ensure!(status != "failed", "the state cannot be written");
            Ok(status == "completed")
        })?;
        qemu_img(&["convert", "-U", "-f", "qcow2", "-O", "qcow2"], &[&self.disk, &disk])?;
        monitor.ask("cont", json!({}))?;
        let pause = stood.elapsed();
        let machine = program.start(&folder, &disk, Some(&state))?;
        let mut monitor = Monitor::connect(&machine.socket)?;
        // It was stopped when its state was written, and stands so when it has taken it in.
        until("the state is taken in", || Ok(monitor.ask("query-status", json!({}))?["status"] == "paused"))?;
        monitor.ask("cont", json!({}))?;
        until("the copy runs", || Ok(monitor.ask("query-status", json!({}))?["running"] == true))?;
        let octets = fs::metadata(&state)?.len() + fs::metadata(&disk)?.len();
        Ok(Copy { _machine: machine, pause, octets })
    }
}

fn qemu_img(arguments: &[&str], files: &[&Path]) -> Result<()> {
    let ended = Command::new("qemu-img").args(arguments).args(files).status().context("qemu-img cannot be run")?;
    ensure!(ended.success(), "qemu-img {}", arguments.join(" "));
    Ok(())
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let limit = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < limit, "waited in vain: {what}");
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// A line to a QEMU's monitor.
struct Monitor {
    reader: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(socket: &Path) -> Result<Self> {
        let mut stream = None;
        until("QEMU listens", || {
            stream = UnixStream::connect(socket).ok();
            Ok(stream.is_some())
        })?;
        let mut monitor = Self { reader: BufReader::new(stream.context("QEMU listens")?) };
        monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Passes over what it says by itself.
    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let asked = json!({"execute": command, "arguments": arguments});
        writeln!(self.reader.get_mut(), "{asked}")?;
        loop {
            let mut line = String::new();
            ensure!(self.reader.read_line(&mut line)? > 0, "QEMU has ended");
            let mut said: Value = serde_json::from_str(&line).context("QEMU says what is no JSON")?;
            if let Some(error) = said.get("error") {
                bail!("{command}: {error}");
            }
            if said.get("return").is_some() {
                return Ok(said["return"].take());
            }
        }
    }
}
