//! A small program run to its end: bounded in time, in what it may print, and where its input is not trusted also in
//! memory and processor time.
//!
//! Owns the running and the reading of its output. What to run is the callers' business.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
};

use crate::{
    error::{Error, says_disk_full},
    limits::{self, Limits},
    qemu::User,
};

/// What is kept of each of the two outputs; the rest is read and forgotten.
const KEPT: usize = 64 << 10;

/// A program and how it may run.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    pub(crate) program: PathBuf,
    /// The Debian package that has it, for the error that tells what to do.
    pub(crate) package: &'static str,
    pub(crate) user: Option<User>,
    pub(crate) patience: Duration,
    pub(crate) limits: &'static Limits,
}

impl Tool {
    /// Runs it about the file at `about` and gives what it printed. A failure is an error with what it said.
    pub(crate) async fn run(&self, about: &Path, arguments: &[OsString]) -> Result<String, Error> {
        let failed = |said| Error::Tool { program: self.name(), path: about.into(), said };
        let mut command = limits::command(&self.program, self.package, self.limits)?;
        command.args(arguments);
        let (success, printed, said) = timeout(self.patience, self.complete(command.into()))
            .await
            .map_err(|_| Error::ToolTooSlow { program: self.name(), path: about.into(), after: self.patience })?
            .map_err(|error| failed(error.to_string()))?;
        match success {
            true => Ok(printed),
            false if says_disk_full(&said) => Err(Error::DiskFull { path: about.into() }),
            false => Err(failed(said)),
        }
    }

    async fn complete(&self, mut command: Command) -> io::Result<(bool, String, String)> {
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(User { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        let mut child = command.spawn()?;
        let (printed, said) = (child.stdout.take(), child.stderr.take());
        let (printed, said, status) = tokio::try_join!(read_bounded(printed), read_bounded(said), child.wait())?;
        let said = if status.success() { said } else { format!("{} ({status})", said.trim()) };
        Ok((status.success(), printed, said))
    }

    fn name(&self) -> String {
        self.program.display().to_string()
    }
}

/// Reads to the end, keeping the first [`KEPT`] bytes.
async fn read_bounded(from: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let Some(mut from) = from else { return Ok(String::new()) };
    let mut kept = Vec::new();
    (&mut from).take(KEPT as u64).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

#[cfg(test)]
mod tests {
    use lucarne_model::ErrorCode;

    use super::*;

    fn shell(program: &str) -> Tool {
        let patience = Duration::from_millis(500);
        Tool { program: program.into(), package: "some-package", user: None, patience, limits: &[] }
    }
    async fn run(script: &str) -> Result<String, Error> {
        shell("sh").run(Path::new("/x"), &["-c".into(), script.into()]).await
    }

    #[tokio::test]
    async fn each_way_to_fail_is_told_apart() {
        assert_eq!(run("echo yes").await.unwrap(), "yes\n");
        assert!(matches!(run("sleep 60").await, Err(Error::ToolTooSlow { .. })));
        let full = run("echo 'cannot write: No space left on device' >&2; exit 1").await.unwrap_err();
        assert_eq!(full.code(), ErrorCode::DiskFull);
        let failed = run("echo because >&2; exit 7").await.unwrap_err();
        assert!(failed.to_string().contains("because (exit status: 7)"), "{failed}");
        let missing = shell("/nonexistent/program").run(Path::new("/x"), &[]).await.unwrap_err();
        assert_eq!(missing.code(), ErrorCode::HypervisorMissing);
        assert!(missing.to_string().contains("apt-get install some-package"));
    }

    #[tokio::test]
    async fn a_program_that_prints_without_end_costs_no_memory() {
        assert_eq!(run("head -c 10000000 /dev/zero").await.unwrap().len(), KEPT);
    }
}
