//! A guest's own TPM: swtpm beside the VM's process.
//!
//! Owns how it is started and how the two find each other: by a pair of sockets that nobody else can reach. It ends by
//! itself when the VM's process does, however that ends, so it needs no watching, and a host agent that starts anew has
//! nothing to find. Making the TPM's state, with the certificate that names the instance, is the host agent's.

use std::{
    ffi::OsString,
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use lucarne_model::InstanceId;
use rustix::fs::{FlockOperation, fcntl_lock};
use tokio::task::JoinHandle;

use crate::{
    driver::VirtualTpm,
    error::Error,
    files,
    limits::{self, CORE, Limits, OPEN_FILES},
    process::{Process, descriptor},
    qemu::User,
};

const PROGRAM: &str = "swtpm";
/// It keeps a tenant's keys.
const LIMITS: &Limits = &[(CORE, 0), (OPEN_FILES, 64)];
/// How long the one of the VM's last process may take to let go of the state.
const HANDOVER: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(10);
/// How long it may take to notice that its VM has ended.
const FAREWELL: Duration = Duration::from_secs(2);
/// How it ends when its VM does.
const IN_ORDER: &str = "it exited with status 0";

/// The VM's end, and how it is told of it.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) descriptor: OwnedFd,
    pub(crate) options: [String; 2],
    pub(crate) beside: Beside,
}

/// The process beside the VM's.
#[derive(Debug)]
pub(crate) struct Beside {
    instance: InstanceId,
    log: PathBuf,
    /// How it ended, in words; none of an end in order.
    ended: JoinHandle<Option<String>>,
}

impl Beside {
    /// What really happened, if a VM could not be started because its TPM ended: QEMU says of that only that a line broke.
    pub(crate) async fn explain(self, error: Error) -> Error {
        // One whose VM has ended ends in order, and soon.
        let Ok(Ok(Some(how))) = tokio::time::timeout(FAREWELL, self.ended).await else { return error };
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        let said =
            last.map_or_else(|| "its log is empty".to_owned(), |line| format!("its log ends with `{}`", line.trim()));
        Error::TpmEnded { instance: self.instance, how, said }
    }
}

/// Starts the TPM of a VM that is about to be started, as `user`.
pub(crate) fn start(instance: InstanceId, tpm: &VirtualTpm, user: Option<User>) -> Result<Connected, Error> {
    give(&tpm.state, user)?;
    files::reachable(&tpm.state, user)?;
    await_predecessor(&tpm.state)?;
    let failed = |source| Error::Process { doing: "start the TPM beside", instance, source };
    let (ours, its) = UnixStream::pair().map_err(failed)?;
    let mut command = limits::command(Path::new(PROGRAM), "swtpm", LIMITS)?;
    command.args(["socket", "--tpm2", "--terminate", "--seccomp", "action=kill"]);
    command.arg("--ctrl").arg(format!("type=unixio,clientfd={}", its.as_raw_fd()));
    command.arg("--tpmstate").arg(option("dir=", &tpm.state, ",mode=0600"));
    command.arg("--log").arg(option("file=", &tpm.state.join("log"), ",level=1,truncate"));
    descriptor::inherit(&mut command, vec![its.into()]);
    let (process, said) = Process::spawn(command, user, Stdio::null()).map_err(failed)?;
    drop(said);
    // Taken off the process table when it ends, whoever waits for it.
    let ended = tokio::spawn(async move { process.ended().await.filter(|how| how != IN_ORDER) });
    let beside = Beside { instance, log: tpm.state.join("log"), ended };
    let descriptor = OwnedFd::from(ours);
    let options = ["-chardev".to_owned(), format!("socket,id=tpm,fd={}", descriptor.as_raw_fd())];
    Ok(Connected { descriptor, options, beside })
}

fn option(key: &str, path: &Path, more: &str) -> OsString {
    let mut option = OsString::from(key);
    option.push(path);
    option.push(more);
    option
}

/// All of the state is given to the user as whom it runs.
fn give(state: &Path, user: Option<User>) -> Result<(), Error> {
    let failed = |error| Error::file("read", state, error);
    files::own(state, user)?;
    for entry in fs::read_dir(state).map_err(failed)? {
        files::own(&entry.map_err(failed)?.path(), user)?;
    }
    Ok(())
}

/// swtpm locks its state, and one whose VM was killed needs a moment to notice.
fn await_predecessor(state: &Path) -> Result<(), Error> {
    let path = state.join(".lock");
    let failed = |error| Error::file("lock", &path, error);
    // There is one only where swtpm has been.
    let Ok(file) = fs::File::options().write(true).open(&path) else { return Ok(()) };
    let until = Instant::now() + HANDOVER;
    while let Err(held) = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        if Instant::now() >= until {
            return Err(failed(held.into()));
        }
        thread::sleep(RETRY);
    }
    // Closing the file gives the lock back.
    Ok(())
}
