//! A TPM behind a character device of the kernel: `/dev/tpmrm0`, whose resource manager gives each opener keys and sessions
//! of its own and ends them when it goes.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};

use super::{Transport, too_late};
use crate::answer::LONGEST;

#[derive(Debug)]
pub(crate) struct Device(File);

impl Device {
    /// Without blocking: since Linux 5.0 a command is then carried out in the background, and `poll` says when it is done.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let nonblock = OFlags::NONBLOCK.bits() as i32;
        File::options().read(true).write(true).custom_flags(nonblock).open(path).map(Self)
    }
}

impl Transport for Device {
    /// The kernel takes a command by one write and gives its answer by one read.
    fn exchange(&mut self, command: &[u8], within: Duration) -> io::Result<Vec<u8>> {
        let until = Instant::now() + within;
        if self.0.write(command)? != command.len() {
            return Err(io::Error::from(io::ErrorKind::WriteZero));
        }
        loop {
            let left = until.checked_duration_since(Instant::now()).ok_or_else(too_late)?;
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut ready = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
            poll(&mut ready, Some(&left))?;
            let mut answer = vec![0; LONGEST];
            match self.0.read(&mut answer) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(length) => {
                    answer.truncate(length);
                    return Ok(answer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
