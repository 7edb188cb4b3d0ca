//! Programs that begin under limits: commands that set their own and then become the program.
//!
//! Owns the finding of programs and the call of prlimit(1), which every Debian has. A process sets its limits itself, and
//! does so before the program's first instruction; from outside, those of another user's process may be set only with
//! `CAP_SYS_RESOURCE`, and only after it has begun. The process id stays the same. What is limited is the callers'
//! business.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Resource, getrlimit};

use crate::error::Error;

/// What is limited: the kernel's name and prlimit's.
pub(crate) type Kind = (Resource, &'static str);

pub(crate) const ADDRESS_SPACE: Kind = (Resource::As, "as");
pub(crate) const CORE: Kind = (Resource::Core, "core");
pub(crate) const CPU: Kind = (Resource::Cpu, "cpu");
pub(crate) const FILE_SIZE: Kind = (Resource::Fsize, "fsize");
pub(crate) const LOCKED_MEMORY: Kind = (Resource::Memlock, "memlock");
pub(crate) const OPEN_FILES: Kind = (Resource::Nofile, "nofile");

/// How much of each may be used, in the units of `getrlimit(2)`; as soft limit and as hard limit.
pub(crate) type Limits = [(Kind, u64)];

/// Where programs are looked for by one who has no PATH, as `execvp(3)` does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A command that runs `program` under `limits`, with nothing of our environment but PATH. `package` is the Debian package
/// that has the program, for the error that tells what to do when it is missing.
pub(crate) fn command(program: &Path, package: &'static str, limits: &Limits) -> Result<Command, Error> {
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    command_in(&path, program, package, limits)
}

fn command_in(path: &OsStr, program: &Path, package: &'static str, limits: &Limits) -> Result<Command, Error> {
    // Looked for here: prlimit could say only in words that it is missing.
    let program = find(path, program, package)?;
    let mut command = if limits.is_empty() {
        Command::new(program)
    } else {
        let mut limited = Command::new(find(path, Path::new("prlimit"), "util-linux")?);
        limited.args(limits.iter().map(option)).arg("--").arg(program);
        limited
    };
    command.env_clear().env("PATH", path);
    Ok(command)
}

/// As prlimit takes it. Who has less than `most` keeps what it has: only root may have more.
fn option(&((resource, name), most): &(Kind, u64)) -> OsString {
    let most = getrlimit(resource).maximum.map_or(most, |ours| ours.min(most));
    format!("--{name}={most}").into()
}

fn find(path: &OsStr, program: &Path, package: &'static str) -> Result<PathBuf, Error> {
    // Of a program with a folder, `join` in any place makes what it says already; a bare name is in one of the places.
    let bare = program.file_name() == Some(program.as_os_str());
    let places = if bare { env::split_paths(path).collect() } else { vec![PathBuf::new()] };
    let found = places.iter().map(|place| place.join(program)).find(|candidate| candidate.is_file());
    let found = found.and_then(|found| std::path::absolute(found).ok());
    found.ok_or_else(|| Error::Missing { program: program.display().to_string(), package })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: &Limits = &[(CORE, 0), (OPEN_FILES, 17)];

    #[test]
    fn the_program_runs_under_its_limits_and_does_not_see_our_environment() {
        let script = "ulimit -S -c; ulimit -H -c; ulimit -S -n; ulimit -H -n; env | grep -v -e ^PATH= -e ^PWD= -e ^_=";
        let output = command(Path::new("sh"), "dash", FEW).unwrap().args(["-c", script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n0\n17\n17\n");
    }

    #[test]
    fn a_limit_that_is_lower_already_stays() {
        let mut low = command(Path::new("prlimit"), "util-linux", &[(OPEN_FILES, u64::MAX)]).unwrap();
        let ours = getrlimit(Resource::Nofile).maximum.unwrap();
        let output = low.args(["--nofile", "--noheadings", "--raw", "--output=HARD"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), ours.to_string());
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().as_os_str();
        let missing = |program: &Path| command_in(path, program, "qemu-system-x86", FEW).unwrap_err().to_string();
        assert!(missing(Path::new("qemu")).contains("apt-get install qemu-system-x86"));
        assert!(missing(Path::new("/nonexistent/qemu")).contains("apt-get install qemu-system-x86"));
        // The program is there, but not what would limit it.
        std::fs::write(place.path().join("qemu"), "").unwrap();
        let error = missing(Path::new("qemu"));
        assert!(error.contains("prlimit") && error.contains("apt-get install util-linux"), "{error}");
        command_in(path, Path::new("qemu"), "qemu-system-x86", &[]).unwrap();
    }
}
