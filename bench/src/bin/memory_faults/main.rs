//! What a page costs that is not in the host's memory: a fault by where the page is, beside the kernel's own swap to the
//! same disk and the disk alone; what moving pages costs in processor time; and what real guests lose by both.
//!
//! Owns the scene: a process with the shim is the machine, `lucarne_pager::run` in another is its pager, a third is what
//! the kernel swaps. Times are taken by whoever touches the page, and are of touches that faulted. Needs root.

mod guests;
mod lender;
mod machine;
mod peers;

use std::{
    env, fs,
    fs::File,
    io::{BufRead, BufReader, Write},
    os::fd::AsRawFd,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use lucarne_bench::{
    figures::table,
    length::or_short,
    memory::{Memory, mib},
};
use lucarne_model::{
    Bytes, InstanceId,
    memory::{Pages, PagesByPlace},
    paging::{DEVICE, PagingVariable, VARIABLE},
};
use lucarne_pager::{Options, client::Client, shim};
use rustix::fs::{MemfdFlags, memfd_create};

const ROLE: &str = "LUCARNE_BENCH_ROLE";
const PATIENCE: Duration = Duration::from_secs(300);
/// The guest: 256 MiB.
const PAGES: u64 = 1 << 16;

fn main() -> Result<()> {
    match env::var(ROLE).unwrap_or_default().split_once(' ') {
        Some(("machine", pages)) => machine::run(machine::Kind::Shared, pages.parse()?),
        Some(("swapped", pages)) => machine::run(machine::Kind::Private, pages.parse()?),
        Some(("pager", setting)) => pager(setting),
        Some(("lender", key)) => lender::run(key),
        _ => measure(),
    }
}

fn pager(setting: &str) -> Result<()> {
    let (pool, folder) = setting.split_once(' ').context("POOL FOLDER")?;
    let folder = Path::new(folder);
    lucarne_pager::run(&Options {
        instance: InstanceId::from_bits(1),
        machine: folder.join("machine.sock"),
        control: folder.join("pager.sock"),
        state: folder.join("state"),
        pool: Bytes(pool.parse()?),
        origin: None,
        patience: PATIENCE,
    })?;
    Ok(())
}

fn measure() -> Result<()> {
    let mut rows = vec![peers::raw_read()?];
    for (name, kind, pool) in [("same-filled", "same", 0), ("compressed", "text", PAGES << 12), ("ssd", "noise", 0)] {
        let mut scene = Scene::start(PAGES, pool)?;
        scene.machine.ask(&format!("fill {kind}"))?;
        scene.send_out()?;
        rows.push(row(&format!("pager: {name}"), &scene.machine.ask("touch 16")?));
    }
    rows.extend(remote()?);
    rows.extend(peers::swap()?);
    let mut scene = Scene::start(PAGES, 0)?;
    scene.machine.ask("fill noise")?;
    scene.client.set_target(Pages(PAGES / 2), None)?;
    scene.until(|pages| pages.resident.0 <= PAGES / 2)?;
    rows.push(row("pager: ssd, writes at half the memory", &scene.machine.ask("churn 20000")?));
    println!("{}", table(&["a touch of a page that is away", "p50 us", "p99 us", "touches"], &rows));
    println!("{}", table(&["moving 256 MiB of noise", "GiB/s", "GiB/s of the pager's core"], &moving()?));
    println!("{}", guests::at_half()?);
    let columns = ["a pager whose guest is away", "private MiB", "% of the guest", "with its share MiB", "%"];
    let guests = or_short(&[PAGES, 4 * PAGES, 16 * PAGES][..], &[PAGES]);
    println!("{}", table(&columns, &guests.iter().map(|pages| own(*pages)).collect::<Result<Vec<_>>>()?));
    Ok(())
}

/// The same noise as on the disk, with a copy of each page at a lender on this machine; and how many came from there.
fn remote() -> Result<Option<Vec<String>>> {
    let mut scene = Scene::start(PAGES, 0)?;
    scene.machine.ask("fill noise")?;
    let (_lender, borrowing) = lender::start(scene.folder.path())?;
    scene.client.set_remote(vec![borrowing])?;
    scene.send_out()?;
    scene.until(|pages| pages.remote.0 == PAGES)?;
    let answer = scene.machine.ask("touch 16")?;
    let told = scene.client.statistics()?.remote;
    eprintln!("of the lender: {} pages; of the disk, the lender being busy or late: {}", told.fetched, told.missed);
    Ok((told.fetched > 0).then(|| row("pager: remote, a lender over loopback", &answer)))
}

/// A row of what a role answered: `COUNT P50 P99`, in nanoseconds.
fn row(name: &str, answer: &str) -> Vec<String> {
    let numbers: Vec<f64> = answer.split(' ').filter_map(|number| number.parse().ok()).collect();
    let microseconds = |at: usize| format!("{:.1}", numbers.get(at).copied().unwrap_or(f64::NAN) / 1e3);
    vec![name.to_owned(), microseconds(1), microseconds(2), format!("{:.0}", numbers.first().copied().unwrap_or(0.0))]
}

/// How fast pages leave and come back, by the clock and by the pager's processor time. The second time they leave as they
/// came.
fn moving() -> Result<Vec<Vec<String>>> {
    let mut scene = Scene::start(PAGES, 0)?;
    scene.machine.ask("fill noise")?;
    let gib = PAGES as f64 * 4096.0 / f64::from(1 << 30);
    let mut rows = Vec::new();
    let mut timed = |name: &str, scene: &mut Scene, act: fn(&mut Scene) -> Result<()>| -> Result<()> {
        let (began, before) = (Instant::now(), scene.pager.cpu_seconds()?);
        act(scene)?;
        let (wall, cpu) = (began.elapsed().as_secs_f64(), scene.pager.cpu_seconds()? - before);
        rows.push(vec![name.to_owned(), format!("{:.2}", gib / wall), format!("{:.2}", gib / cpu)]);
        Ok(())
    };
    timed("out to the disk, sealed", &mut scene, |scene| {
        scene.client.evict_all(PATIENCE)?;
        Ok(())
    })?;
    // Squeezed, if by a page: its copies are kept.
    scene.client.set_target(Pages(PAGES - 1), None)?;
    timed("back, as the guest reads through it", &mut scene, |scene| scene.machine.ask("sweep").map(drop))?;
    timed("out again, as it came", &mut scene, |scene| {
        scene.client.evict_all(PATIENCE)?;
        Ok(())
    })?;
    Ok(rows)
}

/// What the pager of a guest of so many pages takes of the host's memory, when all of them are in its store: what is its own,
/// and with its share of the program's code, which all pagers of a host have in common.
fn own(pages: u64) -> Result<Vec<String>> {
    let mut scene = Scene::start(pages, 0)?;
    scene.machine.ask("fill noise")?;
    scene.client.evict_all(PATIENCE)?;
    let memory = Memory::of(scene.pager.id())?;
    let share = |kib: u64| format!("{:.2}", kib as f64 / (pages * 4) as f64 * 100.0);
    Ok(vec![
        format!("{} MiB", pages >> 8),
        mib(memory.private),
        share(memory.private),
        mib(memory.pss),
        share(memory.pss),
    ])
}

/// A process in a role that answers lines.
struct Role {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Role {
    fn start(role: &str, mut command: Command) -> Result<Self> {
        command.env(ROLE, role);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().context("no stdin")?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, input, output })
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn say(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.input, "{line}")?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("it ended");
        }
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        self.say(line)?;
        self.line().with_context(|| format!("at {line}"))
    }

    /// Reads on until the line that says this.
    fn await_line(&mut self, wanted: &str) -> Result<()> {
        while !self.line().with_context(|| format!("before it said {wanted}"))?.ends_with(wanted) {}
        Ok(())
    }

    fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        Ok((ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A machine, its pager and the way to it.
struct Scene {
    machine: Role,
    pager: Role,
    client: Client,
    folder: tempfile::TempDir,
}

impl Scene {
    fn start(pages: u64, pool: u64) -> Result<Self> {
        let mut machine = Command::new(env::current_exe()?);
        machine.env(ROLE, format!("machine {pages}"));
        Self::around(pages, pool, machine)
    }

    /// The machine is what `command` starts, with the shim in it.
    fn around(pages: u64, pool: u64, mut command: Command) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let library = shim::install(folder.path())?;
        let device = File::options().read(true).write(true).open(DEVICE).context(DEVICE)?;
        // Not closed at exec: the machine is to have both. This process starts nothing else at the same time.
        let key = memfd_create("key", MemfdFlags::empty())?;
        rustix::io::write(&key, &[7; 32])?;
        rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::empty())?;
        let (device_number, key_number) = (device.as_raw_fd(), key.as_raw_fd());
        let memory = Bytes(pages * Pages::SIZE);
        let socket = &folder.path().join("machine.sock");
        let variable =
            PagingVariable { device: device_number, key: key_number, memory, peer: 0, tripwire: false, socket };
        command.env("LD_PRELOAD", library).env(VARIABLE, variable.to_string());
        let machine = Role::spawn(command)?;
        let pager = format!("pager {pool} {}", folder.path().display());
        let pager = Role::start(&pager, Command::new(env::current_exe()?))?;
        let end = Instant::now() + PATIENCE;
        let client = loop {
            match Client::connect(&folder.path().join("pager.sock"), PATIENCE) {
                Ok(client) => break client,
                Err(error) if Instant::now() > end => return Err(error.into()),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        };
        Ok(Self { machine, pager, client, folder })
    }

    /// Everything, and not further than where it goes first.
    fn send_out(&mut self) -> Result<()> {
        self.client.set_target(Pages::ZERO, None)?;
        self.until(|pages| pages.resident == Pages::ZERO)?;
        Ok(self.client.set_target(Pages(PAGES), None)?)
    }

    fn until(&mut self, holds: impl Fn(&PagesByPlace) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !holds(&self.client.statistics()?.pages) {
            if Instant::now() > end {
                bail!("pages do not leave: {:?}", self.client.statistics()?);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
