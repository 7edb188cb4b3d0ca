//! The peers: the disk alone, and the kernel's swap to a file on it, with and without zswap, under a limit of memory.
//!
//! Owns what it changes of the system, and puts it back: a swap file, zswap's switch, a memory cgroup (version 1). What
//! this machine does not let be tried is said on stderr and left out.

use std::{
    env, fs,
    fs::File,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use super::{PAGES, Role, row};

const ZSWAP: &str = "/sys/module/zswap/parameters/enabled";
const CGROUPS: &str = "/sys/fs/cgroup/memory";
/// Where temporary files are: the disk that is measured.
fn disk() -> PathBuf {
    env::temp_dir()
}

#[repr(align(4096))]
struct Aligned([u8; 4096]);

/// Random reads of 4 KiB past the cache, one at a time.
pub(super) fn raw_read() -> Result<Vec<String>> {
    let path = disk().join(format!("lucarne-raw-{}", std::process::id()));
    let mut page = Aligned([0x5a; 4096]);
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let file = File::options().read(true).write(true).create_new(true).custom_flags(direct).open(&path)?;
    fs::remove_file(&path)?;
    for at in 0..PAGES / 4 {
        file.write_all_at(&page.0, at << 12)?;
    }
    file.sync_all()?;
    let (mut times, mut dice) = (Vec::new(), 7_u64);
    for _ in 0..4096 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let began = Instant::now();
        file.read_exact_at(&mut page.0, ((dice >> 33) % (PAGES / 4)) << 12)?;
        times.push(began.elapsed().as_nanos());
    }
    times.sort_unstable();
    let answer = format!("{} {} {}", times.len(), times[times.len() / 2], times[times.len() * 99 / 100]);
    Ok(row("the disk alone: O_DIRECT read of 4 KiB", &answer))
}

pub(super) fn swap() -> Result<Vec<Vec<String>>> {
    let area = match SwapArea::make() {
        Ok(area) => area,
        Err(error) => {
            eprintln!("no row of kernel swap: {error:#}");
            return Ok(Vec::new());
        }
    };
    let mut rows = vec![
        limited("kernel swap: disk", "noise", false, false)?,
        limited("kernel swap: disk, writes at half the memory", "noise", false, true)?,
    ];
    if fs::metadata(ZSWAP).is_ok() {
        rows.push(limited("kernel swap: zswap", "text", true, false)?);
        rows.push(limited("kernel swap: zswap, writes at half the memory", "text", true, true)?);
    } else {
        eprintln!("no row of zswap: this kernel has none");
    }
    drop(area);
    Ok(rows)
}

/// A process whose memory the kernel swaps: all of it at once, or half of it under a limit.
fn limited(name: &str, kind: &str, zswap: bool, half: bool) -> Result<Vec<String>> {
    let _switch = zswap.then(Zswap::on).transpose()?;
    let mut process = Role::start(&format!("swapped {PAGES}"), Command::new(env::current_exe()?))?;
    let group = Group::make(process.id())?;
    process.ask(&format!("fill {kind}"))?;
    if half {
        group.limit(PAGES << 11)?;
        return Ok(row(name, &process.ask("churn 20000")?));
    }
    // All of it goes to swap, and not only to the swap cache; then there is room for all of it again.
    group.limit(PAGES << 6)?;
    group.limit(PAGES << 14)?;
    Ok(row(name, &process.ask("touch 16")?))
}

pub(super) struct SwapArea(PathBuf);

impl SwapArea {
    pub(super) fn make() -> Result<Self> {
        let path = disk().join(format!("lucarne-swap-{}", std::process::id()));
        let area = Self(path);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&area.0)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, PAGES << 13)?;
        run("mkswap", &area.0)?;
        run("swapon", &area.0)?;
        Ok(area)
    }
}

impl Drop for SwapArea {
    fn drop(&mut self) {
        let _ = run("swapoff", &self.0);
        let _ = fs::remove_file(&self.0);
    }
}

fn run(program: &str, path: &Path) -> Result<()> {
    let output = Command::new(program).arg(path).output().with_context(|| program.to_owned())?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

struct Zswap(String);

impl Zswap {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(ZSWAP)?;
        fs::write(ZSWAP, "Y")?;
        Ok(Self(before))
    }
}

impl Drop for Zswap {
    fn drop(&mut self) {
        let _ = fs::write(ZSWAP, &self.0);
    }
}

pub(super) struct Group(PathBuf);

impl Group {
    pub(super) fn make(pid: u32) -> Result<Self> {
        let path = Path::new(CGROUPS).join(format!("lucarne-bench-{pid}"));
        fs::create_dir(&path).context("no memory cgroup of version 1")?;
        let group = Self(path);
        fs::write(group.0.join("cgroup.procs"), pid.to_string())?;
        Ok(group)
    }
    pub(super) fn usage(&self) -> Result<u64> {
        Ok(fs::read_to_string(self.0.join("memory.usage_in_bytes"))?.trim().parse()?)
    }
    pub(super) fn limit(&self, bytes: u64) -> Result<()> {
        Ok(fs::write(self.0.join("memory.limit_in_bytes"), bytes.to_string())?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its process is ended after it, so it goes to the group above first.
        if let Ok(processes) = fs::read_to_string(self.0.join("cgroup.procs")) {
            for process in processes.lines() {
                let _ = fs::write(Path::new(CGROUPS).join("cgroup.procs"), process);
            }
        }
        let _ = fs::remove_dir(&self.0);
    }
}
