//! A sealing process locked in before it touches anything secret.
//!
//! Owns what it can no longer do. From its first moment on ([`harden`]): nobody but root looks into it, it leaves no core, its
//! memory is never swapped out, it gets no privileges by a program. Once it has reached what its operation needs
//! ([`lock_in`]): no file can be written or made but the machine's mark, no program started, no process made or traced, no
//! socket opened. What it has open already is then its only way out: the result, the answer, the machine's monitor.

mod landlock;
mod seccomp;

use std::path::PathBuf;

use rustix::{
    io::Errno,
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::set_no_new_privs,
};

use crate::order::Failure;

/// What an operation does once it is locked in, beyond what it has open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Files that it reads, and trees in which it reads files.
    pub(crate) reads: Vec<PathBuf>,
    /// The folder in which it makes and removes the machine's mark.
    pub(crate) marks: Option<PathBuf>,
    /// It talks to the machine again later: unix sockets it may open.
    pub(crate) connects: bool,
    /// It looks at other processes as a debugger does, which Landlock forbids altogether.
    pub(crate) inspects: bool,
}

/// What needs no knowledge of the order, and so comes before it.
pub(crate) fn harden() -> Result<(), Failure> {
    let step = |error: Errno| Failure::broken("harden the sealing process")(error.into());
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(step)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(step)?;
    set_no_new_privs(true).map_err(step)?;
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(all) {
        // An agent that is not root may lock but little. Then swap has to be encrypted, or off.
        eprintln!("warning: the memory of a sealing process can be swapped out: {error}");
    }
    Ok(())
}

pub(crate) fn lock_in(needs: &Needs) -> Result<(), Failure> {
    if !needs.inspects {
        match landlock::restrict(needs) {
            Ok(true) => {}
            Ok(false) => eprintln!("warning: this kernel has no Landlock: a sealing process could open other files"),
            Err(error) => return Err(Failure::broken("lock the sealing process in")(error)),
        }
    }
    seccomp::restrict(needs).map_err(Failure::broken("lock the sealing process in"))
}

#[cfg(test)]
mod tests;
