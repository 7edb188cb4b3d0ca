//! Plays the demo from nothing: set up, build, start everything on this machine, play, and end it all again.
//!
//! Owns the life of `lucarne dev` here: whatever happens (a failure, Ctrl-C, a panic), it is ended by its process id and
//! its state removed, unless it is to be kept. Our own words go to stderr; stdout is the demo's.

use std::{
    fs::{self, File},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    program::{build, program},
    setup,
};

/// Long enough to fetch and build the guest image on a slow line.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// Long enough for the VMs of all hosts to be ended.
const ENDED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Install what is missing without asking.
    #[arg(long)]
    yes: bool,
    /// Leave everything running, and say how to end it.
    #[arg(long)]
    keep: bool,
    /// How the demo reports: `table` or `json`.
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    output: String,
}

pub(crate) fn play(options: &Options) -> Result<()> {
    setup::machine(options.yes)?;
    // Not a release build: linking that takes longer than all of the demo.
    let binary = build("lucarne")?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, interrupted.clone()).context("cannot listen for signals")?;
    }
    let mut dev = Dev::start(&binary)?;
    let ready = dev.wait_until_ready(&interrupted)?;
    eprintln!("API at {}, console at {}", text(&ready, "/endpoint")?, text(&ready, "/console")?);
    let played = chapters(&binary, &ready, &options.output, &interrupted);
    if options.keep {
        dev.keep();
    }
    let status = played?;
    ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
    ensure!(status.success(), "the demo did not hold ({status}); {}", dev.where_to_look());
    Ok(())
}

/// Plays `lucarne demo` as the operator, who makes its tenants.
fn chapters(binary: &Path, ready: &serde_json::Value, output: &str, interrupted: &AtomicBool) -> Result<ExitStatus> {
    let mut demo = program(binary, &format!("demo --output {output}"));
    demo.env("LUCARNE_ENDPOINT", text(ready, "/endpoint")?);
    demo.env("LUCARNE_ACCESS_KEY_ID", text(ready, "/operator/access_key_id")?);
    demo.env("LUCARNE_SECRET_ACCESS_KEY", text(ready, "/operator/secret_access_key")?);
    let mut demo = demo.spawn().context("cannot run lucarne demo")?;
    let ended = wait(&mut demo, None, interrupted);
    if ended.is_err() {
        // It may have ended by itself just now, which is as good.
        let _ = demo.kill().and_then(|()| demo.wait());
    }
    ended?.context("the demo has no time limit")
}

fn text<'a>(ready: &'a serde_json::Value, pointer: &str) -> Result<&'a str> {
    ready.pointer(pointer).and_then(|value| value.as_str()).with_context(|| format!("the ready file has no {pointer}"))
}

/// Waits for the child to end, at most until `limit`; fails when a signal asks us to stop.
fn wait(child: &mut Child, limit: Option<Instant>, interrupted: &AtomicBool) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child process")? {
            return Ok(Some(status));
        }
        ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
        if limit.is_some_and(|limit| Instant::now() > limit) {
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// A running `lucarne dev` and its state folder; both end with this value, unless kept.
#[derive(Debug)]
struct Dev {
    child: Child,
    state: PathBuf,
    kept: bool,
}

impl Dev {
    fn start(binary: &Path) -> Result<Self> {
        // Short: the paths of sockets in it may have about a hundred characters. Open to pass through: where we are root,
        // VMs run as somebody else.
        let state = std::env::temp_dir().join(format!("lucarne-demo-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o711).create(&state).with_context(|| format!("cannot make {}", state.display()))?;
        match Self::spawn(binary, &state) {
            Ok(child) => Ok(Self { child, state, kept: false }),
            Err(error) => {
                fs::remove_dir_all(&state).with_context(|| format!("cannot remove {}", state.display()))?;
                Err(error)
            }
        }
    }

    fn spawn(binary: &Path, state: &Path) -> Result<Child> {
        let log = File::create(state.join("dev.log")).context("cannot write the log of lucarne dev")?;
        let mut dev = program(binary, "dev --listen 127.0.0.1:0");
        dev.arg("--state-dir").arg(state).arg("--ready-file").arg(state.join("ready.json"));
        dev.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own: Ctrl-C reaches us, and we end it in order.
        dev.process_group(0).spawn().context("cannot run lucarne dev")
    }

    fn wait_until_ready(&mut self, interrupted: &AtomicBool) -> Result<serde_json::Value> {
        eprintln!("starting lucarne dev in {}", self.state.display());
        let file = self.state.join("ready.json");
        let limit = Instant::now() + READY_WITHIN;
        while !file.exists() {
            let look = Instant::now() + LOOK_EVERY;
            if let Some(status) = wait(&mut self.child, Some(look), interrupted)? {
                bail!("lucarne dev ended ({status}); its last words:\n{}", self.last_words());
            }
            ensure!(Instant::now() < limit, "lucarne dev is not ready; its last words:\n{}", self.last_words());
        }
        let ready = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&ready).context("the ready file is not JSON")
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.state.join("dev.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn keep(&mut self) {
        self.kept = true;
        let (pid, state) = (self.child.id(), self.state.display());
        eprintln!("lucarne dev goes on as process {pid}, with credentials in {state}/ready.json");
        eprintln!("end it with: kill {pid}; then: rm -r {state}");
    }

    fn where_to_look(&self) -> String {
        if self.kept {
            return format!("its log is {}", self.state.join("dev.log").display());
        }
        format!("run it with --keep to look around; the last words of lucarne dev:\n{}", self.last_words())
    }

    fn end(&mut self) -> Result<()> {
        // Not with the handle of a child that was waited for: its number may be another's by now.
        if self.child.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.child), Signal::TERM)?;
            let never = AtomicBool::new(false);
            if wait(&mut self.child, Some(Instant::now() + ENDED_WITHIN), &never)?.is_none() {
                self.child.kill()?;
                self.child.wait()?;
                bail!(
                    "lucarne dev did not end when asked and was killed; VMs may be left: look for qemu-system-x86_64"
                );
            }
        }
        fs::remove_dir_all(&self.state).with_context(|| format!("cannot remove {}", self.state.display()))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        eprintln!("ending lucarne dev");
        if let Err(error) = self.end() {
            eprintln!("error: {error:#}");
        }
    }
}
