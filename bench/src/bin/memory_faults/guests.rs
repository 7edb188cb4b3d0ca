//! Real guests that may hold half of what they hold: how much slower they work, held so by a pager and by the kernel's swap.
//!
//! Owns the guests: the image `tiny` under QEMU's TCG, whose first program prepares itself and then does its work each time
//! that it is told to on the console. For each work three of them run at the same time and take turns, so that whatever else
//! the machine does slows them alike: one that has all of its memory, one whose pager holds it at half of its pages, one in a
//! memory cgroup that must swap as much. The cgroup has QEMU's own memory in it too, as a limit from outside always has.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lucarne_bench::{
    figures::{median, table},
    length::or_short,
    memory::Memory,
};
use lucarne_model::Pages;

use super::{
    Role, Scene,
    peers::{Group, SwapArea},
};

const MIB: u64 = 160;
const PAGES: u64 = MIB << 8;
/// What a guest says when it waits to be told.
const WAITS: &str = "lucarne: ready";

/// Name, preparation, work.
const WORKS: [[&str; 3]; 3] = [
    ["md5 of 48 MiB", "dd if=/dev/urandom of=f bs=1M count=48 2>/dev/null", "md5sum f"],
    [
        "gzip of 2 MiB beside 48 MiB idle",
        "dd if=/dev/urandom of=f bs=1M count=48 2>/dev/null; seq 1 300000 >s",
        "gzip -c s | wc -c",
    ],
    [
        "48 files of 1 MiB, of which 8 are read nine times of ten",
        "for i in $(seq 0 47); do dd if=/dev/urandom of=$i bs=1M count=1 2>/dev/null; done; x=1",
        "for i in $(seq 1 60); do x=$(( (x*16807) % 2147483647 )); cat $(( x % 10 ? x % 8 : x % 48 )) >/dev/null; done",
    ],
];

/// Seconds of a round of each work: with all, held by a pager, held by the kernel.
pub(super) fn at_half() -> Result<String> {
    let area = SwapArea::make().inspect_err(|error| eprintln!("no column of kernel swap: {error:#}")).ok();
    let folder = tempfile::tempdir()?;
    let mut rows = Vec::new();
    for [name, prepare, work] in WORKS {
        let image = Image::make(folder.path(), prepare, work)?;
        let mut guests = vec![Guest::free(&image)?, Guest::paged(&image)?];
        if area.is_some() {
            guests.push(Guest::swapped(&image)?);
        }
        guests.iter_mut().try_for_each(Guest::squeeze)?;
        let mut seconds = vec![Vec::new(); guests.len()];
        for _ in 0..or_short(5, 1) {
            for (guest, seconds) in guests.iter_mut().zip(&mut seconds) {
                seconds.push(guest.round()?.as_secs_f64());
            }
        }
        let medians: Vec<f64> = seconds.iter().filter_map(|seconds| median(seconds)).collect();
        let figures = medians.iter().map(|median| format!("{median:.2} ({:.2})", median / medians[0]));
        rows.push([name.to_owned()].into_iter().chain(figures).collect());
        // They end before what holds them, and before the swap is taken off.
        guests.clear();
    }
    let columns =
        ["a round of a guest's work, s (times as long)", "all its memory", "pager: half", "kernel swap: half"];
    Ok(table(&columns[..if area.is_some() { 4 } else { 3 }], &rows))
}

/// What a guest boots from.
struct Image {
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Image {
    fn make(folder: &Path, prepare: &str, work: &str) -> Result<Self> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let usual = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let ready =
            cache.or_else(usual).context("neither XDG_CACHE_HOME nor HOME is set")?.join("lucarne/images/ready");
        let script = format!(
            "#!/bin/sh\nexport PATH=/bin\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\nmount -t tmpfs none /tmp\n\
             cd /tmp\n{prepare}\n{work} >/dev/null\necho '{WAITS}'\nwhile read go; do {work} >/dev/null; echo '{WAITS}'; done\n\
             poweroff -f\n"
        );
        let mut files = fs::read(ready.join("initramfs")).context("there is no image: `lucarne image build tiny`")?;
        // Linux unpacks one archive after the other, each from a multiple of four octets on.
        files.resize(files.len().next_multiple_of(4), 0);
        files.extend(lucarne_bench::cpio::archive("work", script.as_bytes()));
        let initramfs = folder.join("initramfs");
        fs::write(&initramfs, files)?;
        Ok(Self { kernel: ready.join("kernel"), initramfs })
    }

    fn qemu(&self) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-smp", "1"])
            .args(["-machine", "q35,memory-backend=ram,vmport=off,mem-merge=off", "-accel", "tcg,thread=multi"])
            .args(["-m", &format!("size={MIB}M")])
            .args(["-object", &format!("memory-backend-memfd,id=ram,size={MIB}M,share=on")])
            .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/work", "-serial", "stdio"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs);
        command
    }
}

/// A guest that waits for its work, and what holds it.
enum Guest {
    Free(Role),
    Paged(Box<Scene>),
    Swapped(Role, Group),
}

impl Guest {
    fn free(image: &Image) -> Result<Self> {
        Self::Free(Role::spawn(image.qemu())?).ready()
    }
    fn paged(image: &Image) -> Result<Self> {
        Self::Paged(Box::new(Scene::around(PAGES, 0, image.qemu())?)).ready()
    }
    fn swapped(image: &Image) -> Result<Self> {
        let qemu = Role::spawn(image.qemu())?;
        let group = Group::make(qemu.id())?;
        Self::Swapped(qemu, group).ready()
    }

    fn ready(mut self) -> Result<Self> {
        self.console().await_line(WAITS)?;
        Ok(self)
    }

    const fn console(&mut self) -> &mut Role {
        match self {
            Self::Free(qemu) | Self::Swapped(qemu, _) => qemu,
            Self::Paged(scene) => &mut scene.machine,
        }
    }

    /// Takes half of its pages away.
    fn squeeze(&mut self) -> Result<()> {
        match self {
            Self::Free(_) => Ok(()),
            Self::Paged(scene) => {
                let half = Pages(scene.client.statistics()?.pages.resident.0 / 2);
                scene.client.set_target(half, None)?;
                scene.until(|pages| pages.resident <= half)
            }
            Self::Swapped(qemu, group) => {
                let half = (Memory::of(qemu.id())?.pss_shmem << 10) / 2;
                let used = group.usage()?;
                ensure!(used > half, "the kernel counts {used} octets of a guest that has twice {half}");
                group.limit(used - half)
            }
        }
    }

    fn round(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let console = self.console();
        console.say("go")?;
        console.await_line(WAITS)?;
        Ok(began.elapsed())
    }
}
