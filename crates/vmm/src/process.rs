//! The process of one VM: started as an unprivileged user, found again, watched to its end.
//!
//! Owns the process and its pidfd, by which a process is meant and never another that got its number later. What is run
//! and why is [`crate::qemu`]'s, under which limits [`crate::limits`]'.
//!
//! A VM outlives the agent: its process gets no parent-death signal and a session of its own, so that a Ctrl-C or a hang-up of
//! the agent's terminal does not reach it. With a process group of its own in the agent's session it would end with the agent whenever
//! somebody has stopped it (a debugger, `kill -STOP`): the group is an orphan then, and the kernel hangs up on orphans that are stopped.

pub(crate) mod descriptor;

use std::{
    fs::{self, File},
    io::{self, PipeReader, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::io::unix::AsyncFd;

use crate::qemu::User;

/// How long a process may be without arguments before it is taken for one that never has any.
const EXEC_PATIENCE: Duration = Duration::from_secs(1);

/// Octets of arguments that are looked for at first, more than a VM's process has; longer ones are read again.
const COMMAND_LINE: usize = 16 << 10;

/// A process that runs, or has run.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    descriptor: Arc<AsyncFd<OwnedFd>>,
    pid: u32,
}

impl Process {
    /// Starts `command`; what it prints can be read from the pipe, and goes nowhere once the reader is gone.
    pub(crate) fn spawn(
        mut command: Command,
        user: Option<User>,
        stdin: impl Into<Stdio>,
    ) -> io::Result<(Self, PipeReader)> {
        let (said, says) = io::pipe()?;
        command.current_dir("/");
        descriptor::lead_a_session(&mut command);
        command.stdin(stdin).stdout(says.try_clone()?).stderr(says);
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
        Ok((process?, said))
    }

    /// Takes hold of a process that runs.
    pub(crate) fn adopt(pid: u32) -> io::Result<Self> {
        let descriptor = pidfd_open(as_pid(pid)?, PidfdFlags::NONBLOCK)?;
        Ok(Self { descriptor: Arc::new(descriptor::watch(descriptor)?), pid })
    }

    pub(crate) const fn id(&self) -> u32 {
        self.pid
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
///
/// In the middle of an exec(2), as a VM's process is when prlimit becomes QEMU, a process has no arguments either, but
/// it has a program: then it is looked at again, for as long as a busy machine may need.
fn arguments_of(pid: u32) -> Vec<String> {
    let read = || command_line(pid).unwrap_or_default();
    let mut line = read();
    let end = Instant::now() + EXEC_PATIENCE;
    while line.is_empty() && fs::read_link(format!("/proc/{pid}/exe")).is_ok() && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
        line = read();
    }
    let text = String::from_utf8_lossy(&line);
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// The arguments as the kernel has them, each with a zero after it.
///
/// Read by one read(2): each looks into the memory that the process has at that moment, so that of two reads the first
/// could take the beginning of one program's arguments and the second what follows that offset in the next one's.
fn command_line(pid: u32) -> io::Result<Vec<u8>> {
    let mut line = vec![0; COMMAND_LINE];
    loop {
        let length = File::open(format!("/proc/{pid}/cmdline"))?.read(&mut line)?;
        if length < line.len() {
            line.truncate(length);
            return Ok(line);
        }
        line.resize(2 * length, 0);
    }
}

fn as_pid(pid: u32) -> io::Result<Pid> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a process id"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::limits::{self, CORE};

    /// As a VM's process is started: by way of prlimit.
    fn spawn(program: &str, arguments: &[&str]) -> (Process, PipeReader) {
        let mut command = limits::command(Path::new(program), "coreutils", &[(CORE, 0)]).unwrap();
        command.args(arguments);
        Process::spawn(command, None, Stdio::null()).unwrap()
    }

    #[tokio::test]
    async fn the_end_of_a_child_is_told_with_how_and_leaves_no_zombie() {
        let (process, mut said) = spawn("sh", &["-c", "echo word; exit 3"]);
        assert_eq!(process.ended().await.as_deref(), Some("it exited with status 3"));
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        assert_eq!(text, "word\n");
        assert!(!Path::new(&format!("/proc/{}", process.pid)).exists());
    }

    #[tokio::test]
    async fn a_process_is_the_first_of_a_session_so_that_its_starters_end_hangs_up_on_nobody() {
        let (process, _said) = spawn("sleep", &["60"]);
        let pid = as_pid(process.pid).unwrap();
        assert_eq!(rustix::process::getsid(Some(pid)), Ok(pid));
        process.kill();
        process.ended().await;
    }

    #[tokio::test]
    async fn a_process_is_found_by_its_command_line_and_killed_by_its_descriptor() {
        let mark = format!("3{:09}", std::process::id());
        let is_ours = |arguments: &[String]| arguments.contains(&mark).then_some(());
        // Some of these looks fall into the exec by which prlimit becomes the program.
        for round in 0..300 {
            let (process, _said) = spawn("sleep", &[&mark]);
            assert_eq!(find(is_ours).unwrap(), [(process.pid, ())], "round {round}");
            process.kill();
            assert_eq!(process.ended().await.as_deref(), Some("it was killed by signal 9"));
        }
    }
}
