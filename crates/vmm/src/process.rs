//! The process of one VM: started with limits and as an unprivileged user, found again, watched to its end.
//!
//! Owns the process and its pidfd, by which a process is meant and never another that got its number later. What is run
//! and why is [`crate::qemu`]'s.
//!
//! A VM outlives the agent: its process gets no parent-death signal and a process group of its own, so that a Ctrl-C or
//! a hang-up of the agent's terminal does not reach it.

mod descriptor;

use std::{
    fs,
    io::{self, PipeReader},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, prlimit, waitid,
};
use tokio::io::unix::AsyncFd;

use crate::qemu::User;

/// What a VM's process may use at most, beyond what its memory and disks are: no core dumps (they hold a tenant's
/// memory), no locked memory, and files and threads enough for its disks.
const LIMITS: [(Resource, u64); 3] = [(Resource::Core, 0), (Resource::Memlock, 64 << 10), (Resource::Nofile, 1024)];

/// A process that runs, or has run.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    descriptor: Arc<AsyncFd<OwnedFd>>,
    pid: u32,
}

impl Process {
    /// Starts `program`; what it prints can be read from the pipe, and goes nowhere once the reader is gone.
    pub(crate) fn spawn(program: &Path, arguments: &[String], user: Option<User>) -> io::Result<(Self, PipeReader)> {
        let (said, says) = io::pipe()?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir("/").process_group(0);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.stdin(Stdio::null()).stdout(says.try_clone()?).stderr(says);
        if let Some(User { uid, gid }) = user {
            // With a uid given, the child also loses root's supplementary groups.
            command.uid(uid).gid(gid);
        }
        let child = command.spawn()?;
        let process = Self::adopt(child.id());
        if process.is_err() {
            // Without its descriptor nobody could watch it.
            let mut child = child;
            child.kill().and_then(|()| child.wait())?;
        }
        let process = process?;
        limit(process.pid, &LIMITS);
        Ok((process, said))
    }

    /// Takes hold of a process that runs.
    pub(crate) fn adopt(pid: u32) -> io::Result<Self> {
        let descriptor = pidfd_open(as_pid(pid)?, PidfdFlags::NONBLOCK)?;
        Ok(Self { descriptor: Arc::new(descriptor::watch(descriptor)?), pid })
    }

    /// The arguments that it was started with, program first; none when it has ended.
    pub(crate) fn arguments(&self) -> Vec<String> {
        arguments_of(self.pid)
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        // The only failure is that it has ended already.
        let _ = pidfd_send_signal(self.descriptor.get_ref(), Signal::KILL);
    }

    /// Waits for its end and takes it off the process table if it is our child. How it ended, in words, if that is known.
    pub(crate) async fn ended(&self) -> Option<String> {
        // Fails only when the runtime ends, and then nobody is there to hear of it.
        let _ = self.descriptor.readable().await;
        let status = waitid(WaitId::PidFd(self.descriptor.get_ref().as_fd()), WaitIdOptions::EXITED);
        let status = status.ok().flatten()?;
        let code = status.exit_status().map(|code| format!("it exited with status {code}"));
        code.or_else(|| status.terminating_signal().map(|signal| format!("it was killed by signal {signal}")))
    }
}

/// Sets limits on a process that has just been started. There is no way to set them before its first instruction that is
/// not `unsafe`; at this point its loader has hardly begun. That it has ended already is not an error.
pub(crate) fn limit(pid: u32, limits: &[(Resource, u64)]) {
    let Ok(pid) = as_pid(pid) else { return };
    for &(resource, most) in limits {
        let most = Rlimit { current: Some(most), maximum: Some(most) };
        if let Err(error) = prlimit(Some(pid), resource, most)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(?resource, %error, "a limit could not be set");
        }
    }
}

/// Every process of this machine whose command line makes `wanted` say something, with what it says.
pub(crate) fn find<T>(wanted: impl Fn(&[String]) -> Option<T>) -> io::Result<Vec<(u32, T)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        found.extend(wanted(&arguments_of(pid)).map(|is| (pid, is)));
    }
    Ok(found)
}

/// Empty for one that has ended, and for kernel threads.
fn arguments_of(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&line);
    text.split_terminator('\0').map(str::to_owned).collect()
}

fn as_pid(pid: u32) -> io::Result<Pid> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a process id"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_child_is_told_with_how_and_leaves_no_zombie() {
        let arguments = ["-c".to_owned(), "echo word; exit 3".to_owned()];
        let (process, mut said) = Process::spawn(Path::new("sh"), &arguments, None).unwrap();
        assert_eq!(process.ended().await.as_deref(), Some("it exited with status 3"));
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        assert_eq!(text, "word\n");
        assert!(!Path::new(&format!("/proc/{}", process.pid)).exists());
    }

    #[tokio::test]
    async fn a_process_is_found_by_its_command_line_and_killed_by_its_descriptor() {
        let mark = format!("3{:09}", std::process::id());
        let (process, _said) = Process::spawn(Path::new("sleep"), std::slice::from_ref(&mark), None).unwrap();
        let is_ours = |arguments: &[String]| arguments.contains(&mark).then_some(());
        let found = find(is_ours).unwrap();
        assert_eq!(found, [(process.pid, ())]);
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid)).unwrap();
        assert!(limits.lines().any(|line| line.starts_with("Max core file size") && line.contains(" 0 ")), "{limits}");
        process.kill();
        assert_eq!(process.ended().await.as_deref(), Some("it was killed by signal 9"));
    }
}
