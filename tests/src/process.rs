//! A process that a test started: its log in a file, killed by its pid, and never left running.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::eventually;

/// The binary under test, beside the test's own.
pub fn lucarne() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let binary = test.ancestors().nth(2).context("the test has no folder")?.join("lucarne");
    anyhow::ensure!(binary.exists(), "{} is missing: run `cargo build -p lucarne` first", binary.display());
    Ok(binary)
}

#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `log`, which is appended to.
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("{command:?} could not be started"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the log says `text`.
    pub fn await_log(&mut self, text: &str, patience: Duration) -> anyhow::Result<()> {
        eventually(&format!("`{text}` in the log"), patience, || self.log().contains(text).then_some(()))
            .with_context(|| format!("the log says:\n{}", self.log()))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // Not waited for yet, so the pid is still this child's.
            let _ = kill_process(pid, signal);
        }
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Asks it to end and waits.
    pub fn end(mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM);
        eventually("the process ends", patience, || self.child.try_wait().ok().flatten())
            .with_context(|| format!("the log says:\n{}", self.log()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// A process that a test has stopped, until this is dropped or the process is killed.
#[derive(Debug)]
pub struct Stopped(Pid);

impl Stopped {
    pub fn stop(pid: u32) -> anyhow::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process has this id")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// The processes whose command line names `path`: a folder of this test alone.
pub fn processes_of(path: &Path) -> Vec<u32> {
    let needle = path.to_string_lossy().into_owned();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            *pid != std::process::id() && String::from_utf8_lossy(&line).contains(&needle)
        })
        .collect()
}

/// Ends whatever still runs with `path` on its command line.
pub fn sweep(path: &Path) {
    for pid in processes_of(path) {
        if let Some(pid) = Pid::from_raw(pid as i32) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
