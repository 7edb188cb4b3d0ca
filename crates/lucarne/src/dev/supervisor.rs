//! Child processes kept alive: each started again when it dies, and ended when asked.
//!
//! Owns the processes, by their ids, and their log files. In which order they begin and end is the caller's business.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;

/// How long a process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// A log that has grown beyond this is put aside when its process starts.
const LOG_BYTES: u64 = 16 << 20;

/// What is to run.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// The folder of `NAME.log`.
    pub(crate) logs: PathBuf,
}

/// A program that is being kept alive.
#[derive(Debug)]
pub(crate) struct Supervised {
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Starts the program and keeps it alive until [`Self::end`]. Cancelling `kill` makes an end that is under way sudden.
    pub(crate) fn start(program: Program, kill: CancellationToken) -> Self {
        let end = CancellationToken::new();
        let task = tokio::spawn(keep_alive(program, end.clone(), kill));
        Self { end, task }
    }

    /// Ends the process and waits until it is gone.
    pub(crate) async fn end(self) {
        self.end.cancel();
        if let Err(cause) = self.task.await {
            eprintln!("lucarne dev: a supervisor broke: {cause}");
        }
    }
}

async fn keep_alive(program: Program, end: CancellationToken, kill: CancellationToken) {
    let mut backoff = Backoff::new();
    while !end.is_cancelled() {
        let started = Instant::now();
        let died = match spawn(&program) {
            Ok(mut child) => tokio::select! {
                status = child.wait() => match status {
                    Ok(status) => format!("ended with {status}"),
                    Err(cause) => format!("could not be waited for: {cause}"),
                },
                () = end.cancelled() => return finish(&program, child, &kill).await,
            },
            Err(cause) => format!("could not be started: {cause}"),
        };
        let delay = backoff.after(started.elapsed());
        eprintln!(
            "lucarne dev: {} {died}; again in {} ms (see {})",
            program.name,
            delay.as_millis(),
            program.log().display()
        );
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = end.cancelled() => {}
        }
    }
}

/// Asks the process to end, and kills it when it takes too long or the user has lost patience.
async fn finish(program: &Program, mut child: Child, kill: &CancellationToken) {
    signal(&child, Signal::TERM);
    tokio::select! {
        _ = child.wait() => return,
        () = tokio::time::sleep(PATIENCE) => eprintln!("lucarne dev: {} did not end in {PATIENCE:?}: killed", program.name),
        () = kill.cancelled() => {}
    }
    signal(&child, Signal::KILL);
    // Waiting takes the process off the system's table; what it ended with does not matter any more.
    let _ = child.wait().await;
}

/// `id` is none once the process has been waited for, so that a number used again by another is never hit.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

fn spawn(program: &Program) -> io::Result<Child> {
    let log = program.open_log()?;
    Command::new(&program.executable)
        .args(&program.arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C of the terminal goes to the supervisor alone, which ends its children in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

impl Program {
    pub(crate) fn log(&self) -> PathBuf {
        self.logs.join(format!("{}.log", self.name))
    }

    fn open_log(&self) -> io::Result<File> {
        let path = self.log();
        if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES) {
            fs::rename(&path, self.logs.join(format!("{}.log.1", self.name)))?;
        }
        OpenOptions::new().create(true).append(true).open(path)
    }
}

/// The last line of a log, for whoever asks why.
pub(crate) fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("its log is empty").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(logs: &Path, script: &str) -> Program {
        Program {
            name: "child".into(),
            executable: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            logs: logs.to_owned(),
        }
    }

    async fn eventually(mut holds: impl FnMut() -> bool) -> bool {
        for _ in 0..200 {
            if holds() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        false
    }

    #[tokio::test]
    async fn a_child_that_dies_is_started_again_and_ends_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("child.log");
        let lines = || fs::read_to_string(&log).unwrap_or_default().lines().count();
        let child = Supervised::start(program(folder.path(), "echo $$; exit 3"), CancellationToken::new());
        assert!(eventually(|| lines() >= 2).await, "it was not started again");
        child.end().await;
        let ended = lines();
        tokio::time::sleep(Duration::from_millis(800)).await;
        assert_eq!(lines(), ended, "it was started after it was ended");
    }

    #[tokio::test]
    async fn a_child_is_asked_to_end_and_may_tidy_up() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("child.log");
        let script = "trap 'echo tidy; exit 0' TERM; echo begun; while :; do sleep 0.05; done";
        let child = Supervised::start(program(folder.path(), script), CancellationToken::new());
        assert!(eventually(|| last_words(&log) == "begun").await);
        child.end().await;
        assert_eq!(last_words(&log), "tidy");
    }

    #[tokio::test]
    async fn a_child_that_does_not_end_is_killed_when_patience_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("child.log");
        let kill = CancellationToken::new();
        let child = Supervised::start(
            program(folder.path(), "trap '' TERM; echo $$; while :; do sleep 0.05; done"),
            kill.clone(),
        );
        assert!(eventually(|| last_words(&log).parse::<i32>().is_ok()).await);
        let pid: i32 = last_words(&log).parse().unwrap();
        kill.cancel();
        child.end().await;
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
