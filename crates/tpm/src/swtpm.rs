//! A TPM that is a program: swtpm, in the foreground, as a child that ends with us.
//!
//! Owns the process and its two channels. It gets them as open sockets, so that nobody else can reach it, and it ends by
//! itself when they close, however we end. A swtpm that was started anew has its keys and certificate and none of its
//! registers: whoever extended them must do so again. How its state is first made is [`manufacture()`]'s.

mod manufacture;

use std::{
    fs, io,
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, fcntl_lock};

pub use self::manufacture::{Authority, manufacture};
use crate::{Error, Tpm, transport::Socket};

/// The program and the Debian package that has it.
pub(crate) const PROGRAM: &str = "swtpm";
/// How long swtpm may take to read its state.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long its predecessor may take to end once its channels are closed.
const HANDOVER: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(10);
const CMD_INIT: u32 = 2;

/// Where one software TPM keeps what it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(PathBuf);

impl Place {
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }
    pub fn folder(&self) -> &Path {
        &self.0
    }
    /// swtpm's own files.
    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }
    /// The certificate of its endorsement key in DER, which the TPM has too.
    pub fn certificate(&self) -> PathBuf {
        self.0.join("endorsement.der")
    }
    fn log(&self) -> PathBuf {
        self.0.join("swtpm.log")
    }
    /// Whether there is a TPM that can be started.
    pub fn is_made(&self) -> bool {
        self.state().is_dir()
    }
    fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |cause| Error::State { path: path.to_owned(), cause }
    }
}

/// A swtpm that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Swtpm {
    child: Child,
    /// It ends when this closes.
    _control: UnixStream,
}

impl Swtpm {
    /// Starts the TPM of `place`, which was [made](manufacture()) before.
    pub fn start(place: &Place) -> Result<(Self, Tpm), Error> {
        let (swtpm, data) = Self::spawn(&place.state(), &place.log())?;
        Ok((swtpm, Tpm::start(Box::new(Socket::new(data)))?))
    }

    /// Started and initialised by the control channel; the data channel is the caller's.
    fn spawn(state: &Path, log: &Path) -> Result<(Self, UnixStream), Error> {
        await_predecessor(state)?;
        let (data, its_data) = UnixStream::pair().map_err(run)?;
        let (control, its_control) = UnixStream::pair().map_err(run)?;
        let child = command(state, log).stdin(OwnedFd::from(its_data)).stdout(OwnedFd::from(its_control)).spawn();
        let mut swtpm = Self { child: child.map_err(run)?, _control: control };
        swtpm.initialise().map_err(|cause| Error::Start { said: last_words(log), cause })?;
        Ok((swtpm, data))
    }

    /// Has it read its state. A TPM that was not initialised answers no command.
    fn initialise(&mut self) -> io::Result<()> {
        const FLAGS: u32 = 0;
        let control = &mut self._control;
        control.set_read_timeout(Some(PATIENCE))?;
        control.write_all(&[CMD_INIT.to_be_bytes(), FLAGS.to_be_bytes()].concat())?;
        let mut result = [0; 4];
        control.read_exact(&mut result)?;
        match u32::from_be_bytes(result) {
            0 => Ok(()),
            code => Err(io::Error::other(format!("its state cannot be used (TPM_RC {code:#x})"))),
        }
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill and only its status to take.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// swtpm takes sockets by number, but none of the first three, which are all that can be given to a child without unsafe
/// code; a shell moves them. In a process group of its own, so that what interrupts us does not interrupt it first.
fn command(state: &Path, log: &Path) -> Command {
    const MOVE: &str = r#"exec "$0" "$@" 3<&0 4<&1 </dev/null >&2"#;
    let mut command = Command::new("sh");
    command.args(["-c", MOVE, PROGRAM, "socket", "--tpm2", "--fd", "3", "--ctrl", "type=unixio,clientfd=4"]);
    command.arg("--tpmstate").arg(option("dir=", state, ",mode=0600"));
    command.arg("--log").arg(option("file=", log, ",level=1,truncate"));
    command.stderr(Stdio::null()).process_group(0);
    command
}

fn option(key: &str, path: &Path, more: &str) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(key);
    option.push(path);
    option.push(more);
    option
}

/// swtpm locks its state, and one whose starter was killed needs a moment to notice.
fn await_predecessor(state: &Path) -> Result<(), Error> {
    let path = state.join(".lock");
    let file = fs::File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(Place::failed(&path))?;
    let until = Instant::now() + HANDOVER;
    while let Err(held) = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        if Instant::now() >= until {
            return Err(Place::failed(&path)(held.into()));
        }
        sleep(RETRY);
    }
    // Closing the file gives the lock back.
    Ok(())
}

fn run(cause: io::Error) -> Error {
    Error::Run { program: PROGRAM, cause }
}

/// What it wrote last; its exit status alone says nothing.
fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it wrote nothing").to_owned()
}

#[cfg(test)]
#[path = "tests/swtpm.rs"]
mod tests;
