//! Records which pages a guest touches: QEMU under TCG with our plugin, and the trace that comes out.
//!
//! Owns the processes and files; they end with the recorder. Needs `rustc`, `qemu-system-x86_64` with plugins (the
//! distribution's has them), and the image `tiny` in its cache.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lucarne_bench::cpio::archive;

use crate::guests::Guest;

const PLUGIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plugins/page_accesses.rs");
/// A mark is made after so many accesses: of the order of a tenth of a second of TCG without a plugin.
const SCAN_EVERY: u64 = 20_000_000;
const SCAN: u32 = u32::MAX;
const ENDED_WITHIN: Duration = Duration::from_secs(600);
/// What the guest says when its work is done.
const DONE: &str = "lucarne: the work is done";

/// What a guest touched.
#[derive(Debug)]
pub(crate) struct Trace {
    /// Numbers of pages, and [`SCAN`] for a mark of time.
    events: Vec<u32>,
    /// Scans before the part that counts.
    warm_up: usize,
    touched: usize,
}

/// One step of a trace.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Touch(u32),
    Scan,
}

impl Trace {
    /// Scans that come before the part that counts: the boot.
    pub(crate) const fn warm_up(&self) -> usize {
        self.warm_up
    }
    pub(crate) fn scans(&self) -> usize {
        self.events.iter().filter(|word| **word == SCAN).count()
    }
    /// Pages that are touched in the part that counts.
    pub(crate) const fn touched(&self) -> usize {
        self.touched
    }
    /// One more than the highest page's number.
    pub(crate) fn pages(&self) -> usize {
        self.events.iter().filter(|word| **word != SCAN).max().map_or(0, |page| *page as usize + 1)
    }
    pub(crate) fn events(&self) -> impl DoubleEndedIterator<Item = Event> + ExactSizeIterator {
        self.events.iter().map(|word| if *word == SCAN { Event::Scan } else { Event::Touch(*word) })
    }
    pub(crate) fn summary(&self) -> String {
        let scans = self.scans();
        let (touches, counting) = (self.events.len() - scans, scans - self.warm_up);
        format!("{touches} touches, {scans} scans; in the last {counting} of them {} pages", self.touched)
    }

    pub(crate) fn new(events: Vec<u32>, warm_up: usize) -> Self {
        let pages = events.iter().filter(|word| **word != SCAN).max().map_or(0, |page| *page as usize + 1);
        let (mut seen, mut scans) = (vec![false; pages], 0);
        for word in &events {
            match *word {
                SCAN => scans += 1,
                page => seen[page as usize] |= scans >= warm_up,
            }
        }
        Self { touched: seen.iter().filter(|seen| **seen).count(), warm_up, events }
    }

    fn read(file: &Path, warm_up: usize) -> Result<Self> {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let events: Vec<u32> = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        ensure!(events.iter().any(|word| *word != SCAN), "the trace is empty");
        Ok(Self::new(events, warm_up))
    }
}

/// The built plugin, the image and a folder for what is recorded.
#[derive(Debug)]
pub(crate) struct Recorder {
    folder: tempfile::TempDir,
    image: PathBuf,
}

impl Recorder {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = Command::new(rustc)
            .args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-C", "panic=abort", PLUGIN, "-o"])
            .arg(folder.path().join("plugin.so"))
            .status()
            .context("cannot run rustc")?;
        ensure!(status.success(), "the plugin could not be built");
        let image = cache()?.join("lucarne/images/ready");
        ensure!(
            image.join("kernel").is_file() && image.join("initramfs").is_file(),
            "there is no image in {}: build it with `lucarne image build tiny`",
            image.display()
        );
        Ok(Self { folder, image })
    }

    /// Boots the guest, lets it work, and returns what it touched. The first `warm_up` scans will not count.
    pub(crate) fn record(&self, guest: Guest, warm_up: usize) -> Result<Trace> {
        let [initramfs, trace, console] = ["initramfs", "trace", "console"].map(|name| self.folder.path().join(name));
        let mut files = fs::read(self.image.join("initramfs")).context("cannot read the image")?;
        // Linux unpacks one archive after the other, each from a multiple of four octets on.
        files.resize(files.len().next_multiple_of(4), 0);
        files.extend(archive("work", script(guest).as_bytes()));
        fs::write(&initramfs, files).context("cannot write the guest's files")?;
        let mut qemu = self.start(guest, &initramfs, &trace, &console)?;
        await_end(&mut qemu).with_context(|| format!("recording {}", guest.name))?;
        let said = fs::read(&console).context("cannot read the console")?;
        let said = String::from_utf8_lossy(&said);
        ensure!(said.contains(DONE), "the guest did not come to its end: {said}");
        let recorded = Trace::read(&trace, warm_up)?;
        fs::remove_file(&trace).context("cannot remove the trace")?;
        Ok(recorded)
    }

    fn start(&self, guest: Guest, initramfs: &Path, trace: &Path, console: &Path) -> Result<Child> {
        let mib = guest.memory_mib;
        let plugin = self.folder.path().join("plugin.so");
        let plugin = format!("{},out={},scan={SCAN_EVERY},pages={}", plugin.display(), trace.display(), mib << 8);
        Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-reboot", "-display", "none", "-smp", "1"])
            .args(["-machine", "q35,memory-backend=ram,vmport=off", "-accel", "tcg,thread=single"])
            .args(["-m", &format!("size={mib}M")])
            .args(["-object", &format!("memory-backend-memfd,id=ram,size={mib}M,share=on")])
            .args([
                "-append",
                "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/work",
                "-serial",
                "stdio",
                "-plugin",
                &plugin,
            ])
            .arg("-kernel")
            .arg(self.image.join("kernel"))
            .arg("-initrd")
            .arg(initramfs)
            .stdin(Stdio::null())
            .stdout(File::create(console).context("cannot write the console")?)
            .spawn()
            .context("cannot run qemu-system-x86_64")
    }
}

/// As the command `lucarne` finds it.
fn cache() -> Result<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let usual = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    named.or_else(usual).context("neither XDG_CACHE_HOME nor HOME is set")
}

fn script(guest: Guest) -> String {
    format!(
        "#!/bin/sh\nexport PATH=/bin\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\nmount -t tmpfs none /tmp\n\
         cd /tmp\n{}\necho '{DONE}'\npoweroff -f\n",
        guest.work
    )
}

/// Waits for QEMU to end; one that does not is ended.
fn await_end(qemu: &mut Child) -> Result<()> {
    let limit = Instant::now() + ENDED_WITHIN;
    loop {
        if let Some(status) = qemu.try_wait()? {
            ensure!(status.success(), "QEMU ended with {status}");
            return Ok(());
        }
        if Instant::now() > limit {
            qemu.kill()?;
            qemu.wait()?;
            bail!("the guest was still at work after {ENDED_WITHIN:?}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}
