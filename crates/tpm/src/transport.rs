//! The way to a TPM: octets of a command there, octets of its answer back.
//!
//! Owns the trait. A way that failed once is not used again: what comes next on it could be the answer to something else.

mod device;
mod socket;

use std::{fmt, io, time::Duration};

pub(crate) use self::{device::Device, socket::Socket};

/// Carries one command at a time.
pub trait Transport: fmt::Debug + Send {
    /// Sends a command and waits for its answer, which is as long as its header says.
    fn exchange(&mut self, command: &[u8], within: Duration) -> io::Result<Vec<u8>>;
}

fn invalid(error: crate::Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time")
}
