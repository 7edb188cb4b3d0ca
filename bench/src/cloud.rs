//! A real cloud on this machine to measure: `lucarne dev` of a release build, with a state folder of its own.
//!
//! Owns the processes and the folder: both end with the value, whatever became of the bench.

use std::{
    fs::{self, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Long enough to fetch and build the guest image.
const READY_WITHIN: Duration = Duration::from_secs(300);
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// A running cloud and the keys to it.
#[derive(Debug)]
pub struct Cloud {
    binary: PathBuf,
    state: PathBuf,
    dev: Child,
    ready: Value,
}

/// Whose key a command uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Operator,
    Tenant,
}

impl Cloud {
    /// Builds the binary and starts a cloud with so many hosts, and what else `lucarne dev` is told.
    ///
    /// # Errors
    /// When it cannot be built, or does not answer in time: the message has the last words of its log.
    pub fn start(hosts: u32, options: &[&str]) -> Result<Self> {
        let binary = build()?;
        // VMs run as another user where this one is root: they must be able to pass through.
        let state = std::env::temp_dir().join(format!("lucarne-bench-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o711).create(&state).with_context(|| format!("cannot make {}", state.display()))?;
        let log = File::create(state.join("dev.log")).context("cannot write the log")?;
        let dev = Command::new(&binary)
            .args(["dev", "--listen", "127.0.0.1:0", "--hosts", &hosts.to_string(), "--state-dir"])
            .arg(&state)
            .args(options)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let mut cloud = Self { binary, state, dev, ready: Value::Null };
        cloud.wait_until_ready()?;
        Ok(cloud)
    }

    /// Its state folder, for what a bench puts beside it.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// What `lucarne ARGUMENTS --output json` prints, as JSON.
    ///
    /// # Errors
    /// When the command is refused: the message is the command's own.
    pub fn json(&self, caller: Caller, arguments: &[&str]) -> Result<Value> {
        let text = self.text(caller, &[arguments, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("lucarne {} printed no JSON", arguments.join(" ")))
    }

    /// What `lucarne ARGUMENTS` prints.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn text(&self, caller: Caller, arguments: &[&str]) -> Result<String> {
        let key = match caller {
            Caller::Operator => &self.ready["operator"],
            Caller::Tenant => &self.ready["tenant"],
        };
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        for (variable, value) in [
            ("LUCARNE_ENDPOINT", &self.ready["endpoint"]),
            ("LUCARNE_ACCESS_KEY_ID", &key["access_key_id"]),
            ("LUCARNE_SECRET_ACCESS_KEY", &key["secret_access_key"]),
        ] {
            command.env(variable, value.as_str().context("the ready file has no keys")?);
        }
        let output = command.output().context("cannot run lucarne")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "lucarne {}: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The process ids of the supervisor's children, with the word behind the program's name: `controller`, `host`, ...
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn processes(&self) -> Result<Vec<(u32, String)>> {
        let path = format!("/proc/{0}/task", self.dev.id());
        let mut found = Vec::new();
        for task in fs::read_dir(&path).with_context(|| path.clone())? {
            let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            for pid in children.split_whitespace().filter_map(|word| word.parse::<u32>().ok()) {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let word = line.split(|&byte| byte == 0).nth(1).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(word).into_owned()));
            }
        }
        Ok(found)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let (file, limit) = (self.state.join("ready.json"), Instant::now() + READY_WITHIN);
        loop {
            if let Ok(text) = fs::read(&file) {
                self.ready = serde_json::from_slice(&text).context("the ready file is no JSON")?;
                return Ok(());
            }
            if let Some(status) = self.dev.try_wait()? {
                bail!("lucarne dev ended ({status}): {}", last_words(&self.state));
            }
            ensure!(Instant::now() < limit, "lucarne dev is not ready: {}", last_words(&self.state));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn end(&mut self) -> Result<()> {
        let pid = i32::try_from(self.dev.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        let limit = Instant::now() + ENDED_WITHIN;
        if self.dev.try_wait()?.is_none() {
            kill_process(pid, Signal::TERM)?;
        }
        while self.dev.try_wait()?.is_none() {
            if Instant::now() > limit {
                self.dev.kill()?;
                self.dev.wait()?;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        fs::remove_dir_all(&self.state).context("the state folder stays")
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

fn last_words(state: &Path) -> String {
    let log = fs::read_to_string(state.join("dev.log")).unwrap_or_default();
    log.lines().last().unwrap_or("it said nothing").to_owned()
}

/// The binary that `LUCARNE_BENCH_BINARY` names; else builds it as it is released, and says where it is: beside the bench that runs.
fn build() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("LUCARNE_BENCH_BINARY") {
        return std::path::absolute(given).context("LUCARNE_BENCH_BINARY is no path");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(["build", "--quiet", "--release", "--package", "lucarne"]).status()?;
    ensure!(status.success(), "lucarne could not be built");
    let folder = std::env::current_exe().context("where this bench is")?;
    // target/PROFILE/bench -> target/release/lucarne
    let target = folder.parent().and_then(Path::parent).context("the bench is not in a target folder")?;
    Ok(target.join("release/lucarne"))
}
