//! The threads of another process, stopped: for a look at their registers, or a change of the code that they run.
//!
//! Owns the calls of ptrace(2). A process that is stopped so goes on by itself when its stopper ends, however it ends.
#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs, io,
    mem::MaybeUninit,
    ptr,
    time::{Duration, Instant},
};

use libc::{c_void, pid_t, user_regs_struct};

/// Threads that begin meanwhile are looked for as often.
const ROUNDS: usize = 8;

/// All threads of a process, which stand still for as long as this is there.
#[derive(Debug)]
pub(crate) struct StoppedThreads {
    threads: Vec<pid_t>,
    since: Instant,
}

impl StoppedThreads {
    pub(crate) fn of(process: u32) -> io::Result<Self> {
        let mut stopped = Self { threads: Vec::new(), since: Instant::now() };
        for _ in 0..ROUNDS {
            let new: Vec<pid_t> = threads(process)?.into_iter().filter(|new| !stopped.threads.contains(new)).collect();
            if new.is_empty() {
                return Ok(stopped);
            }
            for thread in new {
                stopped.stop(thread)?;
            }
        }
        Err(io::Error::other("it makes threads faster than they can be stopped"))
    }

    fn stop(&mut self, thread: pid_t) -> io::Result<()> {
        match ask(libc::PTRACE_SEIZE, thread, ptr::null_mut()) {
            // It has just ended.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
            seized => seized?,
        }
        self.threads.push(thread);
        ask(libc::PTRACE_INTERRUPT, thread, ptr::null_mut())?;
        let mut status = 0;
        // SAFETY: waits for a thread that is ours to trace; the kernel writes the status.
        let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        if waited < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = pid_t> {
        self.threads.iter().copied()
    }

    /// The general registers of one of them, by name.
    pub(crate) fn registers(&self, thread: pid_t) -> io::Result<BTreeMap<&'static str, u64>> {
        let mut registers = MaybeUninit::<user_regs_struct>::zeroed();
        ask(libc::PTRACE_GETREGS, thread, registers.as_mut_ptr().cast())?;
        // SAFETY: the kernel has filled it; and any octets are one, zeros too.
        let registers = unsafe { registers.assume_init() };
        Ok(BTreeMap::from([
            ("rax", registers.rax),
            ("rbx", registers.rbx),
            ("rcx", registers.rcx),
            ("rdx", registers.rdx),
            ("rsi", registers.rsi),
            ("rdi", registers.rdi),
            ("rbp", registers.rbp),
            ("rsp", registers.rsp),
            ("r8", registers.r8),
            ("r9", registers.r9),
            ("r10", registers.r10),
            ("r11", registers.r11),
            ("r12", registers.r12),
            ("r13", registers.r13),
            ("r14", registers.r14),
            ("r15", registers.r15),
            ("rip", registers.rip),
            ("rflags", registers.eflags),
            ("orig_rax", registers.orig_rax),
            ("fs_base", registers.fs_base),
            ("gs_base", registers.gs_base),
            ("cs", registers.cs),
            ("ss", registers.ss),
            ("ds", registers.ds),
            ("es", registers.es),
            ("fs", registers.fs),
            ("gs", registers.gs),
        ]))
    }

    /// For how long they stand by now.
    pub(crate) fn stood(&self) -> Duration {
        self.since.elapsed()
    }

    /// Lets them go on, and returns for how many nanoseconds they stood.
    pub(crate) fn end(self) -> u64 {
        let stood = self.since.elapsed().as_nanos();
        drop(self);
        u64::try_from(stood).unwrap_or(u64::MAX)
    }
}

impl Drop for StoppedThreads {
    fn drop(&mut self) {
        for thread in &self.threads {
            // It fails for one that was killed while it stood.
            let _ = ask(libc::PTRACE_DETACH, *thread, ptr::null_mut());
        }
    }
}

/// The numbers of a process's threads.
pub(crate) fn threads(process: u32) -> io::Result<Vec<pid_t>> {
    let entries = fs::read_dir(format!("/proc/{process}/task"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

fn ask(request: libc::c_uint, thread: pid_t, data: *mut c_void) -> io::Result<()> {
    // SAFETY: of the requests made here only one takes `data`, and writes a `user_regs_struct` there; none reads from it.
    let result = unsafe { libc::ptrace(request, thread, ptr::null_mut::<c_void>(), data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_stopped_looked_at_and_goes_on() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let state = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            text.rsplit(") ").next().unwrap().chars().next().unwrap()
        };
        let stopped = StoppedThreads::of(child.id()).unwrap();
        assert_eq!(state(child.id()), 't');
        let registers = stopped.registers(stopped.iter().next().unwrap()).unwrap();
        assert!(registers["rip"] > 0 && registers["rsp"] > 0);
        assert!(stopped.end() > 0);
        assert_ne!(state(child.id()), 't');
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}
